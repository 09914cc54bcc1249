//! The table that all nodes share.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::Bus;
use super::model::TestRng;
use super::node::Node;
use crate::error::BrokerError;
use crate::events::BrokerEvent;
use crate::random;
use crate::table::{Record, Records, SetOptions};

/// Longer than any case.
const LONG: Duration = Duration::from_secs(3600);

/// So long that it is seen, and soon over.
const SHORT: Duration = Duration::from_millis(200);

/// How long anything may take.
const MAX_DURATION: Duration = Duration::from_secs(20);

/// A key that was not used before.
fn key(name: &str) -> String {
    format!("{name} {:016x}", random::bits())
}

/// The copy of a reader that reads the table from time to time.
#[derive(Default)]
struct Copy {
    version: u64,
    held: BTreeMap<String, (Bytes, Instant)>,
}

impl Copy {
    async fn update(&mut self, node: &Node) -> Records {
        let records = node.records(self.version).await;
        assert!(records.complete || records.version >= self.version, "versions rise");
        self.version = records.version;
        if records.complete {
            self.held.clear();
        }
        for Record { key, value, expires_in } in records.records.clone() {
            assert_ne!(value.is_some(), expires_in.is_zero(), "{key} is there for a time, or not");
            match value {
                Some(value) => drop(self.held.insert(key, (value, Instant::now() + expires_in))),
                None => drop(self.held.remove(&key)),
            }
        }
        records
    }

    /// What is held now of this key.
    fn get(&self, key: &str) -> Option<&Bytes> {
        let held = self.held.get(key).filter(|(_, until)| *until > Instant::now());
        held.map(|(value, _)| value)
    }
}

/// The keys and values of what was read, without those of other cases.
fn read_values<'a>(records: &'a Records, keys: &[&String]) -> Vec<(&'a str, Option<&'a [u8]>)> {
    let ours = records.records.iter().filter(|record| keys.contains(&&record.key));
    ours.map(|record| (record.key.as_str(), record.value.as_deref())).collect()
}

/// Another node reads keys and values as they were set, whatever bytes they have, with the time
/// that is left.
///
/// Calls `set`, `remove` and `changes_since`.
pub async fn records_pass_unchanged(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let every_byte = Bytes::from_iter(0..=255u8);
    let values = [Bytes::new(), every_byte, Bytes::from(vec![0; Record::MAX_VALUE])];
    let long = "k".repeat(Record::MAX_KEY - 17);
    let keys = ["a", "A", "a:b\0", "{a}*", "日本語 \r\n", "", &long].map(key);
    for (nth, key) in keys.iter().enumerate() {
        a.set_record(key, values[nth % values.len()].clone(), LONG).await;
    }
    let read = b.records(0).await;
    for (nth, key) in keys.iter().enumerate() {
        let record = read.records.iter().find(|record| record.key == *key);
        let Record { value, expires_in, .. } = record.expect("it was set");
        assert_eq!(value.as_ref(), Some(&values[nth % values.len()]), "{key:?}");
        assert!(*expires_in <= LONG && *expires_in > LONG - MAX_DURATION * 3, "{expires_in:?}");
        a.remove_record(key).await;
    }
    a.set_record(&keys[0], "x", Duration::MAX).await;
    let read = b.records(read.version).await;
    let lasts = read.records.last().map(|record| record.expires_in);
    assert!(lasts.is_some_and(|lasts| lasts <= Record::MAX_LIFETIME), "{lasts:?}");
    a.remove_record(&keys[0]).await;
}

