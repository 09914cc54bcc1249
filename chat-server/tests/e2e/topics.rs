//! `SUBSCRIBE`, `UNSUBSCRIBE`, `sendMessage`: the walk through two servers, frame by frame.

use chat_broker::testing::RedisServer;

use crate::support::Chat;

const HEY: &str = r#"{"type":"sendMessage","roomId":"room1","message":"hey cashing"}"#;

#[tokio::test]
async fn two_servers_behind_one_redis() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b, mut c) =
        (first.client().await, second.client().await, second.client().await);

    a.send(r#"{"type":"SUBSCRIBE","room":"room1"}"#).await;
    b.send(r#"{"type":"SUBSCRIBE","room":"room1"}"#).await;
    for server in [&first, &second] {
        let line = server.until_logged("subscribing on the pub sub to room: room1");
        assert!(line.ends_with("subscribing on the pub sub to room: room1"), "{line}");
        assert!(line.contains("INFO"), "{line}");
    }

    // C sends without having subscribed, and gets nothing.
    c.send(HEY).await;
    a.expect(HEY).await;
    b.expect(HEY).await;
    c.expect_silence().await;

    a.send(r#"{"type":"UNSUBSCRIBE","room":"room1"}"#).await;
    let line = first.until_logged("unsubscribing from the pub sub from room: room1");
    assert!(line.ends_with("unsubscribing from the pub sub from room: room1"), "{line}");
    c.send(HEY).await;
    b.expect(HEY).await;
    a.expect_silence().await;
    b.expect_silence().await;
    assert_eq!(second.logged("unsubscribing"), 0, "B is still there");
}

#[tokio::test]
async fn one_subscription_for_all_members_of_a_server() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    let (mut a, mut b) = (server.client().await, server.client().await);
    a.send(r#"{"type":"SUBSCRIBE","room":"room1"}"#).await;
    server.until_logged("subscribing on the pub sub to room: room1");
    b.send(r#"{"type":"SUBSCRIBE","room":"room1"}"#).await;
    b.send(HEY).await;
    a.expect(HEY).await;
    b.expect(HEY).await;

    drop(a);
    b.send(HEY).await;
    b.expect(HEY).await;
    drop(b);
    server.until_logged("unsubscribing from the pub sub from room: room1");
    assert_eq!(server.logged("subscribing on the pub sub to room: room1"), 1);
    assert_eq!(redis.command(&["PUBSUB", "CHANNELS", "*room1*"]).await.trim(), "");
}

#[tokio::test]
async fn subscription_lingers_for_a_second() {
    let server = Chat::alone();
    let mut a = server.client().await;
    a.send(r#"{"type":"SUBSCRIBE","room":"room1"}"#).await;
    a.send(HEY).await;
    a.expect(HEY).await;
    a.send(r#"{"type":"UNSUBSCRIBE","room":"room1"}"#).await;
    a.send(r#"{"type":"SUBSCRIBE","room":"room1"}"#).await;
    a.send(HEY).await;
    a.expect(HEY).await;
    drop(a);
    server.until_logged("unsubscribing from the pub sub from room: room1");
    assert_eq!(server.logged("subscribing on the pub sub to room: room1"), 1);
    assert_eq!(server.logged("unsubscribing from the pub sub from room: room1"), 1);
}

#[tokio::test]
async fn names_and_texts_come_back_as_they_were() {
    let server = Chat::alone();
    let mut a = server.client().await;
    for room in ["日本語", "a b", "{x}:*?[%]", "..", "quote\\\"back\\\\slash"] {
        a.send(&format!(r#"{{"type":"SUBSCRIBE","room":"{room}"}}"#)).await;
        let frame =
            format!(r#"{{"type":"sendMessage","roomId":"{room}","message":"tab\t \"é\" \\ 👩‍👩‍👧"}}"#);
        a.send(&frame).await;
        a.expect(&frame).await;
    }
}
