//! The hub over a broker in memory, healthy and not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod brokers;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::{
    Broker, BrokerError, BrokerEvents, Delivery, EventSender, Hub, HubConfig, Membership,
    MemoryBus, events,
};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, Delivery as Delivered, Epoch, Event, Message,
    Position, RoomId, Sender, Topic, envelope,
};
use tokio::sync::mpsc;

use brokers::{Scripted, Spy};

/// A member that keeps what it is given: offsets, and gaps as `gap N`.
#[derive(Debug, Clone)]
struct Member {
    heard: mpsc::Sender<String>,
    closed: Arc<Mutex<Option<CloseReason>>>,
}

impl Deliver for Member {
    fn deliver(&self, batch: &Batch) -> Delivered {
        for (event, position) in batch.events() {
            let told = match event {
                Event::Message(message) => match position {
                    Some(position) => format!("{} {}", position.offset, message.text),
                    None => message.text.to_owned(),
                },
                Event::Gap(position) => format!("gap {}", position.offset),
                other => format!("{other:?}"),
            };
            if self.heard.try_send(told).is_err() {
                return Delivered::Full;
            }
        }
        Delivered::Queued
    }

    fn close(&self, reason: CloseReason) {
        *self.closed.lock().unwrap() = Some(reason);
    }
}

struct Ear(mpsc::Receiver<String>);

impl Ear {
    async fn hear(&mut self) -> String {
        let heard = tokio::time::timeout(Duration::from_secs(10), self.0.recv());
        heard.await.expect("something to hear").expect("a member")
    }
}

fn member(capacity: usize) -> (Member, Ear) {
    let (heard, ear) = mpsc::channel(capacity);
    (Member { heard, closed: Arc::default() }, Ear(ear))
}

fn start(broker: impl Broker, events: BrokerEvents) -> Hub<Member> {
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());
    hub
}

fn room(name: &str) -> Topic {
    Topic::Room(RoomId::new(name).unwrap())
}

fn said(text: &str) -> Bytes {
    let user = Sender { id: "u", name: "U", color: "#FFFFFF" };
    envelope::encode(&Event::Message(Message { user, text, data: None, key: None, at: 0 }))
}

async fn say(broker: &impl Broker, topic: &Topic, text: &str) {
    broker.publish(topic, said(text), Delivery::kept()).await.unwrap().await.unwrap();
}

async fn join(hub: &Hub<Member>, topic: &Topic, id: u64) -> (Membership<Member>, Ear, u64) {
    let (member, ear) = member(10_000);
    let (tell, told) = std::sync::mpsc::channel();
    let place = hub
        .join(topic, ConnectionId(id), member, move |snapshot| {
            tell.send(snapshot.position.offset).unwrap();
        })
        .await
        .unwrap();
    (place, ear, told.try_recv().expect("welcomed before join returned"))
}

