//! The TLS side of a client.

use std::path::Path;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// A port whose connections go on, encrypted, to `port` for `chat.example`; `certificate`
/// alone is trusted. So every client of these tests can speak TLS.
pub(super) async fn tunnel(port: u16, certificate: &Path) -> u16 {
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let entry = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(carry(client, connector.clone(), port));
        }
    });
    entry
}

async fn carry(mut client: TcpStream, connector: TlsConnector, port: u16) {
    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("chat.example").unwrap();
    let mut server = connector.connect(name, server).await.expect("the balancer speaks TLS");
    // Either side may end; the test asserts whether it should have.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
