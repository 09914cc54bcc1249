//! Keys of tokens in a JWKS: in a file, and at a URL.

use chat_transport::testing::WsClient;
use serde_json::json;

use super::issuer::{Issuer, IssuerKey, answer, jwks, publish};
use super::keys::Keys;
use super::{NATIVE, native, welcome};
use crate::support::{Chat, command, run, value_of};

/// The status with which the server refuses a token; `None` if it accepts it.
pub(super) async fn status(server: &Chat, token: &str) -> Option<u16> {
    let url = server.ws(&format!("/ws?token={token}"));
    WsClient::try_connect(&url, &[NATIVE]).await.err().map(|status| status.as_u16())
}

#[tokio::test]
async fn keys_in_a_file_are_chosen_by_id() {
    let keys = Keys::new("jwks-file");
    let [a, b, other] = ["a", "b", "other"].map(|id| IssuerKey::new(&keys, id));
    let file = keys.write("jwks.json", jwks(&[&a, &b]));
    let server = Chat::start(command().args(["--port", "0", "--jwt-jwks-file", &file]));
    for key in [&a, &b] {
        assert_eq!(status(&server, &key.token("ann")).await, None);
    }
    assert_eq!(status(&server, &other.token("ann")).await, Some(401));
    let made = ["token", "--user", "ann", "--key-id", "a", "--private-key"];
    let (code, token, error) = run(command().args(made).arg(keys.path("a-private.pem")));
    assert_eq!((code, &*error), (0, ""));
    assert_eq!(status(&server, token.trim()).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_at_a_url_are_fetched_over_tls() {
    let keys = Keys::new("jwks-tls");
    let a = IssuerKey::new(&keys, "a");
    let (issuer, certificate) = Issuer::start_tls(publish(&[&a]), &keys).await;
    let url = issuer.url("https");
    let args = ["--port", "0", "--jwt-jwks-url", &url, "--jwt-jwks-ca", &certificate];
    let server = Chat::start(command().args(args));
    assert_eq!(status(&server, &a.token("ann")).await, None);
    assert_eq!(issuer.asked(), 1);
    assert_eq!(server.metric("chat_key_fetches_total{outcome=\"ok\"}").await, 1);
    assert_eq!(server.metric("chat_key_fetches_total{outcome=\"failed\"}").await, 0);

    // The authorities of the system have not signed that certificate.
    let server = Chat::start(command().args(["--port", "0", "--jwt-jwks-url", &url]));
    assert!(
        server
            .until_logged("keys of tokens not fetched")
            .contains("the certificate of localhost is not accepted")
    );
    assert_eq!(status(&server, &a.token("ann")).await, Some(503));
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn server_is_not_ready_until_keys_are_fetched() {
    let keys = Keys::new("jwks-late");
    let a = IssuerKey::new(&keys, "a");
    let issuer = Issuer::start(answer("500 Internal Server Error", "{}")).await;
    let args = ["--port", "0", "--jwt-jwks-url", &issuer.url("http")];
    let server = Chat::start(command().args(args));
    let line = server.until_logged("keys of tokens not fetched, not ready");
    assert!(line.contains("the answer has the status 500"), "{line}");
    let (code, _, text) = server.http("GET", "/readyz").await;
    assert_eq!((code, &*text), (503, "the keys of tokens are not known yet, or all have ended\n"));
    assert_eq!(status(&server, &a.token("ann")).await, Some(503), "the client tries again");
    let failed = "chat_key_fetches_total{outcome=\"failed\"}";
    server.until_metric(failed, |count| count >= 1).await;
    let (_, _, page) = server.http("GET", "/metrics").await;
    assert!(value_of::<f64>(&page, "chat_key_age_seconds").is_some_and(|age| age > 0.0), "{page}");
    issuer.set_answer(publish(&[&a]));
    server.until_ready().await;
    let mut client = native(&server, &a.token("ann")).await;
    assert_eq!(welcome(&mut client, json!({"type": "hello"})).await["user"]["id"], "ann");
}

/// What waiting does not change is said at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unusable_answer_ends_the_program_at_its_start() {
    let keys = Keys::new("jwks-unusable");
    let a = IssuerKey::new(&keys, "a");
    let encrypts = jwks(&[&a]).replace("\"sig\"", "\"enc\"");
    let secret = json!({"keys": [{"kty": "oct", "k": "A".repeat(44)}]}).to_string();
    let good = publish(&[&a]);
    let redirect = good.replace("200 OK", "302 Found\r\nLocation: https://evil.example/jwks");
    for (answer, named) in [
        (answer("200 OK", "<html>"), "it is not a JWKS"),
        (answer("200 OK", "{\"keys\":[]}"), "it has no key to verify tokens with"),
        (answer("200 OK", &encrypts), "its \"use\" is \"enc\""),
        (answer("200 OK", &secret), "it is a secret, and others can read the URL"),
        (redirect, "a redirect (302 Found) to Some(\"https://evil.example/jwks\")"),
    ] {
        let issuer = Issuer::start(answer).await;
        let url = issuer.url("http");
        let (code, _, error) = run(command().args(["--port", "0"]).env("CHAT_JWT_JWKS_URL", &url));
        assert_eq!((code, error.lines().count()), (2, 1), "{error}");
        // Without the query, which may have a token.
        let shown = url.split('?').next().unwrap();
        let invalid = format!("invalid value '{shown}' for CHAT_JWT_JWKS_URL");
        assert!(error.contains(&invalid), "{error}");
        assert!(error.contains(named), "{error}");
        assert_eq!(issuer.asked(), 1);
    }
}

#[test]
fn bad_setting_of_a_url_is_named() {
    let keys = Keys::new("jwks-settings");
    let (empty, url) = (keys.write("empty", ""), "https://accounts.example/jwks");
    let good = keys.write("good.json", jwks(&[&IssuerKey::new(&keys, "a")]));
    for (args, named) in [
        (&["--jwt-jwks-url", "accounts.example"][..], "for --jwt-jwks-url: expected a URL"),
        (&["--jwt-jwks-url", "ftp://accounts.example"], "expected a URL"),
        (&["--jwt-jwks-url", "http://192.0.2.1/jwks"], "for loopback and private addresses only"),
        (&["--jwt-jwks-url", "https://a:b@accounts.example/"], "a user name or password"),
        (&["--jwt-jwks-ca", &empty], "for --jwt-jwks-ca: it needs jwt-jwks-url"),
        (&["--jwt-jwks-url", url, "--jwt-jwks-ca", &empty], "the PEM has no root certificate"),
        (&["--jwt-jwks-url", url, "--jwt-jwks-ca", "/nonexistent"], "cannot read it"),
        (&["--jwt-jwks-file", &empty], "it is not a JWKS"),
        (&["--jwt-jwks-file", &format!("{good},/nonexistent")], "'/nonexistent'"),
        (&["--jwt-secret-file", &empty], "for --jwt-secret-file: the secret has less than 32"),
        (&["--jwt-secret-file", "/nonexistent"], "cannot read it"),
    ] {
        let (code, _, error) = run(command().args(["--port", "0"]).args(args));
        assert_eq!((code, error.lines().count()), (2, 1), "{args:?}: {error}");
        assert!(error.contains(named), "{args:?}: {error}");
    }
}
