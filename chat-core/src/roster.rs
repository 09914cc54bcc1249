//! Who is in a room, on all servers, as one server knows it.
//!
//! A broker numbers the comings and goings of a room; a snapshot carries the number of the
//! latest that it knows. So a server that holds a snapshot and hears of each change knows
//! who is there without asking, notices what it missed, and after another snapshot tells
//! its members the difference.
//!
//! In a room of more than a certain number of people single comings and goings are not
//! told, nor is the list kept: only the count, so that a storm of joins costs each member
//! nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::deliver::Item;
use crate::event::PresenceChange;
use crate::id::UserId;

/// Somebody in a room, on whichever server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// Who: one user is one occupant, however many connections there are.
    pub user: UserId,
    /// The envelope of the [presence event](crate::Event::Presence) that tells of the
    /// coming.
    pub info: Bytes,
}

/// A snapshot of a room's occupants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Occupancy {
    /// Of the latest change that it knows; 0 if there is nobody.
    pub version: u64,
    /// How many there are.
    pub count: u32,
    /// Who; nobody if there are more than were asked for.
    pub occupants: Vec<Occupant>,
}

/// Who is in a room; see the [module](self).
#[derive(Debug)]
pub struct Roster {
    /// More than this many are counted, not listed.
    limit: usize,
    /// Of the latest change known; `None` before the first snapshot.
    version: Option<u64>,
    count: u32,
    /// The count that the members were told last.
    told: u32,
    /// `None` in a big room.
    listed: Option<BTreeMap<UserId, Bytes>>,
    /// None is on its way that knows all.
    wants_snapshot: bool,
    /// The version when the snapshot on its way was asked for.
    asked_at: Option<u64>,
    /// Of the latest change that came before the first snapshot.
    unknown: u64,
}

