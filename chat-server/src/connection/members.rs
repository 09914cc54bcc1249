//! Who is in a room, as one of its members is told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use chat_broker::Snapshot;
use chat_core::{Event, User, UserId, envelope, wire};

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
    tell: impl FnOnce(Vec<wire::User<'_>>, u32),
) {
    let mut users = vec![wire::User::from(asker.user)];
    // The broker has no presence, so the users on other servers are unknown.
    let Some(roster) = snapshot.roster else { return tell(users, 1) };
    match roster.listed() {
        Some(listed) => {
            let known = listed.get(&asker.user.id);
            if let Some(user) = known.filter(|_| !asker.is_joining).and_then(|info| user_of(info)) {
                users[0] = user;
            }
            let others = listed.iter().filter(|(id, _)| **id != asker.user.id);
            users.extend(others.take(max).filter_map(|(_, info)| user_of(info)));
            let unlisted = |id: &UserId| *id != asker.user.id && !listed.contains_key(id);
            let joining = local(snapshot, usize::MAX, unlisted);
            users.extend(joining.iter().map(|user| wire::User::from(&**user)));
            users.truncate(max.max(1));
            let count = listed.len() + usize::from(known.is_none()) + joining.len();
            tell(users, in_frame(count));
        }
        None => {
            let local = local(snapshot, max, |id| *id != asker.user.id);
            users.extend(local.iter().map(|user| wire::User::from(&**user)));
            users.truncate(max.max(1));
            let count = (roster.count() as usize).max(users.len());
            tell(users, in_frame(count));
        }
    }
}

fn in_frame(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn user_of(info: &[u8]) -> Option<wire::User<'_>> {
    match envelope::decode(info) {
        Ok(Event::Presence(presence)) => Some(presence.user.into()),
        _ => None,
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
        let wanted = |Member { user, .. }: &Member| is_wanted(&user.id).then(|| Arc::clone(user));
        let Some(user) = seat.with(wanted).flatten() else { continue };
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
