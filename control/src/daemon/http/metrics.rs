//! `/metrics`: on the API's socket, and on an address of this machine alone where the settings name one.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::failure::{self, Failure};
use crate::daemon::metrics;
use crate::daemon::node::Node;

pub(super) async fn show(State(node): State<Arc<Node>>) -> Result<Response, Failure> {
    let text = metrics::text(&node)?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Offers the metrics, and nothing else, on `address` until the daemon goes down. One that is taken is told of, and tried no more: nobody's
/// disks depend on it.
pub async fn serve(node: Arc<Node>, address: SocketAddr) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            let told =
                crate::daemon::errors::of_io(&format!("cannot offer metrics on {address}"), &error);
            node.set_problem(
                "metrics",
                Some(told.remedy(
                    "choose another `metrics_listen`, or take it out; then restart the daemon",
                )),
            );
            return;
        }
    };
    tracing::info!(%address, "metrics are offered");
    let stopped = Arc::clone(&node);
    let router = Router::new()
        .route("/metrics", get(show))
        .fallback(failure::no_such_route)
        .with_state(node);
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(async move { stopped.stopped().await });
    if let Err(error) = served.await {
        tracing::warn!(%error, "metrics are not offered any more");
    }
}
