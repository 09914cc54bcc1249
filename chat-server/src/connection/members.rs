//! Who is in a room, as one of its members is told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use chat_broker::Snapshot;
use chat_core::{Event, Sender, User, UserId, envelope};

use crate::member::Member;

/// The member who is told who is in a room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) user: &'a User,
    /// It joins now: its name is the latest of the user, and the roster does not know that yet.
    pub(super) is_joining: bool,
}

/// Hands `tell` the users in the room, each once and the asker first, at most `max` of
/// them; and how many there are. In a big room they are some of those on this server.
///
/// Users on this server are listed as soon as their own joins are answered; those who left are
/// not, since [leaves](super::Connection::leave) are answered when the roster shows them.
pub(super) fn list(
    snapshot: &Snapshot<'_, Member>,
    asker: Asker<'_>,
    max: usize,
    tell: impl FnOnce(&[Sender<'_>], usize),
) {
    let mut users = vec![asker.user.as_sender()];
    let count = snapshot.roster.map_or(0, |roster| roster.count() as usize);
    match snapshot.roster.and_then(|roster| roster.listed()) {
        Some(listed) => {
            for info in listed.values() {
                let Ok(Event::Presence(presence)) = envelope::decode(info) else { continue };
                if presence.user.id != asker.user.id.as_str() {
                    users.push(presence.user);
                } else if !asker.is_joining {
                    users[0] = presence.user;
                }
            }
            let unlisted = |id: &UserId| *id != asker.user.id && !listed.contains_key(id);
            let joining = local(snapshot, usize::MAX, unlisted);
            users.extend(joining.iter().map(|user| user.as_sender()));
            let count = users.len();
            users.truncate(max.max(1));
            tell(&users, count);
        }
        None => {
            let local = local(snapshot, max, |id| *id != asker.user.id);
            users.extend(local.iter().map(|user| user.as_sender()));
            users.truncate(max.max(1));
            tell(&users, count.max(users.len()));
        }
    }
}

/// The users of the first so many connections on this server that are wanted, each by the name of
/// the latest connection.
fn local(
    snapshot: &Snapshot<'_, Member>,
    connections: usize,
    is_wanted: impl Fn(&UserId) -> bool,
) -> Vec<Arc<User>> {
    let (mut users, mut index_of) = (Vec::<Arc<User>>::new(), HashMap::new());
    for (_, seat) in snapshot.members.iter().take(connections) {
        let Some(Member { user, .. }) = seat.member().filter(|one| is_wanted(&one.user.id)) else {
            continue;
        };
        match index_of.entry(user.id.clone()) {
            Entry::Occupied(index) => users[*index.get()] = user,
            Entry::Vacant(index) => {
                index.insert(users.len());
                users.push(user);
            }
        }
    }
    users
}
