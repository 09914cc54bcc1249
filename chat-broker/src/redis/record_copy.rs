//! What this node holds of the table of records, so that it can write again what Redis loses.
//!
//! Of each key the latest version counts, at every node and in Redis, and a removal is a version
//! too: nodes that write at once, in any order, and with copies of different ages, agree. A removal
//! is held here as long as the record would have lasted, since another node may have missed it.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::records::{Record, Records};

/// What ends sooner is not written again: by the clock of Redis it may have ended already.
const SHORTEST: Duration = Duration::from_secs(1);

/// The copy of one node.
#[derive(Debug, Default)]
pub(super) struct RecordCopy {
    /// Id of the table that the copy is in step with; empty before the first one.
    table: String,
    version: u64,
    held: HashMap<String, Held>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    version: u64,
    /// `None`: it was removed.
    value: Option<Bytes>,
    until: Instant,
}

/// One record of the table, or that it was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) version: u64,
    pub(super) value: Option<Bytes>,
    /// How long it lasts; nothing if it has no value.
    pub(super) left: Duration,
}

/// What was read of the table.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Empty if the table is not whole, or older than the copy.
    pub(super) id: String,
    pub(super) version: u64,
    /// All of it, and not what has changed.
    pub(super) complete: bool,
    pub(super) rows: HashMap<String, Row>,
}

impl RecordCopy {
    /// The table that it is in step with, and its version.
    pub(super) fn known(&self) -> (&str, u64) {
        (&self.table, self.version)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes what was read; returns what Redis has lost. The copy is in step with the table if
    /// that is nothing.
    pub(super) fn take(&mut self, read: &Table, now: Instant) -> Vec<Row> {
        self.held.retain(|_, held| held.until > now);
        let mut lost = Vec::new();
        for row in read.rows.values() {
            self.take_row(row, now, &mut lost);
        }
        if read.complete {
            let is_same = !read.id.is_empty() && read.id == self.table;
            // Of the same table nothing is lost: what is absent was removed, longer ago than Redis
            // remembers.
            self.held.retain(|key, held| {
                !is_same || held.value.is_none() || read.rows.contains_key(key)
            });
            let absent = self.held.iter().filter(|(key, _)| !read.rows.contains_key(*key));
            lost.extend(absent.filter(|_| !is_same).filter_map(|(key, held)| held.row(key, now)));
        }
        self.version = self.version.max(read.version);
        if lost.is_empty() && !read.id.is_empty() {
            self.table.clone_from(&read.id);
        }
        lost
    }

    fn take_row(&mut self, row: &Row, now: Instant, lost: &mut Vec<Row>) {
        let Some(held) = self.held.get(&row.key) else {
            self.held.insert(row.key.clone(), Held::of(row, now));
            return;
        };
        // Of one version with and without a value the value was lost: a removal has its own version.
        let here = (held.version, held.value.is_some());
        let there = (row.version, row.value.is_some());
        if here < there {
            let mut newer = Held::of(row, now);
            if newer.value.is_none() {
                newer.until = newer.until.max(held.until);
            }
            self.held.insert(row.key.clone(), newer);
        } else if here > there {
            lost.extend(held.row(&row.key, now));
        }
    }

    /// All records of the copy, by version, for when Redis does not take them back.
    pub(super) fn records(&self, now: Instant) -> Records {
        let mut rows: Vec<Row> =
            self.held.iter().filter_map(|(key, held)| held.row(key, now)).collect();
        rows.retain(|row| row.value.is_some());
        Records { version: self.version, complete: true, records: in_order(rows) }
    }
}

impl Held {
    fn of(row: &Row, now: Instant) -> Self {
        let left = if row.value.is_some() { row.left } else { Records::REMEMBERED };
        Self { version: row.version, value: row.value.clone(), until: now + left }
    }

    /// What is to be written again, if it lasts for long enough.
    fn row(&self, key: &str, now: Instant) -> Option<Row> {
        let left = self.until.saturating_duration_since(now);
        let Self { version, ref value, .. } = *self;
        (left > SHORTEST).then(|| Row { key: key.to_owned(), version, value: value.clone(), left })
    }
}

/// As callers are given them.
pub(super) fn in_order(mut rows: Vec<Row>) -> Vec<Record> {
    rows.sort_unstable_by_key(|row| row.version);
    let record = |Row { key, value, left, .. }| {
        let expires_in = if value.is_some() { left } else { Duration::ZERO };
        Record { key, value, expires_in }
    };
    rows.into_iter().map(record).collect()
}

#[cfg(test)]
#[path = "record_copy_tests.rs"]
mod tests;
