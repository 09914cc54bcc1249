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
    ALLOW, CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Why a request is not answered with a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Not a request, or one that breaks HTTP.
    #[error("not a valid request")]
    Malformed,
    /// HTTP/1.0, which has no upgrades: a proxy may speak it by default.
    #[error("a websocket needs HTTP/1.1")]
    HttpVersion,
    /// `Host` is missing, given twice or not a host.
    #[error("the request needs one valid host")]
    Host,
    /// Another method than GET.
    #[error("only GET opens a websocket")]
    Method,
    /// No `Connection: Upgrade`, or no `Upgrade: websocket`.
    #[error("the request does not ask for a websocket")]
    NotAnUpgrade,
    /// `Sec-WebSocket-Version` is missing, given twice or not 13.
    #[error("only version 13 of the protocol is spoken")]
    Version,
    /// `Sec-WebSocket-Key` is missing, given twice, or not 16 bytes in base64.
    #[error("the sec-websocket-key is missing or invalid")]
    Key,
    /// The head of the request is above the limit, or has more than 124 header fields.
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
    let key = check(request)?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept.map_err(|_| HandshakeError::Key)?);
    if let Some(protocol) = choose(request.headers(), protocols) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// The key of a valid handshake (RFC 6455, section 4.2.1).
fn check<B>(request: &Request<B>) -> Result<&HeaderValue, HandshakeError> {
    let (method, headers) = (request.method(), request.headers());
    if method != Method::GET && method != Method::HEAD {
        return Err(HandshakeError::Method);
    }
    if request.version() < Version::HTTP_11 {
        return Err(HandshakeError::HttpVersion);
    }
    if !is_requested(headers) || !has_token(headers, CONNECTION, "upgrade") {
        return Err(HandshakeError::NotAnUpgrade);
    }
    // A HEAD that asks for nothing is answered as its GET would be.
    if method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if only(headers, SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::Version);
    }
    only(headers, SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes())).ok_or(HandshakeError::Key)
}

/// Whether a request asks for a WebSocket: `Upgrade` is a list, in any case and on any number of
/// lines, of which `websocket` is one.
#[must_use]
pub fn is_requested(headers: &HeaderMap) -> bool {
    has_token(headers, UPGRADE, "websocket")
}

/// The value of a header that is not a list; `None` if it is missing or given twice.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(name).into_iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// 16 bytes in base64. The last of the 22 characters has four bits that belong to no byte. They may
/// be set: clients make keys of random characters, and so does the example of RFC 6455, section 1.3.
fn is_key(key: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix(b"==").is_some_and(|text| text.len() == 22 && text.iter().all(is_base64))
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    elements(headers, name).any(|listed| listed.eq_ignore_ascii_case(token.as_bytes()))
}

/// The elements of a list of tokens, of which all lines are one (RFC 9110, section 5.3). An element
/// may be any bytes: one that is not a token does not spoil the others.
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn choose(headers: &HeaderMap, protocols: &[&str]) -> Option<HeaderValue> {
    elements(headers, SEC_WEBSOCKET_PROTOCOL)
        .find(|wanted| protocols.iter().any(|protocol| protocol.as_bytes() == *wanted))
        .and_then(|chosen| HeaderValue::from_bytes(chosen).ok())
}

impl HandshakeError {
    /// The status of the answer: 400, 405, 426 or 431.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::HttpVersion | Self::Host | Self::Key => StatusCode::BAD_REQUEST,
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
            // A 426 has to name the protocol (RFC 9110, section 15.5.22).
            Self::NotAnUpgrade => &[(CONNECTION, "Upgrade"), (UPGRADE, "websocket")],
            Self::Version => {
                &[(CONNECTION, "Upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_VERSION, "13")]
            }
            Self::Malformed | Self::HttpVersion | Self::Host | Self::Key | Self::HeadTooLarge => {
                &[]
            }
        }
    }

    /// Of a head that tungstenite could not parse. A `From` would make its error a part of the public API.
    pub(crate) fn from_parser(error: Error) -> Self {
        match error {
            Error::Capacity(CapacityError::TooManyHeaders) => Self::HeadTooLarge,
            Error::Protocol(ProtocolError::WrongHttpMethod) => Self::Method,
            Error::Protocol(ProtocolError::WrongHttpVersion) => Self::HttpVersion,
            _ => Self::Malformed,
        }
    }
}
