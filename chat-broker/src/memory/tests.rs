use chat_core::{HistoryRange, PresenceChange, Retention, RoomId};

use super::*;
use crate::events::BrokerEvent;

fn topic(name: &str) -> Topic {
    Topic::Room(RoomId::new(name).unwrap())
}

fn occupant(name: &str) -> Occupant {
    Occupant::new(UserId::new(name).unwrap(), Bytes::from(name.to_owned()))
}

fn persistent() -> PublishOptions {
    PublishOptions::default().retention(Retention::default())
}

async fn deliver(
    broker: &MemoryBroker,
    name: &str,
    size: usize,
    options: PublishOptions,
) -> Position {
    let receipt = broker.publish(&topic(name), Bytes::from(vec![0; size]), options).await;
    receipt.unwrap().await.unwrap().position.unwrap()
}

async fn publish(broker: &MemoryBroker, name: &str) -> Position {
    deliver(broker, name, 0, persistent()).await
}

async fn history(broker: &MemoryBroker, name: &str) -> (Position, Vec<u64>) {
    let read = HistoryRead::new(topic(name), HistoryRange::Latest, 1000);
    let history = broker.history(&[read]).await.unwrap().remove(0);
    (history.position, history.entries.iter().map(|entry| entry.offset).collect())
}

fn topics(bus: &MemoryBus) -> usize {
    bus.shared.shards.iter().map(|shard| shard.lock().topics.len()).sum()
}

#[tokio::test]
async fn topics_are_bounded_and_a_dropped_one_begins_a_new_epoch() {
    let bus = MemoryBus::with_limits(640, HISTORY_BYTES);
    let (broker, _events) = bus.connect();
    broker.subscribe(&[topic("kept")]).await.unwrap();
    broker.enter(&topic("occupied"), occupant("u"));
    let kept = publish(&broker, "kept").await;
    let occupied = publish(&broker, "occupied").await;
    let key = persistent().key("k");
    let dropped = deliver(&broker, "dropped", 0, key.clone()).await;
    for n in 0..5000 {
        publish(&broker, &n.to_string()).await;
    }
    assert!(topics(&bus) <= 640 + 2, "{} topics", topics(&bus));
    let names = [topic("kept"), topic("occupied"), topic("dropped")];
    let positions = broker.positions(&names).await.unwrap();
    assert_eq!(positions, [kept, occupied, Position::default()]);
    assert_eq!(history(&broker, "dropped").await, (Position::default(), vec![]));
    let again = publish(&broker, "dropped").await;
    assert_eq!(again.offset, 1);
    assert_ne!(again.epoch, dropped.epoch);
    let repeated = deliver(&broker, "dropped", 0, key).await;
    assert_eq!(repeated, dropped, "the first answer, after later publications");
}

#[tokio::test]
async fn closed_node_leaves_no_keys() {
    let bus = MemoryBus::new();
    let (broker, _events) = bus.connect();
    broker.subscribe(&[topic("a"), topic("b")]).await.unwrap();
    broker.unsubscribe(&[topic("a")]).await.unwrap();
    assert_eq!(topics(&bus), 1);
    broker.enter(&topic("c"), occupant("u"));
    broker.enter(&topic("d"), occupant("u"));
    broker.leave(&topic("d"), &occupant("u").user);
    broker.leave(&topic("e"), &occupant("u").user);
    assert_eq!(topics(&bus), 2);
    drop(broker);
    assert_eq!(topics(&bus), 0);
    let (broker, _events) = bus.connect();
    broker.close().await;
    broker.enter(&topic("c"), occupant("u"));
    assert_eq!(topics(&bus), 0, "a closed node holds no user");
}

#[tokio::test(start_paused = true)]
async fn history_expires_after_its_latest_publication() {
    let (broker, _events) = MemoryBroker::connect();
    let for_ten = || {
        let retention = Retention::default().messages(10).ttl(Duration::from_secs(10));
        PublishOptions::default().retention(retention)
    };
    for _ in 0..3 {
        deliver(&broker, "a", 1, for_ten()).await;
        tokio::time::advance(Duration::from_millis(9_999)).await;
    }
    let (position, offsets) = history(&broker, "a").await;
    assert_eq!(offsets, [1, 2, 3], "each publication prolongs it");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(history(&broker, "a").await, (position, vec![]), "the counter stays");
    assert_eq!(broker.bus.budget.held(), 0);
    deliver(&broker, "a", 1, for_ten()).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    let next = deliver(&broker, "a", 1, for_ten()).await;
    assert_eq!(next, Position { offset: 5, ..position });
    assert_eq!(history(&broker, "a").await, (next, vec![5]));
}

#[tokio::test]
async fn histories_share_a_budget_and_go_whole() {
    const BUDGET: usize = 1 << 20;
    let bus = MemoryBus::with_history_bytes(BUDGET);
    let (broker, _events) = bus.connect();
    let mut highest = 0;
    for round in 0..100 {
        for _ in 0..4 {
            deliver(&broker, &format!("topic {round}"), 10 << 10, persistent()).await;
        }
        publish(&broker, "busy").await;
        highest = highest.max(bus.shared.budget.held());
    }
    assert!(highest <= BUDGET, "{highest} bytes");
    let mut dropped_count = 0;
    for round in 0..100 {
        let (position, offsets) = history(&broker, &format!("topic {round}")).await;
        assert_eq!(position.offset, 4, "the counter stays");
        if offsets.is_empty() {
            assert_eq!(dropped_count, round, "the one unused longest is dropped first");
            dropped_count += 1;
        } else {
            assert_eq!(offsets, [1, 2, 3, 4]);
        }
    }
    assert!((70..90).contains(&dropped_count), "{dropped_count} histories were dropped");
    assert_eq!(history(&broker, "busy").await.1.len(), 100);
}

#[tokio::test]
async fn forgotten_topic_continues_presence_versions() {
    let bus = MemoryBus::new();
    let (broker, mut events) = bus.connect();
    let mut last = 0;
    for _ in 0..3 {
        broker.subscribe(&[topic("a")]).await.unwrap();
        broker.enter(&topic("a"), occupant("u"));
        broker.leave(&topic("a"), &occupant("u").user);
        broker.unsubscribe(&[topic("a")]).await.unwrap();
        assert_eq!(topics(&bus), 0);
        let mut got = Vec::new();
        assert!(events.try_recv(&mut got));
        for (event, expected) in got.iter().zip([PresenceChange::Joined, PresenceChange::Left]) {
            let BrokerEvent::Presence { change, version, .. } = event else { panic!("{event:?}") };
            assert_eq!(*change, expected);
            assert!(*version > last, "{version} after {last}");
            last = *version;
        }
    }
}
