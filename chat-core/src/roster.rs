//! Who is in a room, on all servers, as one server knows it.
//!
//! A broker numbers the joins, leaves and new names of a room; a snapshot carries the number of the
//! latest that it knows. So a server that holds a snapshot and hears of each change knows
//! who is there without asking, notices what it missed, and after another snapshot tells
//! its members the difference.
//!
//! In a room of more than a certain number of people single comings and goings are not
//! told, nor is the list kept: only the count, so that a storm of joins costs each member
//! nothing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::deliver::Item;
use crate::envelope;
use crate::event::PresenceChange;
use crate::id::UserId;

/// How many changes a late one can be behind at most. A broker whose versions begin with the time in
/// microseconds begins further below when it was emptied after its clock was set back.
const LATEST: u64 = 1_000_000;

/// A user in a room, on any server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupant {
    /// The user: one occupant, however many connections there are.
    pub user: UserId,
    /// The envelope of the [presence event](crate::Event::Presence) that announces the join, with
    /// the user's latest name.
    pub info: Bytes,
}

impl Occupant {
    /// `user`, whom the envelope `info` announces.
    #[must_use]
    pub fn new(user: UserId, info: Bytes) -> Self {
        Self { user, info }
    }
}

/// A snapshot of a room's occupants. The default is the snapshot of an empty room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Occupancy {
    /// The version of the latest change that the snapshot includes; 0 if the room is empty.
    pub version: u64,
    /// How many users are in the room.
    pub count: u32,
    /// The users; empty if there are more than were asked for.
    pub occupants: Vec<Occupant>,
}

impl Occupancy {
    /// A snapshot with `count` users, of which `occupants` are listed.
    #[must_use]
    pub fn new(version: u64, count: u32, occupants: Vec<Occupant>) -> Self {
        Self { version, count, occupants }
    }
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
    pub fn mark_stale(&mut self) {
        self.wants_snapshot = true;
    }

    /// Whether a [snapshot](Self::set) is to be asked for.
    #[must_use]
    pub fn wants_snapshot(&self) -> bool {
        self.wants_snapshot
    }

    /// A snapshot is asked for now, one at a time. If none comes of it, say
    /// [`mark_stale`](Self::mark_stale).
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
            self.wants_snapshot |= known - version > LATEST;
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
            PresenceChange::Joined | PresenceChange::Renamed => take_in(listed, occupant),
            PresenceChange::Left => {
                listed.remove(&occupant.user).map(|info| Item::Presence(PresenceChange::Left, info))
            }
        };
        if listed.len() > self.limit {
            self.listed = None;
        } else {
            out.extend(told);
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
            if let Some(listed) = &mut self.listed {
                turn_into(listed, snapshot.occupants, out);
            } else {
                if !is_first && self.told != self.count {
                    out.push(Item::Count(self.count));
                }
                let all = snapshot.occupants.into_iter().map(|one| (one.user, one.info));
                self.listed = Some(all.collect());
            }
        }
        if is_first || self.listed.is_some() {
            self.told = self.count;
        }
    }

    /// Whether all changes up to this version are known.
    #[must_use]
    pub fn has_reached(&self, version: u64) -> bool {
        self.version >= Some(version)
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

/// Lists an occupant, who may be listed by another name. Returns what the members are told.
fn take_in(listed: &mut BTreeMap<UserId, Bytes>, occupant: Occupant) -> Option<Item> {
    match listed.entry(occupant.user) {
        Entry::Vacant(place) => {
            place.insert(occupant.info.clone());
            Some(Item::Presence(PresenceChange::Joined, occupant.info))
        }
        Entry::Occupied(mut known) => {
            let info = envelope::renamed(known.get(), &occupant.info)?;
            known.insert(info.clone());
            Some(Item::Presence(PresenceChange::Renamed, info))
        }
    }
}

/// Makes `occupants` of what is `listed`; the difference goes to `out`.
fn turn_into(listed: &mut BTreeMap<UserId, Bytes>, occupants: Vec<Occupant>, out: &mut Vec<Item>) {
    let here: BTreeSet<UserId> = occupants.iter().map(|one| one.user.clone()).collect();
    listed.retain(|user, info| {
        let stays = here.contains(user);
        if !stays {
            out.push(Item::Presence(PresenceChange::Left, info.clone()));
        }
        stays
    });
    out.extend(occupants.into_iter().filter_map(|occupant| take_in(listed, occupant)));
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
