//! Callers that wait until a roster shows that a user has left.

use std::collections::BTreeMap;

use chat_core::{Roster, UserId};
use tokio::sync::oneshot;

/// What a roster is to show.
#[derive(Debug)]
pub(super) enum RosterCondition {
    /// All changes up to this version.
    Version(u64),
    /// That a user is not listed.
    Absence(UserId),
}

impl RosterCondition {
    fn is_met_by(&self, roster: &Roster) -> bool {
        match self {
            Self::Version(version) => roster.has_reached(*version),
            Self::Absence(user) => is_absent(roster, user),
        }
    }
}

fn is_absent(roster: &Roster, user: &UserId) -> bool {
    roster.listed().is_none_or(|listed| !listed.contains_key(user))
}

/// The callers, in the order in which a roster answers them: ten thousand members that leave a room
/// together wait for as many versions, and each change answers one of them. A scan of all at each
/// change would hold the room's lock for seconds.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Callers that wait for a version, by version.
    versions: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
    /// Callers that wait for the absence of a user: they kicked or banned it, so they are few.
    absences: Vec<(UserId, oneshot::Sender<()>)>,
    /// How many callers there are, with those that stopped waiting.
    count: usize,
    /// The count at which callers that stopped waiting are dropped.
    limit: usize,
}

impl Waiting {
    /// Waits until the roster shows something; `None` if it does, or is not read yet.
    pub(super) fn wait_until(
        &mut self,
        awaited: RosterCondition,
        roster: &Roster,
    ) -> Option<oneshot::Receiver<()>> {
        if roster.is_unknown() || awaited.is_met_by(roster) {
            return None;
        }
        if self.count >= self.limit {
            self.drop_closed();
        }
        let (shown, waiting) = oneshot::channel();
        match awaited {
            RosterCondition::Version(version) => {
                self.versions.entry(version).or_default().push(shown)
            }
            RosterCondition::Absence(user) => self.absences.push((user, shown)),
        }
        self.count += 1;
        Some(waiting)
    }

    /// Answers those that wait for what the roster shows.
    pub(super) fn answer(&mut self, roster: &Roster) {
        while let Some(first) = self.versions.first_entry()
            && roster.has_reached(*first.key())
        {
            self.count -= answer(first.remove());
        }
        let absent = self.absences.extract_if(.., |(user, _)| is_absent(roster, user));
        self.count -= answer(absent.map(|(_, shown)| shown));
    }

    /// A read has shown an empty room. That has no version, so a caller that waits for one would wait
    /// without end. A roster that was empty before the read is no such proof: it may not have received
    /// the join of the user that left.
    pub(super) fn answer_all(&mut self) {
        let Self { versions, absences, .. } = std::mem::take(self);
        answer(versions.into_values().flatten());
        answer(absences.into_iter().map(|(_, shown)| shown));
    }

    /// Drops callers that stopped waiting, which would accumulate while the broker is unavailable. Runs
    /// only after as many were added as remained, so each is checked a few times at most.
    fn drop_closed(&mut self) {
        self.versions.retain(|_, callers| {
            callers.retain(|shown| !shown.is_closed());
            !callers.is_empty()
        });
        self.absences.retain(|(_, shown)| !shown.is_closed());
        self.count = self.versions.values().map(Vec::len).sum::<usize>() + self.absences.len();
        self.limit = 2 * self.count + 16;
    }
}

/// Answers callers, and returns how many they were.
fn answer(callers: impl IntoIterator<Item = oneshot::Sender<()>>) -> usize {
    let mut count = 0;
    for shown in callers {
        // A caller that stopped waiting needs no answer.
        let _ = shown.send(());
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_core::Occupancy;

    fn roster(version: u64) -> Roster {
        let mut roster = Roster::new(10);
        roster.begin_snapshot();
        roster.set(occupancy(version), &mut Vec::new());
        roster
    }

    fn occupancy(version: u64) -> Occupancy {
        Occupancy::new(version, 0, Vec::new())
    }

    #[test]
    fn versions_are_answered_up_to_that_of_the_roster() {
        let before = roster(1);
        let mut waiting = Waiting::default();
        assert!(waiting.wait_until(RosterCondition::Version(1), &before).is_none());
        let mut callers = [4, 2, 3, 3].map(|version| {
            waiting
                .wait_until(RosterCondition::Version(version), &before)
                .expect("it is not reached")
        });
        waiting.answer(&roster(3));
        let answered = callers.each_mut().map(|caller| caller.try_recv().is_ok());
        assert_eq!(answered, [false, true, true, true]);
        assert_eq!(waiting.count, 1);
        waiting.answer_all();
        assert_eq!(callers[0].try_recv(), Ok(()));
        assert_eq!(waiting.count, 0);
    }

    #[test]
    fn callers_that_stopped_waiting_are_dropped() {
        let roster = roster(1);
        let mut waiting = Waiting::default();
        let _one = waiting.wait_until(RosterCondition::Version(2), &roster);
        for version in 3..10_000 {
            drop(waiting.wait_until(RosterCondition::Version(version), &roster));
            assert!(waiting.versions.len() <= 20);
        }
        assert_eq!(waiting.versions.values().map(Vec::len).sum::<usize>(), waiting.count);
        assert!(waiting.versions.contains_key(&2));
    }
}
