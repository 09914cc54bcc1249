//! Reading what was kept.

use chat_core::{History, HistoryEntry, HistoryRange};
use redis::Pipeline;

use super::connection::store::Store;
use super::health::damage::SEQUENCE;
use super::last_seen::LastSeen;
use super::names::Address;
use super::tail::TailRead;
use super::wire::{self, HistoryReply, MAX_OFFSET};
use crate::error::BrokerError;
use crate::history::HistoryRead;

/// Reads in one pipeline: of 256 KiB each at most, so that the answer arrives in time.
const MAX_READS: usize = 16;

impl Store {
    /// See [`Broker::history`](crate::Broker::history); with each part the latest
    /// publication that it announces. `known` is what this node has seen of the topics.
    pub(super) async fn history(
        &self,
        reads: &[HistoryRead],
        addresses: &[Address],
        known: &[Option<LastSeen>],
    ) -> Result<Vec<(History, LastSeen)>, BrokerError> {
        let work = async {
            let mut histories = Vec::with_capacity(reads.len());
            let chunks = reads.chunks(MAX_READS).zip(addresses.chunks(MAX_READS));
            for ((reads, addresses), known) in chunks.zip(known.chunks(MAX_READS)) {
                let tails = self.read_tails(reads, addresses, known).await?;
                let replies = self.read_by_script(reads, addresses, tails).await?;
                let replies = reads.iter().zip(addresses).zip(replies);
                histories.extend(
                    replies.map(|((read, address), reply)| self.history_of(read, address, reply)),
                );
            }
            Ok(histories)
        };
        self.in_time(work).await
    }

    /// Carries out the reads that need no script; `None` for each other.
    async fn read_tails(
        &self,
        reads: &[HistoryRead],
        addresses: &[Address],
        known: &[Option<LastSeen>],
    ) -> Result<Vec<Option<HistoryReply>>, BrokerError> {
        let tails = reads.iter().zip(known).map(|(read, known)| TailRead::new(read, *known));
        let tails: Vec<_> = tails.collect();
        let mut commands = Pipeline::new();
        for (tail, address) in tails.iter().zip(addresses) {
            if let Some(tail) = tail {
                tail.add_to(&mut commands, address);
            }
        }
        if commands.is_empty() {
            return Ok(vec![None; reads.len()]);
        }
        let mut replies = self.query_all(&mut commands).await?.into_iter();
        let mut reply =
            |tail: TailRead| tail.reply([replies.next()?, replies.next()?, replies.next()?]);
        Ok(tails.into_iter().map(|tail| tail.and_then(&mut reply)).collect())
    }

    /// Carries out the reads that have no reply yet, and returns the replies of all.
    async fn read_by_script(
        &self,
        reads: &[HistoryRead],
        addresses: &[Address],
        replies: Vec<Option<HistoryReply>>,
    ) -> Result<Vec<HistoryReply>, BrokerError> {
        let mut commands = Pipeline::new();
        let mut unread = Vec::new();
        for ((read, address), reply) in reads.iter().zip(addresses).zip(&replies) {
            if reply.is_none() {
                self.add_read(&mut commands, read, address);
                unread.push(address);
            }
        }
        if unread.is_empty() {
            return Ok(replies.into_iter().flatten().collect());
        }
        let mut others = self.query_each(&commands, &unread, SEQUENCE).await?.into_iter();
        Ok(replies.into_iter().filter_map(|reply| reply.or_else(|| others.next())).collect())
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
        (epoch, offset, oldest, mut entries): HistoryReply,
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
