//! Joining a topic, and rejoining it with the same membership.

use chat_core::{ConnectionId, Deliver, Occupant, Position, Topic};
use tokio::sync::oneshot;

use super::Hub;
use super::catch_up::{CatchUp, Wanted};
use super::joiner::{JoinState, Joiner, Snapshot};
use super::member_slot::MemberSlot;
use super::membership::Membership;
use super::room::Waiter;
use crate::error::BrokerError;

/// What a member receives when it joins a topic. By default nothing but what is published
/// afterwards.
///
/// ```
/// use chat_broker::JoinOptions;
/// use chat_core::Position;
///
/// let (before, latest) = (JoinOptions::default().since(Position::default()), JoinOptions::default());
/// assert_eq!(before.history(100).history, Some(100));
/// assert_eq!(latest.since, None);
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct JoinOptions {
    /// The user who is announced in the room, on all servers. Default: `None`, an unseen member.
    pub occupant: Option<Occupant>,
    /// The position up to which the member has the room's messages. It receives all that was
    /// published since. If the history does not reach back so far, or is of another epoch, it
    /// receives a gap and the latest messages; in a room without history, a gap without a position.
    /// [`Position::default`] is before the first message of a room. Default: `None`, for a member
    /// without messages.
    pub since: Option<Position>,
    /// How many of the latest messages the member receives, if not those published
    /// [since](Self::since) a position: at most 256, and 256 KiB. Default 50 with `since`, 0 without.
    pub history: Option<u32>,
    /// The maximum of the topic's members on this server, this one included. A join that exceeds it
    /// fails with [`BrokerError::RoomFull`], also among concurrent ones. A member counts until its
    /// [`Membership`] is dropped, also one that was closed. Default: `None`, no maximum.
    pub max_members: Option<u32>,
    /// The maximum of the room's users, on all servers, with the [`occupant`](Self::occupant) of this
    /// join; a join without an occupant has none. A join that exceeds it fails with
    /// [`BrokerError::RoomFull`], and no member receives an event of it. A user who is in the room
    /// already, with another connection or on another server, counts once. The user of a lost
    /// connection counts until the [grace](super::HubConfig::grace) ends, that of a crashed server
    /// until its lease has expired. Default: `None`, no maximum.
    ///
    /// Concurrent joins never exceed the maximum. But a server whose lease expired while it runs, in an
    /// outage or a pause, sends its users again when it is back, and so do all servers after the
    /// backend has lost data. If others have joined since, the users are more than the maximum.
    ///
    /// The join waits for the answer of the broker, and then takes its snapshot: the roster in that may
    /// list the user already, and then the member does not receive its own join. The broker needs
    /// [`PresenceTracker::enter_limited`](crate::PresenceTracker::enter_limited).
    pub max_users: Option<u32>,
}

impl JoinOptions {
    /// Sets [`occupant`](Self::occupant).
    #[must_use]
    pub fn occupant(mut self, occupant: impl Into<Option<Occupant>>) -> Self {
        self.occupant = occupant.into();
        self
    }

    /// Sets [`since`](Self::since).
    #[must_use]
    pub fn since(mut self, since: impl Into<Option<Position>>) -> Self {
        self.since = since.into();
        self
    }

    /// Sets [`history`](Self::history).
    #[must_use]
    pub fn history(mut self, history: impl Into<Option<u32>>) -> Self {
        self.history = history.into();
        self
    }

    /// Sets [`max_members`](Self::max_members).
    #[must_use]
    pub fn max_members(mut self, max: impl Into<Option<u32>>) -> Self {
        self.max_members = max.into();
        self
    }

    /// Sets [`max_users`](Self::max_users).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chat_broker::{Hub, HubConfig, MemoryBroker};
    /// use chat_broker::{BrokerError, JoinOptions};
    /// use chat_core::{ConnectionId, Occupant, RoomId, Topic, User, UserId};
    /// # use chat_core::{Batch, CloseReason, Deliver, DeliveryOutcome};
    /// # #[derive(Clone)]
    /// # struct Player;
    /// # impl Deliver for Player {
    /// #     fn deliver(&self, _: &Batch) -> DeliveryOutcome { DeliveryOutcome::Queued }
    /// #     fn close(&self, _: CloseReason) {}
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (broker, events) = MemoryBroker::connect();
    /// # let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    /// # tokio::spawn(driver.run());
    /// let table = Topic::from(RoomId::new("duel")?);
    /// let join = async |id, name: &str| {
    ///     let player = Occupant::of(&User::new(UserId::new(name).unwrap(), None));
    ///     let options = JoinOptions::default().occupant(player).max_users(2);
    ///     hub.join(&table, ConnectionId::new(id), Player, options).await
    /// };
    /// let _players = (join(1, "ann").await?, join(2, "bob").await?);
    /// assert!(matches!(join(3, "cat").await, Err(BrokerError::RoomFull { max: 2 })));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn max_users(mut self, max: impl Into<Option<u32>>) -> Self {
        self.max_users = max.into();
        self
    }
}

