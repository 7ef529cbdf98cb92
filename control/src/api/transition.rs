//! A change of state, kept so that `show` can tell what happened and why.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One change of state. Lists are oldest first and hold the last ones only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transition {
    /// When, by the node's clock.
    pub at_unix_ms: u64,
    /// What changed: `disk`, `replica` or `attachment`.
    pub subject: String,
    /// State before.
    pub from: String,
    /// State after.
    pub to: String,
    /// Why.
    pub cause: String,
}
