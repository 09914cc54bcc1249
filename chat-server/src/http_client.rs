//! Requests of this server to others, over HTTP/1.1 with or without TLS.
//!
//! hyper's connection by hand, rather than the client of hyper-util with hyper-rustls: that would be
//! another crate for a pool, which a request an hour does not need, and its connectors do not hand on
//! the address that a name resolved to, on which the rule for requests without TLS depends
//! ([`is_private`]).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{HOST, USER_AGENT};
use axum::http::uri::Scheme;
use axum::http::{HeaderValue, Request, Response, Uri};
use bytes::Bytes;
use chat_transport::tls::{Tls, TlsError};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long name resolution, TCP and TLS may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a request may take, from the name to the last byte of the answer: shorter than a
/// handshake of a client may wait for it, 10 s by default.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest head of an answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("roomcast/", env!("CARGO_PKG_VERSION")));

/// Why a request has no answer. The text says what happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RequestError(String);

impl RequestError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    fn within(limit: Duration, what: &str) -> Self {
        Self(format!("{what} took longer than {} s", limit.as_secs()))
    }
}

impl From<TlsError> for RequestError {
    fn from(error: TlsError) -> Self {
        Self(error.to_string())
    }
}

/// Sends requests to one URL, each on a connection of its own. It follows no redirect and uses no
/// proxy.
#[derive(Clone)]
pub(crate) struct HttpClient {
    url: Uri,
    /// `None` if the URL needs none.
    tls: Option<Tls>,
}

impl HttpClient {
    /// For a URL that has passed [`check_url`]. Trusts the authorities whose certificates are in
    /// `authorities`, in PEM; without it those of the operating system, or of the file in
    /// `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// There is no certificate to trust.
    pub(crate) fn new(url: Uri, authorities: Option<&[u8]>) -> Result<Self, RequestError> {
        let is_tls = url.scheme() == Some(&Scheme::HTTPS);
        let tls = is_tls.then(|| Tls::new(authorities)).transpose()?;
        Ok(Self { url, tls })
    }

    /// Sends `request` to the URL; its own URI does not count. The body of the answer, of whatever
    /// status, has at most `max_bytes`.
    ///
    /// # Errors
    /// There is no whole answer of that size in 5 s.
    ///
    /// # Cancel safety
    /// Dropping the call closes the connection.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
        max_bytes: usize,
    ) -> Result<Response<Bytes>, RequestError> {
        timeout(TIMEOUT, self.exchange(request, max_bytes))
            .await
            .unwrap_or_else(|_| Err(RequestError::within(TIMEOUT, "the answer")))
    }

    async fn exchange(
        &self,
        mut request: Request<Body>,
        max_bytes: usize,
    ) -> Result<Response<Bytes>, RequestError> {
        let stream = timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .unwrap_or_else(|_| Err(RequestError::within(CONNECT_TIMEOUT, "to connect")))?;
        address(&mut request, &self.url)?;
        let failed = |error: hyper::Error| RequestError::new(format!("no answer: {error}"));
        let mut http = http1::Builder::new();
        http.max_buf_size(MAX_HEAD_BYTES);
        let (mut sender, connection) =
            http.handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // Aborted when this call ends, however it does.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = to_bytes(Body::new(body), max_bytes).await.map_err(|error| {
            RequestError::new(format!("the answer, of {max_bytes} bytes at most: {error}"))
        })?;
        Ok(Response::from_parts(head, body))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, RequestError> {
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        let port = self.url.port_u16().unwrap_or(default_port);
        let failed = |error: io::Error| RequestError::new(format!("cannot connect: {error}"));
        let mut addresses: Vec<SocketAddr> =
            lookup_host((host, port)).await.map_err(failed)?.collect();
        let Some(tls) = &self.tls else {
            addresses.retain(|address| is_private(address.ip()));
            if addresses.is_empty() {
                return Err(RequestError::new(NEEDS_TLS));
            }
            return Ok(Box::new(TcpStream::connect(&*addresses).await.map_err(failed)?));
        };
        let tcp = TcpStream::connect(&*addresses).await.map_err(failed)?;
        Ok(Box::new(tls.connect(host, tcp).await?))
    }
}

