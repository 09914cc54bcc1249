//! Coming to rooms and leaving them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chat_broker::{BrokerError, Delivery, Membership, Snapshot, Status, Welcomed};
use chat_core::wire::{Left, Members, ServerFrame};
use chat_core::{
    Capability, CloseReason, Deliver, ErrorCode, Event, Occupant, Presence, PresenceChange,
    Rejection, RoomId, Topic, User, UserName, envelope,
};
use chat_transport::Session;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::members::{self, Asker};
use super::recovery::{Newcomer, Wish};
use super::send::not_in_a_room;
use super::{Connection, unavailable};
use crate::auth::Action;
use crate::limits::{Charge, RoomSlot};
use crate::member::Member;
use crate::state::SHOWN;

/// A room that the client is in.
pub(super) struct Place {
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
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is passed on that somebody still writes; a tenth of it lies between a stop
/// and the next start.
const TYPING_PAUSE: Duration = Duration::from_secs(1);

impl Connection {
    pub(super) fn place(&self, room: &RoomId) -> Option<&Place> {
        self.places.iter().find(|place| place.room == *room)
    }

    /// Leaves a room, and answers when [lists](members::list) of this server show it. A broker that
    /// is away can say nothing of other servers that hold the user: the answer does not wait for it.
    pub(super) async fn leave(
        &mut self,
        id: Option<&RawValue>,
        room: &RoomId,
    ) -> Result<(), Rejection> {
        let leaving = self.take_place(room)?.membership.leave();
        if self.state.hub.broker().status() == Status::Ready {
            let _ = timeout(SHOWN, leaving).await;
        }
        self.member.reply(&ServerFrame::Left(Left::new(room)).to_request(id));
        Ok(())
    }

    /// `SUBSCRIBE`: the `rooms` dialect is not told.
    pub(super) async fn subscribe(&mut self, room: RoomId) -> Result<(), Rejection> {
        self.enter(None, room, Wish::default(), false).await
    }

