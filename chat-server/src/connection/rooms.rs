//! Joining rooms and leaving them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chat_broker::{BrokerError, JoinOptions, Membership, PublishOptions, Status};
use chat_core::wire::{Left, Members, ServerFrame};
use chat_core::{
    Capabilities, Capability, ErrorCode, Event, Join, Occupant, Presence, PresenceChange,
    Rejection, RoomId, Topic, User, envelope,
};
use chat_transport::Session;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::Connection;
use super::join_request::JoinRequest;
use super::refused::Refused;
use super::send::not_in_a_room;
use crate::auth::Action;
use crate::error::unavailable;
use crate::limits::{Charge, RoomSlot};
use crate::member::Member;
use crate::service::members::{self, Requester};
use crate::sessions::RoomRequest;
use crate::state::LIST_TIMEOUT;

/// A room that the client is in.
pub(super) struct JoinedRoom {
    pub(super) membership: Membership<Member>,
    pub(super) room: RoomId,
    /// What the user may do in the room, as the client was last told.
    pub(super) can: Capabilities,
    /// Whether members that speak the `rooms` dialect receive the join of the client.
    pub(super) announced: bool,
    pub(super) kind: JoinKind,
    /// The moderation clock when the client joined. Only later kicks from the room apply.
    pub(super) since: u32,
    /// The most that the room's history keeps, in bytes; 0 without history.
    pub(super) room_bytes: usize,
    /// Whether the history may be empty, as far as this connection knows.
    pub(super) may_be_new: bool,
    /// Bytes that this connection has added to the history, up to `room_bytes`; see
    /// [`super::budget`].
    pub(super) kept_bytes: usize,
    /// Counts the membership among the rooms of the user.
    _slot: Option<RoomSlot>,
    /// The last published typing state of the client, and when it was published. Boxed: at any time few
    /// clients of a room have typed.
    typing: Option<Box<(bool, Instant)>>,
}

/// How a client came to be in a room. One byte in each [`JoinedRoom`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinKind {
    /// The client has asked for the room.
    Requested,
    /// The current room of a `rooms` client, which is in one at a time.
    Exclusive,
    /// A backend made the client join: neither permissions nor hooks apply.
    ByBackend,
}

/// How long a join waits until the bans are loaded.
const BANS_TIMEOUT: Duration = Duration::from_secs(5);

/// The shortest time between two published `typing: true`. Between a stop and the next start it is
/// a tenth of that.
const TYPING_INTERVAL: Duration = Duration::from_secs(1);

impl Connection {
    pub(super) fn joined_room(&self, room: &RoomId) -> Option<&JoinedRoom> {
        self.rooms.iter().find(|joined| joined.room == *room)
    }

    /// The room of a `rooms` client, whose frames name none.
    pub(super) fn current(&self) -> Option<&RoomId> {
        self.rooms
            .iter()
            .find(|joined| joined.kind == JoinKind::Exclusive)
            .map(|joined| &joined.room)
    }

    /// Leaves a room, and answers.
    pub(super) async fn leave(
        &mut self,
        id: Option<&RawValue>,
        room: Option<RoomId>,
    ) -> Result<(), Rejection> {
        let room = room.or_else(|| self.current().cloned()).ok_or_else(not_in_a_room)?;
        self.leave_room(&room).await?;
        self.member.reply(&ServerFrame::Left(Left::new(&room)).to_request(id));
        Ok(())
    }

    /// Leaves a room, and returns when the [member lists](members::list) of this server show the leave:
    /// a client that asks for `members` after `left` must not find itself. While the broker is
    /// unavailable other servers that hold the user are unknown, so this does not wait.
    async fn leave_room(&mut self, room: &RoomId) -> Result<(), Rejection> {
        let leaving = self.take_room(room)?.membership.leave();
        if self.state.hub.broker().status() == Status::Ready {
            // After the timeout the room has been left in any case; only lists are behind.
            let _ = timeout(LIST_TIMEOUT, leaving).await;
        }
        Ok(())
    }

