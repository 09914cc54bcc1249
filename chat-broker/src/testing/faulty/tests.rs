use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use chat_core::{HistoryRange, PresenceChange, Retention, RoomId};
use tokio::time::Instant;

use super::*;
use crate::events::BrokerEvent;
use crate::memory::MemoryBroker;

fn topic() -> Topic {
    Topic::Room(RoomId::new("a").unwrap())
}

fn occupant() -> Occupant {
    Occupant::new(UserId::new("u").unwrap(), Bytes::new())
}

async fn faulty() -> (Arc<FaultyBroker>, BrokerEvents) {
    let (broker, events) = MemoryBroker::connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    broker.subscribe(&[topic()]).await.unwrap();
    (broker, events)
}

async fn publish(broker: &FaultyBroker, text: &'static str) -> Result<u64, BrokerError> {
    let receipt = broker
        .publish(&topic(), text.into(), PublishOptions::default().retention(Retention::default()))
        .await?;
    Ok(receipt.await?.position.unwrap().offset)
}

async fn is_pending<F: Future>(work: &mut std::pin::Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending())).await
}

/// The text of an event in these tests.
fn describe(events: Vec<BrokerEvent>) -> Vec<String> {
    let text = |event| match event {
        BrokerEvent::Publication { payload, .. } => format!("{payload:?}"),
        BrokerEvent::Presence { change: PresenceChange::Joined, .. } => "joined".into(),
        BrokerEvent::Presence { .. } => "left".into(),
        BrokerEvent::Lagged(topics) => format!("lagged {}", topics.len()),
        BrokerEvent::Interrupted => "interrupted".into(),
        BrokerEvent::RecordsChanged => "records".into(),
    };
    events.into_iter().map(text).collect()
}

async fn next(events: &mut BrokerEvents, count: usize) -> Vec<String> {
    let mut got = Vec::new();
    while got.len() < count {
        assert!(events.recv(&mut got).await);
    }
    describe(got)
}

#[tokio::test]
async fn hanging_calls_are_not_made_and_held_calls_are() {
    let (broker, _events) = faulty().await;
    let read = [HistoryRead::new(topic(), HistoryRange::Latest, 9)];
    broker.hang_next(Call::History, 1);
    let mut hanging = pin!(broker.history(&read));
    assert!(is_pending(&mut hanging).await);
    broker.hold_next(Call::History, 1);
    let mut held = pin!(broker.history(&read));
    assert!(is_pending(&mut held).await);
    assert_eq!(publish(&broker, "1").await.unwrap(), 1);
    broker.release(Call::History);
    assert_eq!(hanging.await.unwrap()[0].position.offset, 1);
    assert_eq!(held.await.unwrap()[0].position.offset, 0, "read before");
    assert_eq!(broker.count(Call::History), 2);
}

#[tokio::test(start_paused = true)]
async fn faulty_calls_fail_or_are_delayed() {
    let (broker, _events) = faulty().await;
    broker.fail_next(Call::Receipt, 1);
    assert!(matches!(publish(&broker, "1").await, Err(BrokerError::Unavailable(_))));
    assert_eq!(publish(&broker, "2").await.unwrap(), 2, "the first was made");
    broker.fail_next(Call::Publish, 2);
    for _ in 0..2 {
        assert!(matches!(publish(&broker, "3").await, Err(BrokerError::Unavailable(_))));
    }
    broker.delay(Call::Publish, Duration::from_secs(3));
    broker.delay(Call::Receipt, Duration::from_secs(4));
    let start = Instant::now();
    assert_eq!(publish(&broker, "4").await.unwrap(), 3);
    assert_eq!(start.elapsed().as_secs(), 7);
}

#[tokio::test]
async fn lost_events_are_reported_in_order() {
    let (broker, mut events) = faulty().await;
    let mut rounds = Vec::new();
    for lost in [LossNotice::Nothing, LossNotice::Lagged, LossNotice::Interrupted] {
        publish(&broker, "before").await.unwrap();
        assert_eq!(next(&mut events, 1).await, [r#"b"before""#]);
        broker.lose_publications(2, lost);
        broker.lose_presence(1, lost);
        for text in ["1", "2", "3"] {
            publish(&broker, text).await.unwrap();
        }
        broker.enter(&topic(), occupant());
        broker.leave(&topic(), &occupant().user);
        let count = if lost == LossNotice::Nothing { 2 } else { 4 };
        rounds.push(next(&mut events, count).await.join(" "));
    }
    assert_eq!(
        rounds,
        [r#"b"3" left"#, r#"lagged 1 b"3" lagged 1 left"#, r#"interrupted b"3" interrupted left"#]
    );
}

#[tokio::test]
async fn events_are_held_and_end_after_the_broker() {
    let (broker, mut events) = faulty().await;
    broker.hold_events();
    publish(&broker, "1").await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!events.try_recv(&mut Vec::new()));
    broker.release_events();
    assert_eq!(next(&mut events, 1).await, [r#"b"1""#]);
    broker.close().await;
    assert!(!events.recv(&mut Vec::new()).await);
}
