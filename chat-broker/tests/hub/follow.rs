//! Follows: each publication once and in order, or a gap.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::{Call, FaultyBroker, LossNotice};
use chat_broker::{
    Broker, BrokerError, Follow, Followed, Follower, HistoryRules, HubConfig, MemoryBroker,
    MemoryBus, PublishOptions,
};
use chat_core::{ConnectionId, Epoch, Position, Retention, Topic};
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use crate::support::{Member, faulty, join, member, room, said, say, start, user};

/// Publications as their payload, and gaps as the offsets between which they are.
async fn next(follow: &mut Follow) -> String {
    let item = timeout(Duration::from_secs(60), follow.recv()).await.expect("an item");
    shown(item.expect("the follow goes on"))
}

fn shown(item: Followed) -> String {
    let offset = |position: Option<Position>| match position {
        Some(position) => position.offset.to_string(),
        None => "?".to_owned(),
    };
    match item {
        Followed::Publication { payload, position, .. } => {
            format!("{} {}", offset(position), String::from_utf8_lossy(&payload))
        }
        Followed::Gap { from, to, .. } => format!("gap {}..{}", offset(from), offset(to)),
        other => panic!("{other:?}"),
    }
}

async fn expect(follow: &mut Follow, items: &[&str]) {
    for item in items {
        assert_eq!(next(follow).await, *item);
    }
}

async fn expect_silence(follow: &mut Follow) {
    let item = timeout(Duration::from_secs(40), follow.recv()).await;
    assert!(item.is_err(), "{item:?}");
}

/// A follower over a broker with faults, and another node that publishes.
struct World {
    follower: Follower,
    broker: Arc<FaultyBroker>,
    publisher: MemoryBroker,
    topic: Topic,
    retention: Option<Retention>,
    published: u64,
}

impl World {
    fn new(retention: impl Into<Option<Retention>>) -> Self {
        let retention = retention.into();
        let bus = MemoryBus::new();
        let (broker, events) = bus.connect();
        let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
        let config = HubConfig::default().history(HistoryRules::new(retention));
        let follower = Follower::with_config(broker.clone(), events, config);
        let (topic, publisher) = (room("r"), bus.connect().0);
        Self { follower, broker, publisher, topic, retention, published: 0 }
    }

    fn long() -> Self {
        Self::new(Retention::new(10_000, 16 << 20, Duration::from_secs(3600)))
    }

    /// Publishes the next numbers; returns the position of the last.
    async fn publish(&mut self, count: u64) -> Option<Position> {
        let mut position = None;
        for _ in 0..count {
            self.published += 1;
            let options = PublishOptions::default().retention(self.retention);
            let payload = self.published.to_string().into();
            let receipt = self.publisher.publish(&self.topic, payload, options).await.unwrap();
            position = receipt.await.unwrap().position;
        }
        position
    }

    async fn follow(&self, since: Option<Position>) -> Follow {
        let follow = self.follower.follow(&self.topic, since);
        follow.subscribed().await.unwrap();
        follow
    }
}

async fn expect_numbers(follow: &mut Follow, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        assert_eq!(next(follow).await, format!("{n} {n}"));
    }
}

#[tokio::test(start_paused = true)]
async fn follow_begins_with_what_is_published_next() {
    let mut world = World::long();
    world.publish(3).await;
    let mut follow = world.follow(None).await;
    assert_eq!(follow.position().unwrap().offset, 3);
    world.publish(2).await;
    expect(&mut follow, &["4 4", "5 5"]).await;
    assert_eq!(follow.position().unwrap().offset, 5);
    expect_silence(&mut follow).await;
}

#[tokio::test(start_paused = true)]
async fn follow_continues_after_the_saved_position() {
    let mut world = World::long();
    let mut follow = world.follow(Some(Position::default())).await;
    world.publish(3).await;
    expect_numbers(&mut follow, 1..=2).await;
    let saved = follow.position();
    drop(follow);
    world.publish(1_000).await;
    let mut follow = world.follow(saved).await;
    expect_numbers(&mut follow, 3..=1_003).await;
    world.publish(1).await;
    expect(&mut follow, &["1004 1004"]).await;
    expect_silence(&mut follow).await;
}

