//! Who is where, on all servers: the users in a room, the rooms that have users, and the users who are
//! online.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use chat_broker::{BrokerError, OccupiedRooms, PresenceTracker, Snapshot};
use chat_core::{Event, RoomId, Topic, User, UserId, UserName, envelope, wire};

use crate::member::Member;
use crate::state::State;

/// The users in a room, if there are at most `max`, and the number of all. They are those of this
/// server's memory if the room has members here, and else those that the broker lists.
pub(crate) async fn members(
    state: &State,
    room: &RoomId,
    max: usize,
) -> Result<(Vec<User>, u32), BrokerError> {
    let presence = presence(state)?;
    let topic = Topic::Room(room.clone());
    let in_memory = state.hub.with_snapshot(&topic, |snapshot| {
        let is_listed = snapshot.roster.is_some_and(|roster| roster.listed().is_some());
        is_listed.then(|| {
            let mut members = Default::default();
            list(&snapshot, None, usize::MAX, |users, count| {
                members = (users.into_iter().filter_map(user).collect::<Vec<_>>(), count);
            });
            members
        })
    });
    let (users, count) = match in_memory.flatten() {
        Some(members) => members,
        None => {
            let topics = std::slice::from_ref(&topic);
            let occupancy = presence.occupancy(topics, max).await?.pop().unwrap_or_default();
            let infos = occupancy.occupants.iter().map(|occupant| &*occupant.info);
            (infos.filter_map(user_of).filter_map(user).collect(), occupancy.count)
        }
    };
    Ok((if users.len() > max { Vec::new() } else { users }, count))
}

/// At most `limit` of the rooms that have users and whose names begin with `prefix`, after the room
/// `after`.
pub(crate) async fn rooms(
    state: &State,
    prefix: &str,
    after: Option<&RoomId>,
    limit: usize,
) -> Result<OccupiedRooms, BrokerError> {
    presence(state)?.rooms(prefix, after, limit).await
}

/// Whether each of these users has a connection that receives direct messages.
pub(crate) async fn online(state: &State, users: &[UserId]) -> Result<Vec<bool>, BrokerError> {
    let servers = servers(state, users).await?;
    Ok(servers.into_iter().map(|count| count > 0).collect())
}

/// How many servers have a connection that receives direct messages, of each of these users.
pub(crate) async fn servers(state: &State, users: &[UserId]) -> Result<Vec<u32>, BrokerError> {
    let topics: Vec<_> = users.iter().cloned().map(Topic::User).collect();
    let counts = state.hub.broker().subscribers(&topics).await?;
    // Servers subscribe to the topic of a backend's id.
    let of_clients = |(user, count): (&UserId, u32)| if user.is_backend() { 0 } else { count };
    Ok(users.iter().zip(counts).map(of_clients).collect())
}

pub(crate) fn presence(state: &State) -> Result<&dyn PresenceTracker, BrokerError> {
    state.hub.broker().presence().ok_or(BrokerError::Unsupported("presence"))
}

/// `None` if another version, with other rules for names, has announced the user.
fn user(user: wire::User<'_>) -> Option<User> {
    Some(User::new(UserId::new(&user.id).ok()?, UserName::new(&user.name).ok()))
}

/// The member that receives a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requester<'a> {
    pub(crate) user: &'a User,
    /// Whether the member is joining: its name is the latest of the user, and not in the roster yet.
    pub(crate) is_joining: bool,
}

/// Calls `reply` with at most `max` users of the room, each once and the requester first, and with
/// the number of all users. In a room too large to be listed, they are users on this server.
///
/// A user on this server is listed as soon as its own join is answered. A user that left is not
/// listed: a leave is answered when the roster shows it.
pub(crate) fn list(
    snapshot: &Snapshot<'_, Member>,
    requester: Option<Requester<'_>>,
    max: usize,
    reply: impl FnOnce(Vec<wire::User<'_>>, u32),
) {
    let own = requester.map(|requester| &requester.user.id);
    let is_other = |id: &UserId| own != Some(id);
    let mut users: Vec<_> = requester.iter().map(|one| wire::User::from(one.user)).collect();
    // The broker has no presence, so the users on other servers are unknown.
    let Some(roster) = snapshot.roster else {
        let count = in_frame(users.len());
        return reply(users, count);
    };
    let max = max.max(users.len());
    match roster.listed() {
        Some(listed) => {
            let known = own.and_then(|own| listed.get(own));
            if let (Some(Requester { is_joining: false, .. }), Some(info)) = (requester, known)
                && let Some(user) = user_of(info)
            {
                users[0] = user;
            }
            let others = listed.iter().filter(|(id, _)| is_other(id));
            users.extend(others.take(max).filter_map(|(_, info)| user_of(info)));
            let unlisted = |id: &UserId| is_other(id) && !listed.contains_key(id);
            let joining = local(snapshot, usize::MAX, unlisted);
            users.extend(joining.iter().map(|user| wire::User::from(&**user)));
            users.truncate(max);
            let is_unlisted = own.is_some() && known.is_none();
            let count = listed.len() + usize::from(is_unlisted) + joining.len();
            reply(users, in_frame(count));
        }
        None => {
            let local = local(snapshot, max, is_other);
            users.extend(local.iter().map(|user| wire::User::from(&**user)));
            users.truncate(max);
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
