//! Who is in a topic, and how nodes learn of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use chat_core::{Item, Occupancy, Occupant, PresenceChange, Roster, Topic};
use futures_util::FutureExt;
use tokio::task::yield_now;

use super::content::NAMES;
use super::{assert_joined, assert_left};
use crate::broker::Broker;
use crate::events::{BrokerEvent, BrokerEvents};
use crate::presence::Departure;
use crate::publish::PublishOptions;
use crate::testing::node::{Change, Node, change, occupant, persistent, room, step, user};

/// However many nodes say it, and however often, a user comes once, with the first, and
/// goes once, with the last. The subscribed nodes are told of both, and of nothing else, in
/// numbers without a hole; what can be asked agrees with what was told.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn users_come_and_go_once<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (mut a, mut b) = (Node::new(connect().await), Node::new(connect().await));
    let mut watcher = Node::new(connect().await);
    let topic = room("presence");
    for node in [&a, &watcher] {
        node.subscribe(std::slice::from_ref(&topic)).await;
    }
    let version = two_users_come(&a, &b, &mut watcher, &topic).await;
    two_users_go(&a, &b, &mut watcher, &topic, version).await;

    a.presence().enter(&topic, occupant("u"));
    let came = watcher.change().await;
    assert_joined(&came, &topic, "u", 1);
    assert!(came.version > version + 3, "an empty topic may begin anew, and not lower");
    watcher.assert_quiet("all was told once").await;
    let at_a: Vec<u64> = a
        .arrived_events()
        .await
        .into_iter()
        .filter(|event| matches!(event, BrokerEvent::Presence { .. }))
        .map(|event| change(event).version)
        .collect();
    let told = (version..=version + 3).chain([came.version]);
    assert!(at_a.into_iter().eq(told), "a node hears of its own users, too");
    b.assert_quiet("a node that is not subscribed is not told").await;
}

/// One user comes at both nodes, and another at one. Returns the version of the first.
async fn two_users_come(a: &Node, b: &Node, watcher: &mut Node, topic: &Topic) -> u64 {
    a.presence().enter(topic, occupant("u"));
    let came = watcher.change().await;
    assert_joined(&came, topic, "u", 1);
    assert!(came.version > 0, "0 is the version of a topic with nobody in it");
    let version = came.version;

    a.presence().enter(topic, occupant("u"));
    b.presence().enter(topic, occupant("u"));
    b.presence().enter(topic, occupant("u"));
    // What this node said before is known once this is.
    b.deliver(topic, "fence", PublishOptions::default()).await;
    assert_eq!(&watcher.next().await.payload[..], b"fence");
    b.presence().enter(topic, occupant("v"));
    let came = watcher.change().await;
    assert_joined(&came, topic, "v", 2);
    assert_eq!(came.version, version + 1, "it is numbered without a hole");
    let occupants = vec![occupant("u"), occupant("v")];
    let expected = Occupancy { version: version + 1, count: 2, occupants };
    for node in [a, b, &*watcher] {
        assert_eq!(node.occupancy(topic, 10).await, expected);
    }
    version
}

/// Both go again, from wherever they are.
async fn two_users_go(a: &Node, b: &Node, watcher: &mut Node, topic: &Topic, version: u64) {
    let expected = watcher.occupancy(topic, 10).await;
    a.presence().leave(topic, &user("u"));
    a.presence().leave(topic, &user("u"));
    a.presence().leave(topic, &user("v"));
    b.presence().leave(topic, &user("stranger"));
    watcher.assert_quiet("another node still says so").await;
    assert_eq!(watcher.occupancy(topic, 10).await, expected);
    b.presence().leave(topic, &user("u"));
    let left = watcher.change().await;
    assert_left(&left, topic, "u", 1);
    assert_eq!(left.version, version + 2);
    b.presence().leave(topic, &user("v"));
    let left = watcher.change().await;
    assert_left(&left, topic, "v", 0);
    assert_eq!(left.version, version + 3);
    assert_eq!(watcher.occupancy(topic, 10).await, Occupancy::default());
}

