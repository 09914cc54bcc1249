//! Keys of every kind, and those that cannot serve.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chat_transport::testing::WsClient;
use ring::hmac;
use serde_json::json;

use super::{NATIVE, claims, native, welcome};
use crate::support::{Chat, command, run};

/// A directory for keys, removed when it is dropped.
pub(super) struct Keys(PathBuf);

impl Keys {
    pub(super) fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("chat-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub(super) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        fs::write(self.0.join(name), contents).unwrap();
        self.path(name)
    }

    /// Generates a private key, and the file with its public half.
    pub(super) fn generate(&self, kind: &str, arguments: &[&str]) -> (String, String) {
        let file = |half: &str| self.path(&format!("{kind}-{half}.pem"));
        let (private, public) = (file("private"), file("public"));
        self.openssl(&[&["genpkey", "-out", &private], arguments].concat());
        self.openssl(&["pkey", "-in", &private, "-pubout", "-out", &public]);
        (private, public)
    }

    pub(super) fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
pub(super) const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const P521: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"];
pub(super) const ED25519: &[&str] = &["-algorithm", "ED25519"];

#[tokio::test]
async fn keys_of_every_kind() {
    let keys = Keys::new("keys");
    for (kind, arguments) in [("rsa", RSA), ("p256", P256), ("p384", P384), ("ed25519", ED25519)] {
        let (private, public) = keys.generate(kind, arguments);
        let server = Chat::start(command().args(["--port", "0", "--jwt-public-key", &public]));
        let make = ["token", "--user", "ann", "--private-key", &private];
        let (code, token, error) = run(command().args(make));
        assert_eq!((code, &*error), (0, ""), "{kind}");
        let mut client = native(&server, token.trim()).await;
        assert_eq!(welcome(&mut client, json!({"type": "hello"})).await["user"]["id"], "ann");
        // The public key is not a secret: nobody signs with it.
        let forged = signed_with(&fs::read(&public).unwrap());
        let refused =
            WsClient::try_connect(&server.ws(&format!("/ws?token={forged}")), &[NATIVE]).await;
        assert_eq!(refused.err().map(|status| status.as_u16()), Some(401), "{kind}");
    }
}

/// A token of Eve by HS256: the signer of the library takes no key in PEM for a secret.
fn signed_with(secret: &[u8]) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let claims = serde_json::to_vec(&claims("eve")).unwrap();
    let message = format!("{}.{}", encode(br#"{"alg":"HS256"}"#), encode(&claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    format!("{message}.{}", encode(hmac::sign(&key, message.as_bytes()).as_ref()))
}

/// A server that starts with such a key would refuse every token.
#[test]
fn key_that_cannot_serve_ends_the_program_and_is_named() {
    let keys = Keys::new("bad-keys");
    let (rsa, rsa_public) = keys.generate("rsa", RSA);
    let (p256, p256_public) = keys.generate("p256", P256);
    let (_, short) =
        keys.generate("short", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    let (pss, pss_public) = keys.generate("pss", &["-algorithm", "RSA-PSS"]);
    let (_, p521) = keys.generate("p521", P521);
    let (_, secp256k1) =
        keys.generate("k1", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"]);
    let (_, ed448) = keys.generate("ed448", &["-algorithm", "ED448"]);
    let (_, x25519) = keys.generate("x25519", &["-algorithm", "X25519"]);
    let [pkcs1, sec1, encrypted, certificate, der, compressed] =
        ["pkcs1", "sec1", "encrypted", "certificate", "der", "compressed"]
            .map(|name| keys.path(name));
    keys.openssl(&["rsa", "-in", &rsa, "-traditional", "-out", &pkcs1]);
    keys.openssl(&["ec", "-in", &p256, "-out", &sec1]);
    keys.openssl(&["pkcs8", "-topk8", "-in", &rsa, "-passout", "pass:x", "-out", &encrypted]);
    keys.openssl(&["req", "-x509", "-key", &rsa, "-subj", "/CN=x", "-out", &certificate]);
    keys.openssl(&["pkey", "-in", &rsa, "-pubout", "-outform", "DER", "-out", &der]);
    keys.openssl(&["ec", "-in", &p256, "-pubout", "-conv_form", "compressed", "-out", &compressed]);
    let public = fs::read_to_string(&rsa_public).unwrap();
    let two = keys.write("two", public.clone() + &fs::read_to_string(&p256_public).unwrap());
    let damaged = keys.write("damaged", public.replacen("MII", "AII", 1));
    let cut = keys.write("cut", &public[..public.len() / 2]);
    let jwk = keys.write("jwk", r#" {"kty":"RSA","n":"AQAB","e":"AQAB"}"#);
    let ssh = keys.write("ssh", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA user@host\n");
    let empty = keys.write("empty", "\n");
    let text = keys.write("text", "0123456789abcdef0123456789abcdef");
    for (file, named) in [
        (&rsa, "it is a private key"),
        (&pkcs1, "it is a private key"),
        (&sec1, "it is a private key"),
        (&encrypted, "it is a private key"),
        (&pss, "it is a private key"),
        (&certificate, "it is a certificate"),
        (&short, "it is an RSA key of 1024 bits"),
        (&pss_public, "it is an RSA key for PSS alone"),
        (&p521, "it is an EC key on the curve P-521"),
        (&secp256k1, "it is an EC key on the curve secp256k1"),
        (&compressed, "it is an EC key in compressed form"),
        (&ed448, "it is an Ed448 key"),
        (&x25519, "it is a key to encrypt with"),
        (&der, "it is DER"),
        (&jwk, "it is JSON (a JWK?)"),
        (&ssh, "it is a key of OpenSSH"),
        (&two, "it holds 2 PEM blocks"),
        (&damaged, "damaged"),
        (&cut, "damaged"),
        (&empty, "the file is empty"),
        (&text, "it is not PEM"),
        (&keys.path("."), "directory"),
        (&keys.path("absent"), "No such file"),
        (&public, "a file with it is needed"),
    ] {
        let (code, _, error) =
            run(command().args(["--port", "0"]).env("CHAT_JWT_PUBLIC_KEY", file));
        assert_eq!((code, error.lines().count()), (2, 1), "{file}: {error}");
        assert!(error.contains("CHAT_JWT_PUBLIC_KEY"), "{file}: {error}");
        assert!(error.contains(named), "{file} is not {named}: {error}");
    }
    for (file, named) in [
        (&rsa_public, "it holds \"PUBLIC KEY\""),
        (&sec1, "PKCS #8 is needed"),
        (&encrypted, "it is encrypted"),
        (&pss, "another kind"),
        (&jwk, "it is JSON (a JWK?)"),
    ] {
        let make = ["token", "--user", "ann", "--private-key", file];
        let (code, _, error) = run(command().args(make));
        assert_eq!((code, error.lines().count()), (2, 1), "{file}: {error}");
        assert!(error.contains("--private-key") && error.contains(named), "{file}: {error}");
    }
}

#[test]
fn key_file_may_have_a_byte_order_mark_and_text_around_it() {
    let keys = Keys::new("marked-keys");
    let (private, public) = keys.generate("p256", P256);
    let pem = fs::read_to_string(&public).unwrap();
    let marked = format!("\u{feff}\r\nA key:\r\n{}\r\n", pem.replace('\n', "\r\n"));
    let marked = keys.write("marked", marked);
    let server = Chat::start(
        command().args(["--port", "0"]).env("CHAT_JWT_PUBLIC_KEY", format!(" {marked}\r")),
    );
    server.until_logged("listening");
    // As `openssl ecparam -genkey` writes it.
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let both = keys.write("both", parameters.to_owned() + &fs::read_to_string(private).unwrap());
    let (code, _, error) = run(command().args(["token", "--user", "ann", "--private-key", &both]));
    assert_eq!((code, &*error), (0, ""));
}