impl<M: Deliver + Clone + 'static> Hub<M> {
    /// Makes `member` a member of `topic` until the [`Membership`] is dropped.
    ///
    /// Returns when the topic is subscribed and the member has received what it asked for: the
    /// messages that it missed, in order, and a gap where they are no longer stored. Later messages
    /// are delivered from then on, with no gap and no repeat.
    ///
    /// Missed messages come from the hub's memory if it holds them. If not, the hub reads them from
    /// the broker in pages of at most 256 messages and 256 KiB, each when the member has
    /// [drained](Deliver::drained) the last. That takes as long as the member does: serve its
    /// connection at the same time. If the pages cannot be completed, the member is
    /// [closed](Deliver::close) with [`InternalError`](chat_core::CloseReason::InternalError), and may
    /// join again from where it is; if its outbox has no room for a page, it is closed as a slow
    /// consumer. In both cases the join succeeds, with the membership of a member that is being
    /// closed, which [`is_detached`](Membership::is_detached) says.
    ///
    /// ```
    /// # use chat_broker::{Hub, JoinOptions};
    /// # use chat_core::{ConnectionId, Deliver, Occupant, Position, RoomId, Topic, UserId};
    /// # async fn example<M: Deliver + Clone + 'static>(hub: Hub<M>, member: M, last_seen: Position)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let lobby = Topic::Room(RoomId::new("lobby")?);
    /// let ann = Occupant::new(UserId::new("ann")?, "Ann".into());
    /// let options = JoinOptions::default().occupant(ann).since(last_seen);
    /// let membership = hub.join(&lobby, ConnectionId::new(1), member, options).await?;
    /// # drop(membership);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BrokerError::RoomFull`] if the join exceeds [`max_members`](JoinOptions::max_members) or
    /// [`max_users`](JoinOptions::max_users). What [`Broker::subscribe`], [`Broker::history`] and
    /// [`PresenceTracker::occupancy`](crate::PresenceTracker::occupancy) report, or that the broker
    /// was unavailable for longer than [`HubConfig::join_timeout`](super::HubConfig::join_timeout).
    /// Then `member` is not a member, and has received nothing. If its user was announced before
    /// the error, the user leaves after the [grace](super::HubConfig::grace) period.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped leaves the topic again.
    ///
    /// [`Broker::subscribe`]: crate::Broker::subscribe
    /// [`Broker::history`]: crate::Broker::history
    pub async fn join(
        &self,
        topic: &Topic,
        id: ConnectionId,
        member: M,
        options: JoinOptions,
    ) -> Result<Membership<M>, BrokerError> {
        self.join_with(topic, id, member, options, ()).await
    }

    /// [`join`](Self::join) with a [`Joiner`]: it sends the member the snapshot in a form of its
    /// own, and decides when the member is ready for a page. The join begins with the call.
    ///
    /// # Errors
    /// As for [`join`](Self::join).
    ///
    /// # Cancel safety
    /// As for [`join`](Self::join).
    pub fn join_with<J: Joiner<M>>(
        &self,
        topic: &Topic,
        id: ConnectionId,
        member: M,
        options: JoinOptions,
        joiner: J,
    ) -> impl Future<Output = Result<Membership<M>, BrokerError>> + Send + use<M, J> {
        let JoinOptions { occupant, since, history, max_members, max_users } = options;
        // A user who may be refused receives nothing before the broker's answer.
        let max_users = max_users.filter(|_| occupant.is_some());
        let member_slot = MemberSlot::new(member.clone());
        let wanted = Wanted::new(since, history);
        let mut catch_up =
            Box::new(CatchUp::new(&self.shared, topic.clone(), member, joiner, wanted));
        let started = self.add_member(topic, id, &member_slot, max_members, {
            let member_slot = member_slot.clone();
            move |snapshot| {
                let ahead = snapshot.presence_ahead();
                let state = match max_users {
                    Some(_) => JoinState::CatchingUp,
                    None => catch_up.start(snapshot),
                };
                if state == JoinState::CatchingUp || catch_up.is_closed() {
                    member_slot.detach();
                } else {
                    member_slot.skip_presence(ahead);
                }
                (catch_up, state)
            }
        });
        let joined = started.map(|started| (started, self.membership(topic, id, member_slot)));
        // All that a join holds while it waits: ten thousand may wait at a time after a restart.
        async move {
            let (started, mut membership) = joined?;
            let (catch_up, state) = match started {
                Started::Now(started) => started,
                Started::Later(started) => {
                    let started = membership.shared.answer(started);
                    membership.shared.in_time(started).await?
                }
            };
            // Before the history is read, which takes time: the grace of a user who returns may end
            // in it, and a leave and a join would be sent.
            match (occupant, max_users) {
                (None, _) => {}
                (Some(occupant), None) => {
                    membership.user = Some(occupant.user.clone());
                    membership.shared.enter_presence(&membership.topic, occupant);
                }
                (Some(occupant), Some(max)) => {
                    return Box::pin(catch_up.enter_limited(membership, occupant, max)).await;
                }
            }
            if state == JoinState::CatchingUp {
                // Boxed: most rooms have in memory what their members want.
                return Box::pin(catch_up.complete(membership)).await;
            }
            Ok(membership)
        }
    }

    /// Adds a member, and starts it under the same lock if the topic is live, else under the lock
    /// under which the topic goes live. Nothing is delivered to the member before.
    fn add_member<T: Send + 'static>(
        &self,
        topic: &Topic,
        id: ConnectionId,
        member_slot: &MemberSlot<M>,
        max: Option<u32>,
        start: impl FnOnce(Snapshot<'_, M>) -> T + Send + 'static,
    ) -> Result<Started<T>, BrokerError> {
        let limit = max.map_or(usize::MAX, |max| max as usize);
        let joined = self.shared.registry.join_within(
            limit,
            topic,
            id,
            member_slot.clone(),
            |room, joined| {
                if joined.first {
                    self.shared.begin(topic, &mut room.state);
                }
                self.shared.expire(&mut room.state.sequence);
                if let Some(snapshot) = room.state.snapshot(topic, room.members()) {
                    return (Started::Now(start(snapshot)), false);
                }
                let (done, started) = oneshot::channel();
                let member_slot = member_slot.clone();
                let waiter: Waiter<M> = Box::new(move |room| {
                    if room.is_err() {
                        // The task of the join removes the member only when it runs next. The room
                        // may go live before, and would deliver to a member whose join has failed.
                        member_slot.detach();
                    }
                    // A join that was dropped has left the topic, or is about to.
                    if !done.is_closed() {
                        let _ = done.send(room.map(start));
                    }
                });
                room.state.wait(waiter);
                (Started::Later(started), joined.first)
            },
        );
        let (started, is_first) =
            joined.ok_or(BrokerError::RoomFull { max: max.unwrap_or(u32::MAX) })?;
        if is_first {
            self.shared.dirty_topics.membership_changed(topic.clone());
        }
        Ok(started)
    }
}

