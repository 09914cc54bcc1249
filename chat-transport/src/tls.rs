//! TLS of clients: rustls with *ring*.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

/// Encrypts the streams of clients, and checks the certificates of servers.
///
/// ```no_run
/// use chat_transport::tls::Tls;
/// use tokio::net::TcpStream;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = TcpStream::connect(("chat.example", 443)).await?;
/// let encrypted = Tls::new(None)?.connect("chat.example", stream).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tls(TlsConnector);

/// Why there is no stream. The text names the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl Tls {
    /// `roots`: the certificates of the trusted authorities, in PEM; `None`: those of the operating
    /// system, or of the file in `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// [`TlsError`] if there is no certificate that can be used.
    pub fn new(roots: Option<&[u8]>) -> Result<Self, TlsError> {
        let roots = match roots {
            Some(pem) => given_roots(pem),
            None => native_roots(),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(error.to_string()))?
            .with_root_certificates(roots.map_err(TlsError)?)
            .with_no_client_auth();
        // A WebSocket begins with a request of HTTP/1.1, as every request of this project is: a
        // proxy that prefers HTTP/2 must not choose it.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// The handshake over `stream`, with a server whose certificate has to be for this host: a name,
    /// or an IP address without brackets.
    ///
    /// # Errors
    /// [`TlsError`] if the certificate is not accepted, or the handshake fails. It has no time limit.
    ///
    /// # Cancel safety
    /// Dropping the call drops the stream.
    pub async fn connect<S: AsyncRead + AsyncWrite + Send + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<S>, TlsError> {
        let name = ServerName::try_from(host.to_owned());
        let name =
            name.map_err(|_| TlsError(format!("{host:?} cannot be the name in a certificate")))?;
        let connecting = self.0.connect(name, stream);
        connecting.await.map_err(|error| TlsError(describe(host, &error)))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn given_roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate =
            certificate.map_err(|error| format!("the root certificates are not PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("a root certificate cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("the PEM has no root certificate".to_owned());
    }
    Ok(roots)
}

fn native_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or(String::new(), |error| format!(": {error}"));
        return Err(format!("the operating system has no root certificates{why}"));
    }
    Ok(roots)
}

/// Why a handshake failed, for people. The texts about certificates do not depend on rustls.
fn describe(host: &str, error: &io::Error) -> String {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(Error::InvalidCertificate(problem)) => {
            format!("the certificate of {host} is not accepted: {}", describe_certificate(problem))
        }
        Some(Error::InvalidMessage(_)) => format!("{host} does not answer with TLS"),
        _ => format!("the TLS handshake with {host} failed: {error}"),
    }
}

fn describe_certificate(problem: &CertificateError) -> String {
    use CertificateError as Problem;
    match problem {
        Problem::Expired | Problem::ExpiredContext { .. } => "it has expired".to_owned(),
        Problem::NotValidYet | Problem::NotValidYetContext { .. } => {
            "it is not valid yet".to_owned()
        }
        Problem::NotValidForName | Problem::NotValidForNameContext { .. } => {
            "it is for another name".to_owned()
        }
        Problem::UnknownIssuer => "no trusted authority has signed it".to_owned(),
        Problem::Revoked => "it is revoked".to_owned(),
        // webpki's error, whose type rustls does not show.
        Problem::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "it is the certificate of an authority".to_owned()
        }
        Problem::BadSignature => "its signature is wrong".to_owned(),
        Problem::InvalidPurpose => "it is not for servers".to_owned(),
        // The texts of rustls for the rest are the names of its variants.
        _ => "it cannot be read or verified".to_owned(),
    }
}