    pub(super) async fn join(
        &mut self,
        id: Option<&RawValue>,
        join: &Join,
    ) -> Result<(), Rejection> {
        if join.exclusive {
            // Boxed, as other rare steps below: ten thousand joins may wait at a time after a restart,
            // and each holds this future.
            Box::pin(self.leave_current(join)).await;
        }
        self.join_room(id, join, JoinKind::Requested).await?;
        if join.exclusive
            && let Some(joined) = self.rooms.iter_mut().find(|joined| joined.room == join.room)
        {
            joined.kind = JoinKind::Exclusive;
        }
        Ok(())
    }

    /// Leaves the exclusive room before the client joins another one, or joins the same one under
    /// another name. Changes the name of the user to that of the join.
    async fn leave_current(&mut self, join: &Join) {
        let known = &self.member.user;
        // The name of an authenticated user is that of the token.
        let name = join.name.clone().filter(|_| self.access.identity().is_none());
        let user = User::new(known.id.clone(), name.or_else(|| Some(known.name.clone())));
        let renamed = user != **known;
        let current = self.current().filter(|current| **current != join.room || renamed);
        if let Some(left) = current.cloned() {
            // Cannot fail: the client is in its current room.
            let _ = self.leave_room(&left).await;
        }
        if renamed {
            self.set_identity(Arc::new(user), self.member.dialect);
        }
    }

    /// Joins and leaves the rooms that backends want the client to, as if it had sent the frames: bans
    /// and limits apply, permissions and hooks do not. A request without effect is skipped.
    pub(super) async fn carry_out_requests(&mut self) {
        self.may_have_requests = false;
        for request in self.state.sessions.take_requests(self.id) {
            let (kind, room, done) = match request {
                RoomRequest::Join(room) if self.joined_room(&room).is_some() => continue,
                RoomRequest::Join(room) => {
                    let join = Join::new(room);
                    let joined = self.join_room(None, &join, JoinKind::ByBackend).await;
                    ("join", join.room, joined)
                }
                RoomRequest::Leave(room) => {
                    let left = self.leave(None, Some(room.clone())).await;
                    ("leave", room, left)
                }
            };
            if let Err(rejection) = done {
                self.log_refused(&Refused::in_room(kind, &room).by_backend(), &rejection);
            }
        }
    }

    /// Joins the room of `/join-room/{room}`, at the cost of a `join` frame.
    pub(super) async fn join_by_url<S>(
        &mut self,
        session: &mut Session<S>,
        room: RoomId,
        history: u32,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let Charge { wait, refused } = self.charge_join();
        let mut join = Join::new(room);
        (join.history, join.exclusive) = (Some(history), true);
        let frame = Refused::in_room("join", &join.room);
        if let Some(wait) = wait {
            self.wait_for_budget(session, wait).await;
        }
        let joined = match refused {
            None => session.drive(self.join(None, &join)).await,
            Some(refused) => Err(self.rate_limited(refused)),
        };
        if let Err(rejection) = joined {
            self.reject(&frame, &rejection);
        }
    }

