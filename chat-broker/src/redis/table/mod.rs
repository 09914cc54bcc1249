//! The table that all nodes share, of which `copy.rs` keeps a copy to restore what Redis loses, and
//! the `secret.rs` that all nodes share.

mod copy;
pub(super) mod secret;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::Pipeline;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::connection::store::Store;
use crate::error::BrokerError;
use crate::random;
use crate::table::{Record, Records};
use copy::{RecordCopy, Row, Table, in_order};

/// Records in one page: 2 MiB at most.
const PAGE: usize = 512;

/// How often a table is read that changes, or loses something, while records are restored.
const ATTEMPTS: usize = 3;

/// How long a node that finds no table waits for others to write theirs.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// The reply of `read_records.lua`: version, floor, whether the page is the first of the whole
/// table, the table's id, the start of the next page, records.
type Reply = (u64, u64, bool, String, String, Vec<Found>);

/// Key, version, value, time to live in milliseconds.
type Found = (Vec<u8>, u64, Option<Vec<u8>>, u64);

/// The table in Redis, and what this node knows of it.
#[derive(Debug)]
pub(super) struct RecordTable {
    store: Arc<Store>,
    /// Locked while the table is read and restored: one reader at a time.
    copy: Mutex<RecordCopy>,
    /// The latest version in the copy.
    version: AtomicU64,
    /// Other nodes were asked for a table that was missing.
    has_asked: AtomicBool,
}

impl RecordTable {
    pub(super) fn new(store: &Arc<Store>) -> Self {
        let (copy, version, has_asked) = Default::default();
        Self { store: Arc::clone(store), copy, version, has_asked }
    }

    /// See [`SharedTable::set`](crate::SharedTable::set); `None` removes the record.
    pub(super) async fn set(
        &self,
        key: &str,
        value: Option<Bytes>,
        expires_in: Duration,
    ) -> Result<(), BrokerError> {
        Record::check(key, value.as_ref())?;
        let set = async {
            for _ in 0..ATTEMPTS {
                match self.try_to_set(key, value.as_ref(), expires_in).await? {
                    1 => return Ok(()),
                    0 => return Err(Records::full()),
                    _ => self.begin_table().await?,
                }
            }
            Err(BrokerError::unavailable("redis keeps losing the table of records"))
        };
        self.store.in_time(set).await
    }

    /// The reply of `set_record.lua`.
    async fn try_to_set(
        &self,
        key: &str,
        value: Option<&Bytes>,
        expires_in: Duration,
    ) -> Result<i64, BrokerError> {
        let lifetime = Record::lifetime(value, expires_in);
        let names = &self.store.shared.names;
        let mut commands = Pipeline::with_capacity(1);
        let call = self.store.shared.scripts.set_record.call(&mut commands, &names.record_keys());
        call.arg(names.records()).arg(key).arg(u8::from(value.is_some()));
        call.arg(value.map_or(&b""[..], |value| value)).arg(lifetime.as_millis() as u64);
        call.arg(Records::MAX).arg(self.version.load(Ordering::Acquire));
        let (outcome,) =
            self.store.query_shared(&commands, &self.store.shared.names.record_keys_text()).await?;
        Ok(outcome)
    }

    /// See [`SharedTable::changes_since`](crate::SharedTable::changes_since). What changes while
    /// one page after the other is read stands in a later one. Records that Redis has lost are
    /// restored first.
    pub(super) async fn changes_after(&self, after: u64) -> Result<Records, BrokerError> {
        let read = async {
            let mut copy = self.copy.lock().await;
            let mut after = after;
            for _ in 0..ATTEMPTS {
                let (table, missing) = self.compare(&mut copy, after).await?;
                if missing.is_empty() {
                    return Ok(table.into());
                }
                if let Err(error) = self.restore(&copy, &missing).await {
                    tracing::warn!(%error, "redis lost records and refuses to store them again");
                    break;
                }
                after = 0;
            }
            // What Redis does not store is enforced from the copy.
            Ok(copy.records(Instant::now()))
        };
        self.store.in_time(read).await
    }

    /// Creates the table, or restores it, so that a record can be set.
    async fn begin_table(&self) -> Result<(), BrokerError> {
        let mut copy = self.copy.lock().await;
        let (_, missing) = self.compare(&mut copy, 0).await?;
        self.restore(&copy, &missing).await
    }

