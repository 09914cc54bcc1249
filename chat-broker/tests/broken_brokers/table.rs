//! Faults of the shared table.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::{BrokerError, Record, Records, SetOptions, SharedTable};
use tokio::time::sleep;

use crate::Fault;
use crate::broker::{Broken, lock};
use crate::events::as_text;

#[async_trait]
impl SharedTable for Broken {
    async fn set(
        &self,
        key: &str,
        mut value: Bytes,
        mut options: SetOptions,
    ) -> Result<(), BrokerError> {
        let mut key = key.to_owned();
        match self.fault {
            Some(Fault::ChangesRecords) => value = as_text(&value),
            Some(Fault::IgnoresShortLifetimes) if options.expires_in.is_zero() => return Ok(()),
            Some(Fault::KeepsExpiredRecords) => options.expires_in = Record::MAX_LIFETIME,
            Some(Fault::CutsRecords) => {
                key.truncate(Record::MAX_KEY);
                value.truncate(Record::MAX_VALUE);
            }
            Some(Fault::AnnouncesEarly) => {
                self.announce_records();
                sleep(Duration::from_millis(1)).await;
            }
            _ => {}
        }
        lock(&self.shared.removed).remove(&key);
        self.outcome(self.inner.set(&key, value, options).await)
    }

    async fn remove(&self, key: &str) -> Result<(), BrokerError> {
        if let Ok(records) = self.inner.changes_since(0).await
            && let Some(record) = records.records.into_iter().find(|record| record.key == key)
        {
            lock(&self.shared.removed).extend(record.value.map(|value| (record.key, value)));
        }
        self.outcome(self.inner.remove(key).await)
    }

    async fn changes_since(&self, after: u64) -> Result<Records, BrokerError> {
        if self.has(Fault::ResurrectsRecords) {
            let removed = std::mem::take(&mut *lock(&self.shared.removed));
            for (key, value) in removed {
                self.inner.set(&key, value, SetOptions::default()).await?;
            }
        }
        let mut records = self.outcome(self.inner.changes_since(after).await)?;
        match self.fault {
            Some(Fault::ReversesChanges) => records.records.reverse(),
            Some(Fault::OmitsChanges) if !records.complete && self.is_nth_call(3) => {
                records.records.pop();
            }
            Some(Fault::TrustsUnknownVersions) if after > records.version => {
                return Ok(Records::changes(records.version, Vec::new()));
            }
            _ => {}
        }
        Ok(records)
    }

    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        let mut secret = self.outcome(self.inner.secret().await)?;
        if self.has(Fault::HasOwnSecret) {
            secret[0] ^= self.nth as u8;
        }
        Ok(secret)
    }
}

impl Broken {
    /// The answer of a closed node, if the fault is that it has one.
    fn outcome<T: Default>(&self, outcome: Result<T, BrokerError>) -> Result<T, BrokerError> {
        match outcome {
            Err(BrokerError::Closed) if self.has(Fault::AnswersAfterClose) => Ok(T::default()),
            outcome => outcome,
        }
    }
}