    async fn join_room(
        &mut self,
        id: Option<&RawValue>,
        join: &Join,
        kind: JoinKind,
    ) -> Result<(), Rejection> {
        let room = &join.room;
        if !self.state.moderation.is_loaded() {
            Box::pin(self.until_bans_are_loaded()).await?;
        }
        self.not_banned(Action::join(room))?;
        if kind != JoinKind::ByBackend && self.joined_room(room).is_none() {
            Box::pin(self.ask_before_join(room)).await?;
        }
        if self.member.has_unsent() {
            Box::pin(self.member.drained(self.time_limit(), &mut self.read_deadline())).await;
        }
        if self.member.is_closed() {
            // A join now would publish presence events for a closed connection.
            return Ok(());
        }
        // Read before the join: a kick that this server applies while the join is under way then counts
        // as later than the membership, and `check_sanctions` below enforces it.
        let since = self.state.moderation.now();
        let can = self.capabilities(room).await;
        let options = match can.contains(Capability::History) {
            true => JoinOptions::default().since(join.since).history(join.history),
            false => JoinOptions::default(),
        };
        let member = self.member.with_presence(can.contains(Capability::Presence));
        let index = self.rooms.iter().position(|joined| joined.room == *room);
        let answered = Arc::default();
        let request = JoinRequest {
            id: id.map(ToOwned::to_owned),
            room: room.clone(),
            is_joining: index.is_none(),
            can,
            time_limit: self.time_limit(),
            deadline: self.read_deadline(),
            max_listed: self.state.config.max_listed_members,
            answered: Arc::clone(&answered),
            moderation: Arc::clone(&self.state.moderation),
            since,
        };
        let joined = match index {
            Some(index) => Box::pin(self.rejoin_room(index, member, options, request)).await,
            None => {
                let slot = self.room_slot()?;
                let options = options.occupant(self.occupant(join.announced));
                let topic = Topic::Room(room.clone());
                let joining = self.state.hub.join_with(&topic, self.id, member, options, request);
                let joined = joining.await.map_err(|error| unavailable(&error));
                joined.map(|membership| {
                    self.add_room(membership, join, kind, can, since, slot);
                })
            }
        };
        self.charge_answer(answered.load(Ordering::Relaxed));
        // A kick during the join did not find this room in `rooms`, and the join may have handled its
        // notification, or that of a request.
        self.check_sanctions();
        self.may_have_requests |= self.state.sessions.has_requests(self.id);
        joined
    }

    /// Counts a further room of the client, unless the client or its user is in as many as it may be in.
    fn room_slot(&self) -> Result<Option<RoomSlot>, Rejection> {
        let max = self.limiter.config().rooms.unwrap_or(usize::MAX);
        if self.rooms.len() >= max {
            let message = format!("A connection is in at most {max} rooms.");
            return Err(self.too_many_rooms("rooms", message));
        }
        self.limiter.room().map_err(|max| {
            self.too_many_rooms("user_rooms", format!("A user is in at most {max} rooms here."))
        })
    }

    fn add_room(
        &mut self,
        membership: Membership<Member>,
        join: &Join,
        kind: JoinKind,
        can: Capabilities,
        since: u32,
        slot: Option<RoomSlot>,
    ) {
        // Most clients join one room, and `Vec::push` would allocate four elements.
        self.rooms.reserve_exact(usize::from(self.rooms.is_empty()));
        let room_bytes = self.state.hub.retention(&join.room).map_or(0, |kept| kept.bytes);
        let mut may_be_new = true;
        membership.with_snapshot(|snapshot| {
            may_be_new = snapshot.position.is_none_or(|position| position.offset == 0);
        });
        self.rooms.push(JoinedRoom {
            membership,
            room: join.room.clone(),
            can,
            announced: join.announced,
            kind,
            since,
            room_bytes,
            may_be_new,
            kept_bytes: 0,
            _slot: slot,
            typing: None,
        });
    }

    fn too_many_rooms(&self, limit: &'static str, message: String) -> Rejection {
        self.state.metrics.limited(limit);
        Rejection::new(ErrorCode::TooManyRooms, message)
    }

    /// A join must not succeed before the bans are loaded: a banned user would be in the room until then.
    async fn until_bans_are_loaded(&self) -> Result<(), Rejection> {
        if timeout(BANS_TIMEOUT, self.state.moderation.until_loaded()).await.is_ok() {
            return Ok(());
        }
        Err(unavailable(&BrokerError::unavailable("the bans are not loaded yet")))
    }

