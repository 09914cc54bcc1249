//! HTTP requests that are rejected.

use std::time::Duration;

use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chat_broker::BrokerError;
use chat_core::{ErrorCode, InvalidName};
use serde::Serialize;

use crate::auth::AuthError;
use crate::error::{Error, NO_ANSWER, unavailable};
use crate::limits::LimitReached;
use crate::moderation::SanctionNotice;

/// The largest body of a request, in bytes.
pub(crate) const MAX_BODY: usize = 16 * 1024;

/// Why an HTTP request is rejected: a status, a code for programs and a sentence for people.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    code: &'static str,
    /// The reason, as metrics name it.
    pub(crate) reason: &'static str,
    message: String,
    retry_after: Option<Duration>,
    /// Whether the log has a line of it.
    pub(crate) is_logged: bool,
    /// What was asked for, of a request that is refused for its host or its origin. Boxed: few are.
    pub(crate) foreign: Option<Box<Foreign>>,
    /// Boxed: few requests are of banned users.
    ban: Option<Box<SanctionNotice>>,
    /// Whether the broker did not answer: a change may have been carried out.
    is_unanswered: bool,
}

/// Of a response: the broker did not answer.
#[derive(Debug, Clone, Copy)]
struct Unanswered;

/// Says nothing of changes where the broker did not answer a request that changes none.
pub(crate) fn of_read(response: Response) -> Response {
    match response.extensions().get() {
        Some(Unanswered) => Refusal::unavailable(NO_ANSWER).into_response(),
        None => response,
    }
}

/// The host that a request is for, and the origin of the page that sends it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Foreign {
    pub(crate) host: Option<String>,
    pub(crate) origin: Option<String>,
}

/// The body of a refusal.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct ErrorBody {
    /// The code, for programs.
    #[cfg_attr(test, schema(value_type = String))]
    code: &'static str,
    /// The sentence, for people: it may change.
    message: String,
    /// Of `banned`: the end of the ban, in milliseconds since 1970; absent: an unban ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    until: Option<u64>,
    /// Of `banned`: the moderator's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    reason: Option<String>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let (reason, retry_after, is_logged, foreign, ban) = (code, None, false, None, None);
        let is_unanswered = false;
        Self { status, code, reason, message, retry_after, is_logged, foreign, ban, is_unanswered }
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Says what was asked for.
    pub(crate) fn of(mut self, foreign: Foreign) -> Self {
        self.foreign = Some(Box::new(foreign));
        self
    }

    /// Says that the log has a line of it.
    pub(crate) fn logged(mut self) -> Self {
        self.is_logged = true;
        self
    }

    /// The value of `Retry-After`, in seconds.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|time| time.as_secs())
    }

    /// Sets the reason for metrics, which is the code otherwise.
    pub(crate) fn because(mut self, reason: &'static str) -> Self {
        self.reason = reason;
        self
    }

    /// Asks the client to retry after `time`.
    pub(crate) fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    pub(crate) fn into_body(self) -> ErrorBody {
        let until = self.ban.as_ref().and_then(|ban| ban.until);
        let reason = self.ban.and_then(|ban| Some(ban.reason?.to_string()));
        ErrorBody { code: self.code, message: self.message, until, reason }
    }

    pub(crate) fn name(field: &str, why: InvalidName) -> Self {
        let code = if field == "room" { "room_name_invalid" } else { "bad_field" };
        let message = format!("The value of \"{field}\" {why}.");
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "You have no permission for this.")
    }

    pub(crate) fn banned(notice: SanctionNotice) -> Self {
        let refusal = Self::new(StatusCode::FORBIDDEN, "banned", "You are banned.");
        Self { ban: Some(Box::new(notice)), ..refusal }
    }

    pub(crate) fn origin() -> Self {
        let message = "Pages of this origin may not use this server. Its operator can add the origin to the setting allow-origin.";
        Self::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).because("foreign_origin")
    }

    pub(crate) fn host() -> Self {
        let message = "This server does not serve this host. Its operator can add the host to the setting allow-host.";
        Self::new(StatusCode::FORBIDDEN, "host_not_allowed", message).because("foreign_host")
    }

    pub(crate) fn invalid_host() -> Self {
        let message = "The request must have exactly one valid Host header.";
        Self::new(StatusCode::BAD_REQUEST, "bad_field", message).because("invalid_host")
    }

    /// A handshake over HTTP/2, or through something that takes upgrades away.
    pub(crate) fn no_upgrade() -> Self {
        let message = "Open the WebSocket by HTTP/1.1.";
        Self::new(StatusCode::UPGRADE_REQUIRED, "no_websocket", message)
    }

    pub(crate) fn http_rate(retry_after: Duration) -> Self {
        let message = "Too many requests. Send fewer requests per second.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            .because("http_rate")
            .retry_after(Duration::from_secs(retry_after.as_secs() + 1))
    }

    pub(crate) fn draining() -> Self {
        let message = "This server is shutting down. Connect to another one.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message)
            .retry_after(Duration::from_secs(1))
    }

    pub(crate) fn body_too_large() -> Self {
        let message = "The body of the request is too large.";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found.")
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "broker_unavailable", message)
            .retry_after(Duration::from_secs(1))
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        let message = format!("Authentication failed: {error}.");
        match error {
            AuthError::Unavailable(_) => Self::unavailable(message),
            _ => Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let error = match error {
            Error::Rejected(rejection) => {
                let status = match rejection.code {
                    ErrorCode::HistoryDisabled => StatusCode::CONFLICT,
                    _ => StatusCode::BAD_REQUEST,
                };
                return Self::new(status, rejection.code.as_str(), rejection.message);
            }
            Error::Broker(error) => error,
        };
        match error {
            error if error.is_full() => {
                let message = "Redis is full (OOM), and rejected the request. Try again later.";
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "refused", message)
            }
            BrokerError::Refused(_) => {
                let message = "The request was rejected: there are too many bans, or Redis accepts no writes.";
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "refused", message)
            }
            BrokerError::Unsupported(part) => {
                let message = format!("This server cannot do this: its broker has no {part}.");
                Self::new(StatusCode::NOT_IMPLEMENTED, "unsupported", message)
            }
            error @ BrokerError::Damaged { .. } => Self::unavailable(unavailable(&error).message),
            error => {
                let refusal = Self::unavailable(unavailable(&error).message);
                Self { is_unanswered: true, ..refusal }
            }
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}