/// What a node says of a user last is what counts, whichever node it is: in the list, in an event
/// of its own, and when the user leaves.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn latest_name_of_a_user_counts<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, b) = (Node::new(connect().await), Node::new(connect().await));
    let mut watcher = Node::new(connect().await);
    let topic = room("names");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    let named = |name: &str| Occupant { info: Bytes::from(name.to_owned()), ..occupant("u") };
    a.presence().enter(&topic, named("Ann"));
    let mut version = watcher.change().await.version;
    // One node changes the name, another has a second name, the first has its name again.
    for (node, name) in [(&a, "Anna"), (&b, "Annie"), (&a, "Anna"), (&b, "Annie")] {
        for _ in 0..2 {
            node.presence().enter(&topic, named(name));
        }
        version += 1;
        let renamed = watcher.change().await;
        let (change, occupant) = (PresenceChange::Renamed, named(name));
        assert_eq!(
            renamed,
            Change { topic: topic.clone(), change, occupant, version, count: 1 },
            "it is told once"
        );
        let expected = Occupancy { version, count: 1, occupants: vec![named(name)] };
        assert_eq!(watcher.occupancy(&topic, 9).await, expected);
    }
    assert_eq!(
        resolved(b.presence().leave(&topic, &user("u"))).await,
        None,
        "another node is left"
    );
    assert_eq!(resolved(a.presence().leave(&topic, &user("u"))).await, Some(version + 1));
    let left = watcher.change().await;
    assert_eq!((left.change, left.version), (PresenceChange::Left, version + 1));
    assert_eq!(left.occupant, named("Annie"), "by the latest name, though it is of another node");
    assert_eq!(resolved(a.presence().leave(&topic, &user("u"))).await, None, "who is not there");
    watcher.assert_quiet("all was told").await;
}

async fn resolved(departure: Departure) -> Option<u64> {
    step("the departure", departure.map(Ok)).await
}

/// A topic that nobody listened to, and that emptied meanwhile, does not count back.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn presence_is_numbered_upwards<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, mut watcher) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("upwards");
    let mut last = 0;
    for _ in 0..5 {
        watcher.subscribe(std::slice::from_ref(&topic)).await;
        a.presence().enter(&topic, occupant("u"));
        let came = watcher.change().await;
        assert_joined(&came, &topic, "u", 1);
        assert!(came.version > last, "{} after {last}", came.version);
        assert_eq!(watcher.occupancy(&topic, 1).await.version, came.version);
        a.presence().leave(&topic, &user("u"));
        let left = watcher.change().await;
        assert_eq!(left.version, came.version + 1);
        last = left.version;
        watcher.unsubscribe(std::slice::from_ref(&topic)).await;
    }
}

/// Many topics are asked in one call, in the order asked; of one with more occupants than
/// the limit, only the count is told.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn occupants_are_listed_up_to_a_limit<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    const USERS: usize = 20;
    let (a, b) = (Node::new(connect().await), Node::new(connect().await));
    let mut watcher = Node::new(connect().await);
    let (full, single, empty) = (room("full"), room("single"), room("empty"));
    watcher.subscribe(&[full.clone(), single.clone()]).await;
    let mut expected: Vec<Occupant> = (0..USERS).map(|n| occupant(&n.to_string())).collect();
    for (n, occupant) in expected.iter().enumerate() {
        let node = if n % 2 == 0 { &a } else { &b };
        node.presence().enter(&full, occupant.clone());
    }
    a.presence().enter(&single, occupant("u"));
    let mut versions = Vec::new();
    let mut counts = BTreeSet::new();
    for _ in 0..=USERS {
        let change = watcher.change().await;
        if change.topic == full {
            versions.push(change.version);
            counts.insert(change.count);
        }
    }
    assert!(versions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{versions:?}");
    assert!(counts.into_iter().eq(1..=USERS as u32));

    expected.sort_by(|a, b| a.user.cmp(&b.user));
    let listed = watcher.occupancy(&full, USERS).await;
    assert_eq!(listed.occupants, expected);
    let last = versions.last().copied();
    assert_eq!((Some(listed.version), listed.count), (last, USERS as u32));
    for limit in [USERS - 1, 1, 0] {
        let counted = Occupancy { occupants: Vec::new(), ..listed.clone() };
        assert_eq!(watcher.occupancy(&full, limit).await, counted, "at most {limit}");
    }
    let topics = [single.clone(), empty.clone(), full, empty, single];
    let asked = step("occupancy", watcher.presence().occupancy(&topics, 5)).await;
    let counts: Vec<_> = asked.iter().map(|one| (one.count, one.occupants.len())).collect();
    assert_eq!(counts, [(1, 1), (0, 0), (USERS as u32, 0), (0, 0), (1, 1)]);
    assert_eq!(asked[1], Occupancy::default());
}

/// Who comes is known before what is published to the topic afterwards; who goes leaves
/// after what was published before.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn presence_keeps_its_place_among_publications<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    const ROUNDS: usize = 30;
    let (a, mut watcher) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("places");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    for round in 0..ROUNDS {
        // Whoever says something and goes, or comes and says something, waits for nothing.
        let name = round.to_string();
        let delivery = if round % 2 == 0 { persistent() } else { PublishOptions::default() };
        a.presence().enter(&topic, occupant(&name));
        let mut receipts = Vec::new();
        for text in ["hello", "goodbye"] {
            let place = a.broker.publish(&topic, text.into(), delivery.clone());
            receipts.push(step("publish", place).await);
        }
        a.presence().leave(&topic, &user(&name));
        assert_joined(&watcher.change().await, &topic, &name, 1);
        for text in ["hello", "goodbye"] {
            assert_eq!(watcher.next().await.payload, text);
        }
        assert_left(&watcher.change().await, &topic, &name, 0);
        for receipt in receipts {
            step("the receipt", receipt).await;
        }
    }
}

