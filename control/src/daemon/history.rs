//! A state with its last changes: bounded, each logged once, each with its cause.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::Transition;

/// How many changes of one state are kept.
const CHANGES_MAX: usize = 32;

/// A state, why it is so, and how it came about.
#[derive(Debug, Clone)]
pub struct Tracked<S> {
    subject: &'static str,
    state: S,
    why: Option<String>,
    changes: VecDeque<Transition>,
}

impl<S: Copy + PartialEq + Debug> Tracked<S> {
    /// Starts in `state`, with nothing to tell. `subject` is `disk`, `replica` or `attachment`.
    pub fn new(subject: &'static str, state: S) -> Self {
        Self {
            subject,
            state,
            why: None,
            changes: VecDeque::new(),
        }
    }

    /// The state now.
    pub fn get(&self) -> S {
        self.state
    }

    /// Why it is so, where that needs a reason.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// The last changes, oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &Transition> {
        self.changes.iter()
    }

    /// Goes to `to`, a state that explains itself. `object` names it in the log.
    pub fn set(&mut self, object: &str, to: S, cause: &str) {
        self.change(object, to, None, cause);
    }

    /// Goes to `to`, a state that needs its reason to be shown as long as it lasts.
    pub fn set_because(&mut self, object: &str, to: S, why: &str) {
        self.change(object, to, Some(why), why);
    }

    fn change(&mut self, object: &str, to: S, why: Option<&str>, cause: &str) {
        if self.state == to && self.why.as_deref() == why {
            return;
        }
        let change = Transition {
            at_unix_ms: unix_ms(),
            subject: self.subject.to_owned(),
            from: format!("{:?}", self.state),
            to: format!("{to:?}"),
            cause: cause.to_owned(),
        };
        tracing::info!(
            object,
            "{} {} -> {}: {cause}",
            change.subject,
            change.from,
            change.to
        );
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
        self.state = to;
        self.why = why.map(str::to_owned);
    }
}

/// Now, in milliseconds since 1970; for people, nothing is ordered by it.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_remembered_and_only_the_last_ones() {
        let mut state = Tracked::new("disk", 0_u32);
        for round in 0..100 {
            state.set("t", round, "counting");
            state.set("t", round, "again");
        }
        let kept: Vec<_> = state.changes().map(|change| change.to.clone()).collect();
        assert_eq!(kept.len(), CHANGES_MAX);
        assert_eq!(kept.last().unwrap(), "99");
    }

    #[test]
    fn a_new_reason_for_the_same_state_is_a_change() {
        let mut state = Tracked::new("disk", 1_u32);
        state.set_because("t", 2, "no medium");
        state.set_because("t", 2, "no power");
        assert_eq!(state.why(), Some("no power"));
        assert_eq!(state.changes().count(), 2);
        state.set("t", 1, "back");
        assert_eq!(state.why(), None);
    }
}