impl From<LimitReached> for Refusal {
    fn from(refused: LimitReached) -> Self {
        let (status, reason, message) = match refused {
            LimitReached::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                "connections",
                "This server has too many connections. Try again later.",
            ),
            LimitReached::Address => (
                StatusCode::TOO_MANY_REQUESTS,
                "address_connections",
                "There are too many connections from your address. Close some of them.",
            ),
        };
        let refusal = Self::new(status, "over_capacity", message).because(reason);
        refusal.retry_after(Duration::from_secs(5))
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_field", rejection.body_text())
    }
}

impl From<BytesRejection> for Refusal {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::body_too_large(),
            // Malformed chunks, or an end before the announced length.
            status => Self::new(
                status,
                "bad_request",
                "The body of the request is incomplete or invalid.",
            ),
        }
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        let code = match rejection {
            JsonRejection::BytesRejection(rejection) => return rejection.into(),
            JsonRejection::MissingJsonContentType(_) => "unsupported_media_type",
            JsonRejection::JsonDataError(_) => "bad_field",
            _ => "bad_json",
        };
        Self::new(rejection.status(), code, describe_json(&rejection))
    }
}

/// What is wrong with a body, without the words of serde about types of Rust.
fn describe_json(rejection: &JsonRejection) -> String {
    if let JsonRejection::MissingJsonContentType(_) = rejection {
        return "The request does not say that its body is JSON. Send the header \"Content-Type: application/json\".".to_owned();
    }
    let text = rejection.body_text();
    // axum's words for the kind of error precede those of serde.
    let why = text.split_once(": ").map_or("", |(_, why)| why);
    match (rejection, why.split_once(": unknown field `")) {
        (JsonRejection::JsonDataError(_), Some((path, _))) => {
            format!("The body has an unknown field \"{path}\".")
        }
        (JsonRejection::JsonDataError(_), None) => format!("The body cannot be used: {why}."),
        (JsonRejection::JsonSyntaxError(_), _) => format!("The body is not JSON: {why}."),
        _ => text.clone(),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, self.retry_after_seconds());
        let unanswered = self.is_unanswered.then_some(Unanswered);
        let mut response = (status, axum::Json(self.into_body())).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(unanswered) = unanswered {
            response.extensions_mut().insert(unanswered);
        }
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}
