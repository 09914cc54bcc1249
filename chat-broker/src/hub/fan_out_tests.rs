use bytes::Bytes;
use chat_core::{CloseReason, RoomId, UserId};
use futures_util::FutureExt;

use super::*;
use crate::hub::room::Phase;
use crate::hub::{Hub, HubConfig};
use crate::memory::MemoryBroker;

#[derive(Clone)]
struct NullMember;

impl Deliver for NullMember {
    fn deliver(&self, _: &Batch) -> DeliveryOutcome {
        DeliveryOutcome::Queued
    }

    fn close(&self, _: CloseReason) {}
}

impl Shared<NullMember> {
    fn open(&self, topic: &Topic) {
        self.registry.join_with(
            topic,
            ConnectionId::new(1),
            MemberSlot::new(NullMember),
            |room, _| {
                self.begin(topic, &mut room.state);
                room.state.phase = Phase::Live { cut: None };
            },
        );
    }

    fn publish(&self, topic: &Topic) {
        self.update(topic, |room, _| room.accept(Bytes::from_static(b"x"), None));
    }

    fn next_cut(&self) -> Option<Job<NullMember>> {
        match self.fan_out.take(0) {
            Some(Turn::Cut(room)) => self.cut(room).map(|(job, _)| job),
            _ => panic!("a room has its turn"),
        }
    }
}

/// Else two turns would serve one room at a time, in whichever order.
#[test]
fn turn_of_an_ended_room_is_not_for_its_successor() {
    let (broker, events) = MemoryBroker::connect();
    let (hub, _driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    let (shared, topic) = (&hub.shared, Topic::User(UserId::new("u").unwrap()));
    shared.open(&topic);
    shared.publish(&topic);
    shared.leave(&topic, ConnectionId::new(1));
    shared.open(&topic);
    shared.publish(&topic);

    assert!(shared.next_cut().is_none(), "of the first room");
    let job = Arc::new(shared.next_cut().expect("of the second"));
    shared.publish(&topic);
    assert!(shared.fan_out.take(0).is_none(), "one batch at a time");

    shared.leave(&topic, ConnectionId::new(1));
    shared.open(&topic);
    shared.publish(&topic);
    shared.serve(&job, Cursor::default(), 0);
    assert!(shared.next_cut().is_some(), "of the third");
    assert!(shared.fan_out.take(0).is_none(), "and not by the end of the second's");
}

#[test]
fn publications_wait_until_they_are_cut_or_their_room_has_ended() {
    let (broker, events) = MemoryBroker::connect();
    let (hub, _driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    let (shared, topic) = (&hub.shared, Topic::User(UserId::new("u").unwrap()));
    let waiting = || {
        let is_below = |limit: &usize| shared.fan_out.below(*limit).now_or_never().is_some();
        (1..).find(is_below).expect("a limit") - 1
    };
    shared.open(&topic);
    for count in 1..=300 {
        shared.publish(&topic);
        assert_eq!(waiting(), count);
    }
    let job = Arc::new(shared.next_cut().expect("as much as fits"));
    let bytes = job.batch.payload_len();
    assert_eq!(waiting(), 300 - bytes, "one byte each");
    shared.serve(&job, Cursor::default(), 0);
    shared.leave(&topic, ConnectionId::new(1));
    assert_eq!(waiting(), 0);
}

#[test]
fn flush_follows_what_is_pending() {
    let (broker, events) = MemoryBroker::connect();
    let (hub, _driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    let (shared, topic) = (&hub.shared, Topic::User(UserId::new("u").unwrap()));
    shared.open(&topic);
    shared.publish(&topic);
    hub.flush_after_pending(NullMember);
    assert!(shared.fan_out.woken(0).now_or_never().is_some());
    assert!(shared.next_cut().is_some());
    assert!(matches!(shared.fan_out.take(0), Some(Turn::Flush(NullMember))));
}

#[tokio::test]
async fn flush_is_immediate_after_the_driver_has_ended() {
    #[derive(Clone, Default)]
    struct Flushed(Arc<AtomicUsize>);

    impl Deliver for Flushed {
        fn deliver(&self, _: &Batch) -> DeliveryOutcome {
            DeliveryOutcome::Queued
        }

        fn flush(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn close(&self, _: CloseReason) {}
    }

    let (broker, events) = MemoryBroker::connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    let member = Flushed::default();
    hub.flush_after_pending(member.clone());
    assert_eq!(member.0.load(Ordering::Relaxed), 0);
    assert!(driver.run().now_or_never().is_none(), "and dropped, which ends it");
    hub.flush_after_pending(member.clone());
    assert_eq!(member.0.load(Ordering::Relaxed), 2);
}

/// What did not fit has waited for as long as what did.
#[tokio::test(start_paused = true)]
async fn batch_latency_starts_with_its_first_message() {
    let (broker, events) = MemoryBroker::connect();
    let (hub, _driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    let (shared, topic) = (&hub.shared, Topic::User(UserId::new("u").unwrap()));
    let second = || tokio::time::advance(std::time::Duration::from_secs(1));
    shared.open(&topic);
    let first = Instant::now();
    for _ in 0..300 {
        shared.publish(&topic);
    }
    second().await;
    let job = Arc::new(shared.next_cut().expect("as much as fits"));
    shared.serve(&job, Cursor::default(), 0);
    second().await;
    let rest = Arc::new(shared.next_cut().expect("the rest"));
    assert_eq!((job.since, rest.since), (Some(first), Some(first)));
    shared.publish(&topic);
    let next = Instant::now();
    second().await;
    shared.serve(&rest, Cursor::default(), 0);
    assert_eq!(shared.next_cut().expect("what was published in between").since, Some(next));
    let fan_out = hub.stats().fan_out;
    assert_eq!((fan_out.count(), fan_out.sum().as_secs()), (2, 1 + 3));
}

#[test]
fn worker_with_backlog_wakes_all_workers() {
    let fan_out = FanOut::<NullMember>::new(3);
    let room = Room { topic: Topic::Room(RoomId::new("r").unwrap()), serial: 0 };
    fan_out.requeue(2, Turn::Cut(room));
    assert!(fan_out.woken(0).now_or_never().is_some(), "the first worker too");
    assert!(fan_out.woken(1).now_or_never().is_some());
}

#[test]
fn worker_calls_others_for_what_it_leaves_and_not_for_what_it_takes() {
    let fan_out = FanOut::<NullMember>::new(3);
    let turn = || Turn::Cut(Room { topic: Topic::Room(RoomId::new("r").unwrap()), serial: 0 });
    let called = || [0, 1].map(|worker| fan_out.woken(worker).now_or_never().is_some());
    fan_out.push(0, turn());
    assert!(fan_out.take(0).is_some());
    assert_eq!(called(), [false, false]);
    for _ in 0..2 {
        fan_out.push(0, turn());
    }
    assert!(fan_out.take(0).is_some());
    assert_eq!(called(), [false, true], "it is awake itself");
}
