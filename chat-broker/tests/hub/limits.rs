//! Joins that a full room refuses.

use std::future::Future;
use std::time::Duration;

use chat_broker::testing::Call;
use chat_broker::{
    BrokerError, Hub, HubConfig, JoinOptions, Membership, MemoryBus, PresenceTracker,
};
use chat_core::{ConnectionId, Position, Retention, Topic};
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::sleep;

use crate::support::{
    Inbox, Member, enter, faulty, join, member, named, occupant, room, say, say_keeping, start,
    start_with,
};

/// A join of a user to a room of at most `max` users, and what its member receives.
fn enter_limited(
    hub: &Hub<Member>,
    topic: &Topic,
    id: u64,
    name: &str,
    max: u32,
) -> (impl Future<Output = Result<Membership<Member>, BrokerError>> + use<>, Inbox) {
    let (member, inbox) = member(1_000);
    let options = JoinOptions::default().occupant(occupant(name)).max_users(max);
    (hub.join_with(topic, ConnectionId::new(id), member, options, ()), inbox)
}

fn assert_full<T>(joined: Result<T, BrokerError>, expected: u32) {
    let Err(BrokerError::RoomFull { max }) = joined else { panic!("{:?}", joined.err()) };
    assert_eq!(max, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_concurrent_joins_succeed_as_there_are_places() {
    let (hub, broker, _) = faulty();
    let topic = room("duel");
    let joins = (0..50).map(|id| {
        let (hub, topic) = (hub.clone(), topic.clone());
        tokio::spawn(async move {
            let options = JoinOptions::default().occupant(occupant(&id.to_string())).max_members(8);
            hub.join(&topic, ConnectionId::new(id), member(100).0, options).await
        })
    });
    let joined: Vec<_> = join_all(joins).await.into_iter().map(Result::unwrap).collect();
    let (members, refused): (Vec<_>, Vec<_>) = joined.into_iter().partition(Result::is_ok);
    assert_eq!((members.len(), hub.members(&topic).len()), (8, 8));
    refused.into_iter().for_each(|refused| assert_full(refused, 8));
    assert_eq!((broker.count(Call::Enter), broker.count(Call::Leave)), (8, 0));
}

#[tokio::test(start_paused = true)]
async fn member_that_waits_for_the_room_has_its_place() {
    let (hub, broker, _) = faulty();
    let topic = room("r");
    broker.hang_next(Call::Subscribe, 1);
    let options = JoinOptions::default().max_members(1);
    let (first, _inbox) = member(8);
    let first = hub.join_with(&topic, ConnectionId::new(1), first, options.clone(), ());
    let again = |id| hub.join(&topic, ConnectionId::new(id), member(8).0, options.clone());
    assert_full(again(2).await, 1);
    drop(first);
    assert_eq!(hub.topics(), 0, "the refused join left nothing");
    broker.release(Call::Subscribe);
    let second = again(3).await.unwrap();
    second.disconnect();
    again(4).await.unwrap();
    let none = JoinOptions::default().max_members(0);
    assert_full(hub.join(&topic, ConnectionId::new(5), member(8).0, none).await, 0);
    assert_eq!(hub.topics(), 0);
}

#[tokio::test(start_paused = true)]
async fn refused_user_leaves_no_trace() {
    let bus = MemoryBus::new();
    let (a, b) = (start(&bus), start(&bus));
    let topic = room("r");
    let (watcher, mut events) = enter(&a, &topic, 1, "watcher").await;
    events.expect(&["+watcher"]).await;
    let (refused, mut received) = enter_limited(&b, &topic, 2, "ann", 1);
    assert_full(refused.await, 1);
    say(&bus.connect().0, &topic, "x").await;
    events.expect(&["1 x"]).await;
    events.expect_silence().await;
    assert_eq!(received.0.recv().await, None, "its member was dropped, and received nothing");
    assert_eq!(b.topics(), 0);

    let (joined, mut received) = enter_limited(&b, &topic, 3, "ann", 2);
    let _ann = joined.await.unwrap();
    events.expect(&["+ann"]).await;
    drop(watcher);
    received.expect(&["-watcher"]).await;
}

/// Another connection of the user is on this server or on another.
#[tokio::test(start_paused = true)]
async fn user_takes_one_place_however_many_connections() {
    let bus = MemoryBus::new();
    let (a, b) = (start(&bus), start(&bus));
    let topic = room("r");
    let (first, mut events) = enter_limited(&a, &topic, 1, "ann", 1);
    let first = first.await.unwrap();
    let (second, _) = enter_limited(&a, &topic, 2, "ann", 1);
    let (third, _) = enter_limited(&b, &topic, 3, "ann", 1);
    let (second, third) = (second.await.unwrap(), third.await.unwrap());
    assert_full(enter_limited(&b, &topic, 4, "bob", 1).0.await, 1);
    drop((second, third));
    events.expect_silence().await;
    assert_full(enter_limited(&b, &topic, 5, "bob", 1).0.await, 1);
    drop(first);
    enter_limited(&b, &topic, 6, "bob", 1).0.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn place_of_a_lost_connection_is_free_after_its_grace() {
    let bus = MemoryBus::new();
    let hub = start_with(&bus, HubConfig::default().grace(Duration::from_secs(5))).0;
    let topic = room("r");
    let join = |id, name| enter_limited(&hub, &topic, id, name, 1).0;
    join(1, "ann").await.unwrap().disconnect();
    assert_full(join(2, "bob").await, 1);
    join(3, "ann").await.expect("the user returns to its place").disconnect();
    sleep(Duration::from_secs(6)).await;
    join(4, "bob").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn user_whose_receipt_is_pending_is_not_dropped_by_another_connection() {
    let (hub, broker, _) = faulty();
    let topic = room("r");
    broker.hold_next(Call::EnterLimited, 1);
    let (first, mut received) = enter_limited(&hub, &topic, 1, "ann", 1);
    let first = tokio::spawn(first);
    while broker.count(Call::EnterLimited) == 0 {
        tokio::task::yield_now().await;
    }
    let (second, _) = enter(&hub, &topic, 2, "ann").await;
    drop(second);
    assert_eq!((broker.count(Call::Enter), broker.count(Call::Leave)), (1, 0));
    say(&*broker, &topic, "x").await;
    received.expect_silence().await;
    broker.release(Call::EnterLimited);
    let first = first.await.unwrap().unwrap();
    assert!(!first.is_detached());
    drop(first);
    assert_eq!(broker.count(Call::Leave), 1);
}

/// Its answer is lost, is an error, or is no longer wanted.
#[tokio::test(start_paused = true)]
async fn user_without_an_answer_leaves() {
    let (hub, broker, _) = faulty();
    let topic = room("r");
    let place_is_free = async || {
        let occupancy = broker.occupancy(std::slice::from_ref(&topic), 9).await.unwrap();
        occupancy[0].count == 0
    };
    broker.fail_next(Call::EnterLimited, 1);
    let failed = enter_limited(&hub, &topic, 1, "ann", 1).0.await;
    assert!(matches!(failed, Err(BrokerError::Unavailable(_))), "{failed:?}");
    assert!(place_is_free().await);

    broker.hold_next(Call::EnterLimited, 1);
    let mut dropped = Box::pin(enter_limited(&hub, &topic, 2, "ann", 1).0);
    while broker.count(Call::EnterLimited) < 2 {
        assert!((&mut dropped).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert!(!place_is_free().await);
    drop(dropped);
    assert!(place_is_free().await);
    assert_eq!(hub.topics(), 0);
}

/// From memory, and from the broker's history.
#[tokio::test(start_paused = true)]
async fn member_of_a_limited_room_receives_what_it_missed() {
    let bus = MemoryBus::new();
    let (hub, publisher) = (start(&bus), bus.connect().0);
    let topic = room("r");
    let retention = Retention::default().messages(600);
    for n in 1..=600 {
        say_keeping(&publisher, &topic, &n.to_string(), retention).await;
    }
    let since = Position { offset: 400, ..hub_position(&hub, &topic).await };
    let (_present, mut events, _) = join(&hub, &topic, 1).await;
    for (id, first) in [(2, 401), (3, 600), (4, 101)] {
        let (member, mut received) = member(1_000);
        let options = JoinOptions::default().occupant(named("ann", "ann")).max_users(1);
        let options = options.since(Position { offset: first - 1, ..since });
        let joining = hub.join(&topic, ConnectionId::new(id), member, options);
        let (ann, ()) = tokio::join!(joining, async {
            for n in first..=600 {
                received.expect(&[&format!("{n} {n}")]).await;
            }
        });
        drop(ann.unwrap());
    }
    for _ in 0..3 {
        events.expect(&["+ann", "-ann"]).await;
    }
}

async fn hub_position(hub: &Hub<Member>, topic: &Topic) -> Position {
    hub.broker().positions(std::slice::from_ref(topic)).await.unwrap()[0]
}
