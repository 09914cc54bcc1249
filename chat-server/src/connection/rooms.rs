//! Coming to rooms and leaving them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chat_broker::{BrokerError, JoinOptions, Membership, PublishOptions, Status};
use chat_core::wire::{Left, Members, ServerFrame};
use chat_core::{
    Capability, ErrorCode, Event, Join, Occupant, Presence, PresenceChange, Rejection, RoomId,
    Topic, User, UserName, envelope,
};
use chat_transport::Session;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::join_request::JoinRequest;
use super::members::{self, Asker};
use super::send::not_in_a_room;
use super::{Connection, unavailable};
use crate::auth::Action;
use crate::limits::{Charge, RoomSlot};
use crate::member::Member;
use crate::state::SHOWN;

/// A room that the client is in.
pub(super) struct JoinedRoom {
    pub(super) membership: Membership<Member>,
    pub(super) room: RoomId,
    /// Whether the client is told who is there.
    pub(super) sees_presence: bool,
    /// Whether the `rooms` dialect is told that the client is there.
    pub(super) announced: bool,
    /// The reading of the moderation's clock when it was entered.
    pub(super) since: u32,
    /// What the room's history keeps, in bytes; 0 if it has none.
    pub(super) room_bytes: usize,
    /// Nothing may have been kept in it yet, as far as this connection knows.
    pub(super) may_be_new: bool,
    /// What this connection has added to it; see [`super::budget`].
    pub(super) kept_bytes: usize,
    /// Counts among the rooms of the user.
    _slot: Option<RoomSlot>,
    /// What was last passed on of the client's typing, and when.
    typing: Option<(bool, Instant)>,
}

/// How long a join waits for the bans to be known.
const BANS_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is passed on that somebody still writes; a tenth of it lies between a stop
/// and the next start.
const TYPING_PAUSE: Duration = Duration::from_secs(1);

impl Connection {
    pub(super) fn joined_room(&self, room: &RoomId) -> Option<&JoinedRoom> {
        self.rooms.iter().find(|place| place.room == *room)
    }

    /// Leaves a room, and answers when [lists](members::list) of this server show it. A broker that
    /// is away can say nothing of other servers that hold the user: the answer does not wait for it.
    pub(super) async fn leave(
        &mut self,
        id: Option<&RawValue>,
        room: Option<RoomId>,
    ) -> Result<(), Rejection> {
        let room = room.or_else(|| self.current.take()).ok_or_else(not_in_a_room)?;
        let leaving = self.take_room(&room)?.membership.leave();
        // The other dialects have no answer that could come too early.
        if self.member.is_native() && self.state.hub.broker().status() == Status::Ready {
            let _ = timeout(SHOWN, leaving).await;
        }
        self.member.reply(&ServerFrame::Left(Left::new(&room)).to_request(id));
        Ok(())
    }

    pub(super) async fn join(
        &mut self,
        id: Option<&RawValue>,
        join: Join,
    ) -> Result<(), Rejection> {
        let Join { room, since, history, name, announced, exclusive, .. } = join;
        if exclusive {
            self.leave_current(&room, name);
        }
        let options = JoinOptions::default().since(since).history(history);
        self.enter(id, room.clone(), options, announced).await?;
        if exclusive {
            self.current = Some(room);
        }
        Ok(())
    }

    /// Leaves the exclusive room before another is joined, or before the same is joined under
    /// another name, which the user has from then on.
    fn leave_current(&mut self, room: &RoomId, name: Option<UserName>) {
        let known = &self.member.user;
        // Whoever is known by a token goes by the name that is in there.
        let name = name.filter(|_| self.access.identity().is_none());
        let user = User::new(known.id.clone(), name.or_else(|| Some(known.name.clone())));
        let renamed = user != **known;
        if let Some(left) = self.current.take_if(|current| *current != *room || renamed) {
            // The client is in its current room.
            let _ = self.leave_room(&left);
        }
        if renamed {
            self.become_member(Arc::new(user), self.member.dialect);
        }
    }

    /// `/join-room/{room}`: costs what the frame would.
    pub(super) async fn enter_by_url<S>(
        &mut self,
        session: &mut Session<S>,
        room: RoomId,
        history: u32,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let Charge { wait, refused } = self.charge_join();
        if let Some(wait) = wait {
            self.wait_out(session, wait).await;
        }
        let joined = match refused {
            None => {
                let mut join = Join::new(room);
                (join.history, join.exclusive) = (Some(history), true);
                session.drive(self.join(None, join)).await
            }
            Some(refused) => Err(self.too_much(refused)),
        };
        if let Err(rejection) = joined {
            self.reject(&rejection);
        }
    }

    pub(super) async fn enter(
        &mut self,
        id: Option<&RawValue>,
        room: RoomId,
        options: JoinOptions,
        announced: bool,
    ) -> Result<(), Rejection> {
        self.until_bans_are_known().await?;
        self.not_banned(Action::join(&room))?;
        self.member.drained(self.time_limit(), &mut self.ends).await;
        if self.member.is_closed() {
            // Nobody need hear of somebody who is gone.
            return Ok(());
        }
        // Read before the room can tell of anything: no sanction falls between.
        let since = self.state.moderation.now();
        let sees_presence = self.may(Capability::Presence, &room).await;
        let may_recover = self.may(Capability::History, &room).await;
        let options = if may_recover { options } else { JoinOptions::default() };
        let member = self.member.seeing(sees_presence);
        let index = self.rooms.iter().position(|place| place.room == room);
        let answered = Arc::default();
        let request = JoinRequest {
            id: id.map(ToOwned::to_owned),
            room: room.clone(),
            is_joining: index.is_none(),
            time_limit: self.time_limit(),
            ends: self.ends,
            max_listed: self.state.config.max_listed_members,
            answered: Arc::clone(&answered),
        };
        let entered = match index {
            Some(index) => self.enter_again(index, member, options, request).await,
            None => {
                let options = options.occupant(self.occupant(announced));
                self.enter_first(room, member, options, request, since, announced).await
            }
        };
        self.pay_for_answer(answered.load(Ordering::Relaxed));
        entered
    }

