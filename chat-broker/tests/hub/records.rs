//! A reader of the shared table is notified when there may be changes.

use std::time::Duration;

use bytes::Bytes;
use chat_broker::testing::LossNotice;
use chat_broker::{Broker, Hub, MemoryBroker, SetOptions, SharedTable};
use tokio::time::timeout;

use crate::support::{Member, faulty, join, room, say};

async fn set(broker: &MemoryBroker, key: &str) {
    broker.set(key, Bytes::new(), SetOptions::default()).await.unwrap();
}

/// Whether there is something to read, or will be without more being done.
async fn is_called(hub: &Hub<Member>) -> bool {
    timeout(Duration::from_secs(60), hub.records_changed()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn change_of_records_is_kept_for_the_next_waiter() {
    let (hub, _broker, other) = faulty();
    assert!(!is_called(&hub).await);
    set(&other, "a").await;
    assert!(is_called(&hub).await, "though it gave up waiting once");
    assert_eq!(hub.broker().table().unwrap().changes_since(0).await.unwrap().records.len(), 1);
    assert!(!is_called(&hub).await);
    for key in ["b", "c"] {
        set(&other, key).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(is_called(&hub).await);
    assert!(!is_called(&hub).await, "once for both");
}

#[tokio::test(start_paused = true)]
async fn interruption_reports_changed_records() {
    let (hub, broker, other) = faulty();
    let topic = room("r");
    let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
    say(&other, &topic, "heard").await;
    inbox.expect(&["1 heard"]).await;
    assert!(!is_called(&hub).await, "a message is no reason");
    broker.lose_publications(1, LossNotice::Interrupted);
    say(&other, &topic, "lost").await;
    assert!(is_called(&hub).await);
}
