//! Joins and leaves of topics, and the broker calls that they cause.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use chat_broker::testing::{Call, FaultyBroker, LossNotice};
use chat_broker::{
    Broker, BrokerError, Hub, HubConfig, JoinOptions, Joiner, MemoryBus, PublishOptions, Status,
};
use chat_core::{ConnectionId, Topic};

use crate::support::{
    Member, faulty, join, member, room, said, say, start, start_with, try_join, user,
};

#[tokio::test]
async fn snapshot_and_deliveries_have_no_gap_and_no_repeat() {
    let bus = MemoryBus::new();
    let hub = start(&bus);
    let (publisher, _events) = bus.connect();
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
    let mut memberships = Vec::new();
    for id in 0..50 {
        memberships.push(join(&hub, &topic, id).await);
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    for (_membership, inbox, position) in &mut memberships {
        for offset in *position + 1..=3_000 {
            assert_eq!(inbox.next().await, format!("{offset} {offset}"));
        }
    }
    assert_eq!(hub.stats().gaps, 0);
}

#[tokio::test(start_paused = true)]
async fn empty_topic_lingers_before_unsubscribe() {
    let (hub, broker, _) = faulty();
    let topic = room("r");
    let calls = || (broker.count(Call::Subscribe), broker.count(Call::Unsubscribe));

    let (membership, ..) = join(&hub, &topic, 1).await;
    drop(membership);
    tokio::time::sleep(Duration::from_millis(900)).await;
    let (membership, ..) = join(&hub, &topic, 2).await;
    drop(membership);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(calls(), (1, 0));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(calls(), (1, 1));

    let _membership = join(&hub, &topic, 3).await;
    assert_eq!(calls(), (2, 1));
}

/// A publisher to a user learns how many servers hold that user.
#[tokio::test(start_paused = true)]
async fn topic_of_a_user_does_not_linger() {
    let (hub, broker, publisher) = faulty();
    let topic = Topic::User(user("ann"));
    let membership = hub.attach(&topic, ConnectionId::new(1), member(8).0);
    membership.subscribed().await.unwrap();
    drop(membership);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(broker.count(Call::Unsubscribe), 1);
    let published = publisher.publish(&topic, said("hi"), PublishOptions::default()).await;
    assert_eq!(published.unwrap().await.unwrap().nodes, 0);
}

#[tokio::test(start_paused = true)]
async fn many_first_joins_make_few_calls() {
    let (hub, broker, _) = faulty();
    let joins = (0..1_000).map(|n| {
        let hub = hub.clone();
        tokio::spawn(async move { join(&hub, &room(&format!("r{n}")), n).await })
    });
    for join in joins.collect::<Vec<_>>() {
        join.await.unwrap();
    }
    // Places were dropped with the tasks' results; only the joining matters.
    let calls = broker.calls();
    let topics =
        |kind| calls.iter().filter(|(call, _)| *call == kind).map(|(_, n)| n).sum::<usize>();
    assert_eq!((topics(Call::Subscribe), topics(Call::History)), (1_000, 1_000));
    assert!(calls.len() < 100, "{} calls", calls.len());
}

/// The others wait, and are one call.
#[tokio::test(start_paused = true)]
async fn four_calls_are_under_way_at_a_time() {
    let (hub, broker, _) = faulty();
    broker.hang_next(Call::Subscribe, 9);
    let mut memberships = Vec::new();
    for n in 1..=9 {
        memberships.push(hub.attach(&room(&n.to_string()), ConnectionId::new(n), member(8).0));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(broker.count(Call::Subscribe), 4);
    broker.release(Call::Subscribe);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let fifth = broker.calls().into_iter().filter(|(call, _)| *call == Call::Subscribe).nth(4);
    assert_eq!(fifth, Some((Call::Subscribe, 5)));
}

#[tokio::test(start_paused = true)]
async fn later_joins_make_no_broker_call() {
    let (hub, broker, publisher) = faulty();
    let topic = room("r");
    let mut memberships = vec![join(&hub, &topic, 0).await];
    say(&publisher, &topic, "x").await;
    let calls = broker.calls().len();
    for id in 1..100 {
        memberships.push(join(&hub, &topic, id).await);
    }
    assert_eq!(broker.calls().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn failed_join_leaves_nothing() {
    let (hub, broker, _) = faulty();
    let topic = room("r");
    for call in [Call::Subscribe, Call::History, Call::Occupancy] {
        broker.fail_next(call, 1);
        let refused = try_join(&hub, &topic, 1).await;
        assert!(matches!(refused, Err(BrokerError::Unavailable(_))), "{call:?}");
        assert!(hub.members(&topic).is_empty());
        assert_eq!(hub.topics(), 0);
    }
    let _membership = join(&hub, &topic, 2).await;
    assert_eq!(broker.count(Call::Subscribe), 2, "it was subscribed when the read failed");
}

/// Runs when the join that it is for has failed.
struct AfterFailure<F: FnMut()>(F);

impl<F: FnMut() + Send + 'static> Joiner<Member> for AfterFailure<F> {}

impl<F: FnMut()> Drop for AfterFailure<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The hub fails the joins of a room one after the other. A connection that has dropped its join
/// may join again in between, and the new join is not the one that fails.
#[tokio::test(start_paused = true)]
async fn join_outlives_the_failure_of_an_earlier_one_of_its_connection() {
    let (hub, broker, publisher) = faulty();
    broker.delay(Call::Subscribe, Duration::from_millis(10));
    broker.fail_next(Call::Subscribe, 1);
    let topic = room("r");
    let (again, mut inbox) = member(8);
    let (sender, joins) = std::sync::mpsc::channel();
    let join_again = {
        let (hub, topic) = (hub.clone(), topic.clone());
        move || {
            let (hub, topic, again) = (hub.clone(), topic.clone(), again.clone());
            let joining = async move {
                hub.join(&topic, ConnectionId::new(2), again, JoinOptions::default()).await
            };
            let mut joining = Box::pin(joining);
            assert!(joining.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            sender.send(joining).unwrap();
        }
    };
    let (first, _) = member(8);
    let (options, joiner) = (JoinOptions::default(), AfterFailure(join_again));
    let failing = hub.join_with(&topic, ConnectionId::new(1), first, options, joiner);
    let dropped = async {
        let joining = try_join(&hub, &topic, 2);
        assert!(tokio::time::timeout(Duration::from_millis(1), joining).await.is_err());
    };
    let (failed, ()) = tokio::join!(failing, dropped);
    assert!(matches!(failed, Err(BrokerError::Unavailable(_))), "{failed:?}");
    let _membership = joins.recv().unwrap().await.unwrap();
    say(&publisher, &topic, "hi").await;
    inbox.expect(&["1 hi"]).await;
}

#[tokio::test(start_paused = true)]
async fn unreadable_topic_is_unsubscribed() {
    let (hub, broker, _) = faulty();
    broker.fail_next(Call::History, 1);
    assert!(try_join(&hub, &room("r"), 1).await.is_err());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((broker.count(Call::Subscribe), broker.count(Call::Unsubscribe)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn attached_member_stays_through_an_outage() {
    let (hub, broker, publisher) = faulty();
    broker.fail_next(Call::Subscribe, 3);
    let topic = chat_core::Topic::User(crate::support::user("u"));
    let (first, mut inbox) = member(8);
    let membership = hub.attach(&topic, ConnectionId::new(1), first);
    // Three refusals, a second apart.
    for _ in 0..3 {
        assert!(membership.subscribed().await.is_err());
    }
    membership.subscribed().await.unwrap();
    let payload = crate::support::said("there");
    let delivery = PublishOptions::default();
    publisher.publish(&topic, payload, delivery).await.unwrap().await.unwrap();
    inbox.expect(&["there"]).await;
}

#[tokio::test(start_paused = true)]
async fn dropped_join_leaves_nothing() {
    let (hub, broker, _) = faulty();
    broker.hang_next(Call::Subscribe, 1);
    let topic = room("r");
    let joining = try_join(&hub, &topic, 1);
    assert!(tokio::time::timeout(Duration::from_secs(1), joining).await.is_err());
    assert!(hub.members(&topic).is_empty());
    broker.release(Call::Subscribe);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((broker.count(Call::Subscribe), broker.count(Call::Unsubscribe)), (1, 1));
}

/// The broker limits its own calls, but the call that a join waits for may not even have begun.
#[tokio::test(start_paused = true)]
async fn join_fails_in_time_while_the_broker_is_unavailable() {
    let bus = MemoryBus::new();
    let (broker, _) = bus.connect();
    broker.close().await;
    assert_ne!(broker.status(), Status::Ready);
    let (_open, events) = bus.connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    broker.hang_next(Call::Subscribe, 1);
    let config = HubConfig::default().join_timeout(Duration::from_secs(2));
    let (hub, driver) = Hub::new(broker as Arc<dyn Broker>, events, config);
    tokio::spawn(driver.run());
    let topic = room("r");
    let joining = tokio::time::timeout(Duration::from_secs(3), try_join(&hub, &topic, 1));
    let failed = joining.await.expect("in time");
    assert!(matches!(failed, Err(BrokerError::Unavailable(_))), "{failed:?}");
    assert_eq!(hub.topics(), 0);

    let (attached, _) = member(8);
    let mut membership = hub.attach(&topic, ConnectionId::new(2), attached.clone());
    let rejoining = membership.rejoin(attached, JoinOptions::default());
    let failed = tokio::time::timeout(Duration::from_secs(3), rejoining).await.expect("in time");
    assert!(matches!(failed, Err(BrokerError::Unavailable(_))), "{failed:?}");
    assert_eq!(hub.topics(), 1, "the member stays");
}

#[tokio::test]
async fn topics_of_users_are_no_rooms() {
    let hub = start(&MemoryBus::new());
    let memberships = [room("r"), room("s"), Topic::User(user("ann"))]
        .map(|topic| hub.attach(&topic, ConnectionId::new(1), member(8).0));
    assert_eq!((hub.topics(), hub.rooms()), (3, 2));
    drop(memberships);
    assert_eq!((hub.topics(), hub.rooms()), (0, 0));
}

#[tokio::test]
async fn handle_of_a_member_is_read_until_it_leaves() {
    let hub = start(&MemoryBus::new());
    let topic = room("r");
    let (membership, ..) = join(&hub, &topic, 1).await;
    let members = hub.members(&topic);
    let seat = members.get(ConnectionId::new(1)).unwrap();
    assert_eq!(seat.with(|member| member.closed.lock().unwrap().is_none()), Some(true));
    drop(membership);
    assert_eq!(seat.with(|_| ()), None);
}

#[tokio::test]
async fn debug_of_a_membership_names_its_topic_and_connection() {
    let hub = start(&MemoryBus::new());
    let topic = room("r");
    let (membership, ..) = join(&hub, &topic, 7).await;
    let shown = format!("Membership {{ topic: {topic:?}, id: {:?} }}", ConnectionId::new(7));
    assert_eq!(format!("{membership:?}"), shown);
}

/// The limit is for an outage: a busy broker answers.
#[tokio::test(start_paused = true)]
async fn join_waits_for_a_broker_that_is_ready() {
    let (hub, broker, _) = faulty();
    broker.delay(Call::Subscribe, 3 * HubConfig::default().join_timeout);
    try_join(&hub, &room("r"), 1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn read_of_an_abandoned_join_is_not_used_for_the_next() {
    let (hub, broker, publisher) = faulty();
    broker.hold_next(Call::History, 1);
    let topic = room("r");
    // The history is read for the first, who gives up while the answer is on its way.
    let joining = try_join(&hub, &topic, 1);
    assert!(tokio::time::timeout(Duration::from_millis(100), joining).await.is_err());
    say(&publisher, &topic, "without members").await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let second = tokio::spawn({
        let (hub, topic) = (hub.clone(), topic.clone());
        async move { join(&hub, &topic, 2).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    broker.release(Call::History);
    let (_membership, mut inbox, position) = second.await.unwrap();
    assert_eq!(position, 1);
    say(&publisher, &topic, "hello").await;
    inbox.expect(&["2 hello"]).await;
}

#[tokio::test]
async fn joins_fail_after_the_driver_ends() {
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (broker, events) = chat_broker::testing::FaultyBroker::new(Arc::new(broker), events);
    broker.hang_next(Call::Subscribe, 1);
    let (hub, driver) = Hub::new(broker as Arc<dyn Broker>, events, HubConfig::default());
    let driver = tokio::spawn(driver.run());
    let joining = tokio::spawn({
        let hub = hub.clone();
        async move { try_join(&hub, &room("r"), 1).await.map(drop) }
    });
    while hub.topics() == 0 {
        tokio::task::yield_now().await;
    }
    driver.abort();
    assert!(matches!(joining.await.unwrap(), Err(BrokerError::Closed)));
    let late = try_join(&hub, &room("r"), 2).await;
    assert!(matches!(late, Err(BrokerError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn slow_read_of_one_room_delays_no_other() {
    let bus = MemoryBus::new();
    let (hub, broker) = start_with(&bus, HubConfig::default());
    broker.hang_next(Call::History, 1);
    let stuck = tokio::spawn({
        let hub = hub.clone();
        async move { try_join(&hub, &room("stuck"), 1).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let _membership = join(&hub, &room("other"), 2).await;
    broker.release(Call::History);
    stuck.await.unwrap().unwrap();
}

/// A broker that gives one answer too few, or one too many: joins fail, and none waits without end.
#[tokio::test(start_paused = true)]
async fn answers_that_are_missing_or_too_many_fail_the_join() {
    for call in [Call::History, Call::Occupancy] {
        for fault in [FaultyBroker::shorten_next, FaultyBroker::lengthen_next] {
            let (hub, broker, _) = faulty();
            fault(&broker, call, usize::MAX);
            let joins = ["a", "b", "c"].map(|name| {
                let hub = hub.clone();
                tokio::spawn(async move { try_join(&hub, &room(name), 1).await })
            });
            for join in joins {
                let refused = join.await.unwrap();
                assert!(matches!(refused, Err(BrokerError::Refused(_))), "{refused:?}");
            }
            broker.release(call);
            try_join(&hub, &room("a"), 2).await.expect("a broker that answers");
        }
    }
}

/// All rooms of one call, of which the broker gives one answer too few, once.
#[tokio::test(start_paused = true)]
async fn rooms_of_an_unanswered_call_are_read_again() {
    let (hub, broker, publisher) = faulty();
    for call in [Call::History, Call::Positions] {
        broker.shorten_next(call, 1);
        let joins = (0..8).map(|n| {
            let hub = hub.clone();
            tokio::spawn(async move { join(&hub, &room(&format!("{call:?} {n}")), n).await })
        });
        for (n, joining) in joins.collect::<Vec<_>>().into_iter().enumerate() {
            let (_membership, mut inbox, _) = joining.await.unwrap();
            say(&publisher, &room(&format!("{call:?} {n}")), "x").await;
            assert_eq!(inbox.next().await, "1 x");
        }
    }
}

/// The check after an interruption gets one position too few, or one too many: it is made again.
#[tokio::test(start_paused = true)]
async fn check_with_positions_missing_or_too_many_is_made_again() {
    for fault in [FaultyBroker::shorten_next, FaultyBroker::lengthen_next] {
        let (hub, broker, publisher) = faulty();
        let topic = room("r");
        let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
        broker.lose_publications(1, LossNotice::Interrupted);
        fault(&broker, Call::Positions, 1);
        say(&publisher, &topic, "lost").await;
        assert_eq!(inbox.next().await, "1 lost");
        assert_eq!(broker.count(Call::Positions), 2);
    }
}

/// What is stored of two rooms is damaged: the others are joined, read and repaired.
#[tokio::test(start_paused = true)]
async fn damaged_rooms_fail_alone_until_they_are_mended() {
    let (hub, broker, publisher) = faulty();
    let rooms: Vec<Topic> = (0..8).map(|n| room(&n.to_string())).collect();
    let damaged = [rooms[2].clone(), rooms[5].clone()];
    broker.damage(&damaged);
    let joins = rooms.iter().cloned().map(|topic| {
        let hub = hub.clone();
        tokio::spawn(async move { try_join(&hub, &topic, 1).await })
    });
    for (topic, joining) in rooms.iter().zip(joins.collect::<Vec<_>>()) {
        let failed = joining.await.unwrap().err();
        let expected = damaged.contains(topic).then_some(topic);
        assert_eq!(failed.as_ref().and_then(BrokerError::topic), expected);
    }
    broker.damage(&[]);
    let mut members = Vec::new();
    for topic in &rooms {
        members.push(join(&hub, topic, 2).await);
    }
    // All are checked at once, and one is behind.
    broker.damage(&damaged);
    broker.lose_publications(1, LossNotice::Interrupted);
    say(&publisher, &rooms[7], "missed").await;
    assert_eq!(members[7].1.next().await, "1 missed");
    broker.damage(&[]);
    say(&publisher, &rooms[2], "mended").await;
    assert_eq!(members[2].1.next().await, "1 mended");
}

/// However many rooms are damaged, each costs a few calls.
#[tokio::test(start_paused = true)]
async fn many_damaged_rooms_cost_few_calls() {
    const ROOMS: usize = 256;
    let (hub, broker, publisher) = faulty();
    let rooms: Vec<Topic> = (0..ROOMS).map(|n| room(&n.to_string())).collect();
    let mut members = Vec::new();
    for topic in &rooms {
        members.push(join(&hub, topic, 1).await);
    }
    broker.damage(&rooms[1..]);
    let before = broker.calls().len();
    broker.lose_publications(1, LossNotice::Interrupted);
    say(&publisher, &rooms[0], "missed").await;
    assert_eq!(members[0].1.next().await, "1 missed");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let topics: usize = broker.calls()[before..].iter().map(|(_, topics)| topics).sum();
    let calls = broker.calls().len() - before;
    assert!(calls < 4 * ROOMS && topics < 12 * ROOMS, "{calls} calls for {topics} topics");
}
