//! Servers with a key for backends, users of them, and requests to their API.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;

use crate::support::{Chat, command, exchange, join};

/// The key of all scopes.
pub(super) const KEY: &str = "a key for backends";

pub(super) async fn pair(redis: &RedisServer) -> (Chat, Chat) {
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
pub(super) async fn user(server: &Chat, id: &str) -> WsClient {
    let protocol = [("Sec-WebSocket-Protocol", "chat.v1")];
    WsClient::connect_with(&server.ws(&format!("/ws?userId={id}")), &protocol).await
}

/// As [`user`], in the room "r".
pub(super) async fn member(server: &Chat, id: &str) -> WsClient {
    let mut client = user(server, id).await;
    join(&mut client, "r").await;
    client
}

/// Status, head and body of the answer to a request such as `POST /api/rooms/r/kick`.
pub(super) async fn request(
    port: u16,
    key: &str,
    headers: &str,
    line: &str,
    body: &str,
) -> (u16, String, String) {
    let request = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n{headers}\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    exchange(port, &request).await
}