    /// Joins a room again: updates what the client may see, and recovers what `options` ask for.
    async fn rejoin_room(
        &mut self,
        index: usize,
        member: Member,
        options: JoinOptions,
        request: JoinRequest,
    ) -> Result<(), Rejection> {
        let Some(joined) = self.rooms.get_mut(index) else { return Ok(()) };
        let can = request.can;
        let joining = joined.membership.rejoin_with(member, options, request);
        joining.await.map_err(|error| unavailable(&error))?;
        // Not before: after an error the room still has the earlier member.
        joined.can = can;
        Ok(())
    }

    pub(super) fn occupant(&self, announced: bool) -> Occupant {
        let user = self.member.user.as_sender();
        let change = PresenceChange::Joined;
        Occupant::new(
            self.member.user.id.clone(),
            envelope::encode(&Event::Presence(Presence::new(user, change, announced))),
        )
    }

    /// Removes a room from `rooms`. Dropping its membership leaves the room.
    pub(super) fn take_room(&mut self, room: &RoomId) -> Result<JoinedRoom, Rejection> {
        let index = self.rooms.iter().position(|joined| joined.room == *room);
        Ok(self.rooms.swap_remove(index.ok_or_else(not_in_a_room)?))
    }

    /// Leaves every room and the inbox at the end of the connection. `is_departure`: the client has
    /// said that it will not return.
    pub(super) fn leave_all(&mut self, is_departure: bool) {
        self.inbox = None;
        for joined in std::mem::take(&mut self.rooms) {
            self.disconnect(joined, is_departure);
        }
    }

    /// Leaves a room because the connection ended. A client of the native protocol stays listed for the
    /// grace period, unless it departs, or was kicked or banned just before: `expire_grace` ran while
    /// the client was connected and found no grace to expire, so a grace that starts now would outlive
    /// the sanction.
    fn disconnect(&self, joined: JoinedRoom, is_departure: bool) {
        let sanction = self.server_sanction().or_else(|| self.room_sanction(&joined));
        if self.member.is_native() && !is_departure && sanction.is_none() {
            joined.membership.disconnect();
        }
    }

    pub(super) async fn typing(&mut self, room: &RoomId, typing: bool) -> Result<(), Rejection> {
        let now = Instant::now();
        let joined = self.rooms.iter_mut().find(|joined| joined.room == *room);
        let joined = joined.ok_or_else(not_in_a_room)?;
        // A stop is published once and without delay, a start at most once per interval.
        let throttled = match joined.typing.as_deref().copied() {
            Some((true, at)) => typing && now.duration_since(at) < TYPING_INTERVAL,
            Some((false, at)) => !typing || now.duration_since(at) < TYPING_INTERVAL / 10,
            None => false,
        };
        if !throttled {
            joined.typing = Some(Box::new((typing, now)));
            let topic = joined.membership.topic().clone();
            let user = self.member.user.as_sender();
            self.announce(&topic, &Event::Typing { user, typing }).await;
        }
        Ok(())
    }

    /// Publishes an ephemeral event. It is lost if the broker is unavailable, which is fine for typing.
    async fn announce(&self, topic: &Topic, event: &Event<'_>) {
        let payload = envelope::encode(event);
        let sent = self.state.hub.broker().publish(topic, payload, PublishOptions::default()).await;
        if let Err(error) = sent {
            tracing::debug!(connection = self.name(), %error, %topic, "typing event not published");
        }
    }

    pub(super) fn members(
        &mut self,
        id: Option<&RawValue>,
        room: &RoomId,
    ) -> Result<(), Rejection> {
        let joined = self.joined_room(room).ok_or_else(not_in_a_room)?;
        let max = self.state.config.max_listed_members;
        let mut bytes = 0;
        joined.membership.with_snapshot(|snapshot| {
            let requester = Requester { user: &self.member.user, is_joining: false };
            members::list(&snapshot, Some(requester), max, |members, count| {
                let members = Members::new(room, members, count);
                bytes = self.member.reply(&ServerFrame::Members(members).to_request(id));
            });
        });
        self.charge_answer(bytes);
        Ok(())
    }
}
