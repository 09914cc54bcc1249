//! From rooms to members: slow ones, those who left, big rooms beside small ones.

use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use chat_broker::{Broker, Hub, HubConfig, JoinOptions, Membership, MemoryBroker, MemoryBus};
use chat_core::{Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, GROUP};

use tokio::runtime::Builder;

use crate::support::{join, member, persistent, room, said, say, start, start_with};

#[tokio::test]
async fn slow_member_is_closed_and_others_receive_all() {
    let bus = MemoryBus::new();
    let hub = start(&bus);
    let (publisher, _events) = bus.connect();
    let topic = room("r");
    let (slow, _unread) = member(3);
    let closed = Arc::clone(&slow.closed);
    let _slow = hub.join(&topic, ConnectionId::new(1), slow, JoinOptions::default()).await.unwrap();
    let (_membership, mut inbox, _) = join(&hub, &topic, 2).await;
    for n in 1..=100 {
        say(&publisher, &topic, "x").await;
        assert_eq!(inbox.next().await, format!("{n} x"));
    }
    assert_eq!(*closed.lock().unwrap(), Some(CloseReason::SlowConsumer));
    let stats = hub.stats();
    assert_eq!((stats.received, stats.deliveries, stats.slow_consumers), (100, 3 + 100, 1));
}

#[tokio::test]
async fn slow_member_receives_nothing_after_it_is_closed() {
    let bus = MemoryBus::new();
    let hub = start(&bus);
    let (publisher, _events) = bus.connect();
    let topic = room("r");
    let (slow, mut unread) = member(3);
    let _slow = hub.join(&topic, ConnectionId::new(1), slow, JoinOptions::default()).await.unwrap();
    let (_membership, mut inbox, _) = join(&hub, &topic, 2).await;
    let mut say_and_hear = async |n: u64| {
        say(&publisher, &topic, "x").await;
        assert_eq!(inbox.next().await, format!("{n} x"));
    };
    for n in 1..=4 {
        say_and_hear(n).await;
    }
    // A room's next batch is delivered when the last one is: here the fourth is over.
    say_and_hear(5).await;
    unread.expect(&["1 x", "2 x", "3 x"]).await;
    // It has room again, and would not know that it lacks the fourth.
    say_and_hear(6).await;
    say_and_hear(7).await;
    assert_eq!(unread.0.try_recv().ok(), None);
}

/// Drops every batch, and keeps why it was closed.
#[derive(Clone, Default)]
struct Dropping(Arc<Mutex<Option<CloseReason>>>);

impl Deliver for Dropping {
    fn deliver(&self, _: &Batch) -> DeliveryOutcome {
        DeliveryOutcome::Dropped
    }

    fn close(&self, reason: CloseReason) {
        *self.0.lock().unwrap() = Some(reason);
    }
}

#[tokio::test]
async fn member_that_drops_a_batch_stays() {
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());
    let (publisher, _events) = bus.connect();
    let (topic, member) = (room("r"), Dropping::default());
    let join = hub.join(&topic, ConnectionId::new(1), member.clone(), JoinOptions::default());
    let _membership = join.await.unwrap();
    say(&publisher, &topic, "x").await;
    let dropped = async {
        while hub.stats().dropped == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dropped).await.expect("a dropped batch");
    assert_eq!((*member.0.lock().unwrap(), hub.stats().slow_consumers), (None, 0));
}

/// A member that has left receives nothing, also if the batch was cut before.
#[tokio::test]
async fn nothing_is_delivered_after_a_leave() {
    let bus = MemoryBus::new();
    let hub = start(&bus);
    let (publisher, _events) = bus.connect();
    let topic = room("big");
    let mut members = Vec::new();
    for id in 0..1_000 {
        members.push(join(&hub, &topic, id).await);
    }
    let (membership, mut last, _) = join(&hub, &topic, 5_000).await;
    say(&publisher, &topic, "x").await;
    // The first group has it; the last member's group is a few turns behind.
    assert_eq!(members[0].1.next().await, "1 x");
    assert!(last.0.try_recv().is_err());
    drop(membership);
    assert_eq!(members[999].1.next().await, "1 x");
    say(&publisher, &topic, "y").await;
    assert_eq!(members[999].1.next().await, "2 y");
    assert!(last.0.try_recv().is_err(), "received something after it had left");
}

