//! Users who are evicted from rooms and from servers.

mod bans;
mod kicks;
mod orders;

use chat_transport::testing::WsClient;
use serde_json::Value;

use super::backend::{KEY, member, pair, request, user};
use crate::support::{Chat, ask};

async fn post(server: &Chat, key: &str, path: &str, body: &str) -> (u16, String) {
    let (status, _, body) = request(server.port(), key, "", &format!("POST {path}"), body).await;
    (status, body)
}

async fn order(server: &Chat, path: &str, body: Value) {
    let (status, answer) = post(server, KEY, path, &body.to_string()).await;
    assert_eq!((status, &*answer), (200, r#"{"ok":true}"#), "{path}");
}

async fn is_refused(client: &mut WsClient, frame: Value, code: &str) {
    let error = ask(client, "error", frame).await;
    assert_eq!(error["code"], code, "{error}");
}
