//! The copy of the table of records that this node holds, so that it can restore what Redis loses.
//!
//! Of each key the latest version counts, at every node and in Redis, and a removal is a version
//! too: nodes that write at once, in any order, and with copies of different ages, agree. A removal
//! is held here as long as the record would have lasted, since another node may have missed it, but
//! no more than [`Records::MAX`] of them.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::table::{Record, Records};

/// A record that ends sooner is not restored: by the clock of Redis it may have ended already.
const SHORTEST: Duration = Duration::from_secs(1);

/// The copy of one node.
#[derive(Debug, Default)]
pub(crate) struct RecordCopy {
    /// Id of the table that the copy was last equal to; empty before the first one.
    table: String,
    /// The latest version that was read.
    version: u64,
    /// Records and removals, by key.
    held: HashMap<String, Held>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    version: u64,
    /// `None`: the record was removed.
    value: Option<Bytes>,
    /// When the record ends, or the removal is forgotten.
    until: Instant,
}

/// A record of the table, or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) version: u64,
    pub(crate) value: Option<Bytes>,
    /// Time to live. Zero if a removal was read; for one that is to be restored, how long Redis
    /// remembers it.
    pub(crate) left: Duration,
}

/// The result of a read of the table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Empty if the table is not whole, or older than the copy.
    pub(crate) id: String,
    pub(crate) version: u64,
    /// `rows` is the whole table, not only what has changed.
    pub(crate) complete: bool,
    pub(crate) rows: HashMap<String, Row>,
}

impl RecordCopy {
    /// The id of the table that the copy was last equal to, and the latest version that was read.
    pub(crate) fn known(&self) -> (&str, u64) {
        (&self.table, self.version)
    }

    /// Adds what was read; returns the rows that Redis has lost. If there are none, the copy now
    /// equals the table.
    pub(crate) fn merge(&mut self, read: &Table, now: Instant) -> Vec<Row> {
        self.held.retain(|_, held| held.until > now);
        let mut lost = Vec::new();
        for row in read.rows.values() {
            self.merge_row(row, now, &mut lost);
        }
        if read.complete {
            let is_same = !read.id.is_empty() && read.id == self.table;
            // The same table has lost nothing: what is absent was removed, longer ago than Redis
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
        self.limit_removals();
        lost
    }

    fn merge_row(&mut self, row: &Row, now: Instant, lost: &mut Vec<Row>) {
        let Some(held) = self.held.get(&row.key) else {
            self.held.insert(row.key.clone(), Held::of(row, now));
            return;
        };
        // Of one version with and without a value the value was lost: a removal has its own
        // version.
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

    /// Forgets the oldest removals above [`Records::MAX`].
    fn limit_removals(&mut self) {
        // Cheap as long as there cannot be so many.
        if self.held.len() <= Records::MAX {
            return;
        }
        let removals = self.held.values().filter(|held| held.value.is_none());
        let mut versions: Vec<u64> = removals.map(|held| held.version).collect();
        let excess = versions.len().saturating_sub(Records::MAX);
        if excess > 0 {
            let oldest = *versions.select_nth_unstable(excess).1;
            self.held.retain(|_, held| held.value.is_some() || held.version >= oldest);
        }
    }

    /// All rows of the copy that are worth restoring, removals among them, in any order.
    pub(crate) fn rows(&self, now: Instant) -> Vec<Row> {
        self.held.iter().filter_map(|(key, held)| held.row(key, now)).collect()
    }

    /// All records of the copy, by version, for while Redis refuses to store them.
    pub(crate) fn records(&self, now: Instant) -> Records {
        let mut rows = self.rows(now);
        rows.retain(|row| row.value.is_some());
        Records::whole(self.version, in_order(rows))
    }
}

impl Held {
    fn of(row: &Row, now: Instant) -> Self {
        let left = if row.value.is_some() { row.left } else { Records::REMEMBERED };
        Self { version: row.version, value: row.value.clone(), until: now + left }
    }

    /// The row to restore, if it lasts for long enough. Redis remembers a restored removal no
    /// longer than any other: the copies of the nodes outlast it.
    fn row(&self, key: &str, now: Instant) -> Option<Row> {
        let Self { version, ref value, until } = *self;
        let rest = until.saturating_duration_since(now);
        let left = if value.is_some() { rest } else { rest.min(Records::REMEMBERED) };
        (left > SHORTEST).then(|| Row { key: key.to_owned(), version, value: value.clone(), left })
    }
}

/// Sorted by version, in the form of [`Records`].
pub(crate) fn in_order(mut rows: Vec<Row>) -> Vec<Record> {
    rows.sort_unstable_by_key(|row| row.version);
    let record = |Row { key, value, left, .. }| Record::new(key, value, left);
    rows.into_iter().map(record).collect()
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
