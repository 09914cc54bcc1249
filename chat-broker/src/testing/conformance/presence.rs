//! Who is in a topic, and the events of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use chat_core::{Item, Occupancy, Occupant, PresenceChange, RoomId, Roster, Topic, UserId};
use futures_util::FutureExt;
use tokio::task::yield_now;

use super::content::NAMES;
use super::node::{Change, Node, change, ephemeral, named, occupant, persistent, room, step, user};
use super::{Bus, ORDERS, assert_joined, assert_left};
use crate::error::BrokerError;
use crate::events::BrokerEvent;
use crate::presence::Departure;

/// However many nodes call `enter`, and however often, a user joins once, with the first, and
/// leaves once, with the last. The subscribed nodes receive both events, and no other, with
/// versions that have no hole; `occupancy` agrees with them.
///
/// Calls `enter`, `leave`, `occupancy`, `publish` and `subscribe`.
pub async fn user_joins_and_leaves_once(bus: &impl Bus) {
    let (mut a, mut b) = (Node::connect(bus).await, Node::connect(bus).await);
    let mut watcher = Node::connect(bus).await;
    let topic = room("presence");
    for node in [&a, &watcher] {
        node.subscribe(std::slice::from_ref(&topic)).await;
    }
    let version = two_users_come(&a, &b, &mut watcher, &topic).await;
    two_users_go(&a, &b, &mut watcher, &topic, version).await;

    a.presence().enter(&topic, occupant("u"));
    let joined = watcher.change().await;
    assert_joined(&joined, &topic, "u", 1);
    assert!(joined.version > version + 3, "an empty topic may begin again, and not lower");
    watcher.assert_quiet("all changes arrived once").await;
    let at_a: Vec<u64> = a
        .arrived_events()
        .await
        .into_iter()
        .filter(|event| matches!(event, BrokerEvent::Presence { .. }))
        .map(|event| change(event).version)
        .collect();
    let received = (version..=version + 3).chain([joined.version]);
    assert!(at_a.into_iter().eq(received), "a node receives the changes of its own users, too");
    b.assert_quiet("a node that is not subscribed receives nothing").await;
}

/// One user joins at both nodes, and another at one. Returns the version of the first.
async fn two_users_come(a: &Node, b: &Node, watcher: &mut Node, topic: &Topic) -> u64 {
    a.presence().enter(topic, occupant("u"));
    let joined = watcher.change().await;
    assert_joined(&joined, topic, "u", 1);
    assert!(joined.version > 0, "0 is the version of an empty topic");
    let version = joined.version;

    a.presence().enter(topic, occupant("u"));
    b.presence().enter(topic, occupant("u"));
    b.presence().enter(topic, occupant("u"));
    // What this node said before is known once this is.
    b.deliver(topic, "fence", ephemeral()).await;
    assert_eq!(&watcher.next().await.payload[..], b"fence");
    b.presence().enter(topic, occupant("v"));
    let joined = watcher.change().await;
    assert_joined(&joined, topic, "v", 2);
    assert_eq!(joined.version, version + 1, "it is numbered without a hole");
    let occupants = vec![occupant("u"), occupant("v")];
    let expected = Occupancy::new(version + 1, 2, occupants);
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

/// The latest information of a user counts, whichever node gave it: in the list, in an event of its
/// own, and in the event of the leave.
///
/// Calls `enter`, `leave`, `occupancy`, `publish` and `subscribe`.
pub async fn latest_name_of_a_user_counts(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let mut watcher = Node::connect(bus).await;
    let topic = room("names");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    let named = |name: &str| Occupant::new(occupant("u").user, Bytes::from(name.to_owned()));
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
            "it arrives once"
        );
        let expected = Occupancy::new(version, 1, vec![named(name)]);
        assert_eq!(watcher.occupancy(&topic, 9).await, expected);
    }
    for node in [&b, &a] {
        resolved(node.presence().leave(&topic, &user("u"))).await;
    }
    let left = watcher.change().await;
    assert_eq!((left.change, left.version), (PresenceChange::Left, version + 1));
    assert_eq!(left.occupant, named("Annie"), "by the latest name, though it is of another node");
    watcher.assert_quiet("all changes arrived").await;
}

