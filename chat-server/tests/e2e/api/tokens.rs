//! Tokens that backends ask for.

use serde_json::{Value, json};

use super::{SHOP, call, post, refused, server, server_with_key};
use crate::e2e::auth::{SECRET, native};
use crate::support::ask;

#[tokio::test]
async fn token_is_one_of_the_server() {
    let args = ["--jwt-secret", SECRET, "--jwt-audience", "chat", "--jwt-issuer", "shop"];
    let server = server(&args);
    let rooms = json!({"r": ["join"]});
    let asked = json!({"user": "42", "name": "Zoe", "rooms": rooms, "seconds": 600});
    let answer = post(&server, "/tokens", asked).await;
    assert_eq!(answer["expires_in_ms"], 600_000);
    let mut client = native(&server, answer["token"].as_str().unwrap()).await;
    let joined = ask(&mut client, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(
        (&joined["members"][0]["id"], &joined["members"][0]["name"]),
        (&json!("42"), &json!("Zoe"))
    );
    let send = json!({"type": "send", "room": "r", "message": "x"});
    assert_eq!(ask(&mut client, "error", send).await["code"], "forbidden");
    for (body, status, code) in [
        (json!({"user": "42"}), 400, "missing_field"),
        (json!({"seconds": 1}), 400, "missing_field"),
        (json!({"user": "@x", "seconds": 1}), 400, "bad_field"),
        (json!({"user": "42", "seconds": 0}), 400, "bad_field"),
        (json!({"user": "42", "seconds": 31_557_601}), 400, "bad_field"),
        (json!({"user": "42", "seconds": 1, "rooms": {"r": ["fly"]}}), 400, "bad_field"),
        (json!({"user": "42", "seconds": 1, "rooms": many_rules("r")}), 400, "bad_field"),
        (json!({"user": "42", "seconds": 1, "rooms": {"r".repeat(8000): []}}), 400, "bad_field"),
        (json!({"user": "42", "seconds": 1, "rooms": ["r"]}), 422, "bad_field"),
    ] {
        assert_eq!(refused(&server, "POST /tokens", Some(body)).await, (status, code.to_owned()));
    }
}

/// One more than a token may have.
fn many_rules(room: &str) -> Value {
    (0..257).map(|number| (format!("{room}{number}"), json!([]))).collect()
}

#[tokio::test]
async fn token_allows_no_more_than_the_key() {
    let lines = "scopes = [\"tokens\"]\nrooms = [\"shop-*\", \"@4*\"]";
    let started = server_with_key(lines, &["--jwt-secret", SECRET]);
    for (body, status) in [
        (
            json!({"user": "42", "seconds": 9, "rooms": {"shop-1": ["join"], "@4*": ["direct"]}}),
            200,
        ),
        (json!({"user": "42", "seconds": 9, "rooms": {"shop-1": ["moderate"]}}), 403),
        (json!({"user": "42", "seconds": 9, "rooms": {"shop-1": ["*"]}}), 403),
        (json!({"user": "42", "seconds": 9}), 403),
        (json!({"user": "42", "seconds": 9, "rooms": {"*": ["join"]}}), 403),
        (json!({"user": "7", "seconds": 9, "rooms": {"shop-1": ["join"]}}), 403),
    ] {
        let (got, answer) = call(&started.server, SHOP, "POST /tokens", Some(&body)).await;
        assert_eq!(got, status, "{body}: {answer}");
    }
}

#[tokio::test]
async fn key_that_may_moderate_issues_tokens_of_moderators() {
    let started = server_with_key("scopes = [\"tokens\", \"moderate\"]", &["--jwt-secret", SECRET]);
    for capability in ["moderate", "*"] {
        let body = json!({"user": "42", "seconds": 9, "rooms": {"r": [capability]}});
        assert_eq!(call(&started.server, SHOP, "POST /tokens", Some(&body)).await.0, 200);
    }
}

#[tokio::test]
async fn server_without_a_secret_issues_no_tokens() {
    let asked = json!({"user": "42", "seconds": 1});
    let answer = refused(&server(&[]), "POST /tokens", Some(asked)).await;
    assert_eq!(answer, (501, "unsupported".to_owned()));
}