/// What has changed since a version is the latest of each key, in the order in which they were set,
/// without a value if it was removed; the whole table is what is there.
///
/// Calls `set`, `remove` and `changes_since`.
pub async fn latest_of_each_record_is_read_in_order(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let keys = ["first", "second", "third"].map(key);
    let [first, second, third] = &keys;
    a.set_record(first, "1", LONG).await;
    let start = b.records(0).await;
    assert!(start.complete && start.version > 0);
    assert_eq!(read_values(&start, &[first]), [(first.as_str(), Some(&b"1"[..]))]);

    b.set_record(second, "2", LONG).await;
    a.set_record(third, "3", LONG).await;
    b.set_record(second, "4", LONG).await;
    a.remove_record(first).await;
    let changes = b.records(start.version).await;
    assert!(!changes.complete && changes.version > start.version);
    let expected =
        [(third.as_str(), Some(&b"3"[..])), (second.as_str(), Some(b"4")), (first.as_str(), None)];
    assert_eq!(read_values(&changes, &[first, second, third]), expected);
    assert_eq!(changes.records.len(), 3, "and nothing else");

    let all = a.records(0).await;
    assert!(all.complete && all.version == changes.version);
    assert_eq!(read_values(&all, &[first, second, third]), expected[..2]);
    b.remove_record(first).await;
    let nothing = a.records(changes.version).await;
    assert_eq!(nothing, Records { version: changes.version, ..Records::default() });

    b.set_record(first, "5", LONG).await;
    let changes = a.records(changes.version).await;
    assert_eq!(read_values(&changes, &[first, second, third]), [(first.as_str(), Some(&b"5"[..]))]);
    for key in &keys {
        a.remove_record(key).await;
    }
}

/// Every node is notified of what any node sets or removes, though it is subscribed to nothing, and
/// not if there was nothing to remove.
///
/// Calls `set`, `remove`, `changes_since`, `publish` and `subscribe`.
pub async fn every_node_is_notified_of_records(bus: &impl Bus) {
    const ROUNDS: u32 = 50;
    let (mut a, mut b) = (Node::connect(bus).await, Node::connect(bus).await);
    let key = key("told");
    a.set_record(&key, "first", LONG).await;
    let mut copies = [Copy::default(), Copy::default()];
    for (node, copy) in [&mut a, &mut b].into_iter().zip(&mut copies) {
        copy.update(node).await;
        // Nodes may be notified of nothing while the table is new.
        node.arrived_events().await;
    }
    for round in 0..ROUNDS {
        let setter = if round % 2 == 0 { &a } else { &b };
        if round % 10 == 9 {
            setter.remove_record(&key).await;
        } else {
            setter.set_record(&key, round.to_string(), LONG).await;
        }
        for (node, copy) in [&mut a, &mut b].into_iter().zip(&mut copies) {
            assert_eq!(node.event().await, BrokerEvent::RecordsChanged, "round {round}");
            copy.update(node).await;
            let expected = (round % 10 != 9).then(|| Bytes::from(round.to_string()));
            assert_eq!(copy.get(&key), expected.as_ref(), "stored before it was announced");
        }
    }
    a.remove_record(&key).await;
    for node in [&mut a, &mut b] {
        node.assert_quiet("there was nothing to remove").await;
    }
}

/// A removed record stays removed, whatever is set afterwards and whichever node reads.
///
/// Calls `set`, `remove` and `changes_since`.
pub async fn removed_record_stays_removed(bus: &impl Bus) {
    let nodes = [Node::connect(bus).await, Node::connect(bus).await];
    let (removed, other) = (key("removed"), key("other"));
    nodes[0].set_record(&removed, "x", LONG).await;
    let before = nodes[1].records(0).await.version;
    nodes[0].remove_record(&removed).await;
    for nth in 0..4 {
        for node in &nodes {
            assert_eq!(read_values(&node.records(0).await, &[&removed]), []);
            let changes = node.records(before).await;
            assert_eq!(read_values(&changes, &[&removed]), [(removed.as_str(), None)]);
            node.set_record(&other, nth.to_string(), LONG).await;
        }
    }
    assert_eq!(read_values(&Node::connect(bus).await.records(0).await, &[&removed]), []);
    nodes[0].remove_record(&other).await;
}

