//! Who is in a room, as one of its members is told.

use std::collections::HashSet;
use std::sync::Arc;

use chat_broker::Snapshot;
use chat_core::{Event, Sender, User, envelope};

use crate::member::Member;

/// Hands `tell` the users in the room, each once and the asker first, at most `max` of
/// them; and how many there are. In a big room they are some of those on this server.
pub(super) fn list(
    snapshot: &Snapshot<'_, Member>,
    asker: &User,
    max: usize,
    tell: impl FnOnce(&[Sender<'_>], usize),
) {
    let count = snapshot.roster.map_or(0, |roster| roster.count() as usize);
    match snapshot.roster.and_then(|roster| roster.listed()) {
        Some(listed) => {
            let mut users = vec![asker.as_sender()];
            for info in listed.values().take(max) {
                if let Ok(Event::Presence(presence)) = envelope::decode(info)
                    && presence.user.id != asker.id.as_str()
                {
                    users.push(presence.user);
                }
            }
            users.truncate(max.max(1));
            // The asker may be on the way into the list.
            let here = usize::from(!listed.contains_key(&asker.id));
            tell(&users, listed.len() + here);
        }
        None => {
            let local = local(snapshot, asker, max);
            let mut users = vec![asker.as_sender()];
            users.extend(local.iter().map(|user| user.as_sender()));
            users.truncate(max.max(1));
            tell(&users, count.max(users.len()));
        }
    }
}

/// Other users on this server.
fn local(snapshot: &Snapshot<'_, Member>, asker: &User, max: usize) -> Vec<Arc<User>> {
    let mut seen = HashSet::from([asker.id.clone()]);
    let mut users = Vec::new();
    for (_, seat) in snapshot.members.iter().take(max) {
        if let Some(member) = seat.member()
            && seen.insert(member.user.id.clone())
        {
            users.push(Arc::clone(&member.user));
        }
    }
    users
}
