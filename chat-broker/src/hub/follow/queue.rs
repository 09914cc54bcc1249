//! What a follower has yet to take, between the room's lock and the task of the consumer.

use std::collections::VecDeque;

use chat_core::{Item, Position};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::Followed;
use crate::error::BrokerError;

/// Publications that the queue takes from batches, and bytes of their payload: the one that reaches
/// either is the last.
const MAX_ITEMS: usize = 1024;
const MAX_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(in crate::hub) struct FollowQueue {
    state: Mutex<State>,
    /// Wakes all that wait, since a canceled wait may stay registered: the stream keeps the future
    /// of its next item.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    items: VecDeque<Item>,
    bytes: usize,
    /// The position after the items; `None` in a topic without history, and before the beginning is
    /// known.
    end: Option<Position>,
    /// The position after the last item that was taken.
    taken: Option<Position>,
    error: Option<BrokerError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The topic is not live yet.
    Waiting,
    /// Each batch of the topic is queued.
    Live,
    /// Batches are not queued: the consumer reads on from the history, once it has taken the items.
    Behind,
    /// The hub has ended: nothing follows on the items.
    Ended,
}

/// The next thing for the consumer.
#[derive(Debug)]
pub(super) enum Next {
    Item(Followed),
    /// Nothing is queued.
    Empty(Phase),
}

/// The part of the room, which calls it under its lock.
impl FollowQueue {
    /// The topic is live at `cut`, which is `None` without a history: the follower receives what
    /// follows on it, or reads on from the position that it was given.
    pub(in crate::hub) fn go_live(&self, cut: Option<Position>) {
        let mut state = self.state();
        if state.phase != Phase::Waiting {
            return;
        }
        state.error = None;
        state.phase = Phase::Live;
        match (state.taken, cut) {
            (None, cut) => (state.end, state.taken) = (cut, cut),
            (Some(_), Some(_)) => state.phase = Phase::Behind,
            // Without a history there is nothing to continue from.
            (Some(_), None) => state.push(Item::Gap(None)),
        }
        self.wake(state);
    }

    /// Queues the items of a batch. Returns `false` if the queue had no room for all: then the items
    /// that did not fit, and later batches, are read from the history.
    pub(in crate::hub) fn push(&self, items: &[Item]) -> bool {
        let mut state = self.state();
        if state.phase != Phase::Live {
            return true;
        }
        let is_complete = items.iter().filter(|item| is_followed(item)).all(|item| {
            let has_room = state.items.len() < MAX_ITEMS && state.bytes < MAX_BYTES;
            if has_room {
                state.push(item.clone());
            }
            has_room
        });
        if !is_complete {
            state.phase = Phase::Behind;
        }
        state.error = None;
        self.wake(state);
        is_complete
    }

    /// Publications of a topic without history may have been missed. This is not an item of a batch:
    /// the members of a user's own topic receive no gap.
    pub(in crate::hub) fn report_loss(&self) {
        let mut state = self.state();
        // One gap covers all losses before the next publication: so the queue stays bounded.
        if state.phase == Phase::Live && !matches!(state.items.back(), Some(Item::Gap(None))) {
            state.push(Item::Gap(None));
            self.wake(state);
        }
    }

    /// A call to the broker failed, and is retried.
    pub(in crate::hub) fn fail(&self, error: &BrokerError) {
        self.state().error = Some(error.clone());
    }

    /// A call to the broker for this topic has succeeded.
    pub(in crate::hub) fn recover(&self) {
        self.state().error = None;
    }

    pub(in crate::hub) fn end(&self) {
        let mut state = self.state();
        state.phase = Phase::Ended;
        self.wake(state);
    }

    /// Queues the rest of what the follower had to read, and from now on each batch.
    pub(super) fn attach(&self, rest: Vec<Item>) {
        let mut state = self.state();
        if state.phase == Phase::Behind {
            state.phase = Phase::Live;
            state.error = None;
            rest.into_iter().for_each(|item| state.push(item));
        }
    }
}

