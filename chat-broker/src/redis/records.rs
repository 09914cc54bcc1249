//! The table that all nodes share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::Pipeline;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::record_copy::{RecordCopy, Row, Table, in_order};
use super::store::Store;
use crate::error::BrokerError;
use crate::random;
use crate::records::{Record, Records};

/// Records in one page: 2 MiB at most.
const PAGE: usize = 512;

/// How often a table is read that changes, or loses something, while it is written again.
const ATTEMPTS: usize = 3;

/// How long a node that finds no table waits for others to write theirs.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// What `read_records.lua` returns: version, floor, whether it begins anew, the table's id, where
/// the next page begins, records.
type Reply = (u64, u64, bool, String, String, Vec<Found>);

/// Key, version, value, how long it is still there in milliseconds.
type Found = (Vec<u8>, u64, Option<Vec<u8>>, u64);

/// What this node knows of the table.
#[derive(Debug, Default)]
pub(super) struct RecordState {
    /// Held while the table is read and written again: one reader at a time.
    copy: Mutex<RecordCopy>,
    /// The version that the copy has come to.
    version: AtomicU64,
    /// Other nodes were asked for a table that was missing.
    has_asked: AtomicBool,
}

impl Store {
    /// See [`Broker::set_record`](crate::Broker::set_record).
    pub(super) async fn set_record(
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
            Err(BrokerError::unavailable("redis goes on to lose the table of records"))
        };
        self.in_time(set).await
    }

    /// What `set_record.lua` returns.
    async fn try_to_set(
        &self,
        key: &str,
        value: Option<&Bytes>,
        expires_in: Duration,
    ) -> Result<i64, BrokerError> {
        let lifetime = Record::lifetime(value, expires_in);
        let names = &self.shared.names;
        let mut commands = Pipeline::with_capacity(1);
        let call = self.shared.scripts.set_record.call(&mut commands, &names.record_keys());
        call.arg(names.records()).arg(key).arg(u8::from(value.is_some()));
        call.arg(value.map_or(&b""[..], |value| value)).arg(lifetime.as_millis() as u64);
        call.arg(Records::MAX).arg(self.records.version.load(Ordering::Acquire));
        let (outcome,) =
            self.query_shared(&commands, &self.shared.names.record_keys_text()).await?;
        Ok(outcome)
    }

    /// See [`Broker::records`](crate::Broker::records). What changes while one page after the
    /// other is read stands in a later one. What Redis has lost is written again first.
    pub(super) async fn records(&self, after: u64) -> Result<Records, BrokerError> {
        let read = async {
            let mut copy = self.records.copy.lock().await;
            let mut after = after;
            for _ in 0..ATTEMPTS {
                let table = self.read_table(&copy, after).await?;
                let lost = copy.take(&table, Instant::now());
                self.take_note(&copy);
                let is_broken = table.id.is_empty() && !copy.is_empty();
                if lost.is_empty() && !is_broken {
                    return Ok(table.into());
                }
                if let Err(error) = self.restore(&copy, lost).await {
                    tracing::warn!(%error, "redis has lost records, and does not take them back");
                    break;
                }
                after = 0;
            }
            // Whatever Redis has: what this node knows of still holds.
            Ok(copy.records(Instant::now()))
        };
        self.in_time(read).await
    }

    /// Sees to it that there is a table to change, with all that nodes hold of it.
    async fn begin_table(&self) -> Result<(), BrokerError> {
        let mut copy = self.records.copy.lock().await;
        let table = self.read_table(&copy, 0).await?;
        let lost = copy.take(&table, Instant::now());
        self.take_note(&copy);
        self.restore(&copy, lost).await
    }

    /// Reads what has changed. A node that has never seen a table, and finds none, asks the others
    /// for theirs before it believes that.
    async fn read_table(&self, copy: &RecordCopy, after: u64) -> Result<Table, BrokerError> {
        let table = self.read_pages(copy, after).await?;
        let is_missing = table.id.is_empty() && copy.known().0.is_empty();
        if is_missing && !self.records.has_asked.swap(true, Ordering::AcqRel) {
            let mut ask = Pipeline::with_capacity(1);
            ask.cmd("PUBLISH").arg(self.shared.names.records()).arg("");
            let (nodes,): (u64,) = self.query(&ask).await?;
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
            let keys = self.shared.names.record_keys();
            let mut commands = Pipeline::with_capacity(1);
            let call = self.shared.scripts.read_records.call(&mut commands, &keys);
            call.arg(&from).arg(PAGE).arg(before.0).arg(before.1);
            call.arg(known_version).arg(known_table);
            let ((version, floor, is_first_of_all, id, next, page),): (Reply,) =
                self.query_shared(&commands, &self.shared.names.record_keys_text()).await?;
            if is_first_of_all {
                table.rows.clear();
                table.complete = true;
            }
            table.rows.extend(page.into_iter().filter_map(row));
            (table.id, table.version) = (id, version);
            if next.is_empty() {
                return Ok(table);
            }
            // If the table is another one by then, its floor says so.
            (from, before, known_table) = (next, (version, floor), "");
        }
    }

    /// Writes what Redis has lost, and begins a new table if it is not whole.
    async fn restore(&self, copy: &RecordCopy, lost: Vec<Row>) -> Result<(), BrokerError> {
        let records = lost.iter().filter(|row| row.value.is_some()).count();
        let id = format!("{:016x}", random::bits());
        let mut restored: u64 = 0;
        // At least once: a table without records is one, too.
        let chunks = lost.chunks(PAGE).chain(lost.is_empty().then_some(&[][..]));
        for rows in chunks {
            let names = &self.shared.names;
            let mut commands = Pipeline::with_capacity(1);
            let script = &self.shared.scripts.restore_records;
            let call = script.call(&mut commands, &names.record_keys());
            call.arg(names.records()).arg(&id).arg(copy.known().1).arg(Records::MAX);
            for Row { key, version, value, left } in rows {
                call.arg(key).arg(version).arg(u8::from(value.is_some()));
                call.arg(value.as_deref().unwrap_or_default()).arg(left.as_millis() as u64);
            }
            let (written,): (u64,) =
                self.query_shared(&commands, &self.shared.names.record_keys_text()).await?;
            restored += written;
        }
        if restored > 0 && records > 0 {
            tracing::warn!(records, "redis has lost records (bans, kicks): they are written again");
        }
        Ok(())
    }

    fn take_note(&self, copy: &RecordCopy) {
        self.records.version.fetch_max(copy.known().1, Ordering::AcqRel);
    }
}

impl From<Table> for Records {
    fn from(Table { version, complete, rows, .. }: Table) -> Self {
        let mut rows: Vec<Row> = rows.into_values().collect();
        rows.retain(|row| !complete || row.value.is_some());
        Self { version, complete, records: in_order(rows) }
    }
}

/// Nobody sets a record whose key is no text.
fn row((key, version, value, left): Found) -> Option<(String, Row)> {
    let key = String::from_utf8(key).ok()?;
    let (value, left) = (value.map(Bytes::from), Duration::from_millis(left));
    Some((key.clone(), Row { key, version, value, left }))
}
