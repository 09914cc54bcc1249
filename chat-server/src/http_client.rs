//! Requests of this server to others, over HTTP/1.1 with or without TLS.
//!
//! hyper's connection and tokio-rustls by hand, rather than the client of hyper-util with
//! hyper-rustls: that would be two more crates for a pool, which a request an hour does not need,
//! and its connectors do not hand on the address that a name resolved to, on which the rule for
//! requests without TLS depends ([`is_private`]).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{HOST, USER_AGENT};
use axum::http::uri::Scheme;
use axum::http::{HeaderValue, Request, Response, Uri};
use bytes::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

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

/// Sends requests, each on a connection of its own. It follows no redirect and uses no proxy.
#[derive(Clone)]
pub(crate) struct HttpClient {
    tls: TlsConnector,
}

impl HttpClient {
    /// Trusts the authorities whose certificates are in `authorities`, in PEM; without it those of
    /// the operating system, or of the file in `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// There is no certificate to trust.
    pub(crate) fn new(authorities: Option<&[u8]>) -> Result<Self, RequestError> {
        let trusted = match authorities {
            Some(pem) => certificates(pem)?,
            None => of_system(),
        };
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| RequestError::new(error.to_string()))?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Sends `request`, whose URI must have passed [`check_url`]. The body of the answer, of
    /// whatever status, has at most `max_bytes`.
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
        let stream = timeout(CONNECT_TIMEOUT, self.connect(request.uri()))
            .await
            .unwrap_or_else(|_| Err(RequestError::within(CONNECT_TIMEOUT, "to connect")))?;
        make_origin_form(&mut request)?;
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

    async fn connect(&self, url: &Uri) -> Result<Box<dyn Stream>, RequestError> {
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_tls = url.scheme() == Some(&Scheme::HTTPS);
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let failed = |error: io::Error| RequestError::new(format!("cannot connect: {error}"));
        let mut addresses: Vec<SocketAddr> =
            lookup_host((host, port)).await.map_err(failed)?.collect();
        if !is_tls {
            addresses.retain(|address| is_private(address.ip()));
            if addresses.is_empty() {
                let why = "http:// is for loopback and private addresses only: use https://";
                return Err(RequestError::new(why));
            }
        }
        let tcp = TcpStream::connect(&*addresses).await.map_err(failed)?;
        if !is_tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| RequestError::new("the host is no name of a certificate"))?;
        let failed = |error: io::Error| RequestError::new(format!("TLS failed: {error}"));
        Ok(Box::new(self.tls.connect(name, tcp).await.map_err(failed)?))
    }
}

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
        return Err("http:// is for loopback and private addresses only: use https://");
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

/// The form in which servers expect the target of a request (RFC 9112, section 3.2.1).
fn make_origin_form(request: &mut Request<Body>) -> Result<(), RequestError> {
    let wrong = || RequestError::new("the URL cannot be requested");
    let host = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let host = HeaderValue::try_from(host.unwrap_or_default()).map_err(|_| wrong())?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let target: Uri = path.parse().map_err(|_| wrong())?;
    *request.uri_mut() = target;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, AGENT);
    Ok(())
}

fn certificates(pem: &[u8]) -> Result<RootCertStore, RequestError> {
    let mut trusted = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate
            .map_err(|error| RequestError::new(format!("the certificates are no PEM: {error}")))?;
        trusted.add(certificate).map_err(|error| {
            RequestError::new(format!("the certificate of an authority cannot be used: {error}"))
        })?;
    }
    if trusted.is_empty() {
        return Err(RequestError::new("there is no certificate in the PEM"));
    }
    Ok(trusted)
}

fn of_system() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(found.certs);
    if trusted.is_empty() {
        // As in an image without the package ca-certificates.
        tracing::warn!(
            errors = ?found.errors,
            "this system has no certificates of authorities: no https:// can be verified"
        );
    }
    trusted
}
