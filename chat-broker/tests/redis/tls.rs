//! Redis behind TLS.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use chat_broker::testing::{RedisServer, free_port};
use chat_broker::{Broker, BrokerError, RedisBroker, RedisConfig, Status};

use crate::support::{DEADLINE, Node, assert_unavailable, room, skip};

/// A directory with an authority, and certificates that it has signed.
struct Authority(PathBuf);

impl Authority {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = env::temp_dir().join(format!("chat-tls-{}-{number}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let authority = Self(directory);
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        authority
    }

    /// Makes `<name>.pem` and `<name>.key`.
    fn sign(&self, name: &str) -> &Self {
        let (key, request, pem) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &subject,
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-days",
            "2",
            "-copy_extensions",
            "copy",
            "-out",
            &pem,
        ]);
        self
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .current_dir(&self.0)
            .args(arguments)
            .output()
            .expect("this test needs `openssl`: apt-get install openssl");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {said}");
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(file)).unwrap()
    }

    /// A Redis that shows the certificate `server`, and where it is.
    fn redis(&self, auth_clients: &str) -> (RedisServer, RedisConfig) {
        let port = free_port();
        let server = RedisServer::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &self.path("server.pem"),
            "--tls-key-file",
            &self.path("server.key"),
            "--tls-ca-cert-file",
            &self.path("ca.pem"),
            "--tls-auth-clients",
            auth_clients,
        ]);
        (server, RedisConfig::new(format!("rediss://localhost:{port}")).deadline(DEADLINE))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn assert_works(config: RedisConfig) {
    let mut node = Node::with(config).await;
    assert_eq!(node.broker.status(), Status::Ready);
    node.subscribe(&room("r")).await.unwrap();
    node.publish(&room("r"), "private").await.unwrap();
    assert_eq!(node.message().await.0, "private");
    node.position(&room("r")).await.unwrap();
}

#[tokio::test]
async fn tls_with_a_private_authority() {
    if !RedisServer::has_tls() {
        return skip("the server of these tests was built without TLS");
    }
    let authority = Authority::new();
    let (_server, config) = authority.sign("server").redis("no");
    assert_works(config.clone().ca_certificate(authority.read("ca.pem"))).await;

    let wary = Node::with(config).await;
    assert_eq!(wary.broker.status(), Status::Unavailable, "the certificate's authority is unknown");
    assert_unavailable("publish", wary.publish(&room("r"), "").await);
}

#[tokio::test]
async fn replaced_certificates_are_those_of_the_next_connection() {
    if !RedisServer::has_tls() {
        return skip("the server of these tests was built without TLS");
    }
    let (authority, other) = (Authority::new(), Authority::new());
    let (server, config) = authority.sign("server").redis("no");
    let (right, wrong) = [&authority, &other]
        .map(|authority| config.clone().ca_certificate(authority.read("ca.pem")))
        .into();
    let node = Node::with(right.clone()).await;
    let invalid = config.clone().ca_certificate("no certificate");
    assert!(matches!(node.broker.replace_certificates(&invalid), Err(BrokerError::Config(_))));
    node.broker.replace_certificates(&wrong).unwrap();
    node.subscribe(&room("r")).await.unwrap();
    assert_eq!(node.broker.status(), Status::Ready, "open connections stay");
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    node.wait_for(Status::Unavailable).await;
    node.broker.replace_certificates(&right).unwrap();
    node.wait_for(Status::Ready).await;
}

/// In a process of its own, since the place of the authorities is a variable of the environment.
#[tokio::test]
async fn replaced_certificates_need_an_authority() {
    const NAME: &str = "redis::tls::replaced_certificates_need_an_authority";
    const VARIABLE: &str = "SSL_CERT_FILE";
    if env::var(VARIABLE).as_deref() != Ok("/dev/null") {
        let mut itself = Command::new(env::current_exe().unwrap());
        itself.args(["--exact", NAME]).env(VARIABLE, "/dev/null").env_remove("SSL_CERT_DIR");
        let output = itself.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        return assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
    let authority = Authority::new();
    let config = RedisConfig::new("rediss://localhost:1").deadline(DEADLINE);
    let trusting = config.clone().ca_certificate(authority.read("ca.pem"));
    let (broker, _events) = RedisBroker::connect(trusting).await.unwrap();
    let error = broker.replace_certificates(&config).unwrap_err();
    assert!(error.to_string().contains("no certificates of authorities"), "{error}");
}

/// `tls-auth-clients yes` is Redis' default.
#[tokio::test]
async fn tls_with_a_client_certificate() {
    if !RedisServer::has_tls() {
        return skip("the server of these tests was built without TLS");
    }
    let (authority, other) = (Authority::new(), Authority::new());
    let (_server, config) = authority.sign("server").sign("client").redis("yes");
    other.sign("client");
    let trusting = config.ca_certificate(authority.read("ca.pem"));
    let as_client = |of: &Authority| {
        trusting.clone().client_certificate(of.read("client.pem"), of.read("client.key"))
    };
    assert_works(as_client(&authority)).await;
    for (refused, why) in [
        (trusting.clone(), "it shows no certificate"),
        (as_client(&other), "its authority is unknown"),
    ] {
        let node = Node::with(refused).await;
        assert_eq!(node.broker.status(), Status::Unavailable, "{why}");
    }
}

/// What no handshake could mend is said at the start.
#[tokio::test]
async fn unusable_certificates_are_refused() {
    let authority = Authority::new();
    authority.sign("client").sign("other");
    authority.openssl(&[
        "pkcs8",
        "-topk8",
        "-in",
        "client.key",
        "-passout",
        "pass:x",
        "-out",
        "encrypted.key",
    ]);
    let read = |file| authority.read(file);
    let config = RedisConfig::new("rediss://localhost:1");
    let client =
        |certificate: Vec<u8>, key: Vec<u8>| config.clone().client_certificate(certificate, key);
    let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
    for (config, why) in [
        (config.clone().ca_certificate("no certificate"), "no certificate of the authority"),
        (config.clone().ca_certificate(""), "no certificate of the authority"),
        (config.clone().ca_certificate(read("client.key")), "no certificate of the authority"),
        (config.clone().ca_certificate(broken.clone()), "of the authority cannot be used"),
        (client(read("client.pem"), read("other.key")), "not that of the client certificate"),
        (client(read("client.key"), read("client.pem")), "no client certificate"),
        (client(read("client.pem"), read("client.pem")), "no private key"),
        (client(read("client.pem"), Vec::new()), "no private key"),
        (client(read("client.pem"), read("encrypted.key")), "encrypted"),
        (client(broken, read("client.key")), "client certificate"),
        (config.clone().url("redis://localhost").ca_certificate(read("ca.pem")), "rediss://"),
        (client(read("client.pem"), read("client.key")).url("unix:///x"), "rediss://"),
    ] {
        match RedisBroker::connect(config).await {
            Err(BrokerError::Config(error)) => {
                assert!(error.to_string().contains(why), "{why}: {error}");
            }
            other => panic!("{why}: {:?}", other.map(|_| ())),
        }
    }
}
