//! Waits until an image or a volume can be used: for boot ordering.

use std::sync::Arc;
use std::time::Duration;

use super::Noun;
use crate::api::ApiError;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// How an object stands.
#[derive(Debug)]
pub struct Stand<T> {
    /// As the API shows it.
    pub view: T,
    /// It is Ready and, where it is to be attached, its device is.
    pub usable: bool,
    /// How it stands, in words.
    pub words: String,
}

/// Answers when the object can be used, however late it comes.
///
/// # Errors
/// `TimedOut` with the state that it had last.
pub async fn wait<T>(
    node: &Arc<Node>,
    noun: Noun,
    name: &str,
    timeout: Duration,
    look: impl Fn() -> Result<Stand<T>, ApiError>,
) -> Result<T, ApiError> {
    let mut changes = node.watch_changes();
    let waiting = async {
        loop {
            changes.mark_unchanged();
            if let Ok(stand) = look()
                && stand.usable
            {
                return Ok(stand.view);
            }
            tokio::select! {
                () = node.stopped() => node.require_running()?,
                _ = changes.changed() => {}
            }
        }
    };
    match tokio::time::timeout(timeout, waiting).await {
        Ok(outcome) => outcome,
        Err(_late) => {
            let words = look().map_or_else(|error| error.message, |stand| stand.words);
            Err(ApiError::new(
                ErrorKind::TimedOut,
                format!("waited {timeout:?} for the {noun} {name}: {words}"),
            )
            .object(name)
            .remedy(format!(
                "`bedplate {noun} show {name}` and `bedplate disk list` say more"
            )))
        }
    }
}
