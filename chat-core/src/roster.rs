//! The users in a room, on all servers, as one server knows them.
//!
//! A broker numbers the joins, leaves and renames of a room; a snapshot carries the number of the
//! latest that it includes. So a server that has a snapshot and receives each change knows the users
//! without asking, notices a missed change, and reports the difference to its members after another
//! snapshot.
//!
//! In a large room single changes are not reported and the list is not kept: only the count, so that
//! a storm of joins costs each member nothing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::deliver::Item;
use crate::envelope;
use crate::event::{Event, Presence, PresenceChange};
use crate::id::UserId;
use crate::user::User;

/// A change whose version is lower by more than this is not a late one: the numbering has restarted.
/// (A broker whose versions begin with the time in microseconds restarts lower if it was emptied
/// after its clock was set back.)
const LATEST: u64 = 1_000_000;

/// A user in a room, on any number of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupant {
    /// The user: one occupant for all of its connections.
    pub user: UserId,
    /// The envelope of the [presence event](crate::Event::Presence) that announces the join, with
    /// the user's latest name. With any other bytes the chat dialects show neither the join nor the
    /// leave; [`Batch::items`](crate::Batch::items) has them.
    pub info: Bytes,
}

impl Occupant {
    /// `user`, whom the envelope `info` announces.
    #[must_use]
    pub fn new(user: UserId, info: Bytes) -> Self {
        Self { user, info }
    }

    /// `user`, whose join and leave every dialect shows.
    ///
    /// ```
    /// use chat_core::{Event, Occupant, User, UserId, envelope};
    ///
    /// let ann = User::new(UserId::new("ann")?, None);
    /// let occupant = Occupant::of(&ann);
    /// let Event::Presence(presence) = envelope::decode(&occupant.info)? else { panic!() };
    /// assert_eq!(presence.user, ann.as_sender());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn of(user: &User) -> Self {
        let joined = Presence::new(user.as_sender(), PresenceChange::Joined, true);
        Self::new(user.id.clone(), envelope::encode(&Event::Presence(joined)))
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
    /// The users; empty if there are more than the caller wanted.
    pub occupants: Vec<Occupant>,
}

impl Occupancy {
    /// A snapshot with `count` users, of which `occupants` are listed.
    #[must_use]
    pub fn new(version: u64, count: u32, occupants: Vec<Occupant>) -> Self {
        Self { version, count, occupants }
    }
}

/// The users in a room; see the [module](self).
#[derive(Debug)]
pub struct Roster {
    /// A room with more users than this is large: they are counted, not listed.
    limit: usize,
    /// The version of the latest known change; `None` before the first snapshot.
    version: Option<u64>,
    count: u32,
    /// The count that was last reported to the members.
    announced: u32,
    /// The users and their envelopes; `None` in a large room.
    listed: Option<BTreeMap<UserId, Bytes>>,
    /// No running snapshot includes all changes.
    wants_snapshot: bool,
    /// The version when the running snapshot was requested.
    version_at_request: Option<u64>,
    /// The version of the latest change before the first snapshot.
    skipped: u64,
}

impl Roster {
    /// A room of which nothing is known; a snapshot is wanted. With more than `limit` users the room
    /// is large.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            version: None,
            count: 0,
            announced: 0,
            listed: None,
            wants_snapshot: true,
            version_at_request: None,
            skipped: 0,
        }
    }

    /// The number of users in the room.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The users in the room and their envelopes; `None` in a large room.
    #[must_use]
    pub fn listed(&self) -> Option<&BTreeMap<UserId, Bytes>> {
        self.listed.as_ref()
    }

    /// Whether there was no snapshot yet.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.version.is_none()
    }

    /// Whether a [snapshot](Self::set) is to be requested.
    #[must_use]
    pub fn wants_snapshot(&self) -> bool {
        self.wants_snapshot
    }

    /// Whether all changes up to this version are known.
    #[must_use]
    pub fn has_reached(&self, version: u64) -> bool {
        self.version >= Some(version)
    }

    /// Whether the count of a large room has changed since it was last
    /// [reported](Self::announce_count).
    #[must_use]
    pub fn has_unannounced_count(&self) -> bool {
        self.listed.is_none() && self.version.is_some() && self.announced != self.count
    }
}

