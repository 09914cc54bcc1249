//! Joins: from the hub's memory, in pages, and where neither has all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chat_broker::testing::{Call, LossNotice};
use chat_broker::{
    BrokerError, HistoryRead, HistoryRules, HubConfig, JoinOptions, Joiner, Membership, Snapshot,
};
use chat_core::{CloseReason, ConnectionId, Deliver, DeliveryOutcome, Position};
use tokio::sync::Notify;
use tokio::time::{advance, sleep, timeout};

use super::{LONG, World, elsewhere};
use crate::support::{Member, faulty_with, join, member, occupant, room, say_keeping};

#[tokio::test(start_paused = true)]
async fn member_gets_pages_it_missed_and_then_what_is_live() {
    let world = World::new(LONG);
    let since = world.say(1..=5).await;
    world.say(6..=905).await;
    // Room for one page, but not for two.
    let (late, mut inbox) = member(300);
    let reading = async {
        inbox.expect_numbers(6..=905).await;
        inbox
    };
    let (joined, mut inbox) = tokio::join!(world.join(late.clone(), since), reading);
    let _membership = joined.unwrap();
    world.say(906..=907).await;
    inbox.expect_numbers(906..=907).await;
    inbox.expect_silence().await;
    assert_eq!(*late.closed.lock().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn messages_published_during_the_pages_are_neither_lost_nor_repeated() {
    let world = World::new(LONG);
    world.broker.delay(Call::History, Duration::from_millis(20));
    let first = world.say(1..=1).await;
    world.say(2..=900).await;
    let (late, mut inbox) = member(300);
    let publishing = async {
        for n in 901..=1000 {
            world.say(n..=n).await;
            sleep(Duration::from_millis(1)).await;
        }
    };
    let reading = async {
        inbox.expect_numbers(2..=1000).await;
        inbox.expect_silence().await;
    };
    let (joined, (), ()) = tokio::join!(world.join(late, first), publishing, reading);
    joined.unwrap();
}

#[tokio::test(start_paused = true)]
async fn snapshot_stands_where_its_page_ends() {
    let world = World::new(LONG);
    world.say(1..=900).await;
    let (late, mut inbox) = member(300);
    let options = JoinOptions::default().since(Position::default());
    let (send, receive) = std::sync::mpsc::channel();
    let on_snapshot = move |snapshot: &Snapshot<'_, Member>| {
        let last = snapshot.messages.last().map(|last| last.offset);
        send.send((last, snapshot.position.map(|position| position.offset))).unwrap();
    };
    let joining =
        world.hub.join_with(&world.topic, ConnectionId::new(1), late, options, on_snapshot);
    let (joined, ()) = tokio::join!(joining, inbox.expect_numbers(257..=900));
    joined.unwrap();
    assert_eq!(receive.recv().unwrap(), (Some(256), Some(256)));
}

#[tokio::test(start_paused = true)]
async fn messages_that_the_hub_holds_are_not_read() {
    let world = World::new(LONG);
    let (_other, mut other, _) = join(&world.hub, &world.topic, 9).await;
    let since = world.say(1..=2).await;
    world.say(3..=200).await;
    other.expect_numbers(1..=200).await;
    let reads = world.reads();
    let (late, mut inbox) = member(300);
    let _membership = world.join(late, since).await.unwrap();
    inbox.expect_numbers(3..=200).await;
    assert_eq!(world.reads(), reads);
}

#[tokio::test(start_paused = true)]
async fn member_behind_the_history_gets_a_gap_and_the_latest() {
    let world = World::new(LONG.messages(100));
    let since = world.say(1..=5).await;
    world.say(6..=300).await;
    let (late, mut inbox) = member(300);
    let _membership = world.join(late.clone(), since).await.unwrap();
    inbox.expect(&["gap 250"]).await;
    inbox.expect_numbers(251..=300).await;
    // As many as it asks for, and as the room keeps.
    for (wanted, first) in [(0, 301), (7, 294), (1000, 201)] {
        let options = JoinOptions::default().since(since).history(wanted);
        let joining = world.hub.join(&world.topic, ConnectionId::new(2), late.clone(), options);
        let _membership = joining.await.unwrap();
        inbox.expect(&[&format!("gap {}", first - 1)]).await;
        inbox.expect_numbers(first..=300).await;
    }
}

#[tokio::test(start_paused = true)]
async fn position_of_another_sequence_is_a_gap() {
    let world = World::new(LONG);
    let here = world.say(1..=3).await;
    for since in
        [elsewhere(), Position { offset: 4, ..here }, Position { offset: u64::MAX, ..here }]
    {
        let (late, mut inbox) = member(300);
        let _membership = world.join(late, since).await.unwrap();
        inbox.expect(&["gap 0"]).await;
        inbox.expect_numbers(1..=3).await;
    }
}

/// A member that saw nothing of any sequence has missed all of this one.
#[tokio::test(start_paused = true)]
async fn messages_that_have_expired_are_a_gap_for_a_member_that_saw_none() {
    let world = World::new(LONG.ttl(Duration::ZERO));
    world.say(1..=2).await;
    let (late, mut inbox) = member(300);
    let _membership = world.join(late, Position::default()).await.unwrap();
    inbox.expect(&["gap 2"]).await;
    inbox.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn room_without_history_is_a_gap_for_a_member_with_a_position() {
    let (hub, ..) = faulty_with(HubConfig::default().history(HistoryRules::new(None)));
    let (late, mut inbox) = member(300);
    let options = JoinOptions::default().since(elsewhere());
    let _membership = hub.join(&room("r"), ConnectionId::new(1), late, options).await.unwrap();
    inbox.expect(&["gap"]).await;
}

#[tokio::test(start_paused = true)]
async fn newest_messages_are_given_to_a_member_without_a_copy() {
    let few = LONG.messages(3);
    for (retention, wanted, first) in [(LONG, 2, 4), (LONG, 9, 1), (few, 9, 3), (LONG, 0, 6)] {
        let world = World::new(retention);
        world.say(1..=5).await;
        // They stay, so that the room does.
        let mut memberships = Vec::new();
        for id in 1..=2 {
            let reads = world.reads();
            let (late, mut inbox) = member(300);
            let options = JoinOptions::default().history(wanted);
            let joining = world.hub.join(&world.topic, ConnectionId::new(id), late, options);
            memberships.push(joining.await.unwrap());
            inbox.expect_numbers(first..=5).await;
            assert_eq!(world.reads() - reads, usize::from(id == 1), "one opens the room");
        }
    }
}

/// The hub cannot tell from what it still holds that there are no others.
#[tokio::test(start_paused = true)]
async fn newest_messages_that_the_hub_has_dropped_are_read() {
    // It holds none, and a part.
    for (recent_bytes, published) in [(0, 1), (1000, 40)] {
        let world = World::with(HubConfig::default().recent_bytes(recent_bytes), LONG);
        let (_other, mut other, _) = join(&world.hub, &world.topic, 9).await;
        world.say(1..=published).await;
        other.expect_numbers(1..=published).await;
        let reads = world.reads();
        let (late, mut inbox) = member(300);
        let options = JoinOptions::default().history(50);
        let joining = world.hub.join(&world.topic, ConnectionId::new(1), late, options);
        let _membership = joining.await.unwrap();
        inbox.expect_numbers(1..=published).await;
        assert_eq!(world.reads(), reads + 1);
    }
}

/// The share of a room is what it may hold when all rooms together hold too much.
#[tokio::test(start_paused = true)]
async fn room_holds_more_than_its_share_while_there_is_memory() {
    let world = World::with(HubConfig::default().recent_bytes(10_000), LONG);
    let (_quiet, ..) = join(&world.hub, &room("quiet"), 8).await;
    let (_other, mut other, _) = join(&world.hub, &world.topic, 9).await;
    world.say(1..=200).await;
    other.expect_numbers(1..=200).await;
    let held = world.hub.stats().recent_bytes;
    assert!((5_001..=10_000).contains(&held), "{held} bytes");
    let reads = world.reads();
    let (late, mut inbox) = member(300);
    let options = JoinOptions::default().history(200);
    let _membership =
        world.hub.join(&world.topic, ConnectionId::new(1), late, options).await.unwrap();
    inbox.expect_numbers(1..=200).await;
    assert_eq!(world.reads(), reads);
}

#[tokio::test(start_paused = true)]
async fn newest_messages_that_fill_a_page_are_not_read() {
    let world = World::new(LONG);
    let (_other, mut other, _) = join(&world.hub, &world.topic, 9).await;
    for _ in 0..10 {
        say_keeping(&world.publisher, &world.topic, &"x".repeat(30_000), LONG).await;
        other.next().await;
    }
    let reads = world.reads();
    let (late, mut inbox) = member(300);
    let options = JoinOptions::default().history(20);
    let _membership =
        world.hub.join(&world.topic, ConnectionId::new(1), late, options).await.unwrap();
    for offset in 3..=10 {
        assert!(inbox.next().await.starts_with(&format!("{offset} xxx")), "256 KiB");
    }
    assert_eq!(world.reads(), reads);
}

#[tokio::test(start_paused = true)]
async fn expired_messages_are_not_given_and_not_read() {
    let world = World::new(LONG.ttl(Duration::ZERO));
    world.say(1..=1).await;
    let _first = join(&world.hub, &world.topic, 9).await;
    let reads = world.reads();
    let (late, mut inbox) = member(300);
    let options = JoinOptions::default().history(50);
    let _membership =
        world.hub.join(&world.topic, ConnectionId::new(1), late, options).await.unwrap();
    inbox.expect_silence().await;
    assert_eq!(world.reads(), reads);
}

/// As the broker drops them: all at once, their time after the latest of them.
#[tokio::test(start_paused = true)]
async fn messages_that_the_hub_holds_expire_together() {
    let minute = Duration::from_secs(60);
    let world = World::new(LONG.ttl(minute));
    let (_other, mut other, _) = join(&world.hub, &world.topic, 9).await;
    world.say(1..=1).await;
    sleep(minute * 2 / 3).await;
    world.say(2..=2).await;
    other.expect_numbers(1..=2).await;
    for (after, held, read) in [(minute * 2 / 3, 2, 0), (minute / 3, 0, 1)] {
        sleep(after).await;
        let reads = world.reads();
        let (late, mut inbox) = member(300);
        let options = JoinOptions::default().history(9);
        let joining = world.hub.join(&world.topic, ConnectionId::new(1), late, options);
        let _membership = joining.await.unwrap();
        inbox.expect_numbers(1..=held).await;
        assert_eq!(inbox.0.try_recv().ok(), None);
        assert_eq!(world.reads() - reads, read);
        assert_eq!(world.hub.stats().recent_bytes > 0, held > 0);
    }
}

/// Their age is not known, but the broker has dropped them before that time is over.
#[tokio::test(start_paused = true)]
async fn messages_that_a_room_was_opened_with_expire() {
    let minute = Duration::from_secs(60);
    let world = World::new(LONG.ttl(minute));
    world.say(1..=2).await;
    let _other = join(&world.hub, &world.topic, 9).await;
    sleep(minute).await;
    let (late, mut inbox) = member(300);
    let options = JoinOptions::default().history(9);
    let _membership =
        world.hub.join(&world.topic, ConnectionId::new(1), late, options).await.unwrap();
    inbox.expect_silence().await;
}

/// A member keeps the room open, and this server misses what was published last: where that ends.
async fn behind(world: &World) -> (Membership<Member>, Position) {
    world.say(1..=1).await;
    let (first, ..) = join(&world.hub, &world.topic, 9).await;
    world.broker.lose_publications(2, LossNotice::Nothing);
    (first, world.say(2..=3).await)
}

#[tokio::test(start_paused = true)]
async fn member_ahead_of_its_server_costs_no_reads_while_it_waits() {
    let world = World::new(LONG);
    let (_first, here) = behind(&world).await;
    let (late, mut inbox) = member(300);
    let before = world.reads();
    let waiting = async {
        sleep(Duration::from_secs(1)).await;
        let reads = world.reads();
        assert_eq!(reads, before + 1, "the first page, which is empty");
        sleep(Duration::from_secs(8)).await;
        assert_eq!(world.reads(), reads, "nothing has happened");
        world.say(4..=4).await;
        inbox.expect(&["4 4"]).await;
        assert!(world.reads() <= reads + 2, "the hub read what it had missed");
        inbox.expect_silence().await;
    };
    let (joined, ()) = tokio::join!(world.join(late, here), waiting);
    joined.unwrap();
}

#[tokio::test(start_paused = true)]
async fn member_whose_server_stays_behind_is_closed() {
    let world = World::new(LONG);
    let (_first, here) = behind(&world).await;
    let (late, mut inbox) = member(300);
    let joined = timeout(Duration::from_secs(11), world.join(late.clone(), here)).await;
    let _membership = joined.unwrap().unwrap();
    assert_eq!(*late.closed.lock().unwrap(), Some(CloseReason::InternalError));
    world.say(4..=4).await;
    inbox.expect_silence().await;
}

/// What it received of the snapshot is followed by nothing, whatever room it has afterwards.
#[tokio::test(start_paused = true)]
async fn member_without_room_for_the_snapshot_is_closed() {
    // At hand, and in pages.
    for missed in [5, 600] {
        let world = World::new(LONG);
        let publish =
            async |n: u64| say_keeping(&world.publisher, &world.topic, &n.to_string(), LONG).await;
        let since = publish(0).await;
        for n in 1..=missed {
            publish(n).await;
        }
        let (handle, mut inbox) = member(2);
        let closed = Arc::clone(&handle.closed);
        let options = JoinOptions::default().since(since);
        let joining = world.hub.join(&world.topic, ConnectionId::new(1), handle, options);
        let membership = joining.await.unwrap();
        assert_eq!(*closed.lock().unwrap(), Some(CloseReason::SlowConsumer), "{missed}");
        assert!(membership.is_detached());
        inbox.expect(&["2 1", "3 2"]).await;
        publish(missed + 1).await;
        sleep(Duration::from_secs(1)).await;
        assert!(inbox.0.try_recv().is_err(), "{missed}");
        drop(membership);
    }
}

/// Counts bytes, refuses pages when told to, and is interrupted when notified.
#[derive(Clone, Default)]
struct Owner {
    bytes: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    snapshots: Arc<AtomicUsize>,
    interrupt: Arc<Notify>,
    is_stopped: bool,
}

impl Joiner<Member> for Owner {
    fn on_snapshot(&mut self, _: &Member, snapshot: &Snapshot<'_, Member>) -> DeliveryOutcome {
        assert!(snapshot.recovered);
        self.snapshots.fetch_add(snapshot.messages.len(), Ordering::Relaxed);
        DeliveryOutcome::Queued
    }

    fn on_bytes(&mut self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.most.fetch_max(bytes, Ordering::Relaxed);
    }

    async fn drained(&mut self, member: &Member) -> bool {
        member.drained().await;
        !self.is_stopped
    }

    async fn interrupted(&mut self, _: &Member) {
        self.interrupt.notified().await;
    }
}

#[tokio::test(start_paused = true)]
async fn interrupted_member_is_closed_while_its_server_is_behind() {
    let world = World::new(LONG);
    let ((_first, here), owner) = (behind(&world).await, Owner::default());
    let (late, _inbox) = member(300);
    let options = JoinOptions::default().since(here);
    let joining = world.hub.join_with(
        &world.topic,
        ConnectionId::new(1),
        late.clone(),
        options,
        owner.clone(),
    );
    let interrupting = async {
        sleep(Duration::from_secs(1)).await;
        owner.interrupt.notify_one();
    };
    let (joined, ()) =
        timeout(Duration::from_secs(2), async { tokio::join!(joining, interrupting) })
            .await
            .expect("at once");
    joined.unwrap();
    assert_eq!(*late.closed.lock().unwrap(), Some(CloseReason::InternalError));
}

#[tokio::test(start_paused = true)]
async fn owner_that_stops_a_member_closes_it_after_the_snapshot() {
    let world = World::new(LONG);
    world.say(1..=900).await;
    let owner = Owner { is_stopped: true, ..Owner::default() };
    let (late, mut inbox) = member(300);
    let options = JoinOptions::default().since(Position::default());
    let joining = world.hub.join_with(
        &world.topic,
        ConnectionId::new(1),
        late.clone(),
        options,
        owner.clone(),
    );
    joining.await.unwrap();
    assert_eq!(owner.snapshots.load(Ordering::Relaxed), 256, "the first page");
    assert_eq!(*late.closed.lock().unwrap(), Some(CloseReason::InternalError));
    assert_eq!(inbox.0.try_recv().ok(), None);
}

/// The owner counts what was read and delivered, none of it in large pieces.
#[tokio::test(start_paused = true)]
async fn pages_are_bounded_in_bytes() {
    const MESSAGES: usize = 100;
    const SIZE: usize = 30_000;
    let world = World::new(LONG);
    // The hub holds more of the latest messages than a page takes.
    let (_other, mut other, _) = join(&world.hub, &world.topic, 9).await;
    for _ in 0..MESSAGES {
        say_keeping(&world.publisher, &world.topic, &"x".repeat(SIZE), LONG).await;
    }
    for _ in 0..MESSAGES {
        other.next().await;
    }
    let owner = Owner::default();
    let (late, mut inbox) = member(300);
    let options = JoinOptions::default().since(Position::default());
    let joining = world.hub.join_with(
        &world.topic,
        ConnectionId::new(1),
        late.clone(),
        options,
        owner.clone(),
    );
    let reading = async {
        sleep(Duration::from_secs(1)).await;
        let first = owner.snapshots.load(Ordering::Relaxed);
        for offset in first + 1..=MESSAGES {
            assert!(inbox.next().await.starts_with(&format!("{offset} xxx")));
        }
    };
    tokio::join!(joining, reading).0.unwrap();
    let most = owner.most.load(Ordering::Relaxed);
    assert!(most <= HistoryRead::MAX_BYTES + 2 * SIZE, "a page of {most} bytes");
    let bytes = owner.bytes.load(Ordering::Relaxed);
    assert!(bytes > MESSAGES * SIZE && bytes < 2 * MESSAGES * (SIZE + 100), "{bytes} bytes");
}

#[tokio::test(start_paused = true)]
async fn member_whose_outbox_is_smaller_than_a_page_is_a_slow_consumer() {
    let world = World::new(LONG);
    world.say(1..=900).await;
    let (late, mut inbox) = member(100);
    let reading = async { while inbox.0.recv().await.is_some() {} };
    let joining = async {
        world.join(late.clone(), Position::default()).await.unwrap();
        assert_eq!(*late.closed.lock().unwrap(), Some(CloseReason::SlowConsumer));
        drop(late);
    };
    tokio::join!(joining, reading);
    assert!(world.hub.stats().slow_consumers >= 1);
}

#[tokio::test(start_paused = true)]
async fn join_ends_with_the_connection() {
    let world = World::new(LONG);
    world.say(1..=900).await;
    let (late, inbox) = member(300);
    drop(inbox);
    let joined = timeout(Duration::from_secs(1), world.join(late, Position::default())).await;
    joined.expect("at once").unwrap();
    assert!(world.reads() <= 3, "one opens the room, and there are four pages");
}

#[tokio::test(start_paused = true)]
async fn join_whose_first_page_cannot_be_read_leaves_nothing() {
    let world = World::new(LONG);
    world.say(1..=900).await;
    let _first = join(&world.hub, &world.topic, 9).await;
    world.broker.fail_next(Call::History, 1);
    let (late, mut inbox) = member(300);
    let options = JoinOptions::default().since(Position::default()).occupant(occupant("ann"));
    let failed = world.hub.join(&world.topic, ConnectionId::new(1), late.clone(), options).await;
    assert!(matches!(failed, Err(BrokerError::Unavailable(_))), "{failed:?}");
    assert_eq!(world.hub.members(&world.topic).len(), 1);
    assert_eq!((inbox.0.try_recv().ok(), *late.closed.lock().unwrap()), (None, None));
    sleep(Duration::from_secs(4)).await;
    assert_eq!(world.broker.count(Call::Leave), 0, "the user may return");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.broker.count(Call::Leave), 1);
}

/// The member has the snapshot, and would not know that it receives nothing.
#[tokio::test(start_paused = true)]
async fn member_whose_later_page_cannot_be_read_is_closed() {
    let world = World::new(LONG);
    world.say(1..=900).await;
    let (late, mut inbox) = member(300);
    let reading = async {
        inbox.expect_numbers(1..=100).await;
        world.broker.fail_next(Call::History, 1);
        inbox.expect_numbers(101..=256).await;
    };
    let (joined, ()) = tokio::join!(world.join(late.clone(), Position::default()), reading);
    let mut membership = joined.unwrap();
    assert_eq!(*late.closed.lock().unwrap(), Some(CloseReason::InternalError));
    assert!(membership.is_detached());
    // Another handle does not know that something is missing before it.
    membership.replace(late.clone());
    world.say(901..=901).await;
    inbox.expect_silence().await;
    // A rejoin tells it where it begins, also without a position.
    let options = JoinOptions::default().history(2);
    membership.rejoin(late, options).await.unwrap();
    assert!(!membership.is_detached());
    world.say(902..=902).await;
    inbox.expect_numbers(900..=902).await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_trimmed_between_two_pages_are_a_gap() {
    let world = World::new(LONG);
    world.say(1..=900).await;
    let (late, mut inbox) = member(300);
    let reading = async {
        inbox.expect_numbers(1..=100).await;
        let few = LONG.messages(100);
        say_keeping(&world.publisher, &world.topic, "901", few).await;
        inbox.expect_numbers(101..=256).await;
        inbox.expect(&["gap 801"]).await;
        inbox.expect_numbers(802..=901).await;
    };
    tokio::join!(world.join(late, Position::default()), reading).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn messages_that_expire_between_two_pages_are_a_gap() {
    let world = World::new(LONG);
    world.say(1..=900).await;
    let (late, mut inbox) = member(300);
    let reading = async {
        inbox.expect_numbers(1..=100).await;
        advance(LONG.ttl).await;
        inbox.expect_numbers(101..=256).await;
        inbox.expect(&["gap 900"]).await;
        world.say(901..=901).await;
        inbox.expect_numbers(901..=901).await;
    };
    tokio::join!(world.join(late, Position::default()), reading).0.unwrap();
}

/// As when Redis is emptied.
#[tokio::test(start_paused = true)]
async fn sequence_that_begins_again_between_two_pages_is_read_from_its_beginning() {
    let world = World::new(LONG);
    world.say(1..=900).await;
    let (late, mut inbox) = member(300);
    let reading = async {
        inbox.expect_numbers(1..=100).await;
        world.bus.lose(&world.topic);
        world.say(1..=500).await;
        inbox.expect_numbers(101..=256).await;
        inbox.expect(&["gap 0"]).await;
        inbox.expect_numbers(1..=500).await;
        inbox.expect_silence().await;
    };
    tokio::join!(world.join(late, Position::default()), reading).0.unwrap();
}
