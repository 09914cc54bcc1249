//! An issuer of tokens: its keys, and the server on which it publishes them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chat_server::JwtSigner;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::claims;
use super::keys::{ED25519, Keys};

/// A key pair of Ed25519 with an id.
pub(super) struct IssuerKey {
    id: &'static str,
    private: Vec<u8>,
    x: String,
}

impl IssuerKey {
    pub(super) fn new(keys: &Keys, id: &'static str) -> Self {
        let (private, public) = keys.generate(id, ED25519);
        let der = pem::parse(fs::read(public).unwrap()).unwrap().into_contents();
        let x = URL_SAFE_NO_PAD.encode(&der[der.len() - 32..]);
        Self { id, private: fs::read(private).unwrap(), x }
    }

    /// A token of the user that names this key.
    pub(super) fn token(&self, user: &str) -> String {
        let signer = JwtSigner::with_private_key(&self.private).unwrap();
        signer.key_id(self.id).sign(&claims(user)).unwrap()
    }

    fn jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": self.x, "kid": self.id, "use": "sig"})
    }
}

pub(super) fn jwks(keys: &[&IssuerKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

/// Answers each request with the same bytes, until these are replaced. Its test needs a second
/// thread, since it blocks its own while it waits for the log of the program.
pub(super) struct Issuer {
    port: u16,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    pub(super) async fn start(answer: String) -> Self {
        Self::listen(answer, None).await
    }

    /// Over TLS, with a certificate for `localhost`, whose file is returned as well.
    pub(super) async fn start_tls(answer: String, keys: &Keys) -> (Self, String) {
        let [key, certificate] = ["tls-key.pem", "tls-cert.pem"].map(|name| keys.path(name));
        keys.openssl(
            &[
                &["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=issuer of tests"][..],
                &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
                &["-addext", "subjectAltName=DNS:localhost"],
                &["-addext", "basicConstraints=critical,CA:FALSE"],
                &["-keyout", &key, "-out", &certificate],
            ]
            .concat(),
        );
        let issuer = Self::listen(answer, Some(acceptor(certificate.as_ref(), key.as_ref()))).await;
        (issuer, certificate)
    }

    async fn listen(answer: String, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::<AtomicUsize>::default());
        let (answers, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answers, count) = (tls.clone(), Arc::clone(&answers), Arc::clone(&count));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &answers, &count).await,
                        Some(tls) => {
                            // A client that does not trust the certificate ends the handshake.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &answers, &count).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, answer, asked }
    }

    /// The URL of the keys, with this scheme.
    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}/jwks.json?v=1", self.port)
    }

    pub(super) fn set_answer(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &Mutex<String>,
    asked: &AtomicUsize,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8(request).unwrap().to_ascii_lowercase();
    assert!(request.starts_with("get /jwks.json?v=1 http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nhost: localhost:"), "{request}");
    asked.fetch_add(1, Ordering::SeqCst);
    let answer = answer.lock().unwrap().clone();
    // The server closes the connection if it does not want the whole answer.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn acceptor(certificate: &Path, key: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// An answer with this status and body.
pub(super) fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The answer with these keys.
pub(super) fn publish(keys: &[&IssuerKey]) -> String {
    answer("200 OK", &jwks(keys))
}
