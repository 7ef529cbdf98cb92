//! The daemon, as the command line sees it: one HTTP request a connection on a Unix socket.

use crate::api::ApiError;
use crate::error_kind::ErrorKind;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// Kept as they are in a path: what RFC 3986 calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Where the daemon listens.
pub struct Client {
    socket: PathBuf,
}

/// Path of an endpoint: the parts joined by `/`, each percent-encoded.
pub fn path(parts: &[&str]) -> String {
    let mut path = String::from("/v1");
    for part in parts {
        path.push('/');
        path.extend(utf8_percent_encode(part, SEGMENT));
    }
    path
}

impl Client {
    /// A client for the daemon at `socket`. Connects with each request.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// `DaemonUnreachable`, or what the daemon answered.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        decode(self.send(Method::GET, path, None, empty()).await?).await
    }

    /// Asks for something that needs no body.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        decode(self.send(Method::POST, path, None, empty()).await?).await
    }

    /// Asks for something.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| {
            ApiError::new(
                ErrorKind::Internal,
                format!("request cannot be written as JSON: {error}"),
            )
        })?;
        let body = Full::new(Bytes::from(body))
            .map_err(|never| match never {})
            .boxed_unsync();
        decode(
            self.send(Method::POST, path, Some("application/json"), body)
                .await?,
        )
        .await
    }

    /// Takes something away.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        self.send(Method::DELETE, path, None, empty())
            .await
            .map(drop)
    }

    /// Sends bytes as they come. An `Err` among them breaks the connection, so that the daemon sees that they are
    /// not complete.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn put_stream<T: DeserializeOwned>(
        &self,
        path: &str,
        chunks: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<T, ApiError> {
        let body = StreamBody::new(ReceiverStream::new(chunks).map(|chunk| chunk.map(Frame::data)))
            .boxed_unsync();
        decode(
            self.send(Method::PUT, path, Some("application/octet-stream"), body)
                .await?,
        )
        .await
    }

    /// Opens a stream of JSON lines.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn lines(&self, path: &str) -> Result<Lines, ApiError> {
        let response = self.send(Method::GET, path, None, empty()).await?;
        Ok(Lines {
            body: response.into_body(),
            buffer: Vec::new(),
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Body,
    ) -> Result<Response<Incoming>, ApiError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| unreachable(&self.socket, &error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(&error))?;
        // An error of the connection comes back from `send_request` or from the body.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "bedplate");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|error| {
            ApiError::new(
                ErrorKind::Internal,
                format!("{path:?} makes no request: {error}"),
            )
        })?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| lost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| lost(&error))?
            .to_bytes();
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| no_bedplate_answer(status, &body)))
    }
}

/// A stream of JSON lines.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line; `None` when the stream ended.
    ///
    /// # Errors
    /// `DaemonUnreachable` when the connection is lost, `Internal` for a line that is not what it should be.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return parse(&line).map(Some);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(lost(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

async fn decode<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ApiError> {
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| lost(&error))?
        .to_bytes();
    parse(&body)
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(json).map_err(|error| {
        ApiError::new(ErrorKind::Internal, format!("the daemon's answer is not understood: {error}"))
            .remedy("use a bedplate of the same version as bedplated: bedplate --version, bedplated --version")
    })
}

fn no_bedplate_answer(status: StatusCode, body: &[u8]) -> ApiError {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let said = if text.is_empty() {
        String::new()
    } else {
        format!(": {}", text.chars().take(200).collect::<String>())
    };
    ApiError::new(
        ErrorKind::Internal,
        format!("the daemon answered {status}{said}"),
    )
    .remedy(
        "use a bedplate of the same version as bedplated: bedplate --version, bedplated --version",
    )
}

/// The connection was there, and broke.
fn lost(error: &hyper::Error) -> ApiError {
    ApiError::new(
        ErrorKind::DaemonUnreachable,
        format!("the connection to the daemon was lost: {error}"),
    )
    .remedy("see whether it is up again: systemctl status bedplated, journalctl -u bedplated")
}

/// No connection: says which of the reasons it is.
fn unreachable(socket: &Path, error: &io::Error) -> ApiError {
    let at = socket.display();
    let (what, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (
            format!("the daemon is not running: there is no socket at {at}"),
            "systemctl start bedplated; or say where it listens: --socket PATH or BEDPLATE_SOCKET",
        ),
        io::ErrorKind::PermissionDenied => (
            format!("no permission to use the daemon's socket {at}"),
            "run this as root, or as a member of the group bedplate: usermod -aG bedplate USER, then log in again",
        ),
        io::ErrorKind::ConnectionRefused => (
            format!("the daemon is not running: nobody listens at {at}"),
            "systemctl start bedplated; why it ended: journalctl -u bedplated",
        ),
        _ => (
            format!("the daemon cannot be reached at {at}: {error}"),
            "check the path: --socket PATH or BEDPLATE_SOCKET",
        ),
    };
    let unreachable = ApiError::new(ErrorKind::DaemonUnreachable, what).remedy(remedy);
    match error.raw_os_error() {
        Some(errno) => unreachable.errno(errno),
        None => unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_disk_is_one_segment() {
        assert_eq!(
            path(&["disks", "/dev/disk/by-id/a b"]),
            "/v1/disks/%2Fdev%2Fdisk%2Fby-id%2Fa%20b"
        );
        assert_eq!(
            path(&["images", "ubuntu-22.04", "attach"]),
            "/v1/images/ubuntu-22.04/attach"
        );
    }

    #[test]
    fn no_permission_is_told_from_no_daemon() {
        let error = unreachable(
            Path::new("/run/b.sock"),
            &io::Error::from_raw_os_error(libc::EACCES),
        );
        assert_eq!(
            (error.kind, error.errno),
            (ErrorKind::DaemonUnreachable, Some(libc::EACCES))
        );
        assert!(error.message.contains("no permission"), "{error}");
        assert!(error.remedy.expect("remedy").contains("group bedplate"));
    }
}
