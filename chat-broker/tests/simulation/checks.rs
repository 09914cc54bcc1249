//! What must hold after the network has healed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chat_core::Position;

use crate::simulation::node::{self, Entry};
use crate::simulation::script::{Data, ROOMS, Script, USERS};
use crate::simulation::world::{Listener, World};

/// How long a publication may take: the deadline, and what was sent then waits 2 s for its answer.
const PUBLISH_LIMIT: Duration = Duration::from_secs(8);

/// Within this, what was disturbed agrees again.
const SETTLED: Duration = Duration::from_secs(60);

pub(crate) async fn heal_and_check(world: &mut World, script: &Script) {
    world.heal(SETTLED).await;
    assert_eq!(world.under_way(), 0, "calls that do not return");
    assert!(world.nodes().all(|node| node.is_ready()), "a broker is unavailable");
    check_that_publishing_works(world).await;
    for listener in &world.listeners {
        check_log(&listener.log.lock().unwrap(), script);
    }
    check_copies(world, script);
    check_sequences(world, script);
    check_acknowledged(world, script);
    check_rosters(world).await;
    check_that_nothing_is_left(world).await;
}

/// Every node publishes in every room, and every member receives it.
async fn check_that_publishing_works(world: &mut World) {
    let before = world.published.lock().unwrap().len();
    for node in 0..world.nodes().count() {
        for room in 0..ROOMS.len() {
            world.publish(node, room, false);
            // One by one: a short queue of events would lose some.
            world.wait(Duration::from_millis(100)).await;
        }
    }
    world.wait(Duration::from_secs(10)).await;
    let published = world.published.lock().unwrap();
    for publication in &*published {
        for (outcome, took) in &publication.outcomes {
            assert!(*took <= PUBLISH_LIMIT, "{took:?}, and then {outcome:?}: {publication:?}");
        }
    }
    for publication in &published[before..] {
        assert!(publication.acknowledged().is_some(), "{publication:?}");
        for listener in world.listeners.iter().filter(|listener| listener.is_member) {
            let is_there = has(listener, &publication.text);
            let is_for_it = listener.slot.2 == publication.room;
            assert_eq!(is_there, is_for_it, "{:?}: {publication:?}", listener.slot);
        }
    }
}

/// The roster that each member was given, with the changes that it received, is that of its node.
fn check_copies(world: &World, script: &Script) {
    for (slot, membership) in (0..ROOMS.len()).flat_map(|room| world.members(room)) {
        let is_of_it = |listener: &&Listener| listener.is_member && listener.slot == slot;
        let listener = world.listeners.iter().find(is_of_it).expect("a listener");
        let log = listener.log.lock().unwrap();
        let copy: Vec<_> = check_log(&log, script).into_iter().collect();
        let roster = node::roster(membership);
        let roster: Vec<_> = roster.iter().map(|one| id_and_name(one)).collect();
        assert_eq!(copy, roster, "{slot:?}: {log:?}");
    }
}

/// One member's log: each message once, offsets upwards, and holes only where a gap says so; joins
/// and leaves of a user take turns. Returns the ids and names of who is there at the end.
///
/// What Redis loses before it was answered is sent again: it may stand in two sequences, before the
/// gap and after it.
fn check_log<'a>(log: &'a [Entry], script: &Script) -> BTreeMap<&'a str, &'a str> {
    let [Entry::Welcome(welcome, occupants), rest @ ..] = log else {
        panic!("no welcome: {log:?}")
    };
    let mut texts = BTreeSet::new();
    let mut here = *welcome;
    let mut present: BTreeMap<&str, &str> = occupants.iter().map(|one| id_and_name(one)).collect();
    for entry in rest {
        match entry {
            Entry::Message(position, text) => {
                assert!(texts.insert(text), "{text} twice: {log:?}");
                if let Some(position) = position {
                    let before = here.unwrap_or_default();
                    let is_next = *position == Position { offset: before.offset + 1, ..before };
                    let is_first = before == Position::default() && position.offset == 1;
                    assert!(is_next || is_first, "{position:?} after {before:?}: {log:?}");
                    here = Some(*position);
                }
            }
            Entry::Gap(position) => {
                here = position.or(here);
                if script.loses_data() {
                    texts.clear();
                }
            }
            Entry::Joined(who) => {
                let (id, name) = id_and_name(who);
                assert_eq!(present.insert(id, name), None, "{id} joined twice: {log:?}");
            }
            Entry::Renamed(who) => {
                let (id, name) = id_and_name(who);
                assert!(present.insert(id, name).is_some(), "{id} is not there: {log:?}");
            }
            Entry::Left(who) => {
                let (id, _) = id_and_name(who);
                assert!(present.remove(id).is_some(), "{id} left twice: {log:?}");
            }
            Entry::Welcome(..) | Entry::Closed => panic!("{entry:?}: {log:?}"),
        }
    }
    present
}

fn id_and_name(who: &str) -> (&str, &str) {
    who.split_once('=').unwrap()
}

