//! Which users this server holds in which rooms: what the broker is told of.
//!
//! One user is one occupant, however many connections there are. Whoever left by losing a
//! connection is kept for a while, in case of a return to whichever server.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use chat_core::{Deliver, Occupant, Topic, UserId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::interest::LONGEST;
use crate::presence::Departure;

/// The users of this server, by room.
#[derive(Debug, Default)]
pub(super) struct Presence {
    state: Mutex<State>,
    /// Somebody was lost.
    grace_started: Notify,
}

#[derive(Debug, Default)]
struct State {
    users: HashMap<(Topic, UserId), LocalUser>,
    /// Whoever was lost, in the order in which their time is up: all have equally long.
    in_grace: VecDeque<(Instant, Topic, UserId)>,
}

#[derive(Debug)]
struct LocalUser {
    connections: u32,
    /// Until when a return is waited for, if there are none.
    grace_ends: Option<Instant>,
    /// A hash of the latest info that this server gave the broker: the info itself would be one
    /// allocation more for each user in a room.
    info: u64,
}

impl Presence {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn hash(info: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    info.hash(&mut hasher);
    hasher.finish()
}

impl<M: Deliver + Clone> Shared<M> {
    /// One more connection of a user is in a room.
    pub(super) fn enter_presence(&self, topic: &Topic, occupant: Occupant) {
        // Without presence, no user is held: the methods below find none.
        let Some(tracker) = self.broker.presence() else { return };
        // Not under the lock below, which no lock of a room is taken under.
        let is_listed = self.lists(topic, &occupant);
        let info = hash(&occupant.info);
        let mut state = self.presence.state();
        match state.users.entry((topic.clone(), occupant.user.clone())) {
            Entry::Occupied(mut user) => {
                let user = user.get_mut();
                user.connections += 1;
                user.grace_ends = None;
                // The broker knows this user by this name. The roster alone does not prove it: it may
                // not show yet that this server has sent another name since.
                if is_listed && user.info == info {
                    return;
                }
                user.info = info;
            }
            Entry::Vacant(entry) => {
                entry.insert(LocalUser { connections: 1, grace_ends: None, info });
            }
        }
        // Under the lock, so that the broker gets the changes of a user in this order.
        tracker.enter(topic, occupant);
    }

    fn lists(&self, topic: &Topic, occupant: &Occupant) -> bool {
        self.registry.update(topic, |room| room.state.sequence.lists(occupant)).unwrap_or_default()
    }
}

impl<M> Shared<M> {
    /// A user who is in a room has another name there.
    pub(super) fn rename(&self, topic: &Topic, occupant: Occupant) {
        let mut state = self.presence.state();
        if let Some(user) = state.users.get_mut(&(topic.clone(), occupant.user.clone())) {
            user.info = hash(&occupant.info);
            if let Some(tracker) = self.broker.presence() {
                tracker.enter(topic, occupant);
            }
        }
    }

    /// One connection less; `is_disconnected` if it may come back. If this was the last one and is not
    /// lost, the user leaves.
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

    /// Lets those go whose time is up. Returns when the next one's is.
    fn expire_grace(&self) -> Option<Instant> {
        let mut state = self.presence.state();
        let now = Instant::now();
        while let Some((until, ..)) = state.in_grace.front() {
            if *until > now {
                return Some(*until);
            }
            let (until, topic, user) = state.in_grace.pop_front()?;
            let key = (topic, user);
            // Whoever has come back since, or was lost again, has another time.
            if state.users.get(&key).is_some_and(|user| user.grace_ends == Some(until)) {
                state.users.remove(&key);
                drop(self.broker.presence().map(|tracker| tracker.leave(&key.0, &key.1)));
            }
        }
        None
    }
}

/// Works for ever.
pub(super) async fn run<M>(shared: &Shared<M>) {
    loop {
        match shared.expire_grace() {
            Some(next) => sleep_until(next).await,
            None => shared.presence.grace_started.notified().await,
        }
    }
}
