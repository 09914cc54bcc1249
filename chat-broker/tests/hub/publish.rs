//! Messages that an application publishes through the hub.

use chat_broker::{HistoryRead, HistoryRules, HubConfig, MemoryBus, PublishOptions, unix_millis};
use chat_core::{Content, Event, HistoryRange, Retention, RoomId, Sender, Topic, envelope};

use crate::support::{Member, start_with};

#[tokio::test]
async fn published_message_has_the_time_and_the_retention_of_its_room() {
    let two = Retention::default().messages(2);
    let history = HistoryRules::default().class("short", Some(two)).class("game", None);
    let (hub, _) =
        start_with::<Member>(&MemoryBus::new(), HubConfig::default().history(history.clone()));
    let ann = Sender::new("ann", "Ann", "#FFFFFF");
    let (short, game) = (RoomId::new("short").unwrap(), RoomId::new("game").unwrap());
    assert_eq!((hub.retention(&short), hub.retention(&game)), (Some(two), None));
    let before = unix_millis();
    assert!(before > 1_700_000_000_000, "milliseconds, of a clock that is set");
    for text in ["1", "2", "3"] {
        hub.publish(&short, ann, text).await.unwrap().await.unwrap();
    }
    let read = HistoryRead::new(Topic::Room(short), HistoryRange::Latest, 9);
    let kept = hub.history(read).await.unwrap().entries;
    let messages = kept.iter().map(|entry| match envelope::decode(&entry.payload) {
        Ok(Event::Message(message)) => (entry.offset, message.text, message.user, message.at),
        other => panic!("{other:?}"),
    });
    for ((offset, text, user, at), expected) in messages.zip([(2, "2"), (3, "3")]) {
        assert_eq!((offset, text), expected);
        assert_eq!(user, ann);
        assert!((before..=unix_millis()).contains(&at), "{at}");
    }
    assert_eq!(kept.len(), 2, "as many as the room keeps");

    let ephemeral = hub.publish(&game, ann, "moved").await.unwrap().await.unwrap();
    assert_eq!(ephemeral.position, None);
    let keyed = Content::from("moved").key("1");
    assert_eq!(history.prepare(&game, ann, &keyed).1, PublishOptions::default());
}

/// A key belongs to its user.
#[tokio::test]
async fn repeated_key_of_a_user_is_published_once() {
    let (hub, _) = start_with::<Member>(&MemoryBus::new(), HubConfig::default());
    let room = RoomId::new("r").unwrap();
    let mut outcomes = Vec::new();
    for id in ["ann", "ann", "bob"] {
        let user = Sender::new(id, id, "#FFFFFF");
        let content = Content::from("paid").key("1");
        let published = hub.publish(&room, user, content).await.unwrap().await.unwrap();
        outcomes.push((published.position.unwrap().offset, published.repeated));
    }
    assert_eq!(outcomes, [(1, false), (1, true), (2, false)]);
}