#[tokio::test(start_paused = true)]
async fn missed_publications_are_read_before_the_follower_notices() {
    for notice in [LossNotice::Nothing, LossNotice::Lagged, LossNotice::Interrupted] {
        let mut world = World::long();
        let mut follow = world.follow(None).await;
        world.broker.lose_publications(3, notice);
        world.publish(5).await;
        expect_numbers(&mut follow, 1..=5).await;
        expect_silence(&mut follow).await;
    }
}

#[tokio::test(start_paused = true)]
async fn slow_follower_continues_from_the_history() {
    let mut world = World::long();
    let (mut slow, mut fast) = (world.follow(None).await, world.follow(None).await);
    for _ in 0..50 {
        let first = world.published + 1;
        world.publish(100).await;
        expect_numbers(&mut fast, first..=first + 99).await;
    }
    assert_eq!(world.follower.stats().slow_followers, 1);
    let reads = world.broker.count(Call::History);
    expect_numbers(&mut slow, 1..=5_000).await;
    assert!(world.broker.count(Call::History) - reads <= 4_000 / 256 + 1, "pages of 256");
    world.publish(1).await;
    expect(&mut slow, &["5001 5001"]).await;
    expect_silence(&mut slow).await;
    assert_eq!(world.follower.stats().slow_followers, 1, "it is live again");
}

#[tokio::test(start_paused = true)]
async fn trimmed_publications_are_one_gap() {
    let mut world = World::new(Retention::default().messages(10));
    let saved = world.publish(1).await;
    world.publish(99).await;
    let mut follow = world.follow(saved).await;
    expect(&mut follow, &["gap 1..90"]).await;
    assert_eq!(follow.position().unwrap().offset, 90);
    expect_numbers(&mut follow, 91..=100).await;
    expect_silence(&mut follow).await;
}

#[tokio::test(start_paused = true)]
async fn new_epoch_is_one_gap() {
    let lost = Some(Position { epoch: Epoch::from_random(7), offset: 5 });
    let mut world = World::new(Retention::default().messages(10));
    world.publish(2).await;
    let mut follow = world.follow(lost).await;
    expect(&mut follow, &["gap 5..0", "1 1", "2 2"]).await;
    world.publish(18).await;
    let mut trimmed = world.follow(lost).await;
    expect(&mut trimmed, &["gap 5..10", "11 11"]).await;

    let unused = room("unused");
    let mut follow = world.follower.follow(&unused, lost);
    expect(&mut follow, &["gap 5..0"]).await;
    say(&world.publisher, &unused, "first").await;
    assert!(next(&mut follow).await.starts_with("1 "));
}

/// A backend that crashed and lost the end of the sequence assigns its offsets again.
#[tokio::test(start_paused = true)]
async fn position_ahead_of_the_broker_is_a_gap() {
    let mut world = World::long();
    let here = world.publish(5).await.unwrap();
    let mut live = world.follow(None).await;
    let mut ahead = world.follow(Some(Position { offset: 9, ..here })).await;
    expect(&mut ahead, &["gap 9..5"]).await;
    world.publish(2).await;
    expect(&mut ahead, &["6 6", "7 7"]).await;
    expect(&mut live, &["6 6", "7 7"]).await;
}

#[tokio::test(start_paused = true)]
async fn follower_waits_while_the_broker_is_unavailable() {
    let mut world = World::long();
    let saved = world.publish(1).await;
    world.publish(600).await;
    world.broker.fail_next(Call::Subscribe, 3);
    let mut follow = world.follower.follow(&world.topic, saved);
    let first = timeout(Duration::from_secs(2), follow.recv()).await;
    assert!(first.is_err() && matches!(follow.error(), Some(BrokerError::Unavailable(_))));
    follow.subscribed().await.unwrap();
    assert!(follow.error().is_none());
    world.broker.fail_next(Call::History, 5);
    expect_numbers(&mut follow, 2..=601).await;
    assert!(follow.error().is_none());
}

