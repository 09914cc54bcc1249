//! From an address to a WebSocket: a TCP connection or a stream of the application, TLS, and the
//! handshake.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use chat_core::Dialect;
use chat_core::client::{ClientError, Disconnect};
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::stream::{BoxedStream, Metered, Traffic};
#[cfg(feature = "client-tls")]
use crate::tls::Tls;

/// The server that a stream is opened to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The address, as the client has it from the application.
    pub url: String,
    /// The host of the address: a name, or an IP address (without brackets).
    pub host: String,
    /// The port of the address; 80 for `ws://` and 443 for `wss://` if it has none.
    pub port: u16,
    /// Whether the client encrypts the stream, which it does for `wss://`.
    pub is_tls: bool,
}

const FORM: &str = "its form is ws://HOST[:PORT]/PATH, or wss://HOST[:PORT]/PATH with TLS";
const NO_TLS: &str = "wss:// needs the feature client-tls of roomcast-transport";

impl Endpoint {
    pub(super) fn parse(url: &str) -> Result<Self, ClientError> {
        let invalid = |problem| ClientError::url(url, problem);
        let uri: Uri = url.parse().map_err(|_| invalid(FORM))?;
        let is_tls = is_tls(uri.scheme_str(), cfg!(feature = "client-tls")).map_err(invalid)?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(invalid("send a user and a password with ClientConfig::header"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid(FORM))?;
        let default_port = if is_tls { 443 } else { 80 };
        let port = match authority.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
            None | Some("") => default_port,
            Some(port) => port.parse().map_err(|_| invalid(FORM))?,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { url: url.to_owned(), host, port, is_tls })
    }
}

/// Whether a scheme is that of TLS, for a client that has TLS or not.
fn is_tls(scheme: Option<&str>, has_tls: bool) -> Result<bool, &'static str> {
    match scheme {
        Some("ws") => Ok(false),
        Some("wss") if has_tls => Ok(true),
        Some("wss") => Err(NO_TLS),
        Some("http") => Err("use ws:// instead of http://"),
        Some("https") => Err("use wss:// instead of https://"),
        _ => Err(FORM),
    }
}

/// The settings of a client that concern the opening of a connection.
#[derive(Clone, Default)]
pub(super) struct ConnectOptions {
    /// `None`: TCP.
    pub(super) connector: Option<Connector>,
    /// Names and values.
    pub(super) headers: Vec<(String, String)>,
    /// In PEM; `None`: those of the operating system.
    #[cfg(feature = "client-tls")]
    pub(super) root_certificates: Option<Vec<u8>>,
}

/// Hides the values of headers, which are secrets.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ConnectOptions")
            .field("has_connector", &self.connector.is_some())
            .field("headers", &headers)
            .finish_non_exhaustive()
    }
}

/// Opens the streams of a client.
pub(super) type Connector = Arc<dyn Fn(Endpoint) -> Connecting + Send + Sync>;

type Connecting = Pin<Box<dyn Future<Output = io::Result<BoxedStream>> + Send>>;

pub(super) fn connector<C, F, S>(connect: C) -> Connector
where
    C: Fn(Endpoint) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Arc::new(move |endpoint| {
        let connecting = connect(endpoint);
        Box::pin(async move { Ok(Box::new(connecting.await?) as BoxedStream) })
    })
}

async fn connect_tcp(endpoint: Endpoint) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    // Without Nagle's algorithm: a message does not wait for others to share its packet.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The most characters of a refusal that the reason of a failed connection has.
const MAX_REFUSAL: usize = 300;

/// Opens the connections of a client.
pub(super) struct Dialer {
    connector: Connector,
    headers: HeaderMap,
    /// `None` if no address needs it.
    #[cfg(feature = "client-tls")]
    tls: Option<Tls>,
}

