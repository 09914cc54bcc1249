//! Servers of another version on the same Redis.

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{Broker, PublishOptions, RedisBroker, RedisConfig};
use chat_core::{Event, Message, Retention, RoomId, Sender, Topic, envelope};
use serde_json::json;

use crate::support::{Chat, join, next_of};

/// What another version may write: another kind of event, in another format, with more fields.
fn written(text: &str, byte: usize, value: u8) -> Bytes {
    let user = Sender::new("u", "U", "#FFFFFF");
    let message = Message::new(user, text, 1);
    let mut bytes = envelope::encode(&Event::Message(message)).to_vec();
    bytes[byte] = value;
    bytes.into()
}

#[tokio::test]
async fn what_a_later_version_says_is_a_gap_and_no_silent_hole() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    let mut client = server.native().await;
    join(&mut client, "r").await;
    let (later, _events) = RedisBroker::connect(RedisConfig::new(redis.url())).await.unwrap();
    let room = Topic::Room(RoomId::new("r").unwrap());
    let (kind, version) = (written("kind", 1, 99), written("version", 0, 2));
    let persistent = PublishOptions::default().retention(Retention::default());
    for payload in [kind, version, written("good", 1, 1)] {
        let receipt = later.publish(&room, payload, persistent.clone()).await.unwrap();
        receipt.await.unwrap();
    }
    for offset in 1..=2 {
        assert_eq!(next_of(&mut client, "gap").await["offset"], offset);
    }
    let good = client.recv_json().await;
    assert_eq!((&good["message"], &good["offset"]), (&json!("good"), &json!(3)));
    // Without a place in the sequence there is nothing to tell.
    let typing = written("", 1, 77);
    let receipt = later.publish(&room, typing, PublishOptions::default()).await.unwrap();
    receipt.await.unwrap();
    let receipt = later.publish(&room, written("end", 1, 1), persistent).await.unwrap();
    receipt.await.unwrap();
    assert_eq!(client.recv_json().await["message"], "end");
    later.close().await;
}
