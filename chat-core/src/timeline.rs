//! How one server follows a room's sequence.
//!
//! | state | event | what is passed on | next state |
//! |---|---|---|---|
//! | opening | publication | nothing: it is held | opening |
//! | opening | read | nothing: the read sets the position; then the held ones that follow on it | open |
//! | open | the next publication | it | open |
//! | open | a publication behind a hole | nothing: it is held, and a read is wanted | waiting |
//! | open | marked stale | nothing: a read is wanted | waiting |
//! | waiting | read | what was missed, or a gap; then the held ones that follow on it | open |
//!
//! Pure: the caller subscribes, reads, and passes in publications and reads in the order in which
//! they arrive. The output is the sequence without hole or repeat, or a [gap](Item::Gap) where the
//! broker has lost messages. The rules are those of Centrifugo's recovery (offset and epoch), with
//! the repair on the server instead of in each client.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::deliver::Item;
use crate::history::{History, HistoryEntry, HistoryRange};
use crate::position::{Position, Step};
use crate::recent::Recent;

/// Publications held during a read, and bytes of their payloads. Further ones are dropped, and
/// another read fetches them.
const MAX_HELD: usize = 1024;
const MAX_HELD_BYTES: usize = 1 << 20;

/// A room's sequence as one server knows it; see the [module](self).
#[derive(Debug)]
pub struct Timeline {
    /// The latest message passed on; `None` before the first read.
    seen: Option<Position>,
    /// The sequence was lost, and a new one begins: the next thing to pass on is a gap.
    lost: bool,
    recent: Recent,
    /// Received and not passed on: before the first read, or behind a hole.
    held: VecDeque<Held>,
    held_bytes: usize,
    read: Read,
}

#[derive(Debug)]
struct Held {
    position: Position,
    payload: Bytes,
    /// Received before the current read began: the read includes it, or it is no message of this
    /// room.
    before_read: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Idle,
    Wanted,
    Running {
        /// The latest message passed on when the read began.
        since: Option<Position>,
        /// Another read is needed after it.
        again: bool,
    },
}

/// What [`Timeline::accept`] made of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It was the next one, and was passed on.
    InOrder,
    /// It waits for a read.
    Held,
    /// It was passed on before.
    Repeat,
}

/// The result of [`Timeline::finish_read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The room is open from this position on.
    Opened(Position),
    /// This many missed messages were passed on.
    Repaired(usize),
    /// The broker has lost messages: a gap was passed on.
    Gap,
}

impl Timeline {
    /// A room of which nothing is known; its first read is wanted. `recent` bounds the messages that
    /// are kept for later joins.
    #[must_use]
    pub fn new(recent: Recent) -> Self {
        Self {
            seen: None,
            lost: false,
            recent,
            held: VecDeque::new(),
            held_bytes: 0,
            read: Read::Wanted,
        }
    }

    /// The latest message passed on; `None` before the first read.
    #[must_use]
    pub fn seen(&self) -> Option<Position> {
        self.seen
    }

    /// The latest messages passed on.
    #[must_use]
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Frees memory: drops the older half of the recent messages.
    pub fn evict(&mut self) {
        self.recent.evict();
    }

    /// The room's history has expired.
    pub fn expire(&mut self) {
        self.recent.expire();
    }

    /// Takes a publication; appends to `out` what can be passed on.
    pub fn accept(&mut self, position: Position, payload: Bytes, out: &mut Vec<Item>) -> Accepted {
        let Some(seen) = self.seen else {
            self.hold(position, payload);
            return Accepted::Held;
        };
        match seen.step_to(position) {
            Step::Repeat => Accepted::Repeat,
            // Behind held ones even the next is held: it may be of a sequence that was replaced.
            Step::Next if self.held.is_empty() && !self.lost => {
                self.pass(position, payload, out);
                Accepted::InOrder
            }
            Step::Next | Step::Gap => {
                self.hold(position, payload);
                if self.read == Read::Idle {
                    self.read = Read::Wanted;
                }
                Accepted::Held
            }
        }
    }

    /// Publications may have been missed: a read is wanted.
    pub fn mark_stale(&mut self) {
        self.request_read();
    }

    /// Whether this server may have missed something of a room that was at `position` on the broker.
    /// Before the first read it may have: that read can be of an earlier moment.
    #[must_use]
    pub fn is_behind(&self, position: Position) -> bool {
        self.seen.is_none_or(|seen| seen.epoch != position.epoch || seen.offset < position.offset)
    }

    /// Begins a read, if one is wanted and none is running.
    pub fn begin_read(&mut self) -> Option<HistoryRange> {
        if self.read != Read::Wanted {
            return None;
        }
        // Only what arrives from here on can be newer than the read.
        self.held.iter_mut().for_each(|held| held.before_read = true);
        self.read = Read::Running { since: self.seen, again: false };
        Some(self.seen.map_or(HistoryRange::Latest, |seen| HistoryRange::After(seen.offset)))
    }

