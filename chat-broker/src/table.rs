//! The optional part of a broker that is a small table, shared by all nodes of a bus.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::BrokerError;

/// A small key-value table that all nodes of the bus share, and a secret:
/// [`Broker::table`](crate::Broker::table). The server keeps kicks and bans in it.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use chat_broker::{Broker, MemoryBroker, SetOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), chat_broker::BrokerError> {
/// let (broker, _events) = MemoryBroker::connect();
/// let table = broker.table().expect("the memory broker has one");
/// let hour = SetOptions::default().expires_in(Duration::from_secs(3600));
/// table.set("ban:eve", Bytes::from_static(b"spam"), hour).await?;
///
/// let all = table.changes_since(0).await?;
/// assert_eq!((all.complete, all.records[0].key.as_str()), (true, "ban:eve"));
///
/// table.remove("ban:eve").await?;
/// let changes = table.changes_since(all.version).await?;
/// assert_eq!(changes.records[0].value, None);
/// # Ok(())
/// # }
/// ```
///
/// # What an implementation promises
/// * **Order.** A change is stored, at a version of the one order that all nodes see, before
///   [`BrokerEvent::RecordsChanged`](crate::BrokerEvent::RecordsChanged) reaches any node.
/// * **Events.** All nodes receive that event, including the one that made the change, without a
///   subscription; one event may cover many changes. A node that may have missed one
///   receives [`BrokerEvent::Interrupted`](crate::BrokerEvent::Interrupted), and reads on from the
///   version that it knows.
/// * **Durability.** A record lasts until it is removed or expires, as long as one node that has
///   read it runs and keeps reading: a backend that has lost it gets it back from that node.
#[async_trait]
pub trait SharedTable: fmt::Debug + Send + Sync + 'static {
    /// Sets the record `key`, and replaces the one of the same key. It expires after
    /// [`SetOptions::expires_in`], by the backend's clock, without an event.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] if [`Record::check`] refuses key or value, and if it would be one
    /// more than [`Records::MAX`]. [`BrokerError::Unavailable`] if the backend did not answer in
    /// time: the record may have been set. Setting it again does no harm.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped may have set the record.
    async fn set(&self, key: &str, value: Bytes, options: SetOptions) -> Result<(), BrokerError>;

    /// Removes the record `key`. If there is none, that is no error and no event.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] if [`Record::check`] refuses the key. [`BrokerError::Unavailable`]
    /// if the backend did not answer in time: the record may have been removed.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped may have removed the record.
    async fn remove(&self, key: &str) -> Result<(), BrokerError>;

    /// What has changed since an earlier call returned the version `after`: the latest state of
    /// each changed key, in the order of the changes.
    ///
    /// The answer is the whole table, without the removed records, and
    /// [`complete`](Records::complete) says so, if `after` is 0, and whenever the backend does not
    /// know what has changed: it remembers removals only for [`Records::REMEMBERED`], and may have
    /// lost data. Versions rise with each change, also after the backend has lost everything.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not answer in time.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn changes_since(&self, after: u64) -> Result<Records, BrokerError>;

    /// 32 random bytes that the nodes of this bus share and keep secret, made by the node that asks
    /// first: a key for signatures that all nodes accept.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not answer in time.
    ///
    /// # Cancel safety
    /// Safe: asking again gives the same bytes.
    async fn secret(&self) -> Result<[u8; 32], BrokerError>;
}

/// Options of a record that is set.
///
/// ```
/// use std::time::Duration;
/// use chat_broker::SetOptions;
///
/// let minute = SetOptions::default().expires_in(Duration::from_secs(60));
/// assert_eq!(minute.expires_in, Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetOptions {
    /// How long the record lasts, in whole milliseconds: at least one, and at most
    /// [`Record::MAX_LIFETIME`], which is the default.
    pub expires_in: Duration,
}

impl Default for SetOptions {
    fn default() -> Self {
        Self { expires_in: Record::MAX_LIFETIME }
    }
}

impl SetOptions {
    /// Sets [`expires_in`](Self::expires_in).
    #[must_use]
    pub fn expires_in(mut self, expires_in: Duration) -> Self {
        self.expires_in = expires_in;
        self
    }
}