/// Writes into a log that something was delivered to it.
#[derive(Clone)]
struct Logged(Arc<Mutex<Vec<&'static str>>>, &'static str);

impl Deliver for Logged {
    fn deliver(&self, _: &Batch) -> DeliveryOutcome {
        self.0.lock().unwrap().push(self.1);
        DeliveryOutcome::Queued
    }

    fn close(&self, _: CloseReason) {}
}

/// A room of 5,000 and a room of one, and who publishes to them.
async fn big_and_small() -> (Vec<Membership<Logged>>, MemoryBroker, Arc<Mutex<Vec<&'static str>>>) {
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut memberships = Vec::new();
    for (name, id) in (0..5_000).map(|id| ("big", id)).chain([("small", 9_999)]) {
        let (topic, member) = (room(name), Logged(Arc::clone(&log), name));
        let joined = hub.join(&topic, ConnectionId::new(id), member, JoinOptions::default());
        memberships.push(joined.await.unwrap());
    }
    (memberships, bus.connect().0, log)
}

/// A big room takes turns with a small one: the small room's message does not wait for all
/// members of the big one.
#[tokio::test]
async fn large_room_does_not_stall_small_room() {
    let (_places, publisher, log) = big_and_small().await;
    // Nothing else runs on this thread until both are published.
    let big = publisher.publish(&room("big"), said("x"), persistent()).await.unwrap();
    let small = publisher.publish(&room("small"), said("x"), persistent()).await.unwrap();
    let _ = (big.await, small.await);
    while log.lock().unwrap().len() < 5_001 {
        tokio::task::yield_now().await;
    }
    let turn = log.lock().unwrap().iter().position(|room| *room == "small").unwrap();
    assert!(turn <= 64, "the small room was served after {turn} deliveries");
}

/// While a big room is served, the other tasks of its thread have their turns: the sooner, the more
/// there is to write. (A budget may be exceeded by the turn that ends it, and two may follow on
/// each other.)
#[tokio::test]
async fn large_room_does_not_stall_its_thread() {
    for (bytes, most) in [(1, 160), (20_000, 13), (200_000, 2)] {
        serve_in_turns(bytes, most).await;
    }
}

async fn serve_in_turns(bytes: usize, most: usize) {
    let (_places, publisher, log) = big_and_small().await;
    let text = said(&"x".repeat(bytes));
    let big = publisher.publish(&room("big"), text, persistent()).await.unwrap();
    big.await.unwrap();
    while log.lock().unwrap().iter().filter(|who| **who == "big").count() < 5_000 {
        log.lock().unwrap().push("other");
        tokio::task::yield_now().await;
    }
    let longest = log.lock().unwrap().split(|who| *who == "other").map(<[_]>::len).max();
    assert!(longest <= Some(most), "{longest:?} deliveries of {bytes} bytes in one go");
}

