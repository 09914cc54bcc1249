//! A member that keeps a copy of the roster.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chat_broker::{Membership, Snapshot};
use chat_core::{
    Batch, CloseReason, Deliver, DeliveryOutcome, Event, PresenceChange, Roster, envelope,
};

/// The roster that a member was given, and the changes that it received after it, as a client keeps
/// them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RosterCopy(Arc<Mutex<Copied>>);

#[derive(Debug, Default)]
struct Copied {
    /// Names by id.
    users: BTreeMap<String, String>,
    /// Changes that do not follow on the copy.
    faults: Vec<String>,
    log: Vec<String>,
}

impl RosterCopy {
    /// What a join gives its member first.
    pub(crate) fn joiner(&self) -> impl FnMut(&Snapshot<'_, Self>) + Send + use<> {
        let copy = self.clone();
        move |snapshot| copy.0.lock().unwrap().users = users(snapshot.roster.unwrap())
    }

    /// Changes that did not follow on the copy.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.0.lock().unwrap().faults.clone()
    }

    /// All that was received: the changes, as `+id`, `~id` and `-id`, and the texts of
    /// messages.
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.lock().unwrap().log.clone()
    }
}

impl Deliver for RosterCopy {
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        let Copied { users, faults, log } = &mut *self.0.lock().unwrap();
        for (event, _) in batch.events() {
            let presence = match event {
                Event::Presence(presence) => presence,
                Event::Message(message) => {
                    log.push(message.text.to_owned());
                    continue;
                }
                other => panic!("{other:?}"),
            };
            let (id, name) = (presence.user.id.to_owned(), presence.user.name.to_owned());
            let (sign, was_there) = match presence.change {
                PresenceChange::Joined => ("+", users.insert(id.clone(), name).is_some()),
                PresenceChange::Renamed => ("~", users.insert(id.clone(), name).is_some()),
                PresenceChange::Left => ("-", users.remove(&id).is_some()),
                other => panic!("{other:?}"),
            };
            let change = format!("{sign}{id}");
            if was_there != (presence.change != PresenceChange::Joined) {
                faults.push(change.clone());
            }
            log.push(change);
        }
        DeliveryOutcome::Queued
    }

    fn close(&self, reason: CloseReason) {
        self.0.lock().unwrap().faults.push(format!("{reason:?}"));
    }
}

/// Whether the copy is the roster of the room now.
pub(crate) fn is_copied(membership: &Membership<RosterCopy>, copy: &RosterCopy) -> bool {
    let mut is_copy = false;
    membership.with_snapshot(|snapshot| {
        is_copy = copy.0.lock().unwrap().users == users(snapshot.roster.unwrap());
    });
    is_copy
}

fn users(roster: &Roster) -> BTreeMap<String, String> {
    let listed = roster.listed().expect("the room is not large");
    let name = |info| match envelope::decode(info) {
        Ok(Event::Presence(presence)) => presence.user.name.to_owned(),
        other => panic!("{other:?}"),
    };
    listed.iter().map(|(id, info)| (id.as_str().to_owned(), name(info))).collect()
}