const NEEDS_TLS: &str = "http:// is for loopback and private addresses only: use https://";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Checks that a URL is one that can be requested.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_url(text: &str) -> Result<Uri, &'static str> {
    let url: Uri = text.parse().map_err(|_| "it is not a URL")?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    if !is_http || url.host().is_none_or(str::is_empty) {
        return Err("expected a URL such as https://accounts.example/jwks.json");
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("a user name or password in the URL is not sent");
    }
    let address = url.host().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
    if url.scheme() == Some(&Scheme::HTTP) && address.is_some_and(|address| !is_private(address)) {
        return Err(NEEDS_TLS);
    }
    Ok(url)
}

/// Whether only the operator's own machines and networks are on the way to an address: of this
/// machine (RFC 1122, RFC 4291), of a private network (RFC 1918) or a unique local one (RFC 4193).
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// Addresses a request to `url` in the form that servers expect (RFC 9112, section 3.2.1).
fn address(request: &mut Request<Body>, url: &Uri) -> Result<(), RequestError> {
    let wrong = || RequestError::new("the URL cannot be requested");
    let host = url.authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::try_from(host).map_err(|_| wrong())?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| wrong())?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, AGENT);
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What a server that answers with `answer`, and leaves the connection open, is taken for. With
    /// a paused clock, a wait for what never follows ends at once.
    async fn outcome(answer: String) -> Result<Response<Bytes>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(answer.as_bytes()).await;
            let mut request = Vec::new();
            let _ = stream.read_to_end(&mut request).await;
        });
        let url = check_url(&format!("http://127.0.0.1:{port}/a?b")).unwrap();
        let client = HttpClient::new(url, None).unwrap();
        client.send(Request::new(Body::empty()), 100).await.map_err(|error| error.to_string())
    }

    fn answer(status: u16, bytes: usize) -> String {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {bytes}\r\n");
        format!("{head}Location: http://127.0.0.1:1/\r\n\r\n{}", "x".repeat(bytes))
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_bounded() {
        for status in [200, 404, 500] {
            let response = outcome(answer(status, 100)).await.unwrap();
            assert_eq!((response.status().as_u16(), response.body().len()), (status, 100));
        }
        assert_eq!(outcome(answer(302, 0)).await.unwrap().status(), 302, "which is not followed");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n".to_owned();
        let endless_head = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(MAX_HEAD_BYTES));
        for (answer, named) in [
            (answer(200, 101), "of 100 bytes at most: length limit exceeded"),
            (chunked + &"x".repeat(101), "of 100 bytes at most: length limit exceeded"),
            (answer(200, 100)[..150].to_owned(), "the answer took longer than 5 s"),
            (String::new(), "the answer took longer than 5 s"),
            (endless_head, "no answer"),
            ("SSH-2.0-OpenSSH\r\n".to_owned(), "no answer"),
        ] {
            let why = outcome(answer.clone()).await.unwrap_err();
            assert!(why.contains(named), "{answer:.60}: {why}");
        }
    }

    #[test]
    fn url_without_tls_is_for_private_addresses() {
        for url in [
            "http://127.0.0.1/",
            "http://10.1.2.3:8080/jwks",
            "http://192.168.0.1",
            "http://172.31.0.1",
            "http://[::1]/",
            "http://[fd00::1]/",
            "http://keycloak:8080/certs",
            "https://192.0.2.1/",
            "HTTPS://accounts.example",
        ] {
            assert!(check_url(url).is_ok(), "{url}");
        }
        for url in [
            "http://192.0.2.1/",
            "http://169.254.169.254/",
            "http://172.32.0.1/",
            "http://[2001:db8::1]/",
            "ftp://accounts.example/",
            "https://",
            "https://ann@accounts.example/",
            "/jwks.json",
            "accounts.example",
            "",
        ] {
            assert!(check_url(url).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn name_without_tls_must_be_of_a_private_address() {
        let connect = async |url: &str| {
            let client = HttpClient::new(check_url(url).unwrap(), None).unwrap();
            client.connect().await.err().map(|error| error.to_string())
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(connect(&format!("http://localhost:{port}/")).await, None);
        // The form of the inet_aton of C: a name, by the rules for URLs and for addresses.
        let foreign = connect("http://0x08080808/").await.unwrap();
        assert!(
            foreign.contains("use https://") || foreign.contains("cannot connect"),
            "{foreign}"
        );
    }
}
