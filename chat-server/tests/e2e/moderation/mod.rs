//! Users who are evicted from rooms and from servers.

mod bans;
mod kicks;
mod orders;

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::Value;

use crate::support::{Chat, ask, command, exchange, join};

const KEY: &str = "a key for backends";

async fn pair(redis: &RedisServer) -> (Chat, Chat) {
    let start = || {
        let mut command = command();
        command.env("REDIS_URL", redis.url()).env("API_KEY", KEY).args(["--port", "0"]);
        Chat::start(&mut command)
    };
    let (first, second) = (start(), start());
    first.until_ready().await;
    second.until_ready().await;
    (first, second)
}

/// A client of the native protocol that is known by an id.
async fn user(server: &Chat, id: &str) -> WsClient {
    let protocol = [("Sec-WebSocket-Protocol", "chat.v1")];
    WsClient::connect_with(&server.ws(&format!("/ws?userId={id}")), &protocol).await
}

/// One who is in the room "r".
async fn member(server: &Chat, id: &str) -> WsClient {
    let mut client = user(server, id).await;
    join(&mut client, "r").await;
    client
}

async fn post(server: &Chat, key: &str, path: &str, body: &str) -> (u16, String) {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let (status, _, body) = exchange(server.port(), &request).await;
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