/// The start of a member: done if the topic was live, else when it goes live.
enum Started<T> {
    Now(T),
    Later(oneshot::Receiver<Result<T, BrokerError>>),
}

impl<M: Deliver + Clone + 'static> Membership<M> {
    /// Joins again: replaces this member's handle by `member`, which catches up as in
    /// [`Hub::join`]. Without [`since`](JoinOptions::since) it receives those of the latest
    /// messages that the hub holds in memory, at most [`history`](JoinOptions::history), and beside
    /// them the batches that are on their way to the member: a message may be delivered twice. A
    /// member that was [detached](Self::is_detached) joins as a new one. An
    /// [`occupant`](JoinOptions::occupant) renames the user, as [`rename`](Self::rename) does. The
    /// member counts already, so the maximums of the options do not apply.
    ///
    /// ```
    /// # use chat_broker::{JoinOptions, Membership};
    /// # use chat_core::{Deliver, Position};
    /// # async fn example<M: Deliver + Clone + 'static>(
    /// #     membership: &mut Membership<M>, member: M, last_seen: Position,
    /// # ) -> Result<(), chat_broker::BrokerError> {
    /// membership.rejoin(member, JoinOptions::default().since(last_seen)).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Hub::join`]; then the membership is as before. A member whose pages cannot be
    /// completed is closed, as in [`Hub::join`].
    ///
    /// # Cancel safety
    /// Not safe: a member that was catching up receives nothing more until it rejoins.
    pub async fn rejoin(&mut self, member: M, options: JoinOptions) -> Result<(), BrokerError> {
        self.rejoin_with(member, options, ()).await
    }

    /// [`rejoin`](Self::rejoin) with a [`Joiner`], as in [`Hub::join_with`].
    ///
    /// # Errors
    /// As for [`rejoin`](Self::rejoin).
    ///
    /// # Cancel safety
    /// As for [`rejoin`](Self::rejoin).
    pub async fn rejoin_with(
        &mut self,
        member: M,
        options: JoinOptions,
        joiner: impl Joiner<M>,
    ) -> Result<(), BrokerError> {
        let JoinOptions { occupant, since, history, .. } = options;
        if let Some(live) = self.wait_to_go_live() {
            self.shared.in_time(self.shared.answer(live)).await?;
        }
        let wanted = Wanted::new(since, history);
        let mut catch_up =
            CatchUp::new(&self.shared, self.topic.clone(), member.clone(), joiner, wanted);
        let state = if since.is_some() || self.is_detached() {
            catch_up.attach(self)
        } else {
            self.replace(member);
            self.with_snapshot(|snapshot| {
                catch_up.send_latest(snapshot);
                if catch_up.is_closed() {
                    self.detach();
                }
            });
            JoinState::Live
        };
        // Read while the old handle still receives the room: if the read fails, nothing has
        // changed.
        let page = match state {
            JoinState::Live => None,
            JoinState::CatchingUp => Some(catch_up.first_page().await?),
        };
        if let Some(occupant) = occupant {
            self.rename(occupant);
        }
        if let Some(page) = page {
            catch_up.run(self, page).await;
        }
        Ok(())
    }
}