/// [`Departure`] resolves with the version of the event of the leave, and with `None` if there is
/// no such event: another node holds the user, or the user was not there. If the node holds the
/// user again by then, it is `None` or the version of an event that arrives.
///
/// Calls `enter`, `leave`, `publish` and `subscribe`.
pub async fn leave_resolves_with_the_version_of_its_event(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let mut watcher = Node::connect(bus).await;
    let topic = room("departures");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    for node in [&a, &b] {
        node.presence().enter(&topic, occupant("u"));
        node.deliver(&topic, "", ephemeral()).await;
    }
    let leave =
        async |node: &Node, name| resolved(node.presence().leave(&topic, &user(name))).await;
    assert_eq!(leave(&a, "stranger").await, None, "the user was not there");
    assert_eq!(leave(&a, "u").await, None, "the user is at another node");
    watcher.arrived_events().await;
    let version = leave(&b, "u").await;
    assert_eq!(version, Some(watcher.change().await.version));
    assert_eq!(leave(&b, "u").await, None, "the user has left");

    // Whether a user who is back at once has left is for the broker to decide.
    a.presence().enter(&topic, occupant("u"));
    a.deliver(&topic, "", ephemeral()).await;
    let departure = a.presence().leave(&topic, &user("u"));
    a.presence().enter(&topic, occupant("u"));
    let version = resolved(departure).await;
    let events = watcher.arrived_events().await;
    let has_arrived = |expected: u64| {
        let is_it = |event: &BrokerEvent| match event {
            BrokerEvent::Presence { change, version, .. } => {
                *change == PresenceChange::Left && *version == expected
            }
            _ => false,
        };
        events.iter().any(is_it)
    };
    assert!(version.is_none_or(has_arrived), "{version:?}: {events:?}");
}

/// After `close`, `occupancy` fails with `Closed`, `enter` does nothing and `leave` resolves with
/// `None`.
///
/// Calls `enter`, `leave`, `occupancy`, `publish`, `subscribe` and `close`.
pub async fn presence_ends_with_close(bus: &impl Bus) {
    let (closed, mut watcher) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("closed");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    closed.broker.close().await;
    let outcome = closed.presence().occupancy(std::slice::from_ref(&topic), 9).await;
    assert!(matches!(outcome, Err(BrokerError::Closed)), "{outcome:?}");
    closed.presence().enter(&topic, occupant("u"));
    assert_eq!(resolved(closed.presence().leave(&topic, &user("u"))).await, None);
    watcher.assert_quiet("a closed node announces no user").await;
    assert_eq!(watcher.occupancy(&topic, 9).await, Occupancy::default());
}

async fn resolved(departure: Departure) -> Option<u64> {
    step("the departure", departure.map(Ok)).await
}

/// The versions of a topic rise, though it is empty and without subscribers in between.
///
/// Calls `enter`, `leave`, `occupancy`, `subscribe` and `unsubscribe`.
pub async fn presence_versions_rise(bus: &impl Bus) {
    let (a, mut watcher) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("upwards");
    let mut last = 0;
    for _ in 0..5 {
        watcher.subscribe(std::slice::from_ref(&topic)).await;
        a.presence().enter(&topic, occupant("u"));
        let joined = watcher.change().await;
        assert_joined(&joined, &topic, "u", 1);
        assert!(joined.version > last, "{} after {last}", joined.version);
        assert_eq!(watcher.occupancy(&topic, 1).await.version, joined.version);
        a.presence().leave(&topic, &user("u"));
        let left = watcher.change().await;
        assert_eq!(left.version, joined.version + 1);
        last = left.version;
        watcher.unsubscribe(std::slice::from_ref(&topic)).await;
    }
}

/// Of a topic with more occupants than the limit, `occupancy` gives only the count.
///
/// Calls `enter`, `occupancy` and `subscribe`.
pub async fn occupants_are_listed_up_to_a_limit(bus: &impl Bus) {
    const USERS: usize = 20;
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let mut watcher = Node::connect(bus).await;
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
        let counted = Occupancy::new(listed.version, listed.count, Vec::new());
        assert_eq!(watcher.occupancy(&full, limit).await, counted, "at most {limit}");
    }
    let topics = [single.clone(), empty.clone(), full, empty, single];
    let asked = step("occupancy", watcher.presence().occupancy(&topics, 5)).await;
    let counts: Vec<_> = asked.iter().map(|one| (one.count, one.occupants.len())).collect();
    assert_eq!(counts, [(1, 1), (0, 0), (USERS as u32, 0), (0, 0), (1, 1)]);
}