/// A record can be read once [`BrokerEvent::RecordsChanged`] arrives, also by a node that reads
/// before the call of `set` has returned.
///
/// Calls `set`, `remove` and `changes_since`.
pub async fn record_is_readable_when_it_is_announced(bus: &impl Bus) {
    const ROUNDS: u32 = 50;
    let (setter, mut reader) = (Node::connect(bus).await, Node::connect(bus).await);
    let key = key("announced");
    setter.set_record(&key, "first", LONG).await;
    let mut version = reader.records(0).await.version;
    // Nodes may be notified of nothing while the table is new.
    reader.arrived_events().await;
    for round in 0..ROUNDS {
        let value = Bytes::from(round.to_string());
        let read = async {
            assert_eq!(reader.event().await, BrokerEvent::RecordsChanged, "round {round}");
            reader.records(version).await
        };
        let (changes, ()) = tokio::join!(read, setter.set_record(&key, value.clone(), LONG));
        assert_eq!(read_values(&changes, &[&key]), [(key.as_str(), Some(&value[..]))]);
        version = changes.version;
    }
    setter.remove_record(&key).await;
}

/// A record that is to last for no time lasts for a millisecond: it is set, with a version and an
/// event of its own.
///
/// Calls `set`, `remove` and `changes_since`.
pub async fn record_lasts_a_millisecond_at_least(bus: &impl Bus) {
    let mut node = Node::connect(bus).await;
    let key = key("short-lived");
    let before = node.records(0).await.version;
    node.set_record(&key, "x", Duration::ZERO).await;
    assert_eq!(node.event().await, BrokerEvent::RecordsChanged);
    let changes = node.records(before).await;
    assert!(changes.version > before);
    // It may have expired by now.
    assert!(changes.records.iter().all(|record| record.key == key), "{changes:?}");
}

/// After `close`, the calls of the table fail with `Closed`.
///
/// Calls `set`, `remove`, `changes_since`, `secret` and `close`.
pub async fn table_ends_with_close(bus: &impl Bus) {
    let (node, other) = (Node::connect(bus).await, Node::connect(bus).await);
    node.broker.close().await;
    let table = node.table();
    for (what, outcome) in [
        ("set", table.set("closed", Bytes::new(), SetOptions::default()).await),
        ("remove", table.remove("closed").await),
        ("changes_since", table.changes_since(0).await.map(drop)),
        ("secret", table.secret().await.map(drop)),
    ] {
        assert!(matches!(outcome, Err(BrokerError::Closed)), "{what}: {outcome:?}");
    }
    other.records(0).await;
}

/// A record is gone when its time is over, for a node that reads it then, and for one that had
/// read it when it had more time; also after the backend has dropped it. There is no event.
///
/// Calls `set`, `remove`, `changes_since`, `publish` and `subscribe`.
pub async fn expired_record_is_gone(bus: &impl Bus) {
    let (a, mut b) = (Node::connect(bus).await, Node::connect(bus).await);
    let (short, other) = (key("short"), key("other"));
    a.set_record(&short, "long", LONG).await;
    let (mut copy, mut late) = (Copy::default(), Copy::default());
    for copy in [&mut copy, &mut late] {
        copy.update(&b).await;
        assert!(copy.get(&short).is_some());
    }
    let (set, by_the_wall) = (Instant::now(), SystemTime::now());
    a.set_record(&short, "short", SHORT).await;
    b.arrived_events().await;
    let version = b.records(0).await.version;
    let is_there = async || !read_values(&b.records(0).await, &[&short]).is_empty();
    while is_there().await {
        assert!(set.elapsed() < MAX_DURATION, "its time is over");
        sleep(SHORT / 10).await;
    }
    // The backend may use the wall clock, which may be changed during the test.
    let lasted = set.elapsed().max(by_the_wall.elapsed().unwrap_or_default());
    assert!(lasted >= SHORT, "it was there for its time");
    let changes = copy.update(&b).await;
    assert_eq!(changes.version, version, "nothing was changed");
    assert_eq!(read_values(&changes, &[&short]), [(short.as_str(), None)]);
    assert_eq!(copy.get(&short), None);
    b.assert_quiet("its end is no event").await;

    a.set_record(&other, "", LONG).await;
    late.update(&b).await;
    assert_eq!(late.get(&short), None, "a reader of the value before gets it, too");
    assert!(late.get(&other).is_some());
    a.set_record(&short, "again", LONG).await;
    late.update(&b).await;
    assert_eq!(late.get(&short), Some(&Bytes::from("again")));
    for key in [&short, &other] {
        a.remove_record(key).await;
    }
}