impl Roster {
    /// A room of which nothing is known; a snapshot is wanted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            version: None,
            count: 0,
            told: 0,
            listed: None,
            wants_snapshot: true,
            asked_at: None,
            unknown: 0,
        }
    }

    /// How many are in the room.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Who is in the room, unless it is a big one.
    #[must_use]
    pub fn listed(&self) -> Option<&BTreeMap<UserId, Bytes>> {
        self.listed.as_ref()
    }

    /// Whether there was no snapshot yet.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.version.is_none()
    }

    /// Changes may have been missed.
    pub fn suspect(&mut self) {
        self.wants_snapshot = true;
    }

    /// Whether a [snapshot](Self::set) is to be asked for.
    #[must_use]
    pub fn wants_snapshot(&self) -> bool {
        self.wants_snapshot
    }

    /// A snapshot is asked for now, one at a time. If none comes of it, say
    /// [`suspect`](Self::suspect).
    pub fn ask(&mut self) {
        self.wants_snapshot = false;
        self.asked_at = self.version;
    }

    /// Takes a change; what the members are told goes to `out`. Before the first snapshot
    /// there is nothing to change; one that does not know of it is followed by another.
    pub fn change(
        &mut self,
        version: u64,
        count: u32,
        change: PresenceChange,
        occupant: Occupant,
        out: &mut Vec<Item>,
    ) {
        let Some(known) = self.version else {
            self.unknown = version;
            return;
        };
        if version <= known {
            return;
        }
        // Whoever comes to an empty room is all there is, whatever happened before.
        let is_first = self.count == 0 && count == 1 && change == PresenceChange::Joined;
        if version != known + 1 && !is_first {
            self.wants_snapshot = true;
            return;
        }
        self.version = Some(version);
        self.count = count;
        let Some(listed) = &mut self.listed else {
            // Some below the limit, so that a room at the limit does not change to and fro.
            self.wants_snapshot |= (count as usize) <= self.limit * 3 / 4;
            return;
        };
        let told = match change {
            PresenceChange::Joined => listed.insert(occupant.user, occupant.info.clone()).is_none(),
            PresenceChange::Left => listed.remove(&occupant.user).is_some(),
        };
        if listed.len() > self.limit {
            self.listed = None;
        } else if told {
            out.push(Item::Presence(change, occupant.info));
        }
    }

    /// Takes the snapshot that was [asked](Self::ask) for, of [`limit`](Self::new) occupants
    /// at most; what changed since the last one goes to `out`.
    pub fn set(&mut self, snapshot: Occupancy, out: &mut Vec<Item>) {
        let is_first = self.version.is_none();
        if self.version != self.asked_at && self.version > Some(snapshot.version) {
            // Older than what came since; but one of an empty room does not tell its age.
            self.wants_snapshot |= snapshot.version == 0;
            return;
        }
        self.wants_snapshot |= is_first && self.unknown > snapshot.version;
        self.version = Some(snapshot.version);
        self.count = snapshot.count;
        let is_whole = snapshot.occupants.len() == snapshot.count as usize;
        if !is_whole || snapshot.occupants.len() > self.limit {
            self.listed = None;
        } else {
            let now: BTreeMap<_, _> =
                snapshot.occupants.into_iter().map(|one| (one.user, one.info)).collect();
            if let Some(before) = &self.listed {
                let left = before.iter().filter(|(user, _)| !now.contains_key(*user));
                out.extend(
                    left.map(|(_, info)| Item::Presence(PresenceChange::Left, info.clone())),
                );
                let came = now.iter().filter(|(user, _)| !before.contains_key(*user));
                out.extend(
                    came.map(|(_, info)| Item::Presence(PresenceChange::Joined, info.clone())),
                );
            } else if !is_first && self.told != self.count {
                out.push(Item::Count(self.count));
            }
            self.listed = Some(now);
        }
        if is_first || self.listed.is_some() {
            self.told = self.count;
        }
    }

    /// Whether the members of a big room have a [count](Self::tell_count) to be told.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.listed.is_none() && self.version.is_some() && self.told != self.count
    }

    /// The count that the members of a big room have not been told yet.
    pub fn tell_count(&mut self, out: &mut Vec<Item>) {
        if self.has_news() {
            self.told = self.count;
            out.push(Item::Count(self.count));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn occupant(n: u32) -> Occupant {
        Occupant { user: UserId::new(format!("u{n}")).unwrap(), info: Bytes::from(format!("{n}")) }
    }

    /// What a broker knows of a room.
    #[derive(Debug, Default)]
    struct Truth {
        version: u64,
        users: std::collections::BTreeSet<u32>,
    }

    impl Truth {
        fn snapshot(&self, limit: usize) -> Occupancy {
            let is_small = self.users.len() <= limit;
            let occupants = self.users.iter().filter(|_| is_small).map(|n| occupant(*n)).collect();
            Occupancy { version: self.version, count: self.users.len() as u32, occupants }
        }
    }

    fn told(out: &mut Vec<Item>) -> Vec<String> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        out.drain(..)
            .map(|item| match item {
                Item::Presence(PresenceChange::Joined, info) => format!("+{}", text(info)),
                Item::Presence(PresenceChange::Left, info) => format!("-{}", text(info)),
                Item::Count(count) => format!("={count}"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn changes_are_told_once_and_missed_ones_after_a_snapshot() {
        let (mut roster, mut out) = (Roster::new(10), Vec::new());
        roster.change(5, 1, PresenceChange::Joined, occupant(1), &mut out);
        let mut truth = Truth { version: 5, users: [1, 2].into() };
        roster.ask();
        roster.set(truth.snapshot(10), &mut out);
        assert_eq!(told(&mut out), [""; 0], "the first snapshot is no news");
        roster.change(5, 2, PresenceChange::Joined, occupant(2), &mut out);
        roster.change(6, 3, PresenceChange::Joined, occupant(3), &mut out);
        roster.change(7, 2, PresenceChange::Left, occupant(1), &mut out);
        assert_eq!(told(&mut out), ["+3", "-1"]);

        roster.change(9, 2, PresenceChange::Joined, occupant(5), &mut out);
        assert!(roster.wants_snapshot() && out.is_empty(), "one was missed");
        truth = Truth { version: 9, users: [3, 5].into() };
        roster.ask();
        roster.set(truth.snapshot(10), &mut out);
        assert_eq!(told(&mut out), ["-2", "+5"]);
        assert_eq!((roster.count(), roster.listed().unwrap().len()), (2, 2));
        roster.ask();
        roster.set(Occupancy::default(), &mut out);
        assert_eq!(told(&mut out), ["-3", "-5"], "the broker was emptied");
    }

    #[test]
    fn a_snapshot_of_an_older_moment_undoes_nothing() {
        for (older, is_wanted_again) in
            [(Truth { version: 5, users: [1].into() }, false), (Truth::default(), true)]
        {
            let (mut roster, mut out) = (Roster::new(10), Vec::new());
            roster.ask();
            roster.set(older.snapshot(10), &mut out);
            roster.ask();
            roster.change(6, 1, PresenceChange::Joined, occupant(1), &mut out);
            roster.change(7, 2, PresenceChange::Joined, occupant(2), &mut out);
            roster.set(older.snapshot(10), &mut out);
            assert_eq!(roster.listed().unwrap().len(), 2);
            assert_eq!(roster.wants_snapshot(), is_wanted_again, "{older:?}");
        }
    }

    #[test]
    fn what_was_missed_since_a_snapshot_was_asked_for_is_asked_for_again() {
        let (mut roster, mut out) = (Roster::new(10), Vec::new());
        let truth = Truth { version: 5, users: [1].into() };
        roster.ask();
        roster.set(truth.snapshot(10), &mut out);
        roster.ask();
        roster.suspect();
        roster.set(truth.snapshot(10), &mut out);
        assert!(roster.wants_snapshot());
        roster.ask();
        roster.change(7, 3, PresenceChange::Joined, occupant(3), &mut out);
        roster.set(truth.snapshot(10), &mut out);
        assert!(roster.wants_snapshot(), "6 was missed");
    }

    #[test]
    fn a_big_room_is_told_its_count() {
        let (mut roster, mut out) = (Roster::new(4), Vec::new());
        let mut truth = Truth { version: 100, users: (0..4).collect() };
        roster.ask();
        roster.set(truth.snapshot(4), &mut out);
        for n in 4..9 {
            roster.change(97 + u64::from(n), n + 1, PresenceChange::Joined, occupant(n), &mut out);
        }
        assert!(out.is_empty() && roster.listed().is_none());
        assert!(roster.has_news());
        roster.tell_count(&mut out);
        roster.tell_count(&mut out);
        assert_eq!(told(&mut out), ["=9"]);

        for n in 3..9 {
            let left = PresenceChange::Left;
            roster.change(103 + u64::from(n), 11 - n, left, occupant(n), &mut out);
            assert_eq!(roster.wants_snapshot(), 11 - n <= 3, "a room at the limit stays big");
        }
        truth = Truth { version: 111, users: (0..3).collect() };
        roster.ask();
        roster.set(truth.snapshot(4), &mut out);
        assert_eq!(told(&mut out), ["=3"]);
        assert_eq!(roster.listed().unwrap().len(), 3);
    }

    #[test]
    fn a_first_snapshot_that_does_not_know_what_came_meanwhile_is_followed_by_another() {
        let (mut roster, mut out) = (Roster::new(10), Vec::new());
        roster.ask();
        roster.change(7, 1, PresenceChange::Joined, occupant(1), &mut out);
        roster.set(Occupancy::default(), &mut out);
        assert!(roster.wants_snapshot() && out.is_empty());
        roster.ask();
        roster.set(Truth { version: 7, users: [1].into() }.snapshot(10), &mut out);
        assert_eq!(told(&mut out), ["+1"]);
        assert!(!roster.wants_snapshot());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// However changes are lost and snapshots delayed, in the end the roster is right,
        /// and whoever follows what was told knows the same.
        #[test]
        fn the_roster_comes_to_the_truth(
            steps in prop::collection::vec((0u32..8, 0u8..6), 0..200), limit in 1usize..7,
        ) {
            let (mut truth, mut roster, mut out) = (Truth::default(), Roster::new(limit), Vec::new());
            // A snapshot that was asked for, and the answer once it is made.
            let (mut asked, mut answer) = (false, None);
            let mut follower: Option<std::collections::BTreeSet<String>> = None;
            let mut follow = |roster: &Roster, out: &mut Vec<Item>| {
                for line in told(out) {
                    let (sign, who) = line.split_at(1);
                    if let Some(follower) = &mut follower {
                        match sign {
                            "+" => assert!(follower.insert(who.to_owned()), "{line}: there already"),
                            "-" => assert!(follower.remove(who), "{line}: not there"),
                            _ => {}
                        }
                    }
                }
                // Whoever comes to a room, or to a small one that was big, is given a list.
                match roster.listed() {
                    None => follower = None,
                    Some(listed) => {
                        let names: std::collections::BTreeSet<String> = listed
                            .values().map(|info| String::from_utf8(info.to_vec()).unwrap()).collect();
                        assert_eq!(follower.get_or_insert_with(|| names.clone()), &names);
                    }
                }
            };
            for (user, fate) in steps {
                match fate {
                    0 if roster.wants_snapshot() && !asked => {
                        roster.ask();
                        asked = true;
                    }
                    0 if asked => answer = answer.or_else(|| Some(truth.snapshot(limit))),
                    1 => if let Some(snapshot) = answer.take() {
                        roster.set(snapshot, &mut out);
                        asked = false;
                    },
                    _ => {
                        let change = if truth.users.insert(user) {
                            PresenceChange::Joined
                        } else {
                            truth.users.remove(&user);
                            PresenceChange::Left
                        };
                        truth.version += 1;
                        let count = truth.users.len() as u32;
                        if fate == 2 {
                            roster.suspect();
                        } else {
                            roster.change(truth.version, count, change, occupant(user), &mut out);
                        }
                    }
                }
                follow(&roster, &mut out);
            }
            if asked {
                roster.set(answer.unwrap_or_else(|| truth.snapshot(limit)), &mut out);
                follow(&roster, &mut out);
            }
            for _ in 0..3 {
                if roster.wants_snapshot() {
                    roster.ask();
                    roster.set(truth.snapshot(limit), &mut out);
                    follow(&roster, &mut out);
                }
            }
            prop_assert!(!roster.wants_snapshot());
            prop_assert_eq!(roster.count() as usize, truth.users.len());
            let is_small = roster.listed().is_some();
            prop_assert!(truth.users.len() <= limit || !is_small);
            prop_assert!(truth.users.len() > limit * 3 / 4 || is_small);
        }
    }
}
