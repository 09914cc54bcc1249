//! The users that this server holds in rooms, as it reports them to the broker.
//!
//! A user is one occupant, with any number of connections. A user whose last connection was lost
//! stays for a [grace](super::HubConfig::grace) period, so a client that reconnects, to this server
//! or another, causes no leave and join.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use chat_core::{Deliver, Occupant, Topic, UserId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::interest::LONGEST;
use crate::error::BrokerError;
use crate::presence::{Departure, EnterReceipt};

/// The users of this server, by room.
#[derive(Debug, Default)]
pub(super) struct Presence {
    state: Mutex<State>,
    /// Wakes the task that ends grace periods: one has started.
    grace_started: Notify,
}

#[derive(Debug, Default)]
struct State {
    users: HashMap<(Topic, UserId), LocalUser>,
    /// Users without connections, in the order in which their grace ends: it is equally long for
    /// all.
    in_grace: VecDeque<(Instant, Topic, UserId)>,
}

#[derive(Debug)]
struct LocalUser {
    connections: u32,
    /// When the grace ends, if there are no connections.
    grace_ends: Option<Instant>,
    /// The info that this server last sent to the broker.
    info: Bytes,
    /// The broker holds the user, or is about to. `false` while each connection awaits an
    /// [`EnterReceipt`].
    is_admitted: bool,
}

impl LocalUser {
    /// A user with one connection.
    fn new(info: Bytes, is_admitted: bool) -> Self {
        Self { connections: 1, grace_ends: None, info, is_admitted }
    }
}

