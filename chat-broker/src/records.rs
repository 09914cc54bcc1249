//! The table that all nodes of a bus share.

use std::time::Duration;

use bytes::Bytes;

use crate::error::BrokerError;

/// One record of the table that all nodes of a bus share; see
/// [`Broker::set_record`](crate::Broker::set_record).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name: 1 to [`Record::MAX_KEY`] bytes.
    pub key: String,
    /// What it says, [`Record::MAX_VALUE`] bytes at most; `None` if there is no such record
    /// any more, because it was removed or its time is over.
    pub value: Option<Bytes>,
    /// How long it is still there, as of the moment in which it was read; nothing if it is
    /// not there.
    pub expires_in: Duration,
}

impl Record {
    /// Longest key, in bytes.
    pub const MAX_KEY: usize = 512;

    /// Longest value, in bytes.
    pub const MAX_VALUE: usize = 4096;

    /// Longest lifetime: ten years. What should last longer lasts as long as this.
    pub const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

    /// Shortest lifetime: a record that is set was there.
    const MIN_LIFETIME: Duration = Duration::from_millis(1);

    /// Whether a record may have this key and this value: what a broker checks before
    /// anything else.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] if the key is empty or longer than [`Record::MAX_KEY`], or the
    /// value longer than [`Record::MAX_VALUE`].
    pub fn check(key: &str, value: Option<&Bytes>) -> Result<(), BrokerError> {
        if !(1..=Self::MAX_KEY).contains(&key.len()) {
            Err(BrokerError::refused("the key of a record is 1 to 512 bytes"))
        } else if value.is_some_and(|value| value.len() > Self::MAX_VALUE) {
            Err(BrokerError::refused("the value of a record is 4096 bytes at most"))
        } else {
            Ok(())
        }
    }

    /// How long a record with this value is kept that is to be there for `expires_in`:
    /// something, and [`Record::MAX_LIFETIME`] at most. That it was removed, which is to
    /// have no value, is known for [`Records::REMEMBERED`].
    #[must_use]
    pub fn lifetime(value: Option<&Bytes>, expires_in: Duration) -> Duration {
        match value {
            Some(_) => expires_in.clamp(Self::MIN_LIFETIME, Self::MAX_LIFETIME),
            None => Records::REMEMBERED,
        }
    }
}

/// What was read of the table; see [`Broker::records`](crate::Broker::records).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// What to ask with the next time.
    pub version: u64,
    /// This is the whole table, and replaces whatever the caller holds of it; otherwise it is
    /// what has changed.
    pub complete: bool,
    /// In the order in which they were set, each key once.
    pub records: Vec<Record>,
}

impl Records {
    /// Records in the table at most, not counting those that were removed.
    pub const MAX: usize = 100_000;

    /// How long it is known of a record that it was removed: whoever asks less often is given
    /// the whole table.
    pub const REMEMBERED: Duration = Duration::from_secs(10 * 60);

    pub(crate) fn full() -> BrokerError {
        BrokerError::refused("there are 100,000 records")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_its_limits_and_a_removal_its_own() {
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
