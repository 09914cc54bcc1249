//! The table that all nodes of a bus share, and the nodes that receive its changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::error::BrokerError;
use crate::events::EventSender;
use crate::table::{Record, Records};

#[derive(Debug, Default)]
pub(super) struct Table {
    /// Keys by version, including removed ones until they are forgotten.
    entries: BTreeMap<u64, Entry>,
    versions: HashMap<Arc<str>, u64>,
    /// When which version is forgotten.
    ends: BTreeSet<(Instant, u64)>,
    /// Entries with a value.
    live: usize,
    /// The version of the latest change.
    version: u64,
    /// A reader below this version has to read the whole table.
    floor: u64,
    nodes: Vec<(u64, Arc<EventSender>)>,
}

#[derive(Debug)]
struct Entry {
    key: Arc<str>,
    value: Option<Bytes>,
    end: Instant,
}

impl Table {
    pub(super) fn add_node(&mut self, node: u64, events: &Arc<EventSender>) {
        self.nodes.push((node, Arc::clone(events)));
    }

    pub(super) fn remove_node(&mut self, node: u64) {
        self.nodes.retain(|(other, _)| *other != node);
    }

    /// See [`SharedTable::set`](crate::SharedTable::set); `None` removes the record.
    pub(super) fn set(
        &mut self,
        key: &str,
        value: Option<Bytes>,
        expires_in: Duration,
        now: Instant,
    ) -> Result<(), BrokerError> {
        Record::check(key, value.as_ref())?;
        while let Some((_, version)) = self.ends.first().filter(|(end, _)| *end <= now) {
            self.forget(*version);
        }
        let before = self.versions.get(key).copied();
        let is_known = before.is_some_and(|version| self.is_live(version));
        if !is_known && value.is_none() {
            return Ok(());
        }
        if !is_known && self.live >= Records::MAX {
            return Err(Records::full());
        }
        if let Some(version) = before {
            self.take(version);
        }
        self.add(key.into(), value, expires_in, now);
        for (_, events) in &self.nodes {
            events.records_changed();
        }
        Ok(())
    }

    /// See [`SharedTable::changes_since`](crate::SharedTable::changes_since).
    pub(super) fn read(&self, after: u64, now: Instant) -> Records {
        let complete = after == 0 || after < self.floor || after > self.version;
        let from = if complete { 0 } else { after + 1 };
        let records = self.entries.range(from..).map(|(_, entry)| entry.record(now));
        let records = records.filter(|record| !complete || record.value.is_some()).collect();
        Records { version: self.version, complete, records }
    }

    fn add(&mut self, key: Arc<str>, value: Option<Bytes>, expires_in: Duration, now: Instant) {
        self.version += 1;
        let version = self.version;
        let end = now + Record::lifetime(value.as_ref(), expires_in);
        let is_kept = value.is_some() || self.versions.len() < Records::MAX;
        self.live += usize::from(value.is_some());
        self.versions.insert(Arc::clone(&key), version);
        self.ends.insert((end, version));
        self.entries.insert(version, Entry { key, value, end });
        if !is_kept {
            self.forget(version);
        }
    }

    /// The removal of this version is forgotten.
    fn forget(&mut self, version: u64) {
        self.floor = self.floor.max(version);
        self.take(version);
    }

    fn take(&mut self, version: u64) {
        if let Some(Entry { key, value, end }) = self.entries.remove(&version) {
            self.versions.remove(&key);
            self.ends.remove(&(end, version));
            self.live -= usize::from(value.is_some());
        }
    }

    fn is_live(&self, version: u64) -> bool {
        self.entries.get(&version).is_some_and(|entry| entry.value.is_some())
    }
}

impl Entry {
    fn record(&self, now: Instant) -> Record {
        let left = self.end.saturating_duration_since(now);
        Record::new(&*self.key, self.value.clone(), left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn value() -> Option<Bytes> {
        Some(Bytes::from_static(b"x"))
    }

    #[tokio::test]
    async fn full_table_refuses_records_and_removals_are_bounded() {
        let (mut table, now) = (Table::default(), Instant::now());
        for n in 0..Records::MAX {
            table.set(&n.to_string(), value(), LONG, now).unwrap();
        }
        let refused = table.set("one more", value(), LONG, now);
        assert!(matches!(refused, Err(BrokerError::Refused(_))), "{refused:?}");
        table.set("7", value(), LONG, now).expect("it replaces one");
        assert_eq!(table.read(0, now).records.len(), Records::MAX);

        let read = table.version;
        for n in 0..Records::MAX {
            table.set(&n.to_string(), None, LONG, now).unwrap();
            table.set("another", value(), LONG, now).unwrap();
            table.set("another", None, LONG, now).unwrap();
            table.set(&format!("new {n}"), value(), LONG, now).unwrap();
            table.set(&format!("new {n}"), None, LONG, now).unwrap();
        }
        let sizes = [table.entries.len(), table.versions.len(), table.ends.len()];
        assert!(sizes.iter().all(|size| *size <= Records::MAX), "{sizes:?}");
        assert_eq!(table.live, 0);
        assert_eq!(table.read(read, now), Records { complete: true, ..table.read(0, now) });
        assert!(table.read(0, now).records.is_empty());
    }

    #[tokio::test]
    async fn removal_is_reported_for_ten_minutes() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.set("a", value(), LONG, now).unwrap();
        let read = table.version;
        table.set("a", None, LONG, now).unwrap();
        let second = Duration::from_secs(1);
        for (passed, complete) in [(0, false), (599, false), (600, true)] {
            let now = now + passed * second;
            table.set("b", value(), LONG, now).unwrap();
            let changes = table.read(read, now);
            assert_eq!(changes.complete, complete, "after {passed} s");
            assert_eq!(changes.records.len(), 2 - usize::from(complete));
        }
    }
}