/// All members received the same at one position. With an older copy of its data Redis gives out
/// some positions twice, until the node that has seen them is back.
fn check_sequences(world: &World, script: &Script) {
    if script.has(Data::Old) {
        return;
    }
    let mut sequences = BTreeMap::new();
    for listener in &world.listeners {
        for entry in &*listener.log.lock().unwrap() {
            let Entry::Message(Some(position), text) = entry else { continue };
            let key = (listener.slot.2, position.epoch.as_str().to_owned(), position.offset);
            let known = sequences.entry(key).or_insert_with(|| text.clone());
            assert_eq!(known, text, "{position:?} of {}", ROOMS[listener.slot.2]);
        }
    }
}

/// What was acknowledged was received by all who were there, or a gap covers it.
///
/// Two losses cannot be known of. A node that was killed may be the only one that has seen what an
/// older copy of the data lacks; and a node that found a room empty, and has seen nothing of it
/// when Redis loses the room, finds it empty again.
fn check_acknowledged(world: &World, script: &Script) {
    if script.has(Data::Old) && script.kills_nodes() {
        return;
    }
    for publication in &*world.published.lock().unwrap() {
        let Some(position) = publication.acknowledged().map(|published| published.position) else {
            continue;
        };
        for listener in &world.listeners {
            let was_there = listener.is_member && listener.joined < publication.began;
            if !was_there || listener.slot.2 != publication.room || has(listener, &publication.text)
            {
                continue;
            }
            let log = listener.log.lock().unwrap();
            assert!(
                is_covered(&log, position, script)
                    || script.loses_data() && has_seen_nothing(&log, position),
                "{:?} has not received {publication:?}: {log:?}",
                listener.slot
            );
        }
    }
}

/// Whether the room was empty, and nothing was received of the sequence of `missing`.
fn has_seen_nothing(log: &[Entry], missing: Option<Position>) -> bool {
    let epoch = missing.map(|position| position.epoch);
    let is_of_it = |entry: &Entry| match entry {
        Entry::Message(position, _) => position.map(|position| position.epoch) == epoch,
        _ => false,
    };
    let was_empty = |entry: &Entry| matches!(entry, Entry::Welcome(position, _) if *position == Some(Position::default()));
    log.first().is_some_and(was_empty) && !log.iter().any(is_of_it)
}

/// Whether a gap stands where the message is missing; with an older copy of its data Redis may have
/// given the position to another message before.
fn is_covered(log: &[Entry], missing: Option<Position>, script: &Script) -> bool {
    let is_gap = |entry: &Entry| matches!(entry, Entry::Gap(_));
    if missing.is_none() || script.has(Data::Old) {
        return log.iter().any(is_gap);
    }
    let missing = missing.unwrap_or_default();
    let is_in = |entry: &&Entry, before: bool| match entry {
        Entry::Message(Some(position), _) => {
            position.epoch == missing.epoch && (position.offset < missing.offset) == before
        }
        _ => false,
    };
    log.iter().enumerate().any(|(nth, entry)| {
        is_gap(entry)
            && !log[..nth].iter().any(|entry| is_in(&entry, false))
            && !log[nth..].iter().any(|entry| is_in(&entry, true))
    })
}

fn has(listener: &Listener, text: &str) -> bool {
    let log = listener.log.lock().unwrap();
    log.iter().any(|entry| matches!(entry, Entry::Message(_, received) if received == text))
}

/// The rosters of all nodes, and Redis, list who is there, and under one name.
async fn check_rosters(world: &World) {
    for (nth, room) in ROOMS.iter().enumerate() {
        let expected: BTreeSet<&str> = world.members(nth).map(|(slot, _)| USERS[slot.1]).collect();
        let mut lists = Vec::new();
        for node in world.nodes() {
            lists.push(("Redis".to_owned(), node.occupants(room).await.unwrap()));
        }
        for (slot, membership) in world.members(nth) {
            lists.push((format!("{slot:?}"), node::roster(membership)));
        }
        for (who, list) in &lists {
            let users: BTreeSet<&str> = list.iter().map(|one| id_and_name(one).0).collect();
            assert_eq!(users, expected, "who is in {room} according to {who}: {list:?}");
            assert_eq!(*list, lists[0].1, "the names in {room} according to {who}");
        }
    }
}

/// When everybody has left, neither presence nor subscriptions are left.
async fn check_that_nothing_is_left(world: &mut World) {
    let subscribers =
        |world: &World, room: &str| world.redis.subscribers(&format!("chat:{{r.{room}}}"));
    for (nth, room) in ROOMS.iter().enumerate() {
        let nodes: BTreeSet<usize> = world.listening(nth).collect();
        assert_eq!(subscribers(world, room), nodes.len(), "nodes that are subscribed to {room}");
    }
    world.leave_all();
    world.wait(Duration::from_secs(10)).await;
    for room in ROOMS {
        assert_eq!(subscribers(world, room), 0, "subscriptions to {room} are left");
    }
    let keys = world.redis.command(&["KEYS", "*"]);
    let is_presence = |key: &&str| {
        key.ends_with(":members")
            || key.contains(":on:")
            || key.contains(":rooms:")
            || *key == "chat:occupied"
    };
    let left: Vec<_> = keys.lines().filter(is_presence).collect();
    assert!(left.is_empty(), "keys are left: {left:?}");
    let leases = world.redis.command(&["ZCARD", "chat:nodes"]);
    assert_eq!(leases, world.nodes().count().to_string(), "one lease for each node");
}
