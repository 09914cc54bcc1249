//! Redis behind TLS.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

use chat_broker::testing::RedisServer;
use chat_broker::{Broker, RedisConfig, Status};

use crate::support::{DEADLINE, Node, assert_unavailable, room, skip};

/// A directory with a certificate for `localhost` that vouches for itself, and its key.
struct Certificate(PathBuf);

impl Certificate {
    fn new() -> Self {
        let directory = env::temp_dir().join(format!("chat-tls-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let status = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(directory.join("key.pem"))
            .arg("-out")
            .arg(directory.join("cert.pem"))
            .output()
            .expect("this test needs `openssl`: apt-get install openssl")
            .status;
        assert!(status.success(), "openssl: {status}");
        Self(directory)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(Path::new(file)).to_str().unwrap().to_owned()
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn tls_with_a_private_authority() {
    if !RedisServer::has_tls() {
        skip("the server of these tests was built without TLS");
        return;
    }
    let certificate = Certificate::new();
    let (cert, key) = (certificate.path("cert.pem"), certificate.path("key.pem"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let _server = RedisServer::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]);
    let config = RedisConfig::new(format!("rediss://localhost:{port}")).deadline(DEADLINE);

    let trusting = config.clone().ca_certificate(fs::read(&cert).unwrap());
    let mut node = Node::with(trusting).await;
    assert_eq!(node.broker.status(), Status::Ready);
    node.subscribe(&room("r")).await.unwrap();
    node.publish(&room("r"), "private").await.unwrap();
    assert_eq!(node.message().await.0, "private");
    node.position(&room("r")).await.unwrap();

    let wary = Node::with(config).await;
    assert_eq!(wary.broker.status(), Status::Away, "nobody vouches for the certificate");
    assert_unavailable("publish", wary.publish(&room("r"), "").await);
}