/// One record of a [`SharedTable`], as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The key, of 1 to [`Record::MAX_KEY`] bytes.
    pub key: String,
    /// The value, of at most [`Record::MAX_VALUE`] bytes; `None` if the record was removed or has
    /// expired.
    pub value: Option<Bytes>,
    /// The time until the record expires, as of the read; zero without a value.
    pub expires_in: Duration,
}

impl Record {
    /// A record that was read when it had `expires_in` left: without a value if that is zero, and
    /// with no time left if it has no value.
    #[must_use]
    pub fn new(key: impl Into<String>, value: Option<Bytes>, expires_in: Duration) -> Self {
        let value = value.filter(|_| !expires_in.is_zero());
        let expires_in = if value.is_some() { expires_in } else { Duration::ZERO };
        Self { key: key.into(), value, expires_in }
    }

    /// Longest key, in bytes.
    pub const MAX_KEY: usize = 512;

    /// Longest value, in bytes.
    pub const MAX_VALUE: usize = 4096;

    /// Longest lifetime: ten years. What should last longer lasts as long as this.
    pub const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

    /// Shortest lifetime, so a record that was set can be read.
    const MIN_LIFETIME: Duration = Duration::from_millis(1);

    /// Checks the sizes of a key and a value, as a broker must before anything else.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] if the key is empty or longer than [`Record::MAX_KEY`], or the
    /// value longer than [`Record::MAX_VALUE`].
    pub fn check(key: &str, value: Option<&Bytes>) -> Result<(), BrokerError> {
        if !(1..=Self::MAX_KEY).contains(&key.len()) {
            Err(BrokerError::refused("the key of a record must have 1 to 512 bytes"))
        } else if value.is_some_and(|value| value.len() > Self::MAX_VALUE) {
            Err(BrokerError::refused("the value of a record must have at most 4096 bytes"))
        } else {
            Ok(())
        }
    }

    /// How long a broker keeps a record: `expires_in`, at least a millisecond and at most
    /// [`Record::MAX_LIFETIME`]. A removal, which has no value, is kept for
    /// [`Records::REMEMBERED`].
    #[must_use]
    pub fn lifetime(value: Option<&Bytes>, expires_in: Duration) -> Duration {
        match value {
            Some(_) => expires_in.clamp(Self::MIN_LIFETIME, Self::MAX_LIFETIME),
            None => Records::REMEMBERED,
        }
    }
}

/// The answer to a read of a [`SharedTable`]; see [`changes_since`](SharedTable::changes_since).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Records {
    /// The version to read on from.
    pub version: u64,
    /// Whether this is the whole table, which replaces the caller's copy; otherwise it is what has
    /// changed.
    pub complete: bool,
    /// The records in the order in which they were set, each key once.
    pub records: Vec<Record>,
}

impl Records {
    /// The whole table as of `version`.
    #[must_use]
    pub fn whole(version: u64, records: Vec<Record>) -> Self {
        Self { version, complete: true, records }
    }

    /// What has changed up to `version`.
    #[must_use]
    pub fn changes(version: u64, records: Vec<Record>) -> Self {
        Self { version, complete: false, records }
    }

    /// Maximum records in the table, not counting removed ones.
    pub const MAX: usize = 100_000;

    /// How long a removal is remembered. A node that reads less often gets the whole table.
    pub const REMEMBERED: Duration = Duration::from_secs(10 * 60);

    pub(crate) fn full() -> BrokerError {
        BrokerError::refused("the table is full: it has 100,000 records")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_lifetimes_are_clamped() {
        let value = Bytes::from_static(b"x");
        let (minute, most) = (Duration::from_secs(60), Record::MAX_LIFETIME);
        for (wanted, expected) in [
            (Duration::ZERO, Duration::from_millis(1)),
            (minute, minute),
            (most, most),
            (Duration::MAX, most),
        ] {
            assert_eq!(Record::lifetime(Some(&value), wanted), expected);
            assert_eq!(Record::lifetime(None, wanted), Records::REMEMBERED);
        }
    }
}