/// `occupancy` gives one answer for each topic, in the order asked, also for a topic that was asked
/// for twice and for one without occupants; none for no topic; and takes 2,000 topics.
///
/// Calls `enter`, `occupancy` and `publish`.
pub async fn occupancies_are_answered_in_the_order_asked(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let topics: [Topic; 4] = std::array::from_fn(|n| room(&format!("occupancies {n}")));
    // As many occupants as its number says.
    for (n, topic) in topics.iter().enumerate() {
        for nth in 0..n {
            node.presence().enter(topic, occupant(&nth.to_string()));
        }
        node.deliver(topic, "", ephemeral()).await;
    }
    for order in ORDERS {
        let asked: Vec<Topic> = order.iter().map(|n| topics[*n].clone()).collect();
        let occupancies = step("occupancy", node.presence().occupancy(&asked, 10)).await;
        let counts: Vec<usize> = occupancies.iter().map(|found| found.count as usize).collect();
        assert_eq!(counts, order, "one answer for each topic, in the order asked");
        assert!(occupancies.iter().all(|found| found.occupants.len() == found.count as usize));
    }
    let unknown: Vec<Topic> = (0..2000).map(|n| room(&format!("nobody {n}"))).collect();
    let occupancies = step("occupancy", node.presence().occupancy(&unknown, 10)).await;
    assert_eq!(occupancies, vec![Occupancy::default(); unknown.len()]);
}

/// `rooms` lists each room that has occupants at any node once, with their number, page by page, and no
/// user's topic; and of these those whose names have the prefix. A broker that cannot list them returns
/// [`Unsupported`](BrokerError::Unsupported), and passes.
///
/// Calls `enter`, `leave`, `publish` and `rooms`.
pub async fn occupied_rooms_are_listed_in_pages(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    match a.presence().rooms("", None, 1).await {
        Err(BrokerError::Unsupported(_)) => return,
        page => drop(page.expect("a page of rooms")),
    }
    // The bus may have rooms of other cases.
    let Topic::Room(run) = room("run") else { return };
    let name = |name: &str| RoomId::new(format!("{run} {name}")).expect("a valid name");
    let names = ["1", "10", "2", "A", "a", "a b", "*", "{}", "%41", "日本語", "\\", "~"].map(name);
    for (nth, room) in names.iter().enumerate() {
        let topic = Topic::Room(room.clone());
        a.presence().enter(&topic, occupant("u"));
        b.presence().enter(&topic, occupant("u"));
        if nth % 2 == 0 {
            b.presence().enter(&topic, occupant("v"));
        }
        // Joins precede what their nodes publish.
        a.deliver(&topic, "", ephemeral()).await;
        b.deliver(&topic, "", ephemeral()).await;
    }
    let own = named(run.as_str(), |name| UserId::new(name).map(Topic::User));
    b.presence().enter(&own, occupant("u"));
    b.deliver(&own, "", ephemeral()).await;
    let expected: BTreeMap<RoomId, u32> = names
        .iter()
        .zip([2, 1].into_iter().cycle())
        .map(|(room, count)| (room.clone(), count))
        .collect();
    let mut orders = Vec::new();
    for limit in [1, 3, names.len(), usize::MAX] {
        let listed = listed(&a, run.as_str(), limit).await;
        let counts: BTreeMap<_, _> = listed.iter().cloned().collect();
        assert_eq!((listed.len(), &counts), (names.len(), &expected), "pages of {limit}");
        orders.push(listed);
    }
    assert!(orders.iter().all(|order| *order == orders[0]), "all pages have one order: {orders:?}");
    let mut plain = orders.remove(0);
    plain.retain(|(room, _)| names[..5].contains(room));
    assert!(plain.iter().map(|(room, _)| room).eq(&names[..5]), "by the bytes of the names");
    let ones = listed(&b, name("1").as_str(), 5).await;
    assert!(ones.iter().map(|(room, _)| room).eq(&names[..2]), "{ones:?}");
    let missing = listed(&b, name("missing").as_str(), 5).await;
    assert_eq!(missing, []);

    // A room is listed until its last user has left.
    let room = Topic::Room(names[1].clone());
    a.presence().leave(&room, &user("u"));
    a.deliver(&room, "", ephemeral()).await;
    assert_eq!(listed(&a, names[1].as_str(), 5).await, [(names[1].clone(), 1)]);
    b.presence().leave(&room, &user("u")).await;
    assert_eq!(listed(&a, names[1].as_str(), 5).await, []);
}

/// All pages, with at most `limit` rooms in each.
async fn listed(node: &Node, prefix: &str, limit: usize) -> Vec<(RoomId, u32)> {
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = step("rooms", node.presence().rooms(prefix, after.as_ref(), limit)).await;
        assert!(page.rooms.len() <= limit, "{} rooms in a page of {limit}", page.rooms.len());
        listed.extend(page.rooms.into_iter().map(|one| (one.room, one.count)));
        after = page.next;
        if after.is_none() {
            return listed;
        }
    }
}

