//! The changes of a room's occupants between the roster of a member and its first batch.
//!
//! A roster is the latest that this server knows, and the changes that led to it are pending until a
//! batch takes them. So the roster of a member that joins is ahead of the batches:
//!
//! ```text
//!   changes:   1   2   3   4   5   6   7
//!              └ in batches ┘           └ in the roster
//! ```
//!
//! The member skips 5 to 7 in the batches that it receives (`MemberSlot::skip_presence`). If it reads
//! pages of the history first, it is detached in that time, and misses the changes that batches take:
//! this log has them.

use std::collections::VecDeque;
use std::sync::Arc;

use chat_core::Item;
use parking_lot::Mutex;

/// Maximum changes that wait for a member that reads pages. It takes them with each page: a member
/// that lacks more is as slow as one whose outbox is full, unless it waited for its server.
const MAX_CHANGES: usize = 1024;

/// Changes that batches of a room took, while members read pages.
#[derive(Debug, Default)]
pub(super) struct PresenceLog(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    /// How many changes batches took since the log began.
    count: u64,
    /// The latest of them, oldest first.
    latest: VecDeque<Item>,
}

impl PresenceLog {
    /// Adds the changes in a batch. Called under the room's lock.
    pub(super) fn append(&self, batch: &[Item]) {
        let mut taken = self.0.lock();
        for change in batch.iter().filter(|item| is_presence(item)) {
            if taken.latest.len() == MAX_CHANGES {
                taken.latest.pop_front();
            }
            taken.latest.push_back(change.clone());
            taken.count += 1;
        }
    }
}

impl Taken {
    /// The index of the first of the latest changes that a member lacks who has this many. `None` if
    /// not all of them are there.
    fn first_after(&self, known: u64) -> Option<usize> {
        let missed = usize::try_from(self.count.saturating_sub(known)).ok()?;
        self.latest.len().checked_sub(missed)
    }
}

/// The changes that a member with a roster has yet to receive. The log lasts as long as one of these.
#[derive(Debug)]
pub(super) struct MissedPresence {
    log: Arc<PresenceLog>,
    /// How many changes the member has: by its roster, or because it took them.
    known: u64,
}

impl MissedPresence {
    /// Of a member whose roster contains the changes in `pending`. Called under the room's lock.
    pub(super) fn new(log: Arc<PresenceLog>, pending: &[Item]) -> Self {
        let known = log.0.lock().count + presence_changes(pending) as u64;
        Self { log, known }
    }

    /// Whether the log has all changes that batches took since.
    pub(super) fn is_complete(&self) -> bool {
        self.log.0.lock().first_after(self.known).is_some()
    }

    /// Takes the changes that batches took since. `None` if the log does not have all of them.
    pub(super) fn take(&mut self) -> Option<Vec<Item>> {
        let taken = self.log.0.lock();
        let first = taken.first_after(self.known)?;
        self.known = self.known.max(taken.count);
        Some(taken.latest.range(first..).cloned().collect())
    }

    /// How many changes the member has that no batch took yet. Called under the room's lock.
    pub(super) fn ahead(&self) -> usize {
        let ahead = self.known.saturating_sub(self.log.0.lock().count);
        usize::try_from(ahead).unwrap_or(usize::MAX)
    }
}

/// How many of the items are changes of the occupants.
pub(super) fn presence_changes(items: &[Item]) -> usize {
    items.iter().filter(|item| is_presence(item)).count()
}

/// Whether the item changes a roster: its list, or the count of a large room.
pub(super) fn is_presence(item: &Item) -> bool {
    matches!(item, Item::Presence(..) | Item::Count(_))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn counts(range: std::ops::RangeInclusive<u32>) -> Vec<Item> {
        range.map(Item::Count).collect()
    }

    fn taken(missed: &mut MissedPresence) -> Option<Vec<u32>> {
        let count = |item: Item| match item {
            Item::Count(count) => count,
            other => panic!("{other:?}"),
        };
        Some(missed.take()?.into_iter().map(count).collect())
    }

    #[test]
    fn changes_after_the_roster_are_taken_once() {
        let log = Arc::new(PresenceLog::default());
        log.append(&counts(1..=2));
        let mut missed = MissedPresence::new(Arc::clone(&log), &counts(3..=4));
        assert_eq!((taken(&mut missed), missed.ahead()), (Some(vec![]), 2));
        log.append(&counts(3..=3));
        assert_eq!((taken(&mut missed), missed.ahead()), (Some(vec![]), 1));
        log.append(&[Item::Envelope(Bytes::new(), None), Item::Count(4), Item::Count(5)]);
        assert_eq!((taken(&mut missed), missed.ahead()), (Some(vec![5]), 0));
        assert_eq!(taken(&mut missed), Some(vec![]));
    }

    #[test]
    fn member_that_lacks_more_than_the_log_holds_is_too_slow() {
        let log = Arc::new(PresenceLog::default());
        let mut missed = MissedPresence::new(Arc::clone(&log), &[]);
        let max = MAX_CHANGES as u32;
        log.append(&counts(1..=max));
        assert_eq!(taken(&mut missed).map(|all| all.len()), Some(MAX_CHANGES));
        assert!(missed.is_complete());
        log.append(&counts(1..=max + 1));
        assert!(!missed.is_complete());
        assert_eq!(taken(&mut missed), None);
    }
}