    /// Reads what has changed into the copy. Returns what was read, and the rows to restore.
    async fn compare(
        &self,
        copy: &mut RecordCopy,
        after: u64,
    ) -> Result<(Table, Vec<Row>), BrokerError> {
        let table = self.read_table(copy, after).await?;
        let now = Instant::now();
        let lost = copy.merge(&table, now);
        self.version.fetch_max(copy.known().1, Ordering::AcqRel);
        // `restore_records.lua` may delete the rest of a table that is not whole: a removal that
        // Redis still has, or a record whose loss is a moment younger than this read.
        let missing = if table.id.is_empty() { copy.rows(now) } else { lost };
        Ok((table, missing))
    }

    /// Reads what has changed. A node that has never seen a table, and finds none, first asks the
    /// other nodes to restore theirs.
    async fn read_table(&self, copy: &RecordCopy, after: u64) -> Result<Table, BrokerError> {
        let table = self.read_pages(copy, after).await?;
        let is_missing = table.id.is_empty() && copy.known().0.is_empty();
        if is_missing && !self.has_asked.swap(true, Ordering::AcqRel) {
            let mut ask = Pipeline::with_capacity(1);
            ask.cmd("PUBLISH").arg(self.store.shared.names.records()).arg("");
            let (nodes,): (u64,) = self.store.query(&ask).await?;
            if nodes > 1 {
                sleep(ANSWER_TIME).await;
                return self.read_pages(copy, after).await;
            }
        }
        Ok(table)
    }

    async fn read_pages(&self, copy: &RecordCopy, after: u64) -> Result<Table, BrokerError> {
        let (known_table, known_version) = copy.known();
        let (mut from, mut before, mut known_table) = (after.to_string(), (0, 0), known_table);
        let mut table = Table::default();
        loop {
            let keys = self.store.shared.names.record_keys();
            let mut commands = Pipeline::with_capacity(1);
            let call = self.store.shared.scripts.read_records.call(&mut commands, &keys);
            call.arg(&from).arg(PAGE).arg(before.0).arg(before.1);
            call.arg(known_version).arg(known_table);
            let ((version, floor, is_first_of_all, id, next, page),): (Reply,) = self
                .store
                .query_shared(&commands, &self.store.shared.names.record_keys_text())
                .await?;
            if is_first_of_all {
                table.rows.clear();
                table.complete = true;
            }
            table.rows.extend(page.into_iter().filter_map(row));
            (table.id, table.version) = (id, version);
            if next.is_empty() {
                return Ok(table);
            }
            // If the table was replaced in between, the next page has another floor.
            (from, before, known_table) = (next, (version, floor), "");
        }
    }

    /// Writes the rows that Redis has lost, and gives the table a new id if it is not whole.
    async fn restore(&self, copy: &RecordCopy, missing: &[Row]) -> Result<(), BrokerError> {
        let id = format!("{:016x}", random::bits());
        let mut records: u64 = 0;
        // At least one call: a table without records has an id, too.
        let chunks = missing.chunks(PAGE).chain(missing.is_empty().then_some(missing));
        for rows in chunks {
            let names = &self.store.shared.names;
            let mut commands = Pipeline::with_capacity(1);
            let script = &self.store.shared.scripts.restore_records;
            let call = script.call(&mut commands, &names.record_keys());
            call.arg(names.records()).arg(&id).arg(copy.known().1).arg(Records::MAX);
            for Row { key, version, value, left } in rows {
                call.arg(key).arg(version).arg(u8::from(value.is_some()));
                call.arg(value.as_deref().unwrap_or_default()).arg(left.as_millis() as u64);
            }
            let (written,): (u64,) = self
                .store
                .query_shared(&commands, &self.store.shared.names.record_keys_text())
                .await?;
            records += written;
        }
        if records > 0 {
            tracing::warn!(records, "redis lost records (bans, kicks), writing them again");
        }
        Ok(())
    }
}

impl From<Table> for Records {
    fn from(Table { version, complete, rows, .. }: Table) -> Self {
        let mut rows: Vec<Row> = rows.into_values().collect();
        rows.retain(|row| !complete || row.value.is_some());
        Self { version, complete, records: in_order(rows) }
    }
}

/// No node sets a record whose key is not UTF-8: such a row is skipped.
fn row((key, version, value, left): Found) -> Option<(String, Row)> {
    let key = String::from_utf8(key).ok()?;
    let (value, left) = (value.map(Bytes::from), Duration::from_millis(left));
    Some((key.clone(), Row { key, version, value, left }))
}
