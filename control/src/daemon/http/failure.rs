//! Errors as answers: the body is always an `ApiError`.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::api::ApiError;
use crate::error_kind::ErrorKind;

/// An error on its way to the client.
#[derive(Debug)]
pub struct Failure(ApiError);

/// The answer to a path that does not exist.
pub async fn no_such_route(uri: Uri) -> Failure {
    Failure(
        ApiError::new(
            ErrorKind::NotFound,
            format!("there is no such endpoint: {}", uri.path()),
        )
        .remedy("GET /v1/openapi.json lists the endpoints"),
    )
}

/// The answer to a method that a path does not have.
pub async fn no_such_method(method: Method, uri: Uri) -> Failure {
    Failure(
        ApiError::new(
            ErrorKind::BadRequest,
            format!("{} does not take {method}", uri.path()),
        )
        .remedy("GET /v1/openapi.json lists the endpoints"),
    )
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

fn bad_request(why: &str) -> Failure {
    Failure(
        ApiError::new(
            ErrorKind::BadRequest,
            format!("the request makes no sense: {why}"),
        )
        .remedy("GET /v1/openapi.json describes the requests"),
    )
}

impl From<JsonRejection> for Failure {
    fn from(why: JsonRejection) -> Self {
        bad_request(&why.body_text())
    }
}

impl From<PathRejection> for Failure {
    fn from(why: PathRejection) -> Self {
        bad_request(&why.body_text())
    }
}

impl From<QueryRejection> for Failure {
    fn from(why: QueryRejection) -> Self {
        bad_request(&why.body_text())
    }
}
