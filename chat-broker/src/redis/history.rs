//! Keeping and reading what was said.

use std::time::Duration;

use bytes::Bytes;
use chat_core::{Epoch, History, HistoryEntry, HistoryRange, Retention};
use redis::Pipeline;

use super::config::MAX_TTL;
use super::connection::store::Store;
use super::health::damage::SEQUENCE;
use super::last_seen::LastSeen;
use super::names::Address;
use super::publish::queue::Job;
use super::shared::Shared;
use super::wire::MAX_OFFSET;
use crate::error::BrokerError;
use crate::history::HistoryRead;
use crate::random;

/// Reads in one pipeline: of 256 KiB each at most, so that the answer arrives in time.
const MAX_READS: usize = 16;

/// How much longer than its log the meta of a topic lives: a log without it is lost.
const MARGIN: Duration = Duration::from_secs(60);

/// Above any history, and no more than numbers in Lua are exact for.
const MAX_BYTES: usize = usize::MAX >> 11;

/// The reply of `history.lua`: epoch, offset, id of the newest, offset of the oldest,
/// payloads.
type Reply = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>, u64, Vec<Vec<u8>>);

impl Shared {
    /// Adds a persistent publication to `commands`.
    pub(super) fn add_persistent(&self, commands: &mut Pipeline, job: &Job, retention: Retention) {
        let ttl = retention.ttl.clamp(Duration::from_secs(1), MAX_TTL);
        let meta_ttl = self.config.position_ttl.max(ttl + MARGIN);
        let (address, log) = (&job.address, job.address.log());
        let call = match &job.options.key {
            Some(key) => {
                let record = address.record(key);
                self.scripts.publish.call(commands, &[address.meta(), &log, &record])
            }
            None => self.scripts.publish.call(commands, &[address.meta(), &log]),
        };
        call.arg(address.channel()).arg(Epoch::from_random(random::bits()).as_str());
        call.arg(job.id.as_bytes()).arg(retention.messages.max(1));
        call.arg(limits(retention, job.payload.len()));
        call.arg(ttl.as_millis() as u64).arg(meta_ttl.as_secs()).arg(&job.payload[..]);
    }
}

/// The bound in bytes as `publish.lua` wants it.
fn limits(retention: Retention, size: usize) -> String {
    let bounded = retention.bytes(retention.bytes.min(MAX_BYTES));
    let (bytes, share) = (bounded.bytes, bounded.share());
    match bounded.excess(size) {
        0 => format!("{bytes}/{share}"),
        excess => format!("{bytes}/{share}!{excess}"),
    }
}

impl Store {
    /// See [`Broker::history`](crate::Broker::history); with each part the latest
    /// publication that it announces.
    pub(super) async fn history(
        &self,
        reads: &[HistoryRead],
    ) -> Result<Vec<(History, LastSeen)>, BrokerError> {
        let work = async {
            let mut histories = Vec::with_capacity(reads.len());
            for reads in reads.chunks(MAX_READS) {
                let addresses = self.addresses(reads.iter().map(|read| &read.topic));
                let mut commands = Pipeline::with_capacity(reads.len());
                for (read, address) in reads.iter().zip(&addresses) {
                    self.add_read(&mut commands, read, address);
                }
                let replies = self.query_each(&commands, &addresses, SEQUENCE).await?;
                let replies = reads.iter().zip(&addresses).zip(replies);
                histories.extend(
                    replies.map(|((read, address), reply)| self.history_of(read, address, reply)),
                );
            }
            Ok(histories)
        };
        self.in_time(work).await
    }

    fn add_read(&self, commands: &mut Pipeline, read: &HistoryRead, address: &Address) {
        let (command, from) = match read.range {
            HistoryRange::After(offset) => ("XRANGE", (offset.min(MAX_OFFSET) + 1).to_string()),
            HistoryRange::Before(offset) => {
                ("XREVRANGE", offset.clamp(1, MAX_OFFSET).saturating_sub(1).to_string())
            }
            HistoryRange::Latest => ("XREVRANGE", "+".to_owned()),
        };
        let call = self.shared.scripts.history.call(commands, &[address.meta(), &address.log()]);
        call.arg(command).arg(from).arg(read.limit).arg(HistoryRead::MAX_BYTES);
    }

    fn history_of(
        &self,
        read: &HistoryRead,
        address: &Address,
        reply: Reply,
    ) -> (History, LastSeen) {
        let (epoch, offset, id, oldest, mut payloads) = reply;
        let mut last_seen = self.last_seen(address, (epoch, offset, Some(id)));
        let position = last_seen.position;
        if !matches!(read.range, HistoryRange::After(_)) {
            payloads.reverse();
        }
        let entries: Vec<HistoryEntry> = (oldest..=position.offset)
            .zip(payloads)
            .map(|(offset, payload)| HistoryEntry::new(offset, Bytes::from(payload)))
            .collect();
        if entries.last().is_none_or(|newest| newest.offset != position.offset) {
            // The id is of another publication.
            last_seen.id = None;
        }
        (History::new(position, entries), last_seen)
    }
}
