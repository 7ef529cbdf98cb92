//! Grace periods: when has every request ended that was in flight at a given moment?
//!
//! Requests are counted in two generations, by the one thread that serves them: entering and leaving are an addition and a subtraction.
//! Who asks closes the current generation, and waits until it is empty. It never says so too early; a request that keeps entering and
//! leaving holds nobody up.

/// The generation that a request entered, and must leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin(u8);

/// Requests in flight, and who waits for their end: a `T` for each grace period that was asked for.
#[derive(Debug)]
pub(super) struct Grace<T> {
    /// By generation.
    in_flight: [u32; 2],
    /// The one that requests enter now; the other one is the older.
    current: u8,
    /// Wait for the older generation.
    draining: Vec<T>,
    /// Asked while others waited for the older generation: they wait for that one, and for the current one after it.
    next: Vec<T>,
    /// Their wait is over.
    ended: Vec<T>,
}

impl<T> Default for Grace<T> {
    fn default() -> Self {
        Self {
            in_flight: [0; 2],
            current: 0,
            draining: Vec::new(),
            next: Vec::new(),
            ended: Vec::new(),
        }
    }
}

impl<T> Grace<T> {
    /// A request begins to rely on what maps say now.
    #[inline]
    pub(super) fn enter(&mut self) -> Pin {
        self.in_flight[usize::from(self.current)] += 1;
        Pin(self.current)
    }

    /// It relies on nothing any more.
    #[inline]
    pub(super) fn leave(&mut self, pin: Pin) {
        let count = &mut self.in_flight[usize::from(pin.0)];
        debug_assert!(*count > 0, "a request leaves what it entered, once");
        *count -= 1;
        if *count == 0 && pin.0 != self.current {
            self.go_on();
        }
    }

    /// Asks to be told when every request that is in flight now has ended.
    pub(super) fn ask(&mut self, who: T) {
        self.next.push(who);
        self.go_on();
    }

    /// Those whose wait is over, since this was last called.
    pub(super) fn take_ended(&mut self) -> Vec<T> {
        std::mem::take(&mut self.ended)
    }

    /// Whether somebody waits still.
    #[cfg(test)]
    pub(super) fn is_asked(&self) -> bool {
        !self.draining.is_empty() || !self.next.is_empty()
    }

    /// Those who wait still; for a reactor that ends with requests in flight, which cannot answer them.
    pub(super) fn give_up(self) -> impl Iterator<Item = T> {
        self.draining.into_iter().chain(self.next).chain(self.ended)
    }

    /// Answers whose generation is empty, and closes the current generation for those who came after.
    fn go_on(&mut self) {
        loop {
            let older = self.current ^ 1;
            if self.in_flight[usize::from(older)] > 0 {
                return;
            }
            self.ended.append(&mut self.draining);
            if self.next.is_empty() {
                return;
            }
            // All that was in flight when they asked is in the current generation now: the older one is empty.
            std::mem::swap(&mut self.draining, &mut self.next);
            self.current = older;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn with_nothing_in_flight_the_answer_is_there_at_once() {
        let mut grace = Grace::default();
        grace.ask(1);
        grace.ask(2);
        assert_eq!(grace.take_ended(), [1, 2]);
        assert!(!grace.is_asked());
    }

    #[test]
    fn who_asks_while_others_wait_waits_for_both_generations() {
        let mut grace = Grace::default();
        let first = grace.enter();
        grace.ask("first");
        let second = grace.enter();
        grace.ask("second");
        assert_ne!(first, second);
        grace.leave(second);
        assert!(
            grace.take_ended().is_empty(),
            "the first request is in flight still, and was when both asked"
        );
        grace.leave(first);
        assert_eq!(grace.take_ended(), ["first", "second"]);
    }

    #[test]
    fn later_requests_hold_nobody_up() {
        let mut grace = Grace::default();
        let first = grace.enter();
        grace.ask(());
        let mut later = grace.enter();
        for _ in 0..10 {
            let next = grace.enter();
            grace.leave(later);
            later = next;
        }
        grace.leave(first);
        assert_eq!(grace.take_ended().len(), 1);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Enter,
        /// Leaves the n-th of those in flight.
        Leave(usize),
        Ask,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Enter),
            3 => (0..16_usize).prop_map(Event::Leave),
            1 => Just(Event::Ask),
        ]
    }

    proptest! {
        /// Against a model that knows, for each who asked, the very requests that were in flight then.
        #[test]
        fn never_too_early_and_never_never(events in proptest::collection::vec(event(), 0..200)) {
            let mut grace = Grace::default();
            let mut in_flight: Vec<(u32, Pin)> = Vec::new();
            let mut waits: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            let mut number = 0;
            let check = |grace: &mut Grace<u32>, in_flight: &[(u32, Pin)], waits: &mut BTreeMap<u32, BTreeSet<u32>>| {
                for who in grace.take_ended() {
                    let waited_for = waits.remove(&who).expect("answered once");
                    let left = in_flight.iter().find(|(request, _)| waited_for.contains(request));
                    assert!(left.is_none(), "answered {who} with {left:?} in flight");
                }
            };
            for event in events {
                number += 1;
                match event {
                    Event::Enter => in_flight.push((number, grace.enter())),
                    Event::Leave(nth) if !in_flight.is_empty() => {
                        let (_, pin) = in_flight.remove(nth % in_flight.len());
                        grace.leave(pin);
                    }
                    Event::Leave(_) => {}
                    Event::Ask => {
                        waits.insert(number, in_flight.iter().map(|(request, _)| *request).collect());
                        grace.ask(number);
                    }
                }
                check(&mut grace, &in_flight, &mut waits);
                prop_assert_eq!(grace.is_asked(), !waits.is_empty());
            }
            while let Some((_, pin)) = in_flight.pop() {
                grace.leave(pin);
                check(&mut grace, &in_flight, &mut waits);
            }
            prop_assert!(waits.is_empty(), "never answered: {:?}", waits);
        }
    }
}