#[tokio::test(start_paused = true)]
async fn topic_without_history_has_a_gap_without_position_after_a_loss() {
    let mut world = World::new(None);
    let bob = Topic::User(user("bob"));
    let (mut follow, mut direct) = (world.follow(None).await, world.follower.follow(&bob, None));
    direct.subscribed().await.unwrap();
    assert_eq!(follow.position(), None);
    world.publish(1).await;
    expect(&mut follow, &["? 1"]).await;
    world.broker.lose_publications(1, LossNotice::Interrupted);
    world.publish(1).await;
    expect(&mut follow, &["gap ?..?"]).await;
    expect(&mut direct, &["gap ?..?"]).await;
    world.publish(2_000).await;
    sleep(Duration::from_secs(1)).await;
    // Of what arrives while the queue is full, nothing is stored.
    let first = (3..).take(1_024).map(|n| format!("? {n}"));
    for item in first {
        assert_eq!(next(&mut follow).await, item);
    }
    expect(&mut follow, &["gap ?..?"]).await;
    world.publish(1).await;
    expect(&mut follow, &["? 2003"]).await;
}

/// A position of a time when the room had a history.
#[tokio::test(start_paused = true)]
async fn position_in_a_room_without_history_is_a_gap() {
    let mut world = World::new(None);
    let mut follow = world.follow(Some(Position::default())).await;
    world.publish(1).await;
    expect(&mut follow, &["gap 0..?", "? 1"]).await;
    assert_eq!(follow.position(), None);
}

#[tokio::test(start_paused = true)]
async fn dropped_follow_unsubscribes() {
    let mut world = World::long();
    let (one, other) = (world.follow(None).await, world.follow(None).await);
    drop(one);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.broker.count(Call::Unsubscribe), 0, "the topic is still followed");
    // In the middle of a read.
    world.broker.hang_next(Call::History, 1);
    world.publish(2_000).await;
    let mut other = other;
    assert!(timeout(Duration::from_millis(1), other.recv()).await.unwrap().is_some());
    drop(other);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.broker.count(Call::Unsubscribe), 1);
}

#[tokio::test(start_paused = true)]
async fn follow_that_outlives_its_follower_unsubscribes() {
    let World { follower, broker, topic, .. } = World::long();
    let follow = follower.follow(&topic, None);
    follow.subscribed().await.unwrap();
    drop(follower);
    drop(follow);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.count(Call::Unsubscribe), 1);
}

#[tokio::test(start_paused = true)]
async fn follow_ends_with_the_broker() {
    let mut world = World::long();
    let (mut follow, mut waiting) = (world.follow(None).await, world.follow(None).await);
    let waited = tokio::spawn(async move { waiting.recv().await });
    world.publish(2).await;
    assert_eq!(shown(waited.await.unwrap().unwrap()), "1 1");
    sleep(Duration::from_secs(1)).await;
    world.broker.close().await;
    expect(&mut follow, &["1 1", "2 2"]).await;
    assert_eq!(follow.recv().await, None);
    assert_eq!(follow.recv().await, None);
    let mut late = world.follower.follow(&world.topic, None);
    assert!(matches!(late.subscribed().await, Err(BrokerError::Closed)));
    assert_eq!(late.recv().await, None);
}

/// A follow keeps its driver, and the driver ends with the last of both.
#[tokio::test(start_paused = true)]
async fn follow_outlives_its_follower() {
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let broker = Arc::new(broker);
    let mut follow = Follower::new(broker.clone(), events).follow(&room("r"), None);
    follow.subscribed().await.unwrap();
    say(&bus.connect().0, &room("r"), "a").await;
    assert!(next(&mut follow).await.starts_with("1 "));
    drop(follow);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(Arc::strong_count(&broker), 1);
}

#[tokio::test(start_paused = true)]
async fn members_and_followers_of_a_room_receive_the_same() {
    let hub = start(&MemoryBus::new());
    let topic = room("r");
    let mut before = hub.follow(&topic, None);
    before.subscribed().await.unwrap();
    say(hub.broker(), &topic, "a").await;
    assert!(next(&mut before).await.starts_with("1 "));
    let (membership, mut inbox, _) = join(&hub, &topic, 1).await;
    let mut follow = hub.follow(&topic, Some(Position::default()));
    assert!(next(&mut follow).await.starts_with("1 "));
    assert_eq!((hub.members(&topic).len(), hub.rooms()), (1, 1), "a follower is no member");
    say(hub.broker(), &topic, "b").await;
    inbox.expect(&["2 b"]).await;
    drop(membership);
    say(hub.broker(), &topic, "c").await;
    for follow in [&mut before, &mut follow] {
        assert!(next(follow).await.starts_with("2 "));
        assert!(next(follow).await.starts_with("3 "));
    }
    drop((before, follow));
    assert_eq!((hub.topics(), hub.rooms()), (0, 0));
}