impl Dialer {
    /// Checks the addresses and the options: what is wrong with them is an error now, instead of
    /// connections that fail until the application reads why.
    pub(super) fn new(urls: &[String], options: ConnectOptions) -> Result<Self, ClientError> {
        let endpoints: Result<Vec<_>, _> = urls.iter().map(|url| Endpoint::parse(url)).collect();
        #[cfg_attr(not(feature = "client-tls"), expect(unused, reason = "no address does then"))]
        let needs_tls = endpoints?.iter().any(|endpoint| endpoint.is_tls);
        #[cfg(feature = "client-tls")]
        let tls = needs_tls.then(|| Tls::new(options.root_certificates.as_deref())).transpose();
        Ok(Self {
            connector: options.connector.unwrap_or_else(|| connector(connect_tcp)),
            headers: check_headers(&options.headers)?,
            #[cfg(feature = "client-tls")]
            tls: tls.map_err(|error| ClientError::Tls(error.to_string()))?,
        })
    }

    /// Opens a connection to one of the addresses.
    pub(super) async fn dial(
        &self,
        url: &str,
    ) -> Result<(WebSocketStream<BoxedStream>, Arc<Traffic>), Disconnect> {
        let endpoint = Endpoint::parse(url).map_err(failed)?;
        let stream = (self.connector)(endpoint.clone()).await.map_err(|error| {
            let Endpoint { host, port, .. } = &endpoint;
            failed(format!("cannot connect to {host}, port {port}: {error}"))
        })?;
        // Below TLS: a part of a record counts as a sign of life, too.
        let (stream, traffic) = Metered::new(stream);
        let stream = self.encrypt(&endpoint, stream).await.map_err(failed)?;
        let request = self.request(url).map_err(failed)?;
        let (stream, _) = client_async(request, stream).await.map_err(|error| match error {
            Error::Http(response) => failed(refused(&response)),
            Error::Protocol(error) => failed(misunderstood(&endpoint, &error)),
            error => failed(error),
        })?;
        Ok((stream, traffic))
    }

    async fn encrypt(&self, endpoint: &Endpoint, stream: Metered) -> Result<BoxedStream, String> {
        if !endpoint.is_tls {
            return Ok(Box::new(stream));
        }
        #[cfg(feature = "client-tls")]
        if let Some(tls) = &self.tls {
            let stream = tls.connect(&endpoint.host, stream).await;
            return Ok(Box::new(stream.map_err(|error| error.to_string())?));
        }
        Err(NO_TLS.to_owned())
    }

    fn request(&self, url: &str) -> Result<Request, Error> {
        let mut request = url.into_client_request()?;
        let headers = request.headers_mut();
        headers
            .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(Dialect::SUBPROTOCOL));
        headers.extend(self.headers.clone());
        Ok(request)
    }
}

/// An answer to the handshake that is not that of a WebSocket.
fn refused(response: &Response) -> String {
    let status = response.status();
    let answer = format!("the server answered the handshake with {status}");
    if let Some(why) = response.body().as_deref().and_then(refusal_in) {
        return format!("{answer}: {why}");
    }
    if status.is_redirection() || status.is_success() {
        let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let location = location.map(|to| to.chars().take(MAX_REFUSAL).collect::<String>());
        let to = location.map_or_else(String::new, |to| format!(", to {to}"));
        return format!("{answer}{to}: this is no chat server, or a proxy that asks for a login");
    }
    answer
}

/// An answer that is not one of HTTP, or of an old HTTP.
fn misunderstood(endpoint: &Endpoint, error: &ProtocolError) -> String {
    let Endpoint { host, port, is_tls, .. } = endpoint;
    let answer = match error {
        ProtocolError::HandshakeIncomplete => "ends the connection without an answer".to_owned(),
        error => format!("does not answer as a WebSocket server: {error}"),
    };
    let hint = if *is_tls { "" } else { "; a server with TLS has an address with wss://" };
    format!("{host}, port {port}, {answer}{hint}")
}

/// The code and the message of a refusal, as servers of this protocol answer it. `None` also if the body
/// has not arrived together with the head.
fn refusal_in(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let [code, message] = ["code", "message"].map(|field| body[field].as_str());
    let text = format!("{}: {}", code?, message?);
    Some(text.chars().take(MAX_REFUSAL).collect())
}

fn failed(error: impl fmt::Display) -> Disconnect {
    Disconnect::new(error.to_string())
}

