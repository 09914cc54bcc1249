//! What a hub logs. A test program of its own, since tracing caches for the whole process whether a
//! line has a subscriber.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chat_broker::testing::{Call, FaultyBroker};
use chat_broker::{Hub, HubConfig, JoinOptions, Membership, MemoryBroker};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, RoomId, Topic, UserId,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The lines at the default level.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Those of all tests of this program.
    fn capture() -> Self {
        static LINES: OnceLock<Lines> = OnceLock::new();
        let start = || {
            let lines = Self::default();
            tracing::subscriber::set_global_default(lines.clone()).unwrap();
            lines
        };
        LINES.get_or_init(start).clone()
    }

    fn with(&self, text: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{}", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

/// A member of rooms in which nothing is said.
#[derive(Debug, Clone)]
struct Member;

impl Deliver for Member {
    fn deliver(&self, _: &Batch) -> DeliveryOutcome {
        DeliveryOutcome::Queued
    }

    fn close(&self, _: CloseReason) {}

    async fn drained(&self) {}
}

async fn join(hub: &Hub<Member>, room: &str) -> Membership<Member> {
    let topic = Topic::Room(RoomId::new(room).unwrap());
    hub.join(&topic, ConnectionId::new(1), Member, JoinOptions::default()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn lines_of_rooms_are_logged_one_by_one_up_to_a_budget() {
    let lines = Lines::capture();
    let (broker, events) = MemoryBroker::connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());
    const ROOMS: usize = 300;
    for n in 0..ROOMS {
        drop(join(&hub, &format!("room-{n}")).await);
    }
    // They linger for a second; the number follows within a minute.
    tokio::time::sleep(Duration::from_secs(70)).await;
    let (first, last) = ("subscribing on the pub sub to room: room-0", "from room: room-299");
    assert_eq!(lines.with(first), [format!("INFO room=\"room-0\" message={first}")]);
    assert_eq!(lines.with(last), Vec::<String>::new());
    assert_eq!(lines.with("room: room-").len(), 100);
    let summary = lines.with("suppressed log lines of subscribed");
    assert_eq!(summary.len(), 1, "{summary:?}");
    assert!(summary[0].contains(&format!("lines={}", 2 * ROOMS - 100)), "{summary:?}");

    // Another minute has another budget, and nothing to sum up.
    let line = "unsubscribing from the pub sub from room: later";
    drop(join(&hub, "later").await);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(lines.with(line), [format!("INFO room=\"later\" message={line}")]);
    assert_eq!(lines.with("suppressed log lines of subscribed").len(), 1);
}

/// The number of the others follows a minute after the first of them.
#[tokio::test(start_paused = true)]
async fn failed_calls_are_logged_one_by_one_up_to_a_budget() {
    let lines = Lines::capture();
    let (broker, events) = MemoryBroker::connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    let (hub, driver) = Hub::new(broker.clone(), events, HubConfig::default());
    tokio::spawn(driver.run());
    let summary = || lines.with("suppressed log lines of failed broker calls");
    let damaged = Topic::Room(RoomId::new("damaged").unwrap());
    broker.damage(std::slice::from_ref(&damaged));
    let join = || hub.join(&damaged, ConnectionId::new(1), Member, JoinOptions::default());
    for _ in 0..25 {
        assert!(join().await.is_err());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let failed = || lines.with("injected damage").len();
    assert_eq!((failed(), summary()), (10, Vec::new()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(summary().len(), 1);
    assert!(summary()[0].contains("lines=15"), "{:?}", summary());
}

#[tokio::test(start_paused = true)]
async fn outage_is_logged_at_once_then_each_minute_and_at_its_end() {
    let lines = Lines::capture();
    let (broker, events) = MemoryBroker::connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    let (hub, driver) = Hub::new(broker.clone(), events, HubConfig::default());
    tokio::spawn(driver.run());
    // One a second.
    broker.fail_next(Call::Subscribe, 150);
    let ann = Topic::User(UserId::new("ann").unwrap());
    let _membership = hub.attach(&ann, ConnectionId::new(1), Member);
    let (began, failed) =
        (tokio::time::Instant::now(), || lines.with("subscribe failed, retrying"));
    for (second, count) in [(1, 1), (59, 1), (61, 2), (119, 2), (121, 3), (149, 3)] {
        let until = Duration::from_millis(second * 1000 + 500);
        tokio::time::sleep_until(began + until).await;
        assert_eq!(failed().len(), count, "after {second} s: {:?}", failed());
    }
    assert!(
        failed()[1].contains("outage=60") && failed()[1].contains("failures=61"),
        "{:?}",
        failed()
    );
    let ended = || lines.with("subscribe works again");
    assert_eq!(ended(), Vec::<String>::new());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(ended().len(), 1);
    assert!(
        ended()[0].contains("outage=150") && ended()[0].contains("failures=150"),
        "{:?}",
        ended()
    );
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!((failed().len(), ended().len()), (3, 1), "and nothing more");
}

#[tokio::test]
async fn missing_presence_is_logged_once_at_the_start() {
    let lines = Lines::capture();
    let missing = || lines.with("no presence").len();
    let (broker, events) = MemoryBroker::connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    let (_hub, _driver) = Hub::<Member>::new(broker, events, HubConfig::default());
    assert_eq!(missing(), 0);

    let (broker, events) = MemoryBroker::connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    broker.leave_out_presence();
    let (_hub, _driver) = Hub::<Member>::new(broker, events, HubConfig::default());
    assert_eq!(missing(), 1);
}
