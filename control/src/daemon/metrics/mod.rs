//! Metrics for Prometheus: what the daemon counts, and what it looks up when somebody asks.
//!
//! ```text
//! counters   what happens seldom, counted where it happens
//! snapshot   everything at one moment: states, bytes, what devices have done
//! families   the same as metric families, with names and base units by convention
//! ```
//!
//! Nothing here is on the path of I/O: what devices have done is counted by their reactors (`bedplate_ublk_target`, `stats`).

mod counters;
mod families;
mod snapshot;

use std::sync::Arc;

use prometheus_client::registry::Registry;

pub use counters::Counters;

use super::errors;
use super::node::Node;
use crate::api::ApiError;

/// Content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics as of now, in the text format of Prometheus.
///
/// # Errors
/// Never in practice: writing to memory does not fail.
pub fn text(node: &Arc<Node>) -> Result<String, ApiError> {
    let mut registry = Registry::with_prefix("bedplate");
    registry.register_collector(Box::new(snapshot::Snapshot::take(node)));
    let mut text = String::new();
    prometheus_client::encoding::prometheus_text::encode(&mut text, &registry)
        .map_err(|_| errors::internal("metrics cannot be written"))?;
    Ok(text)
}