impl Presence {
    /// The occupant of an event, which shares its memory with the one that this server has sent, if
    /// it is the same: most are. That of the event is a slice of the broker's message.
    pub(super) fn shared(&self, topic: &Topic, occupant: Occupant) -> Occupant {
        let key = (topic.clone(), occupant.user);
        let state = self.state();
        match state.users.get_key_value(&key) {
            Some(((_, user), known)) if known.info == occupant.info => {
                Occupant::new(user.clone(), known.info.clone())
            }
            _ => Occupant::new(key.1, occupant.info),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl<M: Deliver + Clone> Shared<M> {
    /// Adds a connection of a user to a room.
    pub(super) fn enter_presence(&self, topic: &Topic, occupant: Occupant) {
        // Without presence no user is added here, so the methods below find none.
        let Some(tracker) = self.broker.presence() else { return };
        // Before the lock below: a room's lock is never taken under it, so no order of the two can
        // deadlock.
        let is_listed = self.lists(topic, &occupant);
        let info = occupant.info.clone();
        let mut state = self.presence.state();
        match state.users.entry((topic.clone(), occupant.user.clone())) {
            Entry::Occupied(mut user) => {
                let user = user.get_mut();
                user.connections += 1;
                user.grace_ends = None;
                // The broker has this user under this name: no call. The roster alone does not
                // prove that: it may not show yet that this server has sent another name since, and
                // it lists a user whom another server holds, and this one does not yet.
                if is_listed && user.is_admitted && user.info == info {
                    return;
                }
                (user.info, user.is_admitted) = (info, true);
            }
            Entry::Vacant(entry) => {
                entry.insert(LocalUser::new(info, true));
            }
        }
        // Under the lock: a leave of the same user on another thread would else overtake this, and
        // the broker would not hold a user who is here.
        tracker.enter(topic, occupant);
    }

    /// Adds a connection of a user to a room of at most `max` users. While the answer is pending, and
    /// after an error, the connection counts: [`leave_presence`](Self::leave_presence) removes it.
    /// So a leave of another connection cannot make the broker drop a user whom it is about to admit.
    pub(super) fn enter_presence_limited(
        &self,
        topic: &Topic,
        occupant: Occupant,
        max: u32,
    ) -> EnterReceipt {
        let Some(tracker) = self.broker.presence() else {
            return EnterReceipt::ready(Err(BrokerError::Unsupported("presence")));
        };
        let mut state = self.presence.state();
        match state.users.entry((topic.clone(), occupant.user.clone())) {
            Entry::Occupied(mut user) => {
                let user = user.get_mut();
                user.connections += 1;
                user.grace_ends = None;
                if user.is_admitted {
                    if user.info != occupant.info {
                        user.info = occupant.info.clone();
                        tracker.enter(topic, occupant);
                    }
                    return EnterReceipt::ready(Ok(()));
                }
                user.info = occupant.info.clone();
            }
            Entry::Vacant(entry) => {
                entry.insert(LocalUser::new(occupant.info.clone(), false));
            }
        }
        tracker.enter_limited(topic, occupant, max)
    }

    /// The broker has admitted a user.
    pub(super) fn set_admitted(&self, topic: &Topic, user: &UserId) {
        if let Some(user) = self.presence.state().users.get_mut(&(topic.clone(), user.clone())) {
            user.is_admitted = true;
        }
    }

    fn lists(&self, topic: &Topic, occupant: &Occupant) -> bool {
        self.registry.update(topic, |room| room.state.sequence.lists(occupant)).unwrap_or_default()
    }
}

impl<M> Shared<M> {
    /// Sends another name of a user who is in a room.
    pub(super) fn rename(&self, topic: &Topic, occupant: Occupant) {
        let mut state = self.presence.state();
        if let Some(user) = state.users.get_mut(&(topic.clone(), occupant.user.clone())) {
            user.info = occupant.info.clone();
            if let Some(tracker) = self.broker.presence() {
                tracker.enter(topic, occupant);
            }
        }
    }

    /// Removes a connection of a user from a room. With the last one the user leaves: at once, or
    /// after the grace period if `is_disconnected`.
    pub(super) fn leave_presence(
        &self,
        topic: &Topic,
        user: &UserId,
        is_disconnected: bool,
    ) -> Option<Departure> {
        let mut state = self.presence.state();
        let key = (topic.clone(), user.clone());
        let entry = state.users.get_mut(&key)?;
        entry.connections -= 1;
        if entry.connections > 0 {
            return None;
        }
        if is_disconnected {
            let until = Instant::now() + self.config.grace.min(LONGEST);
            entry.grace_ends = Some(until);
            state.in_grace.push_back((until, key.0, key.1));
            self.presence.grace_started.notify_one();
            return None;
        }
        state.users.remove(&key);
        self.broker.presence().map(|tracker| tracker.leave(topic, user))
    }

    /// Ends the grace of `user` in `topic`, or in all topics if that is `None`.
    pub(super) fn expire_grace(&self, topic: Option<&Topic>, user: &UserId) {
        let mut state = self.presence.state();
        let State { users, in_grace } = &mut *state;
        in_grace.retain(|(until, lost_topic, lost_user)| {
            let matches = lost_user == user && topic.is_none_or(|topic| topic == lost_topic);
            if matches {
                self.end_grace(users, *until, lost_topic.clone(), lost_user.clone());
            }
            !matches
        });
    }

    /// Makes the users leave whose grace has ended. Returns when the next one ends.
    fn expire_due(&self) -> Option<Instant> {
        let mut state = self.presence.state();
        let now = Instant::now();
        while let Some((until, ..)) = state.in_grace.front() {
            if *until > now {
                return Some(*until);
            }
            let (until, topic, user) = state.in_grace.pop_front()?;
            self.end_grace(&mut state.users, until, topic, user);
        }
        None
    }

    /// The user leaves, unless it has returned since, or was lost again: then its grace ends later.
    fn end_grace(
        &self,
        users: &mut HashMap<(Topic, UserId), LocalUser>,
        until: Instant,
        topic: Topic,
        user: UserId,
    ) {
        let key = (topic, user);
        if users.get(&key).is_some_and(|user| user.grace_ends == Some(until)) {
            users.remove(&key);
            drop(self.broker.presence().map(|tracker| tracker.leave(&key.0, &key.1)));
        }
    }
}

/// Ends grace periods; it never returns.
pub(super) async fn run<M>(shared: &Shared<M>) {
    loop {
        match shared.expire_due() {
            Some(next) => sleep_until(next).await,
            None => shared.presence.grace_started.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use chat_core::RoomId;

    use super::*;

    #[test]
    fn occupant_of_an_event_shares_the_memory_of_the_one_that_was_sent() {
        let (presence, room) = (Presence::default(), Topic::Room(RoomId::new("r").unwrap()));
        let ann = |name: &str| {
            Occupant::new(UserId::new("ann").unwrap(), Bytes::copy_from_slice(name.as_bytes()))
        };
        let sent = ann("Ann");
        let known = LocalUser::new(sent.info.clone(), true);
        presence.state().users.insert((room.clone(), sent.user.clone()), known);

        let same = presence.shared(&room, ann("Ann"));
        assert_eq!(same, sent);
        assert_eq!(same.info.as_ptr(), sent.info.as_ptr());
        assert_eq!(same.user.as_str().as_ptr(), sent.user.as_str().as_ptr());
        assert_eq!(presence.shared(&room, ann("Anna")), ann("Anna"), "renamed by another server");
    }
}
