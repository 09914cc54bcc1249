//! The opening handshake of RFC 6455 section 4.2, for whoever serves HTTP by other means.
//!
//! ```
//! let request = http::Request::get("/ws")
//!     .header("connection", "Upgrade")
//!     .header("upgrade", "websocket")
//!     .header("sec-websocket-version", "13")
//!     .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
//!     .header("sec-websocket-protocol", "v2, v1")
//!     .body(())?;
//! let response = chat_transport::handshake::respond(&request, &["v1"])?;
//! assert_eq!(response.status(), 101);
//! assert_eq!(response.headers()["sec-websocket-protocol"], "v1");
//! assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use http::header::{
    ALLOW, CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

/// Why a request is not answered with a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Not a request, or one that breaks HTTP.
    #[error("not a valid request")]
    Malformed,
    /// Another method than GET.
    #[error("only GET opens a websocket")]
    Method,
    /// No `Connection: Upgrade`, or no `Upgrade: websocket`.
    #[error("the request does not ask for a websocket")]
    NotAnUpgrade,
    /// Another `Sec-WebSocket-Version` than 13.
    #[error("only version 13 of the protocol is spoken")]
    Version,
    /// `Sec-WebSocket-Key` is missing, given twice, or not 16 bytes in base64.
    #[error("the sec-websocket-key is missing or invalid")]
    Key,
    /// The head of the request is above the limit.
    #[error("the head of the request is too large")]
    HeadTooLarge,
}

/// The answer that makes `request` a WebSocket, with the first subprotocol of the client's
/// list that is among `protocols`; case counts. When it has been sent, the connection is for
/// [`Session::new`](crate::Session::new).
///
/// # Errors
/// The request is not a valid handshake; [`HandshakeError::response`] is the answer then.
pub fn respond<B>(
    request: &Request<B>,
    protocols: &[&str],
) -> Result<Response<()>, HandshakeError> {
    if request.headers().get_all(SEC_WEBSOCKET_KEY).iter().count() > 1 {
        return Err(HandshakeError::Key);
    }
    let mut response = create_response_with_body(&with_one_token_each(request), || ())?;
    if let Some(protocol) = choose(request.headers(), protocols) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// Whether a request asks for a WebSocket: `Upgrade` is a list, in any case and on any number of
/// lines, of which `websocket` is one.
#[must_use]
pub fn is_requested(headers: &HeaderMap) -> bool {
    has_token(headers, UPGRADE, "websocket")
}

/// The request as tungstenite reads it: `Connection` and `Upgrade` with the one token that counts,
/// and not with the lists that they may be.
fn with_one_token_each<B>(request: &Request<B>) -> Request<()> {
    let mut plain = Request::new(());
    plain.method_mut().clone_from(request.method());
    *plain.version_mut() = request.version();
    plain.headers_mut().clone_from(request.headers());
    for (name, token) in [(CONNECTION, "upgrade"), (UPGRADE, "websocket")] {
        if has_token(request.headers(), name.clone(), token) {
            plain.headers_mut().insert(name, HeaderValue::from_static(token));
        } else {
            plain.headers_mut().remove(name);
        }
    }
    plain
}

/// All lines of a header are one list (RFC 9110, section 5.3). A line that is not ASCII has none.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

fn choose(headers: &HeaderMap, protocols: &[&str]) -> Option<HeaderValue> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .find(|wanted| protocols.contains(wanted))
        .and_then(|chosen| HeaderValue::from_str(chosen).ok())
}

impl HandshakeError {
    /// The status of the answer: 400, 405, 426 or 431.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::Key => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAnUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    /// The answer: the status, and the headers that tell the client what would do.
    #[must_use]
    pub fn response(self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status();
        for (name, value) in self.headers() {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    fn headers(self) -> &'static [(HeaderName, &'static str)] {
        match self {
            Self::Method => &[(ALLOW, "GET")],
            Self::NotAnUpgrade => &[(CONNECTION, "Upgrade"), (UPGRADE, "websocket")],
            Self::Version => &[(SEC_WEBSOCKET_VERSION, "13")],
            Self::Malformed | Self::Key | Self::HeadTooLarge => &[],
        }
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(CapacityError::TooManyHeaders) => Self::HeadTooLarge,
            Error::Protocol(ProtocolError::WrongHttpMethod) => Self::Method,
            Error::Protocol(
                ProtocolError::MissingConnectionUpgradeHeader
                | ProtocolError::MissingUpgradeWebSocketHeader,
            ) => Self::NotAnUpgrade,
            Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => Self::Version,
            Error::Protocol(
                ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey,
            ) => Self::Key,
            _ => Self::Malformed,
        }
    }
}
