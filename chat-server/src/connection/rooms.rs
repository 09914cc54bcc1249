//! Coming to rooms and leaving them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_broker::{Delivery, Membership, Seat, Snapshot};
use chat_core::reply::Joined;
use chat_core::{
    Dialect, ErrorCode, Event, Members, Position, Presence, PresenceChange, Rejection, Reply,
    RoomId, Topic, User, UserName, envelope,
};
use serde_json::value::RawValue;

use super::send::not_in_a_room;
use super::{Connection, unavailable};
use crate::member::Member;

/// A room that the client is in.
pub(super) struct Place {
    pub(super) membership: Membership<Member>,
    room: RoomId,
    /// The `rooms` dialect was told that the client came, and will be told that it left.
    announced: bool,
    /// What was last passed on of the client's typing, and when.
    typing: Option<(bool, Instant)>,
}

/// How often it is passed on that somebody still writes; a tenth of it lies between a stop
/// and the next start.
const TYPING_PAUSE: Duration = Duration::from_secs(1);

impl Connection {
    pub(super) fn place(&self, room: &RoomId) -> Option<&Place> {
        self.places.iter().find(|place| place.room == *room)
    }

    pub(super) async fn join(
        &mut self,
        id: Option<&RawValue>,
        room: RoomId,
        since: Option<Position>,
    ) -> Result<(), Rejection> {
        self.enter(id, room, since, true).await
    }

    pub(super) async fn leave(
        &mut self,
        id: Option<&RawValue>,
        room: &RoomId,
    ) -> Result<(), Rejection> {
        self.go(room).await?;
        self.member.reply(&Reply::Left { id, room });
        Ok(())
    }

    pub(super) async fn subscribe(&mut self, room: RoomId) -> Result<(), Rejection> {
        self.enter(None, room, None, false).await
    }

    pub(super) async fn unsubscribe(&mut self, room: &RoomId) -> Result<(), Rejection> {
        self.go(room).await
    }

    /// `join_room`: one room at a time. An error is told here: the caller may be the URL.
    pub(super) async fn switch(
        &mut self,
        id: Option<&RawValue>,
        room: RoomId,
        name: Option<UserName>,
    ) {
        let known = &self.member.user;
        let user = User::new(known.id.clone(), name.or_else(|| Some(known.name.clone())));
        let renamed = user != **known;
        if self.current.as_ref().is_some_and(|current| *current != room || renamed) {
            // There is a current room, so this leaves it.
            let _ = self.exit().await;
        }
        if renamed {
            self.become_member(Arc::new(user), self.member.dialect);
        }
        match self.enter(id, room.clone(), None, true).await {
            Ok(()) => self.current = Some(room),
            Err(rejection) => self.reject(&rejection.to_request(id)),
        }
    }

    /// `leave_room`.
    pub(super) async fn exit(&mut self) -> Result<(), Rejection> {
        let room = self.current.take().ok_or_else(not_in_a_room)?;
        self.go(&room).await
    }

    async fn enter(
        &mut self,
        id: Option<&RawValue>,
        room: RoomId,
        since: Option<Position>,
        announced: bool,
    ) -> Result<(), Rejection> {
        let welcome = Welcome {
            member: self.member.clone(),
            id: id.map(ToOwned::to_owned),
            room: room.clone(),
            since,
            max_listed: self.state.config.max_listed_members,
        };
        if let Some(place) = self.place(&room) {
            place.membership.look(|snapshot| welcome.say(snapshot));
            return Ok(());
        }
        let max = self.state.config.max_rooms;
        if self.places.len() >= max {
            let message = format!("A connection is in at most {max} rooms.");
            return Err(Rejection::new(ErrorCode::TooManyRooms, message));
        }
        let topic = Topic::Room(room.clone());
        let member = self.member.clone();
        let joining =
            self.state.hub.join(&topic, self.id, member, move |snapshot| welcome.say(snapshot));
        let membership = joining.await.map_err(|error| unavailable(&error))?;
        self.places.push(Place { membership, room, announced, typing: None });
        self.announce(topic, PresenceChange::Joined, announced).await;
        Ok(())
    }

    async fn go(&mut self, room: &RoomId) -> Result<(), Rejection> {
        let index = self.places.iter().position(|place| place.room == *room);
        let place = self.places.swap_remove(index.ok_or_else(not_in_a_room)?);
        self.depart(place).await;
        Ok(())
    }