fn check_headers(headers: &[(String, String)]) -> Result<HeaderMap, ClientError> {
    let mut checked = HeaderMap::new();
    for (name, value) in headers {
        let invalid = |problem| ClientError::header(name, problem);
        let name = HeaderName::try_from(name).map_err(|_| invalid("its name is invalid"))?;
        if is_of_handshake(&name) {
            return Err(invalid("the handshake has its own"));
        }
        let value = HeaderValue::from_str(value).ok().filter(|value| value.to_str().is_ok());
        let mut value = value.ok_or_else(|| invalid("its value is not visible ASCII"))?;
        value.set_sensitive(true);
        if checked.len() == MAX_HEADERS {
            return Err(invalid("there are more than 64 headers"));
        }
        checked.append(name, value);
    }
    Ok(checked)
}

/// Headers of an application at most: servers accept about a hundred in all.
const MAX_HEADERS: usize = 64;

/// Whether a header is part of the handshake, or would change where its request ends.
fn is_of_handshake(name: &HeaderName) -> bool {
    const OWN: [HeaderName; 7] = [
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TRAILER,
        header::EXPECT,
    ];
    OWN.contains(name) || name.as_str().starts_with("sec-websocket-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> (String, u16, bool) {
        let Endpoint { host, port, is_tls, .. } = Endpoint::parse(url).unwrap();
        (host, port, is_tls)
    }

    fn problem(url: &str) -> &'static str {
        match Endpoint::parse(url) {
            Err(ClientError::Url { url: named, problem, .. }) if named == url => problem,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(endpoint("ws://localhost"), ("localhost".to_owned(), 80, false));
        assert_eq!(endpoint("ws://localhost:/ws"), ("localhost".to_owned(), 80, false));
        assert_eq!(endpoint("ws://[::1]:8080/ws"), ("::1".to_owned(), 8080, false));
        assert_eq!(endpoint("ws://a.example/ws?userId=b@c"), ("a.example".to_owned(), 80, false));
        for url in ["", "localhost:8080", "ws://", "ws:///x", "ws://a:99999/", "ftp://a/"] {
            assert_eq!(problem(url), FORM, "{url}");
        }
        assert_eq!(problem("http://a.example/ws"), "use ws:// instead of http://");
        assert_eq!(problem("https://a.example/ws"), "use wss:// instead of https://");
        assert!(problem("ws://ann:secret@a.example/ws").contains("ClientConfig::header"));
    }

    #[cfg(feature = "client-tls")]
    #[test]
    fn addresses_with_tls() {
        assert_eq!(endpoint("wss://a.example/ws"), ("a.example".to_owned(), 443, true));
        assert_eq!(endpoint("wss://[::1]:8443/ws"), ("::1".to_owned(), 8443, true));
    }

    #[test]
    fn addresses_with_tls_need_a_feature() {
        assert_eq!(is_tls(Some("wss"), false), Err(NO_TLS));
        assert_eq!(is_tls(Some("ws"), false), Ok(false));
    }

    #[test]
    fn headers() {
        let check = |name: &str, value: &str| check_headers(&[(name.to_owned(), value.to_owned())]);
        for name in ["Cookie", "authorization", "Origin", "User-Agent"] {
            assert!(check(name, "a value").unwrap().contains_key(name));
        }
        for (name, value) in [
            ("Host", "a.example"),
            ("upgrade", "h2c"),
            ("Sec-WebSocket-Protocol", "other"),
            ("Content-Length", "5"),
            ("X Y", "1"),
            ("", "1"),
            ("X", "1\r\nY: 2"),
            ("X", "ö"),
        ] {
            let error = check(name, value).unwrap_err();
            assert!(matches!(&error, ClientError::Header { name: named, .. } if named == name));
        }
    }

    #[test]
    fn headers_are_bounded() {
        let mut headers = vec![("X".to_owned(), "1".to_owned()); MAX_HEADERS];
        assert_eq!(check_headers(&headers).unwrap().len(), MAX_HEADERS);
        headers.push(("Y".to_owned(), "1".to_owned()));
        assert!(check_headers(&headers).is_err());
    }
}