/// Two groups of one room at once: with a single worker the barrier would never open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_room_is_served_by_all_workers() {
    #[derive(Clone)]
    struct Meeting(Option<Arc<Barrier>>, tokio::sync::mpsc::Sender<()>);
    impl Deliver for Meeting {
        fn deliver(&self, _: &Batch) -> DeliveryOutcome {
            if let Some(barrier) = &self.0 {
                barrier.wait();
                self.1.try_send(()).unwrap();
            }
            DeliveryOutcome::Queued
        }
        fn close(&self, _: CloseReason) {}
    }
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (publisher, _events) = bus.connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default().workers(2));
    tokio::spawn(driver.run());
    let (met, mut meetings) = tokio::sync::mpsc::channel(2);
    let barrier = Arc::new(Barrier::new(2));
    let mut memberships = Vec::new();
    for id in 0..2 * GROUP {
        let waits = (id % GROUP == 7).then(|| Arc::clone(&barrier));
        let (topic, id) = (room("big"), ConnectionId::new(id as u64));
        let joined = hub.join(&topic, id, Meeting(waits, met.clone()), JoinOptions::default());
        memberships.push(joined.await.unwrap());
    }
    // Whichever worker begins, or ended the message before.
    for _ in 0..20 {
        say(&publisher, &room("big"), "x").await;
        let both = async {
            meetings.recv().await.unwrap();
            meetings.recv().await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("they meet");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_workers_keep_every_members_order() {
    const MESSAGES: u64 = 300;
    let bus = MemoryBus::new();
    let (hub, _broker) = start_with(&bus, HubConfig::default().workers(4));
    let (publisher, _events) = bus.connect();
    let rooms: Vec<_> = (0..8).map(|nth| room(&format!("room {nth}"))).collect();
    let mut members = Vec::new();
    // The first room has many groups of members, the others one.
    for id in 0..700 {
        members.push(join(&hub, &rooms[0], id).await);
    }
    for (nth, topic) in rooms.iter().enumerate() {
        for id in 0..3 {
            members.push(join(&hub, topic, 1_000 + 10 * nth as u64 + id).await);
        }
    }
    let publisher = Arc::new(publisher);
    let publishing = rooms.into_iter().map(|topic| {
        let publisher = Arc::clone(&publisher);
        tokio::spawn(async move {
            for n in 1..=MESSAGES {
                say(&*publisher, &topic, &n.to_string()).await;
            }
        })
    });
    for published in publishing.collect::<Vec<_>>() {
        published.await.unwrap();
    }
    for (_membership, inbox, _) in &mut members {
        for n in 1..=MESSAGES {
            assert_eq!(inbox.next().await, format!("{n} {n}"));
        }
    }
}

/// A runtime that is dropped waits for its blocking threads, which the helpers are.
#[test]
fn helpers_end_with_the_hub() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = MemoryBus::new();
        let (hub, _broker) = start_with(&bus, HubConfig::default().workers(3));
        let (_membership, mut inbox, _) = join(&hub, &room("r"), 1).await;
        say(&bus.connect().0, &room("r"), "x").await;
        assert_eq!(inbox.next().await, "1 x");
    });
    let (dropped, is_dropped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        dropped.send(())
    });
    is_dropped.recv_timeout(Duration::from_secs(20)).expect("the helpers end");
}

/// Takes a moment to take something.
#[derive(Clone)]
struct Slow;

const MOMENT: Duration = Duration::from_millis(1);

impl Deliver for Slow {
    fn deliver(&self, _: &Batch) -> DeliveryOutcome {
        std::thread::sleep(MOMENT);
        DeliveryOutcome::Queued
    }

    fn close(&self, _: CloseReason) {}
}

#[tokio::test]
async fn batch_latency_ends_with_its_last_member() {
    const MEMBERS: u32 = 2 * GROUP as u32 + 1;
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (publisher, _events) = bus.connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());
    let topic = room("r");
    let mut memberships = Vec::new();
    for id in 0..MEMBERS {
        let id = ConnectionId::new(u64::from(id));
        memberships.push(hub.join(&topic, id, Slow, JoinOptions::default()).await.unwrap());
    }
    assert_eq!(hub.stats().fan_out.count(), 0);
    for batches in 1..=3 {
        say(&publisher, &topic, "x").await;
        while hub.stats().fan_out.count() < batches {
            tokio::task::yield_now().await;
        }
        let fan_out = hub.stats().fan_out;
        assert_eq!(fan_out.count(), batches, "once for each batch, and not for each group");
        let least = MOMENT * MEMBERS * batches as u32;
        assert!(fan_out.sum() >= least, "{:?} for {least:?}", fan_out.sum());
    }
}
