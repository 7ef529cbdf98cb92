//! The API over a Unix socket: routes to what the daemon does, and nothing of their own.

mod disks;
mod failure;
mod images;
mod jobs;
pub mod metrics;
mod node;
pub mod socket;
mod volumes;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};

use super::errors;
use super::node::Node;
use crate::api::ApiError;

/// Largest JSON body. Content of images is not limited.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Every route of the API.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/status", get(node::status))
        .route("/v1/doctor", get(node::doctor))
        .route("/v1/openapi.json", get(node::openapi))
        .route("/metrics", get(metrics::show))
        .route("/v1/devices/remove", post(node::remove_devices))
        .route("/v1/disks", get(disks::list).post(disks::add))
        .route("/v1/disks/format", post(disks::format))
        .route("/v1/disks/adopt", post(disks::adopt))
        .route("/v1/disks/re-uuid", post(disks::re_uuid))
        .route("/v1/disks/{disk}", get(disks::show).delete(disks::remove))
        .route("/v1/disks/{disk}/drain", post(disks::drain))
        .route("/v1/disks/{disk}/forget", post(disks::forget))
        .route("/v1/images", get(images::list).post(images::import))
        .route(
            "/v1/images/{name}",
            get(images::show).delete(images::delete),
        )
        .route("/v1/images/{name}/attach", post(images::attach))
        .route("/v1/images/{name}/detach", post(images::detach))
        .route("/v1/images/{name}/verify", post(images::verify))
        .route("/v1/images/{name}/recheck", post(images::recheck))
        .route("/v1/images/{name}/copies", post(images::copies))
        .route("/v1/images/{name}/wait", get(images::wait))
        .route("/v1/volumes", get(volumes::list).post(volumes::create))
        .route(
            "/v1/volumes/{name}",
            get(volumes::show).delete(volumes::delete),
        )
        .route("/v1/volumes/{name}/attach", post(volumes::attach))
        .route("/v1/volumes/{name}/detach", post(volumes::detach))
        .route("/v1/volumes/{name}/resize", post(volumes::resize))
        .route("/v1/volumes/{name}/wait", get(volumes::wait))
        .route("/v1/jobs", get(jobs::list))
        .route("/v1/jobs/{id}", get(jobs::show))
        .route("/v1/jobs/{id}/events", get(jobs::events))
        .route("/v1/jobs/{id}/cancel", post(jobs::cancel))
        .route("/v1/jobs/{id}/content", put(jobs::content))
        .fallback(failure::no_such_route)
        .method_not_allowed_fallback(failure::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(node)
}

/// A change that was begun is finished even if the client goes away: half of it must never be what is left.
async fn finish<R: Send + 'static>(
    change: impl Future<Output = Result<R, ApiError>> + Send + 'static,
) -> Result<R, ApiError> {
    tokio::spawn(change)
        .await
        .map_err(|_| errors::internal("a change ended unexpectedly"))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openapi::{ENDPOINTS, Method};
    use crate::config::Config;
    use crate::daemon::serving::Serving;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A method and a path of the table must lead to a handler: what comes back is never "no such endpoint".
    #[tokio::test]
    async fn every_endpoint_of_the_document_has_a_route() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: folder.path().to_owned(),
            ..Config::default()
        };
        let serving = Serving::new(&config.ublk);
        let router = router(Node::new(config, uuid::Uuid::new_v4(), serving));
        let path = folder.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        for endpoint in ENDPOINTS {
            let method = match endpoint.method {
                Method::Get => "GET",
                Method::Post => "POST",
                Method::Put => "PUT",
                Method::Delete => "DELETE",
            };
            let target = endpoint
                .path
                .replace("{id}", "7")
                .replace("{disk}", "d")
                .replace("{name}", "n");
            let target = if target.ends_with("/wait") {
                format!("{target}?timeout_ms=0")
            } else {
                target
            };
            let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
            let head = format!(
                "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 "),
                "{method} {target}: {answer}"
            );
            assert!(
                !answer.contains("no such endpoint") && !answer.contains("does not take"),
                "{method} {target}: {answer}"
            );
        }
    }
}
