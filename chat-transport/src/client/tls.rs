//! TLS below a WebSocket: rustls with *ring*.

use std::io;
use std::sync::Arc;

use chat_core::client::ClientError;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use super::stream::Metered;

/// Encrypts streams, and checks the certificates of servers.
pub(super) struct Tls(TlsConnector);

impl Tls {
    /// `roots`: the certificates of the trusted authorities, in PEM; `None`: those of the operating
    /// system.
    pub(super) fn new(roots: Option<&[u8]>) -> Result<Self, ClientError> {
        let roots = match roots {
            Some(pem) => given_roots(pem),
            None => native_roots(),
        };
        let roots = roots.map_err(ClientError::Tls)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Tls(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A WebSocket begins with a request of HTTP/1.1: a proxy that prefers HTTP/2 must not
        // choose it.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// The handshake, with a server whose certificate has to be for this host.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: Metered,
    ) -> Result<TlsStream<Metered>, String> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| format!("{host:?} cannot be the name in a certificate"))?;
        self.0.connect(name, stream).await.map_err(|error| describe(host, &error))
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
        other => other.to_string(),
    }
}
