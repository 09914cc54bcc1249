//! How one server keeps step with a room's sequence.
//!
//! ```text
//!             publication                     read, with the room's position
//!   opening ──────────────▶ held            ─────────▶ open; held ones sorted out
//!   open    ── the next ──▶ passed on
//!           ── a hole ────▶ held, read wanted ───────▶ the hole filled, then the held ones
//!           ── suspect ───▶ read wanted ─────────────▶ whatever was missed at the end
//! ```
//!
//! Pure: the caller subscribes, reads and hands in what comes, in whatever order it comes;
//! what goes out is the sequence without hole or repeat, or a [gap](Item::Gap) where
//! messages are gone for good. The rules are those of Centrifugo's recovery (offset and
//! epoch), with the repair on the server instead of in each client.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::deliver::Item;
use crate::history::{History, HistoryEntry, HistoryRange};
use crate::position::{Position, Step};
use crate::recent::Recent;

/// Publications held while a read is under way, and their payload. What comes beyond it is
/// dropped and read afterwards.
const MAX_HELD: usize = 1024;
const MAX_HELD_BYTES: usize = 1 << 20;

/// What a server knows of a room's sequence; see the [module](self).
#[derive(Debug)]
pub struct Timeline {
    /// The latest message passed on; `None` before the first read.
    seen: Option<Position>,
    /// The sequence was lost, and a new one begins: the next thing to pass on is a gap.
    lost: bool,
    recent: Recent,
    /// Arrived and not passed on: before the first read, or behind a hole.
    held: VecDeque<Held>,
    held_bytes: usize,
    read: Read,
}

#[derive(Debug)]
struct Held {
    position: Position,
    payload: Bytes,
    /// Came before the read under way began, which therefore knows it, or it is no message
    /// of this room.
    early: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Needless,
    Wanted,
    Running {
        /// What was seen when it began.
        since: Option<Position>,
        /// Another is needed after it.
        again: bool,
    },
}

/// What [`Timeline::accept`] made of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It was the next one, and is passed on.
    InOrder,
    /// It waits for a read.
    Held,
    /// It was passed on before.
    Repeat,
}

/// What [`Timeline::finish_read`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The room is open from this position on.
    Opened(Position),
    /// This many messages had been missed and were passed on.
    Repaired(usize),
    /// Messages are gone for good: a gap was passed on.
    Gap,
}

impl Timeline {
    /// A room of which nothing is known; its first read is wanted. `recent` says how much
    /// is remembered for those who come later.
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

    /// Gives up memory: the older half of what is remembered.
    pub fn evict(&mut self) {
        self.recent.evict();
    }

    /// The time of what was passed on so far is over.
    pub fn expire(&mut self) {
        self.recent.expire();
    }

    /// Takes a publication; what can be passed on goes to `out`.
    pub fn accept(&mut self, position: Position, payload: Bytes, out: &mut Vec<Item>) -> Accepted {
        let Some(seen) = self.seen else {
            self.hold(position, payload);
            return Accepted::Held;
        };
        match seen.step_to(position) {
            Step::Repeat => Accepted::Repeat,
            Step::Next if self.held.is_empty() && !self.lost => {
                self.pass(position, payload, out);
                Accepted::InOrder
            }
            Step::Next | Step::Gap => {
                self.hold(position, payload);
                if self.read == Read::Needless {
                    self.read = Read::Wanted;
                }
                Accepted::Held
            }
        }
    }

    /// Publications may have been missed: the room is read.
    pub fn mark_stale(&mut self) {
        self.want_read();
    }

    /// Whether a room that stood at `position` on the broker may have missed something. A
    /// read that has yet to open it may be of an earlier moment.
    #[must_use]
    pub fn is_behind(&self, position: Position) -> bool {
        self.seen.is_none_or(|seen| seen.epoch != position.epoch || seen.offset < position.offset)
    }