    /// `join_room`: one room at a time. An error is told here: the caller may be the URL.
    pub(super) async fn switch(
        &mut self,
        id: Option<&RawValue>,
        room: RoomId,
        name: Option<UserName>,
        history: u32,
    ) {
        let known = &self.member.user;
        // Whoever is known by a token goes by the name that is in there.
        let name = name.filter(|_| self.access.identity().is_none());
        let user = User::new(known.id.clone(), name.or_else(|| Some(known.name.clone())));
        let renamed = user != **known;
        if self.current.as_ref().is_some_and(|current| *current != room || renamed) {
            // There is a current room, so this leaves it.
            let _ = self.exit();
        }
        if renamed {
            self.become_member(Arc::new(user), self.member.dialect);
        }
        let wish = Wish { since: None, history: Some(history) };
        match self.enter(id, room.clone(), wish, true).await {
            Ok(()) => self.current = Some(room),
            Err(rejection) => self.reject(&rejection.to_request(id)),
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
        match refused {
            None => session.drive(self.switch(None, room, None, history)).await,
            Some(refused) => self.reject(&self.too_much(refused)),
        }
    }

    /// `leave_room`.
    pub(super) fn exit(&mut self) -> Result<(), Rejection> {
        let room = self.current.take().ok_or_else(not_in_a_room)?;
        self.go(&room)
    }

    pub(super) async fn enter(
        &mut self,
        id: Option<&RawValue>,
        room: RoomId,
        wish: Wish,
        announced: bool,
    ) -> Result<(), Rejection> {
        self.until_bans_are_known().await?;
        self.not_banned(Action::join(&room))?;
        self.member.drained(self.patience(), &mut self.ends).await;
        if self.member.is_closed() {
            // Nobody need hear of somebody who is gone.
            return Ok(());
        }
        // Read before the room can tell of anything: no sanction falls between.
        let since = self.state.moderation.now();
        let sees_presence = self.may(Capability::Presence, &room).await;
        let wish = if self.may(Capability::History, &room).await { wish } else { Wish::nothing() };
        let newcomer = Newcomer {
            member: self.member.seeing(sees_presence),
            id: id.map(ToOwned::to_owned),
            room: room.clone(),
            wish,
            is_joining: self.place(&room).is_none(),
            patience: self.patience(),
            ends: self.ends,
            max_listed: self.state.config.max_listed_members,
            answered: Arc::default(),
        };
        let answered = Arc::clone(&newcomer.answered);
        let entered = match self.places.iter().position(|place| place.room == room) {
            Some(index) => {
                let outcome = self.enter_again(index, newcomer).await;
                outcome.map_err(|error| unavailable(&error))
            }
            None => self.enter_first(room, newcomer, since, announced).await,
        };
        self.pay_for_answer(answered.load(Ordering::Relaxed));
        entered
    }

    async fn enter_first(
        &mut self,
        room: RoomId,
        newcomer: Newcomer,
        since: u32,
        announced: bool,
    ) -> Result<(), Rejection> {
        let max = self.state.limits.config().rooms.unwrap_or(usize::MAX);
        if self.places.len() >= max {
            let message = format!("A connection is in at most {max} rooms.");
            return Err(self.too_many_rooms("rooms", message));
        }
        let slot = self.limiter.room(&self.state.limits).map_err(|max| {
            self.too_many_rooms("user_rooms", format!("A user is in at most {max} rooms here."))
        })?;
        let topic = Topic::Room(room.clone());
        let (member, occupant) = (newcomer.member.clone(), self.occupant(announced));
        let welcome = {
            let newcomer = newcomer.clone();
            move |snapshot: Snapshot<'_, Member>| newcomer.welcome(&snapshot)
        };
        let joining = self.state.hub.join(&topic, self.id, member.clone(), Some(occupant), welcome);
        let mut membership = self.joined(joining).await.map_err(|error| unavailable(&error))?;
        if membership.is_catching_up()
            && let Err(error) = newcomer.catch_up(&self.state.hub, &mut membership).await
        {
            self.lose(membership);
            return Err(unavailable(&error));
        }
        // Most are in one room, and a vector that grows by itself begins with four.
        self.places.reserve_exact(usize::from(self.places.is_empty()));
        let room_bytes = self.state.hub.retention(&room).map_or(0, |kept| kept.bytes);
        let mut may_be_new = true;
        membership.look(|snapshot| {
            may_be_new = snapshot.position.is_none_or(|position| position.offset == 0);
        });
        self.places.push(Place {
            membership,
            room,
            sees_presence: member.sees_presence(),
            announced,
            since,
            room_bytes,
            may_be_new,
            kept_bytes: 0,
            _slot: slot,
            typing: None,
        });
        // Whoever was put out on the way in was not there to be told.
        self.look_around();
        Ok(())
    }

    /// A join that fails in time while the broker is away, though the hub's calls, of which each takes
    /// as long as the broker gives it, wait for each other. In a crowd it may take longer.
    async fn joined(
        &self,
        joining: impl Future<Output = Result<Membership<Member>, BrokerError>>,
    ) -> Result<Membership<Member>, BrokerError> {
        let mut joining = pin!(joining);
        loop {
            match timeout(PATIENCE, &mut joining).await {
                Ok(joined) => return joined,
                Err(_) if self.state.hub.broker().status() != Status::Ready => {
                    return Err(BrokerError::unavailable("the join took too long"));
                }
                Err(_) => {}
            }
        }
    }

    fn too_many_rooms(&self, limit: &'static str, message: String) -> Rejection {
        self.state.metrics.limited(limit);
        Rejection::new(ErrorCode::TooManyRooms, message)
    }

    /// Before, nobody can be let in.
    async fn until_bans_are_known(&self) -> Result<(), Rejection> {
        let moderation = &self.state.moderation;
        if moderation.is_known() || timeout(PATIENCE, moderation.known()).await.is_ok() {
            return Ok(());
        }
        Err(unavailable(&BrokerError::unavailable("the bans are not known yet")))
    }

    /// Joining again changes nothing, unless something is to be recovered.
    ///
    /// The first page is read while the client still receives the room: if that fails, it is in the
    /// room as before. Once it does not receive the room, a failure closes it, so that it resumes
    /// from its position.
    async fn enter_again(&mut self, index: usize, newcomer: Newcomer) -> Result<(), BrokerError> {
        let hub = self.state.hub.clone();
        let Some(Place { membership, sees_presence, .. }) = self.places.get_mut(index) else {
            return Ok(());
        };
        *sees_presence = newcomer.member.sees_presence();
        if newcomer.wish.since.is_none() {
            membership.look(|snapshot| newcomer.tell_of_room(&snapshot));
            return Ok(());
        }
        let mut is_at_hand = true;
        membership.look(|snapshot| is_at_hand = newcomer.is_at_hand(&snapshot));
        let page = if is_at_hand { None } else { Some(newcomer.first_page(&hub).await?) };
        let member = newcomer.member.clone();
        match membership.listen(member, |snapshot| newcomer.welcome(&snapshot)) {
            Welcomed::UpToDate => Ok(()),
            Welcomed::CatchingUp => {
                let caught_up = match page {
                    Some(page) => {
                        newcomer.catch_up_from(page, &hub, membership).await;
                        Ok(())
                    }
                    // The room has dropped what was at hand a moment ago.
                    None => newcomer.catch_up(&hub, membership).await,
                };
                if caught_up.is_err() {
                    newcomer.member.close(CloseReason::InternalError);
                }
                caught_up
            }
        }
    }

    pub(super) fn occupant(&self, announced: bool) -> Occupant {
        let user = self.member.user.as_sender();
        let change = PresenceChange::Joined;
        Occupant {
            user: self.member.user.id.clone(),
            info: envelope::encode(&Event::Presence(Presence { user, change, announced })),
        }
    }

    /// Leaves a room; those who stay are told at once.
    pub(super) fn go(&mut self, room: &RoomId) -> Result<(), Rejection> {
        self.take_place(room).map(drop)
    }

    fn take_place(&mut self, room: &RoomId) -> Result<Place, Rejection> {
        let index = self.places.iter().position(|place| place.room == *room);
        Ok(self.places.swap_remove(index.ok_or_else(not_in_a_room)?))
    }

    /// The end of the connection.
    pub(super) fn leave_all(&mut self) {
        self.inbox = None;
        for place in std::mem::take(&mut self.places) {
            self.lose(place.membership);
        }
    }

    /// Leaves a room without a wish to. A client of the native protocol may come back.
    fn lose(&self, membership: Membership<Member>) {
        if self.member.is_native() {
            membership.lose();
        }
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

    /// Publishes what nobody waits for. A broker that is away loses it; what people said
    /// goes another way.
    async fn tell(&self, topic: &Topic, event: &Event<'_>) {
        let payload = envelope::encode(event);
        let told = self.state.hub.broker().publish(topic, payload, Delivery::Ephemeral).await;
        if let Err(error) = told {
            tracing::debug!(%error, %topic, "could not announce");
        }
    }

    pub(super) fn members(
        &mut self,
        id: Option<&RawValue>,
        room: &RoomId,
    ) -> Result<(), Rejection> {
        let place = self.place(room).ok_or_else(not_in_a_room)?;
        let max = self.state.config.max_listed_members;
        let mut bytes = 0;
        place.membership.look(|snapshot| {
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
