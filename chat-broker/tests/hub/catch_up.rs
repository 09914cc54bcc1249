//! Members that join with a position, and get what they missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chat_broker::testing::{Call, FaultyBroker, LossNotice};
use chat_broker::{
    Broker, BrokerError, HistoryRead, HistoryRules, Hub, HubConfig, JoinOptions, Joiner,
    MemberSlot, Membership, MemoryBroker, Snapshot,
};
use chat_core::{
    CloseReason, ConnectionId, Deliver, DeliveryOutcome, Epoch, HistoryRange, Members, Position,
    Retention, Topic,
};
use proptest::prelude::*;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::support::{Inbox, Member, faulty_with, join, member, occupant, room, say_keeping};

/// A room that keeps more than a hub holds.
const LONG: Retention = Retention::new(2000, 16 << 20, Duration::from_secs(3600));

/// A hub over a broker with faults, one room, and another node that publishes in it.
struct World {
    hub: Hub<Member>,
    broker: Arc<FaultyBroker>,
    publisher: MemoryBroker,
    topic: Topic,
    retention: Retention,
}

impl World {
    fn new(retention: Retention) -> Self {
        let config = HubConfig::default().history(HistoryRules::new(Some(retention)));
        let (hub, broker, publisher) = faulty_with(config);
        Self { hub, broker, publisher, topic: room("r"), retention }
    }

    /// Publishes these numbers; returns the position of the last.
    async fn say(&self, numbers: std::ops::RangeInclusive<u64>) -> Position {
        let mut position = Position::default();
        for n in numbers {
            let text = n.to_string();
            position = say_keeping(&self.publisher, &self.topic, &text, self.retention).await;
        }
        position
    }

    async fn join(&self, member: Member, since: Position) -> Joined {
        let options = JoinOptions::default().since(since);
        self.hub.join(&self.topic, ConnectionId::new(1), member, options).await
    }

    fn reads(&self) -> usize {
        self.broker.count(Call::History)
    }
}

type Joined = Result<Membership<Member>, BrokerError>;

impl Inbox {
    /// Expects these numbers, each at its offset.
    async fn expect_numbers(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        for n in numbers {
            assert_eq!(self.next().await, format!("{n} {n}"));
        }
    }
}

/// A position of a sequence that the room never had.
fn elsewhere() -> Position {
    Position { epoch: Epoch::from_random(7), offset: 1 }
}

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
        for id in 1..=2 {
            let reads = world.reads();
            let (late, mut inbox) = member(300);
            let options = JoinOptions::default().history(wanted);
            let joining = world.hub.join(&world.topic, ConnectionId::new(id), late, options);
            // The first stays, so that the room does.
            std::mem::forget(joining.await.unwrap());
            inbox.expect_numbers(first..=5).await;
            assert_eq!(world.reads() - reads, usize::from(id == 1), "one opens the room");
        }
    }
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

/// A member that has received more from another server than this one has.
async fn ahead(world: &World) -> Position {
    world.say(1..=1).await;
    std::mem::forget(join(&world.hub, &world.topic, 9).await);
    world.broker.lose_publications(2, LossNotice::Nothing);
    world.say(2..=3).await
}