/// Names with characters that mean something to a backend, and information of any bytes,
/// come back as they were said, in events and when asked.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn presence_passes_unchanged<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, mut watcher) = (Node::new(connect().await), Node::new(connect().await));
    let all_bytes: Vec<u8> = (0..=255).collect();
    let infos = [Vec::new(), vec![0], b"\r\n$-1\r\n".to_vec(), vec![0xff, 0xfe], all_bytes];
    let long = "x".repeat(128);
    let names = NAMES.iter().copied().chain([&*long]);
    let occupants: Vec<Occupant> = names
        .zip(infos.iter().cycle())
        .map(|(name, info)| Occupant { user: user(name), info: Bytes::from(info.clone()) })
        .collect();
    for name in ["*", "{}", "a:b", "%41", "日本語", "\\"] {
        let topic = room(name);
        watcher.subscribe(std::slice::from_ref(&topic)).await;
        let mut said = BTreeSet::new();
        for occupant in &occupants {
            a.presence().enter(&topic, occupant.clone());
            said.insert((occupant.user.clone(), occupant.info.clone()));
        }
        let mut told = BTreeSet::new();
        for _ in &occupants {
            let came = watcher.change().await;
            assert_eq!((&came.topic, came.change), (&topic, PresenceChange::Joined));
            told.insert((came.occupant.user, came.occupant.info));
        }
        assert_eq!(told, said);
        let listed = watcher.occupancy(&topic, occupants.len()).await.occupants;
        let listed: BTreeSet<_> = listed.into_iter().map(|one| (one.user, one.info)).collect();
        assert_eq!(listed, said);
        for occupant in &occupants {
            a.presence().leave(&topic, &occupant.user);
        }
        for _ in &occupants {
            let left = watcher.change().await;
            assert_eq!(left.change, PresenceChange::Left);
            assert!(told.remove(&(left.occupant.user, left.occupant.info)), "once, as it came");
        }
    }
}

/// While users come and go without a pause, a node subscribes again and again: what it asks
/// then, and the events that follow, are the whole truth.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn a_snapshot_and_what_follows_have_no_hole<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    const ROUNDS: usize = 25;
    const LIVE: usize = 20;
    let (a, mut node) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("churn of users");
    let topics = std::slice::from_ref(&topic);
    // Somebody is always there: the version of an empty topic says nothing.
    a.presence().enter(&topic, occupant("resident"));
    a.deliver(&topic, "", PublishOptions::default()).await;
    let stop = AtomicBool::new(false);
    let churn = async {
        for n in (0..8).cycle() {
            let name = n.to_string();
            a.presence().enter(&topic, occupant(&name));
            a.deliver(&topic, "", PublishOptions::default()).await;
            a.presence().leave(&topic, &user(&(n ^ 3).to_string()));
            yield_now().await;
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    let follow = async {
        for _ in 0..ROUNDS {
            node.subscribe(topics).await;
            let mut roster = Roster::new(100);
            roster.ask();
            roster.set(node.occupancy(&topic, 100).await, &mut Vec::new());
            let mut told = Vec::new();
            while told.len() < LIVE {
                feed(&mut roster, node.event().await, &topic, &mut told);
            }
            node.unsubscribe(topics).await;
            node.arrived_events().await;
            node.assert_quiet("after unsubscribe").await;
        }
        node.subscribe(topics).await;
        let mut roster = Roster::new(100);
        roster.ask();
        roster.set(node.occupancy(&topic, 100).await, &mut Vec::new());
        stop.store(true, Ordering::Relaxed);
        roster
    };
    let (mut roster, ()) = tokio::join!(follow, churn);
    a.presence().leave(&topic, &user("resident"));
    while roster.listed().is_none_or(|listed| listed.contains_key(&user("resident"))) {
        feed(&mut roster, node.event().await, &topic, &mut Vec::new());
    }
    for event in node.arrived_events().await {
        feed(&mut roster, event, &topic, &mut Vec::new());
    }
    let truth = node.occupancy(&topic, 100).await;
    let listed = roster.listed().expect("a small room is listed");
    assert!(truth.occupants.iter().map(|one| &one.user).eq(listed.keys()), "{truth:?}, {listed:?}");
    assert_eq!(roster.count(), truth.count);
}

/// Tells the roster of an event, which follows on what it knows.
fn feed(roster: &mut Roster, event: BrokerEvent, topic: &Topic, told: &mut Vec<Item>) {
    if let BrokerEvent::Presence { topic: at, change, occupant, version, count } = event {
        assert_eq!(at, *topic);
        roster.change(version, count, change, occupant, told);
        assert!(!roster.wants_snapshot(), "version {version} follows on a hole");
    }
}