    async fn enter_first(
        &mut self,
        room: RoomId,
        member: Member,
        options: JoinOptions,
        request: JoinRequest,
        since: u32,
        announced: bool,
    ) -> Result<(), Rejection> {
        let max = self.state.limits.config().rooms.unwrap_or(usize::MAX);
        if self.rooms.len() >= max {
            let message = format!("A connection is in at most {max} rooms.");
            return Err(self.too_many_rooms("rooms", message));
        }
        let slot = self.limiter.room(&self.state.limits).map_err(|max| {
            self.too_many_rooms("user_rooms", format!("A user is in at most {max} rooms here."))
        })?;
        let (topic, sees_presence) = (Topic::Room(room.clone()), member.sees_presence());
        let joining = self.state.hub.join_with(&topic, self.id, member, options, request);
        let membership = joining.await.map_err(|error| unavailable(&error))?;
        // Most are in one room, and a vector that grows by itself begins with four.
        self.rooms.reserve_exact(usize::from(self.rooms.is_empty()));
        let room_bytes = self.state.hub.retention(&room).map_or(0, |kept| kept.bytes);
        let mut may_be_new = true;
        membership.with_snapshot(|snapshot| {
            may_be_new = snapshot.position.is_none_or(|position| position.offset == 0);
        });
        self.rooms.push(JoinedRoom {
            membership,
            room,
            sees_presence,
            announced,
            since,
            room_bytes,
            may_be_new,
            kept_bytes: 0,
            _slot: slot,
            typing: None,
        });
        // Whoever was put out on the way in was not there to be told.
        self.check_sanctions();
        Ok(())
    }

    fn too_many_rooms(&self, limit: &'static str, message: String) -> Rejection {
        self.state.metrics.limited(limit);
        Rejection::new(ErrorCode::TooManyRooms, message)
    }

    /// Before, nobody can be let in.
    async fn until_bans_are_known(&self) -> Result<(), Rejection> {
        let moderation = &self.state.moderation;
        if moderation.is_known() || timeout(BANS_TIMEOUT, moderation.known()).await.is_ok() {
            return Ok(());
        }
        Err(unavailable(&BrokerError::unavailable("the bans are not known yet")))
    }

    /// Joining again changes nothing, unless something is to be recovered.
    async fn enter_again(
        &mut self,
        index: usize,
        member: Member,
        options: JoinOptions,
        request: JoinRequest,
    ) -> Result<(), Rejection> {
        let Some(place) = self.rooms.get_mut(index) else { return Ok(()) };
        place.sees_presence = member.sees_presence();
        let joining = place.membership.rejoin_with(member, options, request);
        joining.await.map_err(|error| unavailable(&error))
    }

    pub(super) fn occupant(&self, announced: bool) -> Occupant {
        let user = self.member.user.as_sender();
        let change = PresenceChange::Joined;
        Occupant::new(
            self.member.user.id.clone(),
            envelope::encode(&Event::Presence(Presence::new(user, change, announced))),
        )
    }

    /// Leaves a room; those who stay are told at once.
    pub(super) fn leave_room(&mut self, room: &RoomId) -> Result<(), Rejection> {
        self.take_room(room).map(drop)
    }

    fn take_room(&mut self, room: &RoomId) -> Result<JoinedRoom, Rejection> {
        let index = self.rooms.iter().position(|place| place.room == *room);
        Ok(self.rooms.swap_remove(index.ok_or_else(not_in_a_room)?))
    }

    /// The end of the connection.
    pub(super) fn leave_all(&mut self) {
        self.inbox = None;
        for place in std::mem::take(&mut self.rooms) {
            self.disconnect(place.membership);
        }
    }

    /// Leaves a room without a wish to. A client of the native protocol may come back.
    fn disconnect(&self, membership: Membership<Member>) {
        if self.member.is_native() {
            membership.disconnect();
        }
    }

    pub(super) async fn typing(&mut self, room: &RoomId, typing: bool) -> Result<(), Rejection> {
        let now = Instant::now();
        let place = self.rooms.iter_mut().find(|place| place.room == *room);
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

    /// Publishes what nobody waits for. A broker that is away loses it; what people said
    /// goes another way.
    async fn tell(&self, topic: &Topic, event: &Event<'_>) {
        let payload = envelope::encode(event);
        let told = self.state.hub.broker().publish(topic, payload, PublishOptions::default()).await;
        if let Err(error) = told {
            tracing::debug!(%error, %topic, "could not announce");
        }
    }

    pub(super) fn members(
        &mut self,
        id: Option<&RawValue>,
        room: &RoomId,
    ) -> Result<(), Rejection> {
        let place = self.joined_room(room).ok_or_else(not_in_a_room)?;
        let max = self.state.config.max_listed_members;
        let mut bytes = 0;
        place.membership.with_snapshot(|snapshot| {
            let asker = Asker { user: &self.member.user, is_joining: false };
            members::list(&snapshot, asker, max, |members, count| {
                let members = Members::new(room, members, count);
                bytes = self.member.reply(&ServerFrame::Members(members).to_request(id));
            });
        });
        self.pay_for_answer(bytes);
        Ok(())
    }
}
