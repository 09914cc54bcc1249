//! What a hub logs. A test program of its own, since tracing caches for the whole process whether a
//! line has a subscriber.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "hub/support.rs"]
#[allow(dead_code, reason = "what the other tests use of it is not all used here")]
mod support;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chat_broker::testing::FaultyBroker;
use chat_broker::{Hub, HubConfig, MemoryBroker, MemoryBus};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use support::{Member, join, room, start};

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

#[tokio::test(start_paused = true)]
async fn lines_of_rooms_are_logged_one_by_one_up_to_a_budget() {
    let lines = Lines::capture();
    let hub = start(&MemoryBus::new());
    const ROOMS: usize = 300;
    for n in 0..ROOMS {
        drop(join(&hub, &room(&format!("room-{n}")), 1).await);
    }
    // They linger for a second; the number follows within a minute.
    tokio::time::sleep(Duration::from_secs(70)).await;
    let (first, last) = ("subscribing on the pub sub to room: room-0", "from room: room-299");
    assert_eq!(lines.with(first), [format!("INFO message={first}")]);
    assert_eq!(lines.with(last), Vec::<String>::new());
    assert_eq!(lines.with("ubscribing").len(), 100);
    let summary = lines.with("suppressed log lines");
    assert_eq!(summary.len(), 1, "{summary:?}");
    assert!(summary[0].contains(&format!("lines={}", 2 * ROOMS - 100)), "{summary:?}");

    // Another minute has another budget, and nothing to sum up.
    let line = "unsubscribing from the pub sub from room: later";
    drop(join(&hub, &room("later"), 1).await);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(lines.with(line), [format!("INFO message={line}")]);
    assert_eq!(lines.with("suppressed log lines").len(), 1);
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