// For the hub, which requests the snapshots; may change with it.
#[doc(hidden)]
impl Roster {
    /// Changes may have been missed: a snapshot is wanted.
    pub fn mark_stale(&mut self) {
        self.wants_snapshot = true;
    }

    /// A snapshot is requested now, one at a time. If it fails, call
    /// [`mark_stale`](Self::mark_stale).
    pub fn begin_snapshot(&mut self) {
        self.wants_snapshot = false;
        self.version_at_request = self.version;
    }

    /// Takes a change; appends to `out` what the members receive. Before the first snapshot nothing
    /// is changed; if that snapshot does not include the change, another is wanted.
    pub fn change(
        &mut self,
        version: u64,
        count: u32,
        change: PresenceChange,
        occupant: Occupant,
        out: &mut Vec<Item>,
    ) {
        let Some(known) = self.version else {
            self.skipped = version;
            return;
        };
        if version <= known {
            self.wants_snapshot |= known - version > LATEST;
            return;
        }
        // The first user of an empty room is its only one, whatever was missed before.
        let is_first = self.count == 0 && count == 1 && change == PresenceChange::Joined;
        if version != known + 1 && !is_first {
            self.wants_snapshot = true;
            return;
        }
        self.version = Some(version);
        self.count = count;
        let Some(listed) = &mut self.listed else {
            // A quarter below the limit, so that a room at the limit does not alternate.
            self.wants_snapshot |= (count as usize) <= self.limit * 3 / 4;
            return;
        };
        let item = match change {
            PresenceChange::Joined | PresenceChange::Renamed => upsert(listed, occupant),
            PresenceChange::Left => {
                listed.remove(&occupant.user).map(|info| Item::Presence(PresenceChange::Left, info))
            }
        };
        if listed.len() > self.limit {
            self.listed = None;
        } else {
            out.extend(item);
        }
    }

    /// Takes the snapshot that was [requested](Self::begin_snapshot), of [`limit`](Self::new) occupants
    /// at most; appends to `out` what changed since the last one.
    pub fn set(&mut self, snapshot: Occupancy, out: &mut Vec<Item>) {
        let is_first = self.version.is_none();
        if self.version != self.version_at_request && self.version > Some(snapshot.version) {
            // A change was received during the request, and the snapshot is older than it: listing
            // it would undo the change. A snapshot of an empty room has no version that shows its
            // age, so another one decides.
            self.wants_snapshot |= snapshot.version == 0;
            return;
        }
        self.wants_snapshot |= is_first && self.skipped > snapshot.version;
        self.version = Some(snapshot.version);
        self.count = snapshot.count;
        let is_whole = snapshot.occupants.len() == snapshot.count as usize;
        if !is_whole || snapshot.occupants.len() > self.limit {
            self.listed = None;
        } else {
            if let Some(listed) = &mut self.listed {
                replace(listed, snapshot.occupants, out);
            } else {
                if !is_first && self.announced != self.count {
                    out.push(Item::Count(self.count));
                }
                let all = snapshot.occupants.into_iter().map(|one| (one.user, one.info));
                self.listed = Some(all.collect());
            }
        }
        if is_first || self.listed.is_some() {
            self.announced = self.count;
        }
    }

    /// Appends to `out` the count of a large room, if it was not reported yet.
    pub fn announce_count(&mut self, out: &mut Vec<Item>) {
        if self.has_unannounced_count() {
            self.announced = self.count;
            out.push(Item::Count(self.count));
        }
    }
}

/// Lists an occupant, or updates its name. Returns what the members receive.
fn upsert(listed: &mut BTreeMap<UserId, Bytes>, occupant: Occupant) -> Option<Item> {
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

/// Replaces `listed` by `occupants`; appends the difference to `out`.
fn replace(listed: &mut BTreeMap<UserId, Bytes>, occupants: Vec<Occupant>, out: &mut Vec<Item>) {
    let here: BTreeSet<UserId> = occupants.iter().map(|one| one.user.clone()).collect();
    listed.retain(|user, info| {
        let stays = here.contains(user);
        if !stays {
            out.push(Item::Presence(PresenceChange::Left, info.clone()));
        }
        stays
    });
    out.extend(occupants.into_iter().filter_map(|occupant| upsert(listed, occupant)));
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