/// Members of a user's topic get no gap, which no client of one expects.
#[tokio::test(start_paused = true)]
async fn gap_of_a_users_topic_is_for_followers_alone() {
    let (hub, broker, publisher) = faulty();
    let topic = Topic::User(user("bob"));
    let (member, mut inbox): (Member, _) = member(8);
    let membership = hub.attach(&topic, ConnectionId::new(1), member);
    membership.subscribed().await.unwrap();
    let mut follow = hub.follow(&topic, None);
    broker.lose_publications(1, LossNotice::Lagged);
    let publish = || publisher.publish(&topic, said("a"), PublishOptions::default());
    publish().await.unwrap().await.unwrap();
    publish().await.unwrap().await.unwrap();
    assert_eq!(next(&mut follow).await, "gap ?..?");
    assert!(next(&mut follow).await.starts_with("? "));
    inbox.expect(&["a"]).await;
}

/// What a run of the property does next.
#[derive(Debug, Clone)]
enum Step {
    Publish(u64),
    Lose(usize, u8),
    Take(usize),
    /// Calls of the kind fail.
    Fail(bool, usize),
    Wait(u64),
    /// The consumer restarts from the position that it saved.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40_u64).prop_map(Step::Publish),
        1 => (400..2_000_u64).prop_map(Step::Publish),
        2 => (1..30_usize, 0..3_u8).prop_map(|(n, notice)| Step::Lose(n, notice)),
        4 => (1..400_usize).prop_map(Step::Take),
        1 => (any::<bool>(), 1..4_usize).prop_map(|(reads, n)| Step::Fail(reads, n)),
        2 => (0..35_000_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// The consumer of a property's run: it saves the position of each item.
struct Consumer {
    follow: Follow,
    saved: Position,
    /// Offsets that gaps have covered.
    skipped: u64,
}

impl Consumer {
    /// Takes at most so many of the items that come without a pause.
    async fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Ok(item) = timeout(Duration::from_secs(100), self.follow.recv()).await else {
                return;
            };
            let item = item.expect("the follow goes on");
            let position = item.position().expect("a position");
            match &item {
                Followed::Publication { payload, .. } => {
                    assert_eq!(position.offset, self.saved.offset + 1, "{item:?}");
                    assert_eq!(*payload, position.offset.to_string());
                }
                Followed::Gap { from, .. } => {
                    assert_eq!(*from, Some(self.saved));
                    assert!(position.offset > self.saved.offset, "{item:?}");
                    self.skipped += position.offset - self.saved.offset;
                }
                other => panic!("{other:?}"),
            }
            self.saved = position;
        }
    }
}

async fn run(steps: Vec<Step>, kept: u32) {
    let mut world = World::new(Retention::new(kept, 16 << 20, Duration::from_secs(1 << 20)));
    let saved = Position::default();
    let follow = world.follower.follow(&world.topic, Some(saved));
    let mut consumer = Consumer { follow, saved, skipped: 0 };
    for step in steps {
        match step {
            Step::Publish(count) => drop(world.publish(count).await),
            Step::Lose(count, notice) => {
                let notices = [LossNotice::Nothing, LossNotice::Lagged, LossNotice::Interrupted];
                world.broker.lose_publications(count, notices[notice as usize]);
            }
            Step::Take(count) => consumer.take(count).await,
            Step::Fail(reads, count) => {
                let call = if reads { Call::History } else { Call::Subscribe };
                world.broker.fail_next(call, count);
            }
            Step::Wait(millis) => sleep(Duration::from_millis(millis)).await,
            Step::Restart => {
                consumer.follow = world.follower.follow(&world.topic, Some(consumer.saved));
            }
        }
    }
    consumer.take(usize::MAX).await;
    assert_eq!(consumer.saved.offset, world.published, "all arrives");
    let is_kept = world.published <= u64::from(kept);
    assert!(consumer.skipped == 0 || !is_kept, "{} are missing", consumer.skipped);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn each_publication_arrives_once_and_in_order(
        steps in prop::collection::vec(step(), 1..40),
        kept in prop_oneof![Just(100_000_u32), 1..600_u32],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps, kept));
    }
}