/// The part of the consumer.
impl FollowQueue {
    pub(super) fn new(since: Option<Position>) -> Self {
        let state = State {
            phase: Phase::Waiting,
            items: VecDeque::new(),
            bytes: 0,
            end: since,
            taken: since,
            error: None,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn next(&self) -> Next {
        let mut state = self.state();
        match state.pop() {
            Some(item) => Next::Item(item),
            None => Next::Empty(state.phase),
        }
    }

    /// Waits until `is_awaited` holds; returns the phase.
    pub(super) async fn wait_until(&self, is_awaited: impl Fn(Phase, bool) -> bool) -> Phase {
        loop {
            let changed = self.changed.notified();
            let (phase, is_empty) = {
                let state = self.state();
                (state.phase, state.items.is_empty())
            };
            if is_awaited(phase, is_empty) {
                return phase;
            }
            changed.await;
        }
    }

    /// Queues what was read from the history.
    pub(super) fn extend(&self, items: Vec<Item>) {
        let mut state = self.state();
        state.error = None;
        items.into_iter().for_each(|item| state.push(item));
    }

    /// The position after the items that are queued.
    pub(super) fn end_position(&self) -> Position {
        self.state().end.unwrap_or_default()
    }

    pub(super) fn taken(&self) -> Option<Position> {
        self.state().taken
    }

    pub(super) fn error(&self) -> Option<BrokerError> {
        self.state().error.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.changed.notify_waiters();
    }
}

impl State {
    fn push(&mut self, item: Item) {
        if let Item::Envelope(payload, _) = &item {
            self.bytes += payload.len();
        }
        self.end = item.position().or(self.end);
        self.items.push_back(item);
    }

    fn pop(&mut self) -> Option<Followed> {
        let item = self.items.pop_front()?;
        let position = item.position();
        match item {
            Item::Envelope(payload, _) => {
                self.bytes -= payload.len();
                self.taken = position.or(self.taken);
                Some(Followed::Publication { payload, position })
            }
            _ => {
                let from = std::mem::replace(&mut self.taken, position);
                Some(Followed::Gap { from, to: position })
            }
        }
    }
}

/// A follower receives publications and gaps. The gap of a topic without history is queued by
/// [`FollowQueue::report_loss`].
fn is_followed(item: &Item) -> bool {
    matches!(item, Item::Envelope(..) | Item::Gap(Some(_)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chat_core::Epoch;

    use super::*;

    fn item(offset: u64, size: usize) -> Item {
        let position = Position { epoch: Epoch::from_random(1), offset };
        Item::Envelope(Bytes::from(vec![0; size]), Some(position))
    }

    fn live() -> FollowQueue {
        let queue = FollowQueue::new(None);
        queue.go_live(Some(Position::default()));
        queue
    }

    #[test]
    fn queue_is_bounded_in_number_and_bytes() {
        for (size, taken) in [(0, MAX_ITEMS), (MAX_BYTES / 4, 4), (3 * MAX_BYTES, 1)] {
            let queue = live();
            for offset in 1..=MAX_ITEMS as u64 + 1 {
                queue.push(&[item(offset, size)]);
            }
            assert_eq!(queue.state().items.len(), taken);
            assert_eq!(queue.end_position().offset, taken as u64, "the history continues there");
            while let Next::Item(_) = queue.next() {}
            assert!(matches!(queue.next(), Next::Empty(Phase::Behind)));
            assert_eq!(queue.state().bytes, 0);
        }
    }

    #[test]
    fn losses_without_a_publication_in_between_are_one_gap() {
        let queue = live();
        for _ in 0..3 {
            queue.report_loss();
        }
        queue.push(&[Item::Envelope(Bytes::new(), None)]);
        queue.report_loss();
        assert_eq!(queue.state().items.len(), 3);
    }

    #[test]
    fn hub_that_has_ended_stays_ended() {
        let queue = FollowQueue::new(None);
        queue.end();
        queue.go_live(None);
        queue.attach(vec![item(1, 1)]);
        assert!(queue.push(&[item(1, 1)]));
        assert!(matches!(queue.next(), Next::Empty(Phase::Ended)));
    }
}