/// Version 0, and one that there never was, are answered with the whole table.
///
/// Calls `set`, `remove` and `changes_since`.
pub async fn unknown_version_gets_the_whole_table(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let (key, gone) = (key("whole"), key("gone"));
    node.set_record(&gone, "", LONG).await;
    node.remove_record(&gone).await;
    node.set_record(&key, "x", LONG).await;
    let all = node.records(0).await;
    assert_eq!(read_values(&all, &[&key, &gone]), [(key.as_str(), Some(&b"x"[..]))]);
    for after in [0, all.version + 1, 1 << 53, u64::MAX] {
        let read = node.records(after).await;
        assert!(read.complete, "after {after}");
        assert_eq!((read.version, read.records.len()), (all.version, all.records.len()));
    }
    assert!(!node.records(all.version).await.complete);
    node.remove_record(&key).await;
}

/// An empty key, and a key or a value that is too long, are refused and change nothing.
///
/// Calls `set`, `remove` and `changes_since`.
pub async fn records_have_bounds(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let longest = Bytes::from(vec![0; Record::MAX_VALUE]);
    node.set_record(&key("longest"), longest, Duration::ZERO).await;
    let version = node.records(0).await.version;
    let long_key = "k".repeat(Record::MAX_KEY + 1);
    let long_value = Bytes::from(vec![0; Record::MAX_VALUE + 1]);
    for (key, value) in
        [("", Some(Bytes::new())), (&long_key, None), ("too long a value", Some(long_value))]
    {
        let outcome = match value {
            Some(value) => node.table().set(key, value, SetOptions::default()).await,
            None => node.table().remove(key).await,
        };
        assert!(matches!(outcome, Err(BrokerError::Refused(_))), "{outcome:?}");
    }
    assert_eq!(node.records(version).await, Records { version, ..Records::default() });
}

/// Two nodes set and remove records at the same time: all nodes that follow the changes have the
/// same table in the end.
///
/// Calls `set`, `remove` and `changes_since`.
pub async fn all_nodes_read_the_same_table(bus: &impl Bus) {
    const CALLS: u64 = 300;
    let setters = [Node::connect(bus).await, Node::connect(bus).await];
    let mut readers = [Node::connect(bus).await, Node::connect(bus).await];
    let keys: Vec<String> = (0..10).map(|n| key(&n.to_string())).collect();
    let set = async |node: &Node, seed: u64| {
        let mut rng = TestRng(seed);
        for nth in 0..CALLS {
            let key = &keys[rng.within(0..10) as usize];
            match rng.within(0..4) {
                0 => node.remove_record(key).await,
                1 => node.set_record(key, nth.to_string(), Duration::from_millis(1)).await,
                _ => node.set_record(key, nth.to_string(), LONG).await,
            }
        }
        node.set_record(&keys[seed as usize], format!("end {seed}"), LONG).await;
    };
    let ended = |copy: &Copy| {
        let has_ended = |n: usize| copy.get(&keys[n]).is_some_and(|v| *v == format!("end {n}"));
        has_ended(0) && has_ended(1)
    };
    let follow = async |node: &mut Node, copy: &mut Copy| {
        while !ended(copy) {
            assert_eq!(node.event().await, BrokerEvent::RecordsChanged);
            copy.update(node).await;
        }
    };
    let mut copies = [Copy::default(), Copy::default()];
    let ([first, second], [one, other]) = (&mut readers, &mut copies);
    let setting = async {
        // The ends of both are the last.
        tokio::join!(set(&setters[0], 0), set(&setters[1], 1));
        for n in [0, 1] {
            setters[n].set_record(&keys[n], format!("end {n}"), LONG).await;
        }
    };
    tokio::join!(setting, follow(first, one), follow(second, other));
    let mut whole = Copy::default();
    // What was set for a millisecond is over.
    sleep(SHORT).await;
    for (node, copy) in readers.iter().zip(&mut copies) {
        copy.update(node).await;
        whole.update(node).await;
        for key in &keys {
            assert_eq!(copy.get(key), whole.get(key), "{key}");
        }
    }
    for key in &keys {
        setters[0].remove_record(key).await;
    }
}