    /// Whether a read is wanted and none is running.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        self.read == Read::Wanted
    }

    /// The read failed, and is still wanted.
    pub fn fail_read(&mut self) {
        if matches!(self.read, Read::Running { .. }) {
            self.read = Read::Wanted;
        }
    }

    /// Takes what was read; appends to `out` what can be passed on.
    pub fn finish_read(&mut self, history: History, out: &mut Vec<Item>) -> Finished {
        let Read::Running { since, again } = self.read else { return Finished::Repaired(0) };
        self.read = if again { Read::Wanted } else { Read::Idle };
        let before = out.len();
        let opened = self.seen.is_none().then_some(history.position);
        match self.seen {
            None => self.open(history),
            Some(seen) => self.repair(seen, since, history, out),
        }
        let passed = out.len() - before;
        self.drain_held(out);
        match opened {
            Some(position) => Finished::Opened(position),
            None if out[before..].iter().any(|item| matches!(item, Item::Gap(_))) => Finished::Gap,
            None => Finished::Repaired(passed),
        }
    }

    fn open(&mut self, History { position, entries }: History) {
        self.seen = Some(position);
        if entries.is_empty() {
            self.recent.begin(position);
        }
        for HistoryEntry { offset, payload } in entries {
            self.recent.load(Position { offset, ..position }, payload);
        }
    }

    fn repair(
        &mut self,
        seen: Position,
        since: Option<Position>,
        history: History,
        out: &mut Vec<Item>,
    ) {
        if seen == Position::default() {
            // No message of any sequence was seen: the room's sequence starts here, without a gap.
            self.seen = Some(Position { epoch: history.position.epoch, offset: 0 });
            self.append(history, out);
        } else if history.position.epoch == seen.epoch {
            self.append(history, out);
        } else if since.is_none_or(|since| since.epoch != seen.epoch) {
            // A publication of a new sequence was passed on during the read, which may be older than
            // that and still show the old one: its result proves nothing.
            self.request_read();
        } else {
            self.recent.clear();
            self.seen = Some(Position { epoch: history.position.epoch, offset: 0 });
            self.lost = true;
            if history.position.offset == 0 {
                self.pass_gap(0, out);
            } else {
                // It was read from the old offset on: the next read starts at the beginning of the
                // new sequence.
                self.request_read();
            }
        }
    }

    /// Passes on what follows the latest message.
    fn append(&mut self, History { position, entries }: History, out: &mut Vec<Item>) {
        let is_page = entries.last().is_some_and(|last| last.offset < position.offset);
        for HistoryEntry { offset, payload } in entries {
            let here = self.offset();
            if offset <= here {
                continue;
            }
            if offset > here + 1 || self.lost {
                self.pass_gap(offset - 1, out);
            }
            self.pass(Position { offset, ..position }, payload, out);
        }
        // A gap at the end would be false while the rest was not read.
        if is_page {
            self.request_read();
        } else if self.offset() < position.offset || self.lost {
            self.pass_gap(position.offset.max(self.offset()), out);
        }
    }

    fn drain_held(&mut self, out: &mut Vec<Item>) {
        while let (Some(front), Some(seen)) = (self.held.front(), self.seen) {
            let step = seen.step_to(front.position);
            // What was received before the read began is in the read, unless a page is missing.
            // Else it is of no sequence of this room, or of a replaced one, and is dropped: it would
            // hold back all that follow.
            let is_stray = front.before_read && self.read == Read::Idle;
            let is_next = step == Step::Next && !self.lost && !front.before_read;
            if step != Step::Repeat && !is_next && !is_stray {
                self.request_read();
                return;
            }
            let Some(Held { position, payload, .. }) = self.held.pop_front() else { return };
            self.held_bytes -= payload.len();
            if is_next {
                self.pass(position, payload, out);
            }
        }
    }

    fn hold(&mut self, position: Position, payload: Bytes) {
        if self.held.len() >= MAX_HELD || self.held_bytes + payload.len() > MAX_HELD_BYTES {
            self.request_read();
            return;
        }
        self.held_bytes += payload.len();
        self.held.push_back(Held { position, payload, before_read: false });
    }

    fn pass(&mut self, position: Position, payload: Bytes, out: &mut Vec<Item>) {
        self.recent.push(position, payload.clone());
        self.seen = Some(position);
        out.push(Item::Envelope(payload, Some(position)));
    }

    fn pass_gap(&mut self, offset: u64, out: &mut Vec<Item>) {
        let position = Position { offset, ..self.seen.unwrap_or_default() };
        self.recent.clear();
        self.seen = Some(position);
        self.lost = false;
        out.push(Item::Gap(Some(position)));
    }

    fn request_read(&mut self) {
        match &mut self.read {
            Read::Running { again, .. } => *again = true,
            read => *read = Read::Wanted,
        }
    }

    fn offset(&self) -> u64 {
        self.seen.map_or(0, |seen| seen.offset)
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