#[tokio::test]
async fn a_snapshot_and_what_follows_have_no_gap_and_no_repeat() {
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (publisher, _events) = bus.connect();
    let hub = start(broker, events);
    let topic = room("busy");
    let writing = tokio::spawn({
        let topic = topic.clone();
        async move {
            for n in 1..=3_000 {
                say(&publisher, &topic, &n.to_string()).await;
                if n % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    let mut places = Vec::new();
    for id in 0..50 {
        places.push(join(&hub, &topic, id).await);
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    for (_place, ear, position) in &mut places {
        for offset in *position + 1..=3_000 {
            assert_eq!(ear.hear().await, format!("{offset} {offset}"));
        }
    }
    assert_eq!(hub.stats().gaps, 0);
}

#[tokio::test(start_paused = true)]
async fn a_topic_lingers_and_is_then_let_go() {
    let (broker, events) = Spy::new();
    let calls = Arc::clone(&broker.calls);
    let hub = start(broker, events);
    let topic = room("r");

    let (place, ..) = join(&hub, &topic, 1).await;
    drop(place);
    tokio::time::sleep(Duration::from_millis(900)).await;
    let (place, ..) = join(&hub, &topic, 2).await;
    drop(place);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(*calls.lock().unwrap(), ["subscribe 1"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(*calls.lock().unwrap(), ["subscribe 1", "unsubscribe 1"]);

    let _place = join(&hub, &topic, 3).await;
    assert_eq!(*calls.lock().unwrap(), ["subscribe 1", "unsubscribe 1", "subscribe 1"]);
}

#[tokio::test(start_paused = true)]
async fn many_first_joins_make_few_calls() {
    let (broker, events) = Spy::new();
    let calls = Arc::clone(&broker.calls);
    let hub = start(broker, events);
    let joins = (0..1_000).map(|n| {
        let hub = hub.clone();
        tokio::spawn(async move { join(&hub, &room(&format!("r{n}")), n).await })
    });
    for join in joins.collect::<Vec<_>>() {
        join.await.unwrap();
    }
    // Places were dropped with the tasks' results; only the subscribing matters.
    let calls = calls.lock().unwrap();
    let subscribed: usize = calls
        .iter()
        .filter_map(|call| call.strip_prefix("subscribe "))
        .map(|topics| topics.parse::<usize>().unwrap())
        .sum();
    assert_eq!(subscribed, 1_000);
    assert!(calls.len() < 20, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_join_fails_with_the_broker_and_leaves_nothing() {
    let (broker, events) = Spy::new();
    broker.fail_next.store(1, Ordering::SeqCst);
    let calls = Arc::clone(&broker.calls);
    let hub = start(broker, events);
    let topic = room("r");
    let (first, _ear) = member(8);
    let refused = hub.join(&topic, ConnectionId(1), first, |_| panic!("not welcome")).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable(_))));
    assert!(hub.members(&topic).is_empty());
    assert_eq!(hub.topics(), 0);

    let (_place, ..) = join(&hub, &topic, 2).await;
    assert_eq!(*calls.lock().unwrap(), ["subscribe 1", "subscribe 1"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_attached_stays_through_an_outage() {
    let (broker, events) = Spy::new();
    broker.fail_next.store(3, Ordering::SeqCst);
    let bus = broker.inner.clone();
    let hub = start(broker, events);
    let topic = room("r");
    let (first, mut ear) = member(8);
    let place = hub.attach(&topic, ConnectionId(1), first);
    // Three refusals, a second apart.
    for _ in 0..3 {
        assert!(place.subscribed().await.is_err());
    }
    place.subscribed().await.unwrap();
    say(&*bus, &topic, "there").await;
    assert_eq!(ear.hear().await, "1 there");
}

#[tokio::test(start_paused = true)]
async fn a_join_that_is_given_up_leaves_nothing() {
    let (broker, events) = Spy::new();
    let gate = Arc::clone(&broker.gate);
    broker.hang_next.store(1, Ordering::SeqCst);
    let calls = Arc::clone(&broker.calls);
    let hub = start(broker, events);
    let topic = room("r");
    let (first, _ear) = member(8);
    let joining = hub.join(&topic, ConnectionId(1), first, |_| {});
    assert!(tokio::time::timeout(Duration::from_secs(1), joining).await.is_err());
    assert!(hub.members(&topic).is_empty());
    gate.notify_one();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*calls.lock().unwrap(), ["subscribe 1", "unsubscribe 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_position_read_for_somebody_else_is_not_taken_for_a_newcomers() {
    let (broker, events) = Spy::new();
    let (gate, bus) = (Arc::clone(&broker.gate), Arc::clone(&broker.inner));
    broker.stale_next.store(1, Ordering::SeqCst);
    let hub = start(broker, events);
    let topic = room("r");
    let (first, _ear) = member(8);
    // The position is read for the first, who gives up while the answer is on its way.
    let joining = hub.join(&topic, ConnectionId(1), first, |_| {});
    assert!(tokio::time::timeout(Duration::from_millis(100), joining).await.is_err());
    say(&*bus, &topic, "heard by nobody").await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let second = tokio::spawn({
        let (hub, topic) = (hub.clone(), topic.clone());
        async move { join(&hub, &topic, 2).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.notify_one();
    let (_place, mut ear, position) = second.await.unwrap();
    assert_eq!(position, 1);
    say(&*bus, &topic, "hello").await;
    assert_eq!(ear.hear().await, "2 hello");
}

#[tokio::test]
async fn a_slow_member_is_closed_and_the_others_hear_all() {
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (publisher, _events) = bus.connect();
    let hub = start(broker, events);
    let topic = room("r");
    let (slow, _unread) = member(3);
    let closed = Arc::clone(&slow.closed);
    let _slow = hub.join(&topic, ConnectionId(1), slow, |_| {}).await.unwrap();
    let (_place, mut ear, _) = join(&hub, &topic, 2).await;
    for n in 1..=100 {
        say(&publisher, &topic, "x").await;
        assert_eq!(ear.hear().await, format!("{n} x"));
    }
    assert_eq!(*closed.lock().unwrap(), Some(CloseReason::SlowConsumer));
    assert!(hub.stats().slow_consumers > 0);
}

/// Rooms by hand: what a broker that loses things looks like from the hub.
fn lossy() -> (Hub<Member>, Arc<Scripted>, Arc<EventSender>) {
    let (sender, events) = events::channel(64);
    let broker = Arc::new(Scripted::default());
    let (hub, driver) =
        Hub::new(Arc::clone(&broker) as Arc<dyn Broker>, events, HubConfig::default());
    tokio::spawn(driver.run());
    (hub, broker, Arc::new(sender))
}

fn at(offset: u64) -> Position {
    Position { epoch: Epoch::from_random(9), offset }
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_told_whether_or_not_something_follows() {
    let (hub, broker, sender) = lossy();
    *broker.position.lock().unwrap() = at(10);
    let topic = room("r");
    let (_place, mut ear, position) = join(&hub, &topic, 1).await;
    assert_eq!(position, 10);
    sender.publication(topic.clone(), said("x"), Some(at(11)));
    sender.publication(topic.clone(), said("x"), Some(at(14)));
    sender.publication(topic.clone(), said("x"), Some(at(13)));
    for told in ["11 x", "gap 13", "14 x"] {
        assert_eq!(ear.hear().await, told);
    }

    // The connection was lost, and nothing follows.
    *broker.position.lock().unwrap() = at(16);
    sender.interrupted();
    assert_eq!(ear.hear().await, "gap 16");

    // The connection was lost, and nothing was missed: what is still under way comes in.
    *broker.position.lock().unwrap() = at(17);
    sender.interrupted();
    tokio::time::sleep(Duration::from_millis(100)).await;
    sender.publication(topic.clone(), said("late"), Some(at(17)));
    assert_eq!(ear.hear().await, "17 late");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(ear.0.try_recv().is_err(), "no false alarm");
    assert_eq!(hub.stats().repeats, 1);
}

/// Whoever has left hears nothing more, also if the batch was cut before.
#[tokio::test]
async fn nothing_is_delivered_to_whoever_has_left() {
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (publisher, _events) = bus.connect();
    let hub = start(broker, events);
    let topic = room("big");
    let mut crowd = Vec::new();
    for id in 0..1_000 {
        crowd.push(join(&hub, &topic, id).await);
    }
    let (place, mut last, _) = join(&hub, &topic, 5_000).await;
    say(&publisher, &topic, "x").await;
    // The first group has it; the last member's group is a few turns behind.
    assert_eq!(crowd[0].1.hear().await, "1 x");
    assert!(last.0.try_recv().is_err());
    drop(place);
    assert_eq!(crowd[999].1.hear().await, "1 x");
    say(&publisher, &topic, "y").await;
    assert_eq!(crowd[999].1.hear().await, "2 y");
    assert!(last.0.try_recv().is_err(), "heard something after it had left");
}

#[tokio::test(start_paused = true)]
async fn a_topic_whose_position_could_not_be_read_is_let_go_again() {
    let (broker, events) = Spy::new();
    broker.lost_next.store(1, Ordering::SeqCst);
    let calls = Arc::clone(&broker.calls);
    let hub = start(broker, events);
    let (first, _ear) = member(8);
    assert!(hub.join(&room("r"), ConnectionId(1), first, |_| {}).await.is_err());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(*calls.lock().unwrap(), ["subscribe 1", "unsubscribe 1"]);
}

#[tokio::test]
async fn nobody_waits_for_a_driver_that_is_gone() {
    let (broker, events) = Spy::new();
    broker.hang_next.store(1, Ordering::SeqCst);
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    let driver = tokio::spawn(driver.run());
    let joining = tokio::spawn({
        let hub = hub.clone();
        async move { hub.join(&room("r"), ConnectionId(1), member(8).0, |_| {}).await.map(drop) }
    });
    while hub.topics() == 0 {
        tokio::task::yield_now().await;
    }
    driver.abort();
    assert!(matches!(joining.await.unwrap(), Err(BrokerError::Closed)));
    let late = hub.join(&room("r"), ConnectionId(2), member(8).0, |_| {}).await;
    assert!(matches!(late, Err(BrokerError::Closed)));
}

/// A big room takes turns with a small one: the small room's message does not wait for all
/// members of the big one.
#[tokio::test]
async fn a_big_room_does_not_stall_a_small_one() {
    #[derive(Clone)]
    struct Logged(Arc<Mutex<Vec<&'static str>>>, &'static str);
    impl Deliver for Logged {
        fn deliver(&self, _: &Batch) -> Delivered {
            self.0.lock().unwrap().push(self.1);
            Delivered::Queued
        }
        fn close(&self, _: CloseReason) {}
    }
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (publisher, _events) = bus.connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut places = Vec::new();
    for id in 0..5_000 {
        let member = Logged(Arc::clone(&log), "big");
        places.push(hub.join(&room("big"), ConnectionId(id), member, |_| {}).await.unwrap());
    }
    let member = Logged(Arc::clone(&log), "small");
    places.push(hub.join(&room("small"), ConnectionId(9_999), member, |_| {}).await.unwrap());

    // Nothing else runs on this thread until both are published.
    let big = publisher.publish(&room("big"), said("x"), Delivery::kept()).await.unwrap();
    let small = publisher.publish(&room("small"), said("x"), Delivery::kept()).await.unwrap();
    let _ = (big.await, small.await);
    while log.lock().unwrap().len() < 5_001 {
        tokio::task::yield_now().await;
    }
    let turn = log.lock().unwrap().iter().position(|room| *room == "small").unwrap();
    assert!(turn <= 512, "the small room was served after {turn} deliveries");
}