    /// Leaves a room and says so to those who stay. Returns whether that could be said.
    async fn depart(&self, place: Place) -> bool {
        let Place { membership, announced, .. } = place;
        let topic = membership.topic().clone();
        drop(membership);
        self.announce(topic, PresenceChange::Left, announced).await
    }

    /// The end of the connection.
    pub(super) async fn leave_all(&mut self) {
        self.inbox = None;
        for place in std::mem::take(&mut self.places) {
            // A broker that is away would make every room wait; the places are dropped.
            if !self.depart(place).await {
                return;
            }
        }
    }

    async fn announce(&self, topic: Topic, change: PresenceChange, announced: bool) -> bool {
        let user = self.member.user.as_sender();
        self.tell(&topic, &Event::Presence(Presence { user, change, announced })).await
    }

    /// Publishes what nobody waits for, and returns whether the broker had a place for it.
    /// A broker that is away loses it; what people said goes another way.
    async fn tell(&self, topic: &Topic, event: &Event<'_>) -> bool {
        let payload = envelope::encode(event);
        let told = self.state.hub.broker().publish(topic, payload, Delivery::Ephemeral).await;
        if let Err(error) = &told {
            tracing::debug!(%error, %topic, "could not announce");
        }
        told.is_ok()
    }

    pub(super) async fn typing(&mut self, room: &RoomId, typing: bool) -> Result<(), Rejection> {
        let now = Instant::now();
        let place = self.places.iter_mut().find(|place| place.room == *room);
        let place = place.ok_or_else(not_in_a_room)?;
        // Stopping is told once, and at once; starting once in a while.
        let throttled = match place.typing {
            Some((true, at)) => typing && now.duration_since(at) < TYPING_PAUSE,
            Some((false, at)) => !typing || now.duration_since(at) < TYPING_PAUSE / 10,
            None => false,
        };
        if !throttled {
            place.typing = Some((typing, now));
            let topic = place.membership.topic().clone();
            let user = self.member.user.as_sender();
            self.tell(&topic, &Event::Typing { user, typing }).await;
        }
        Ok(())
    }

    pub(super) fn members(&self, id: Option<&RawValue>, room: &RoomId) -> Result<(), Rejection> {
        let place = self.place(room).ok_or_else(not_in_a_room)?;
        let max = self.state.config.max_listed_members;
        place.membership.look(|snapshot| {
            let (users, count) = list(snapshot.members, &self.member, max);
            let members: Vec<&User> = users.iter().map(|user| &**user).collect();
            self.member.reply(&Reply::Members { id, room, members: &members, count });
        });
        Ok(())
    }
}

/// What a newcomer is told, once the room is ready.
struct Welcome {
    member: Member,
    id: Option<Box<RawValue>>,
    room: RoomId,
    since: Option<Position>,
    max_listed: usize,
}

impl Welcome {
    fn say(self, snapshot: Snapshot<'_, Member>) {
        let position = snapshot.position;
        let (users, count) = match self.member.dialect {
            Dialect::Native => list(snapshot.members, &self.member, self.max_listed),
            _ => (Vec::new(), 0),
        };
        let members: Vec<&User> = users.iter().map(|user| &**user).collect();
        self.member.reply(&Reply::Joined(Joined {
            id: self.id.as_deref(),
            room: &self.room,
            epoch: position.epoch,
            offset: position.offset,
            // Without history there is nothing to give again: only who missed nothing is
            // whole.
            recovered: self.since == Some(position),
            members: &members,
            count,
            messages: &[],
        }));
    }
}

/// The users in a room, each once and the asker first, at most `max` of them; and how many
/// there are. Beyond `max` connections they are not told apart, and the count is that of
/// connections.
fn list(members: &Members<Seat<Member>>, asker: &Member, max: usize) -> (Vec<Arc<User>>, usize) {
    let mut seen = HashSet::from([asker.user.id.clone()]);
    let mut users = vec![Arc::clone(&asker.user)];
    for (_, seat) in members.iter().take(max) {
        if let Some(member) = seat.member()
            && seen.insert(member.user.id.clone())
        {
            users.push(Arc::clone(&member.user));
        }
    }
    users.truncate(max.max(1));
    let count = if members.len() > max { members.len() } else { users.len() };
    (users, count)
}
