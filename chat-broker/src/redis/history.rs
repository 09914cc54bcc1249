//! Reading what was kept.

use bytes::Bytes;
use chat_core::{History, HistoryEntry, HistoryRange};
use redis::Pipeline;

use super::connection::store::Store;
use super::health::damage::SEQUENCE;
use super::last_seen::LastSeen;
use super::names::Address;
use super::wire::{self, MAX_OFFSET};
use crate::error::BrokerError;
use crate::history::HistoryRead;

/// Reads in one pipeline: of 256 KiB each at most, so that the answer arrives in time.
const MAX_READS: usize = 16;

/// The reply of `history.lua`: epoch, offset, offset of the oldest entry, entries.
type Reply = (Vec<u8>, u64, u64, Vec<Bytes>);

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
        let (range, offset) = match read.range {
            HistoryRange::After(offset) => ("after", offset.min(MAX_OFFSET)),
            HistoryRange::Before(offset) => ("before", offset.clamp(1, MAX_OFFSET)),
            HistoryRange::Latest => ("latest", 0),
        };
        let keys = [address.log(), &address.position()];
        let call = self.shared.scripts.history.call(commands, &keys);
        call.arg(range).arg(offset).arg(read.limit).arg(HistoryRead::MAX_BYTES);
    }

    fn history_of(
        &self,
        read: &HistoryRead,
        address: &Address,
        (epoch, offset, oldest, mut entries): Reply,
    ) -> (History, LastSeen) {
        let is_forward = matches!(read.range, HistoryRange::After(_));
        if !is_forward {
            entries.reverse();
        }
        let decode = |(offset, entry)| Some((offset, wire::decode_entry(entry)?));
        let mut decoded: Vec<_> = (oldest..=offset).zip(entries).map(decode).collect();
        // An operator may have replaced entries: what is returned has no hole.
        if !is_forward {
            decoded.reverse();
        }
        let run = decoded.into_iter().skip_while(Option::is_none).map_while(|entry| entry);
        let mut run: Vec<_> = run.collect();
        if !is_forward {
            run.reverse();
        }
        let newest_id = run.last().map(|(offset, (id, _))| (*offset, *id));
        let entries =
            run.into_iter().map(|(offset, (_, payload))| HistoryEntry::new(offset, payload));
        let entries = entries.collect();
        // The id is of another publication if the newest was not read.
        let id = newest_id.filter(|(at, _)| *at == offset);
        let id = id.as_ref().map_or(&b""[..], |(_, id)| id.as_bytes());
        let last_seen = match epoch.is_empty() {
            true => Some(LastSeen::default()),
            false => LastSeen::new(&epoch, offset, id),
        };
        let last_seen = self.checked(address, last_seen);
        (History::new(last_seen.position, entries), last_seen)
    }
}
