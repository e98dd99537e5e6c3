//! Answers: values and errors as JSON.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use millstream_core::{Code, Error};
use serde::{Deserialize, Serialize};

/// The longest refusal of the web server's own that is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// An error as it is sent. Ingest adds where in the request it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The stable code, such as `M0011`.
    pub code: String,
    /// The line of the request's body at fault, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The record at fault, counted from 1, where records are not lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<u64>,
    /// The column at fault; empty if none can be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What and why.
    pub reason: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub help: Vec<String>,
}

impl From<&Error> for ErrorBody {
    fn from(e: &Error) -> ErrorBody {
        ErrorBody {
            code: e.code().id().into(),
            reason: e.message().into(),
            help: e.advice().to_vec(),
            ..ErrorBody::default()
        }
    }
}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Error {
        let error = Error::new(Code::from_id(&body.code).unwrap_or(Code::Bug), body.reason);
        body.help.into_iter().fold(error, Error::help)
    }
}

/// A value as JSON.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => text(status, "application/json", body),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

/// Bytes of a type.
pub fn text(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// An error, with the status that fits its code.
pub fn error(e: &Error) -> Response {
    let status = match e.code() {
        Code::Unknown => StatusCode::NOT_FOUND,
        Code::Input => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Plan | Code::Limit => StatusCode::BAD_REQUEST,
        Code::Conflict => StatusCode::CONFLICT,
        Code::Permission => StatusCode::FORBIDDEN,
        Code::Corrupt | Code::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    failed(status, &ErrorBody::from(e))
}

/// An error, with its status. What can be tried again says when.
pub fn failed(status: StatusCode, body: &ErrorBody) -> Response {
    let mut response = json(status, body);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What the web server refuses by itself (a number that is none, a method that a path lacks) says
/// so in plain text or not at all; with this it is said as every other error.
pub async fn with_code(response: Response) -> Response {
    let status = response.status();
    let said =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == "application/json");
    if !status.is_client_error() || said {
        return response;
    }
    let allow = response.headers().get(header::ALLOW).cloned();
    let text = axum::body::to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await;
    let reason = match text {
        Ok(text) if !text.is_empty() => String::from_utf8_lossy(&text).into_owned(),
        _ => status.to_string(),
    };
    let mut response = failed(status, &ErrorBody::from(&Error::new(Code::Input, reason)));
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// What was asked cannot be told now.
pub fn busy(what: &str) -> Error {
    Error::new(Code::Unreachable, format!("{what} is busy")).help("ask again")
}