    /// Begins a read, if one is wanted and none is under way.
    pub fn begin_read(&mut self) -> Option<HistoryRange> {
        if self.read != Read::Wanted {
            return None;
        }
        self.held.iter_mut().for_each(|held| held.early = true);
        self.read = Read::Running { since: self.seen, again: false };
        Some(self.seen.map_or(HistoryRange::Latest, |seen| HistoryRange::After(seen.offset)))
    }

    /// Whether a read is wanted and none is under way.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        self.read == Read::Wanted
    }

    /// The read came to nothing, and is still wanted.
    pub fn fail_read(&mut self) {
        if matches!(self.read, Read::Running { .. }) {
            self.read = Read::Wanted;
        }
    }

    /// Takes what was read; what can be passed on goes to `out`.
    pub fn finish_read(&mut self, history: History, out: &mut Vec<Item>) -> Finished {
        let Read::Running { since, again } = self.read else { return Finished::Repaired(0) };
        self.read = if again { Read::Wanted } else { Read::Needless };
        let before = out.len();
        let opened = self.seen.is_none().then_some(history.position);
        match self.seen {
            None => self.open(history),
            Some(seen) => self.repair(seen, since, history, out),
        }
        let told = out.len() - before;
        self.sort_out_held(out);
        match opened {
            Some(position) => Finished::Opened(position),
            None if out[before..].iter().any(|item| matches!(item, Item::Gap(_))) => Finished::Gap,
            None => Finished::Repaired(told),
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
            // Nothing of any sequence was seen: whichever there is, begins here.
            self.seen = Some(Position { epoch: history.position.epoch, offset: 0 });
            self.splice(history, out);
        } else if history.position.epoch == seen.epoch {
            self.splice(history, out);
        } else if since.is_none_or(|since| since.epoch != seen.epoch) {
            // Another sequence has begun since: the read may be older than that.
            self.want_read();
        } else {
            self.recent.clear();
            self.seen = Some(Position { epoch: history.position.epoch, offset: 0 });
            self.lost = true;
            if history.position.offset == 0 {
                self.tell_gap(0, out);
            } else {
                // It was read from the old offset on; the new sequence has a beginning.
                self.want_read();
            }
        }
    }

    /// Passes on what follows on the latest message.
    fn splice(&mut self, History { position, entries }: History, out: &mut Vec<Item>) {
        let is_page = entries.last().is_some_and(|last| last.offset < position.offset);
        for HistoryEntry { offset, payload } in entries {
            let here = self.offset();
            if offset <= here {
                continue;
            }
            if offset > here + 1 || self.lost {
                self.tell_gap(offset - 1, out);
            }
            self.pass(Position { offset, ..position }, payload, out);
        }
        if is_page {
            self.want_read();
        } else if self.offset() < position.offset || self.lost {
            self.tell_gap(position.offset.max(self.offset()), out);
        }
    }

    fn sort_out_held(&mut self, out: &mut Vec<Item>) {
        while let (Some(front), Some(seen)) = (self.held.front(), self.seen) {
            let step = seen.step_to(front.position);
            // What came before the read began is in it, unless a page is missing; or it was
            // no message of this room, or is one no more.
            let is_stray = front.early && self.read == Read::Needless;
            let is_next = step == Step::Next && !self.lost && !front.early;
            if step != Step::Repeat && !is_next && !is_stray {
                self.want_read();
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
            self.want_read();
            return;
        }
        self.held_bytes += payload.len();
        self.held.push_back(Held { position, payload, early: false });
    }

    fn pass(&mut self, position: Position, payload: Bytes, out: &mut Vec<Item>) {
        self.recent.push(position, payload.clone());
        self.seen = Some(position);
        out.push(Item::Envelope(payload, Some(position)));
    }

    fn tell_gap(&mut self, offset: u64, out: &mut Vec<Item>) {
        let position = Position { offset, ..self.seen.unwrap_or_default() };
        self.recent.clear();
        self.seen = Some(position);
        self.lost = false;
        out.push(Item::Gap(Some(position)));
    }

    fn want_read(&mut self) {
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