#[tokio::test(start_paused = true)]
async fn member_ahead_of_its_server_costs_no_reads_while_it_waits() {
    let world = World::new(LONG);
    let here = ahead(&world).await;
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
    let here = ahead(&world).await;
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
    let (here, owner) = (ahead(&world).await, Owner::default());
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
    let membership = joined.unwrap();
    assert_eq!(*late.closed.lock().unwrap(), Some(CloseReason::InternalError));
    drop(membership);
    assert_eq!(inbox.0.try_recv().ok(), None, "nothing follows the page");
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
async fn member_rejoins_and_gets_what_it_asks_for_once() {
    let world = World::new(LONG);
    let since = world.say(1..=5).await;
    let (first, mut inbox) = member(300);
    let mut membership = world.join(first.clone(), since).await.unwrap();
    world.say(6..=7).await;
    inbox.expect_numbers(6..=7).await;
    let recover = |since| JoinOptions::default().since(since);
    membership.rejoin(first.clone(), recover(since)).await.unwrap();
    inbox.expect_numbers(6..=7).await;
    // Without a position it is given the latest, and stays where it is.
    membership.rejoin(first.clone(), JoinOptions::default().history(2)).await.unwrap();
    inbox.expect_numbers(6..=7).await;
    world.say(8..=600).await;
    inbox.expect_numbers(8..=600).await;
    // More than the hub holds: what is published during the pages follows on them.
    world.broker.delay(Call::History, Duration::from_millis(5));
    let publishing = async {
        for n in 601..=620 {
            world.say(n..=n).await;
            sleep(Duration::from_millis(1)).await;
        }
    };
    let reading = async {
        // Live until the first page is read.
        while inbox.next().await != "6 6" {}
        inbox.expect_numbers(7..=620).await;
        inbox.expect_silence().await;
    };
    let rejoining = membership.rejoin(first, recover(since));
    tokio::join!(rejoining, publishing, reading).0.unwrap();
}

/// A batch on its way to many members does not repeat what one of them has got with its snapshot.
#[tokio::test(start_paused = true)]
async fn rejoin_during_a_fan_out_repeats_nothing() {
    const MEMBERS: u64 = 200;
    let world = World::new(LONG);
    let mut others = Vec::new();
    for id in 10..10 + MEMBERS {
        others.push(join(&world.hub, &world.topic, id).await);
    }
    let (last, mut inbox) = member(300);
    let options = JoinOptions::default;
    let joining = world.hub.join(&world.topic, ConnectionId::new(1000), last.clone(), options());
    let mut membership = joining.await.unwrap();
    world.say(1..=1).await;
    // The fan-out lets others run before it has served so many.
    assert_eq!(others[0].1.next().await, "1 1");
    assert_eq!(inbox.0.try_recv().ok(), None);
    membership.rejoin(last, options().since(Position::default())).await.unwrap();
    inbox.expect(&["1 1"]).await;
    inbox.expect_silence().await;
}

/// A worker that is delivering a batch at that moment puts nothing into the outbox behind the
/// snapshot.
#[tokio::test(start_paused = true)]
async fn former_handle_is_detached_before_the_snapshot_of_a_rejoin() {
    let world = World::new(LONG);
    let here = world.say(1..=1).await;
    let id = ConnectionId::new(1);
    let (former, _inbox) = member(300);
    let mut membership = world.join(former, here).await.unwrap();
    // As a batch that is on its way holds them.
    let in_flight = world.hub.members(&world.topic);
    let (seen, members) = std::sync::mpsc::channel();
    let joiner = move |snapshot: &Snapshot<'_, Member>| {
        let member =
            |members: &Members<MemberSlot<Member>>| members.get(id).and_then(MemberSlot::member);
        seen.send((member(&in_flight).is_some(), member(snapshot.members).is_some())).unwrap();
    };
    let options = JoinOptions::default().since(here);
    membership.rejoin_with(member(300).0, options, joiner).await.unwrap();
    assert_eq!(members.try_iter().collect::<Vec<_>>(), [(false, true)]);
}

#[tokio::test(start_paused = true)]
async fn rejoin_waits_for_a_room_that_is_not_live_yet() {
    let world = World::new(LONG);
    world.say(1..=3).await;
    for options in
        [JoinOptions::default().since(Position::default()), JoinOptions::default().history(9)]
    {
        let (first, mut inbox) = member(300);
        let mut membership = world.hub.attach(&world.topic, ConnectionId::new(1), first.clone());
        membership.rejoin(first, options).await.unwrap();
        inbox.expect_numbers(1..=3).await;
        drop(membership);
        sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn member_whose_rejoin_fails_is_in_the_room_as_before() {
    let world = World::new(LONG);
    let (first, mut inbox) = member(300);
    let here = world.say(1..=5).await;
    let mut membership = world.join(first.clone(), here).await.unwrap();
    world.broker.fail_next(Call::History, 1);
    let failed = membership.rejoin(first, JoinOptions::default().since(elsewhere())).await;
    assert!(failed.is_err());
    world.say(6..=7).await;
    inbox.expect_numbers(6..=7).await;
}

/// A member and its copy of the room, which outlives its connections.
struct Copy {
    id: ConnectionId,
    position: Position,
    connection: Option<Connection>,
}

struct Connection {
    member: Member,
    _membership: Membership<Member>,
    received: tokio::sync::mpsc::UnboundedReceiver<String>,
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u64),
    Leave(usize),
    /// Leaves and joins where its copy ends, while so many are published.
    Join(usize, u64),
    /// The room keeps so many of its latest messages.
    Trim(u32),
    Lose(usize, LossNotice),
    FailReads(usize),
    Pause(u64),
}

const COPIES: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let told = || {
        prop_oneof![
            Just(LossNotice::Nothing),
            Just(LossNotice::Lagged),
            Just(LossNotice::Interrupted)
        ]
    };
    prop_oneof![
        4 => prop_oneof![1..5_u64, 1..400_u64].prop_map(Step::Publish),
        2 => (0..COPIES).prop_map(Step::Leave),
        5 => (0..COPIES, 0..20_u64).prop_map(|(who, n)| Step::Join(who, n)),
        1 => (1..300_u32).prop_map(Step::Trim),
        2 => (0..5_usize, told()).prop_map(|(n, told)| Step::Lose(n, told)),
        2 => (1..3_usize).prop_map(Step::FailReads),
        1 => (0..40_000_u64).prop_map(Step::Pause),
    ]
}