/// A join arrives before what is published to the topic after it, and a leave after what was
/// published before it.
///
/// Calls `enter`, `leave`, `publish` and `subscribe`.
pub async fn presence_keeps_its_order_among_publications(bus: &impl Bus) {
    const ROUNDS: usize = 30;
    let (a, mut watcher) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("places");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    for round in 0..ROUNDS {
        // Nothing is awaited in between.
        let name = round.to_string();
        let delivery = if round % 2 == 0 { persistent() } else { ephemeral() };
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

/// Names with characters that mean something to a backend, and information of any bytes, are in
/// events and in answers as they were given.
///
/// Calls `enter`, `leave`, `occupancy` and `subscribe`.
pub async fn presence_passes_unchanged(bus: &impl Bus) {
    let (a, mut watcher) = (Node::connect(bus).await, Node::connect(bus).await);
    let all_bytes: Vec<u8> = (0..=255).collect();
    let infos = [Vec::new(), vec![0], b"\r\n$-1\r\n".to_vec(), vec![0xff, 0xfe], all_bytes];
    let long = "x".repeat(128);
    let names = NAMES.iter().copied().chain([&*long]);
    let occupants: Vec<Occupant> = names
        .zip(infos.iter().cycle())
        .map(|(name, info)| Occupant::new(user(name), Bytes::from(info.clone())))
        .collect();
    for name in ["*", "{}", "a:b", "%41", "日本語", "\\"] {
        let topic = room(name);
        watcher.subscribe(std::slice::from_ref(&topic)).await;
        let mut said = BTreeSet::new();
        for occupant in &occupants {
            a.presence().enter(&topic, occupant.clone());
            said.insert((occupant.user.clone(), occupant.info.clone()));
        }
        let mut received = BTreeSet::new();
        for _ in &occupants {
            let joined = watcher.change().await;
            assert_eq!((&joined.topic, joined.change), (&topic, PresenceChange::Joined));
            received.insert((joined.occupant.user, joined.occupant.info));
        }
        assert_eq!(received, said);
        let listed = watcher.occupancy(&topic, occupants.len()).await.occupants;
        let listed: BTreeSet<_> = listed.into_iter().map(|one| (one.user, one.info)).collect();
        assert_eq!(listed, said);
        for occupant in &occupants {
            a.presence().leave(&topic, &occupant.user);
        }
        for _ in &occupants {
            let left = watcher.change().await;
            assert_eq!(left.change, PresenceChange::Left);
            assert!(received.remove(&(left.occupant.user, left.occupant.info)), "once, as it came");
        }
    }
}

/// While users join and leave without a pause, a node subscribes again and again: the snapshot that
/// it reads then and the events that follow have no hole, and end in what is there.
///
/// Calls `enter`, `leave`, `occupancy`, `publish`, `subscribe` and `unsubscribe`.
pub async fn snapshot_and_events_have_no_hole(bus: &impl Bus) {
    const ROUNDS: usize = 25;
    const LIVE: usize = 20;
    let (a, mut node) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("churn of users");
    let topics = std::slice::from_ref(&topic);
    // A user is always there: the version of an empty topic says nothing.
    a.presence().enter(&topic, occupant("resident"));
    a.deliver(&topic, "", ephemeral()).await;
    let stop = AtomicBool::new(false);
    let churn = async {
        for n in (0..8).cycle() {
            let name = n.to_string();
            a.presence().enter(&topic, occupant(&name));
            a.deliver(&topic, "", ephemeral()).await;
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
            roster.begin_snapshot();
            roster.set(node.occupancy(&topic, 100).await, &mut Vec::new());
            let mut received = Vec::new();
            while received.len() < LIVE {
                feed(&mut roster, node.event().await, &topic, &mut received);
            }
            node.unsubscribe(topics).await;
            node.arrived_events().await;
            node.assert_quiet("after unsubscribe").await;
        }
        node.subscribe(topics).await;
        let mut roster = Roster::new(100);
        roster.begin_snapshot();
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

/// Applies an event to the roster, which follows on what it knows.
fn feed(roster: &mut Roster, event: BrokerEvent, topic: &Topic, received: &mut Vec<Item>) {
    if let BrokerEvent::Presence { topic: at, change, occupant, version, count } = event {
        assert_eq!(at, *topic);
        roster.change(version, count, change, occupant, received);
        assert!(!roster.wants_snapshot(), "version {version} follows on a hole");
    }
}
