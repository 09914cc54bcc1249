//! Certificates for a Redis behind TLS.

use std::fmt;

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Without them each handshake fails, which would look like an unavailable Redis.
const NO_AUTHORITIES: &str = "this machine has no certificates of authorities to check that of \
     Redis: install them (on Debian the package ca-certificates), name a file with them in \
     SSL_CERT_FILE, or set the certificate of the authority of Redis";

/// Certificates in PEM.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// Certificates of the authorities that may sign the server's.
    pub(crate) authority: Option<Vec<u8>>,
    /// The client's certificate chain, and its private key.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// A client that connects with these certificates.
    ///
    /// # Errors
    /// Names the certificate or key that cannot be used, and why: an error at the start, instead of
    /// handshakes that fail until an operator reads the log.
    pub(crate) fn client(&self, info: ConnectionInfo) -> Result<Client, String> {
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return if self.authority.is_some() || self.client.is_some() {
                Err("certificates are for TLS: the address begins with rediss://".to_owned())
            } else {
                Client::open(info).map_err(|error| error.to_string())
            };
        }
        // Fails if a provider is installed already, and that one is used.
        let _ = ring::default_provider().install_default();
        self.check()?;
        if self.authority.is_none() && self.client.is_none() {
            return Client::open(info).map_err(|error| error.to_string());
        }
        let client_tls = self.client.clone();
        let certificates = TlsCertificates {
            client_tls: client_tls
                .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key }),
            root_cert: self.authority.clone(),
        };
        Client::build_with_tls(info, certificates).map_err(|error| error.to_string())
    }

    /// Checks that there are authorities which may have signed the certificate of Redis.
    pub(crate) fn check_authorities(&self) -> Result<(), &'static str> {
        let are_missing =
            self.authority.is_none() && rustls_native_certs::load_native_certs().certs.is_empty();
        if are_missing { Err(NO_AUTHORITIES) } else { Ok(()) }
    }

    fn check(&self) -> Result<(), String> {
        if let Some(pem) = &self.authority {
            let mut store = RootCertStore::empty();
            for authority in certificates("certificate of the authority", pem)? {
                store.add(authority).map_err(|error| {
                    format!("the certificate of the authority cannot be used: {error}")
                })?;
            }
        }
        let Some((certificate, key)) = &self.client else { return Ok(()) };
        let chain = certificates("client certificate", certificate)?;
        let provider = ring::default_provider();
        CertifiedKey::from_der(chain, private_key(key)?, &provider).map(drop).map_err(|error| {
            match error {
                rustls::Error::InconsistentKeys(_) => {
                    "the key is not that of the client certificate".to_owned()
                }
                error => format!("the client certificate and its key cannot be used: {error}"),
            }
        })
    }
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("the {what} is no PEM: {error}"))?;
    if found.is_empty() { Err(format!("there is no {what} in the PEM")) } else { Ok(found) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        PemError::NoItemsFound if is_encrypted(pem) => {
            "the private key is encrypted: store it without a password".to_owned()
        }
        PemError::NoItemsFound => "there is no private key in the PEM".to_owned(),
        error => format!("the private key is no PEM: {error}"),
    })
}

fn is_encrypted(pem: &[u8]) -> bool {
    const MARK: &[u8] = b"ENCRYPTED";
    pem.windows(MARK.len()).any(|part| part == MARK)
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authority", &self.authority.as_ref().map(|_| "…"))
            .field("client", &self.client.as_ref().map(|_| "…"))
            .finish()
    }
}