impl Copy {
    /// Takes what has arrived: each message follows on the one before, or a gap says that messages
    /// are missing, which then are not to be had.
    async fn take(&mut self, world: &World) -> Result<(), TestCaseError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let first = self.position.offset;
        while let Ok(told) = connection.received.try_recv() {
            let offset = |text: &str| text.parse::<u64>().unwrap();
            let here = self.position.offset;
            match told.split_once(' ') {
                Some(("gap", end)) => {
                    prop_assert!(offset(end) > here, "a gap at {here} that ends at {end}");
                    let read = HistoryRead::new(world.topic.clone(), HistoryRange::After(here), 1);
                    let next = &world.publisher.history(&[read]).await.unwrap()[0];
                    let is_kept = next.entries.first().is_some_and(|next| next.offset == here + 1);
                    prop_assert!(!is_kept, "a gap after {here}, and {} is kept", here + 1);
                    self.position.offset = offset(end);
                }
                Some((next, _)) => {
                    prop_assert_eq!(offset(next), here + 1, "from {} on", first);
                    self.position.offset += 1;
                }
                None => prop_assert!(false, "{told}"),
            }
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.connection = None;
    }

    /// A join that fails, or is not finished, leaves the copy as far as it came.
    async fn join(&mut self, world: &World) -> Result<(), TestCaseError> {
        if self.connection.is_some() {
            self.take(world).await?;
            self.leave();
        }
        // More than can be pending: none is a slow consumer.
        let (member, mut inbox) = member(5_000);
        let (forward, received) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(told) = inbox.0.recv().await {
                let _ = forward.send(told);
            }
        });
        let options = JoinOptions::default().since(self.position);
        if let Ok(membership) = world.hub.join(&world.topic, self.id, member.clone(), options).await
        {
            self.connection = Some(Connection { member, _membership: membership, received });
        }
        Ok(())
    }
}

async fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(LONG.messages(500));
    world.broker.delay(Call::History, Duration::from_millis(3));
    let epoch = world.say(1..=1).await.epoch;
    let mut published = 1;
    let copy = |n| Copy {
        id: ConnectionId::new(n),
        position: Position { epoch, offset: 0 },
        connection: None,
    };
    let mut copies: Vec<Copy> = (0..COPIES as u64).map(copy).collect();
    for step in steps {
        match step {
            Step::Publish(n) => {
                world.say(published + 1..=published + n).await;
                published += n;
            }
            Step::Leave(who) => {
                copies[who].take(&world).await?;
                copies[who].leave();
            }
            Step::Join(who, n) => {
                let publishing = async {
                    for n in published + 1..=published + n {
                        world.say(n..=n).await;
                        sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::join!(copies[who].join(&world), publishing).0?;
                published += n;
            }
            Step::Trim(messages) => {
                let retention = std::mem::replace(&mut world.retention, LONG.messages(messages));
                world.say(published + 1..=published + 1).await;
                published += 1;
                world.retention = retention;
            }
            Step::Lose(n, told) => world.broker.lose_publications(n, told),
            Step::FailReads(n) => world.broker.fail_next(Call::History, n),
            Step::Pause(ms) => sleep(Duration::from_millis(ms)).await,
        }
        for copy in &mut copies {
            copy.take(&world).await?;
            let is_closed = |one: &Connection| one.member.closed.lock().unwrap().is_some();
            if copy.connection.as_ref().is_some_and(is_closed) {
                copy.leave();
            }
        }
    }
    // The hub compares its rooms with the broker twice in this time.
    world.broker.fail_next(Call::History, 0);
    world.broker.lose_publications(0, LossNotice::Nothing);
    sleep(Duration::from_secs(65)).await;
    for copy in &mut copies {
        if copy.connection.is_none() {
            copy.join(&world).await?;
        }
        sleep(Duration::from_millis(10)).await;
        copy.take(&world).await?;
        let closed = copy.connection.as_ref().map(|one| *one.member.closed.lock().unwrap());
        prop_assert_eq!(copy.position.offset, published, "{:?} {:?}", copy.id, closed);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn each_copy_is_contiguous_or_has_a_gap_where_messages_are_gone(
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(play(steps))?;
    }
}
