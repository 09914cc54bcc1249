//! The member list of a room, as one of its members receives it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use chat_broker::Snapshot;
use chat_core::{Event, User, UserId, envelope, wire};

use crate::member::Member;

/// The member that receives the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requester<'a> {
    pub(super) user: &'a User,
    /// Whether the member is joining: its name is the latest of the user, and not in the roster yet.
    pub(super) is_joining: bool,
}

/// Calls `reply` with at most `max` users of the room, each once and the requester first, and with
/// the number of all users. In a room too large to be listed, they are users on this server.
///
/// A user on this server is listed as soon as its own join is answered. A user that left is not
/// listed: [`leave`](super::Connection::leave) is answered when the roster shows the leave.
pub(super) fn list(
    snapshot: &Snapshot<'_, Member>,
    requester: Requester<'_>,
    max: usize,
    reply: impl FnOnce(Vec<wire::User<'_>>, u32),
) {
    let mut users = vec![wire::User::from(requester.user)];
    // The broker has no presence, so the users on other servers are unknown.
    let Some(roster) = snapshot.roster else { return reply(users, 1) };
    match roster.listed() {
        Some(listed) => {
            let known = listed.get(&requester.user.id);
            if let Some(user) =
                known.filter(|_| !requester.is_joining).and_then(|info| user_of(info))
            {
                users[0] = user;
            }
            let others = listed.iter().filter(|(id, _)| **id != requester.user.id);
            users.extend(others.take(max).filter_map(|(_, info)| user_of(info)));
            let unlisted = |id: &UserId| *id != requester.user.id && !listed.contains_key(id);
            let joining = local(snapshot, usize::MAX, unlisted);
            users.extend(joining.iter().map(|user| wire::User::from(&**user)));
            users.truncate(max.max(1));
            let count = listed.len() + usize::from(known.is_none()) + joining.len();
            reply(users, in_frame(count));
        }
        None => {
            let local = local(snapshot, max, |id| *id != requester.user.id);
            users.extend(local.iter().map(|user| wire::User::from(&**user)));
            users.truncate(max.max(1));
            let count = (roster.count() as usize).max(users.len());
            reply(users, in_frame(count));
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

/// The wanted users among the first `connections` connections on this server, each by the name of
/// its latest connection.
fn local(
    snapshot: &Snapshot<'_, Member>,
    connections: usize,
    is_wanted: impl Fn(&UserId) -> bool,
) -> Vec<Arc<User>> {
    let (mut users, mut index_of) = (Vec::<Arc<User>>::new(), HashMap::new());
    for (_, slot) in snapshot.members.iter().take(connections) {
        let wanted = |Member { user, .. }: &Member| is_wanted(&user.id).then(|| Arc::clone(user));
        let Some(user) = slot.with(wanted).flatten() else { continue };
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
