//! Joining a topic, and joining again what one is in.

use std::pin::pin;
use std::time::Duration;

use chat_core::{ConnectionId, Deliver, HistoryEntry, Occupant, Position, Topic};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::catch_up::{CatchUp, Wanted};
use super::joiner::{JoinState, Joiner, Snapshot};
use super::member_slot::MemberSlot;
use super::membership::Membership;
use super::room::Waiter;
use super::{Hub, Shared};
use crate::broker::Status;
use crate::error::BrokerError;

/// What a member that joins a topic wants: by default, what is published from then on.
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
    /// Who is announced to be in the room, on all servers. Default: nobody.
    pub occupant: Option<Occupant>,
    /// Where the member's copy of the room ends: it gets what was published since, however much
    /// that is. If the history does not reach back so far, or is another one, it gets a gap and
    /// the latest messages; in a room without history a gap without a position.
    /// [`Position::default`] is before the first message of a room. Default: `None`, for a member
    /// without a copy.
    pub since: Option<Position>,
    /// How many of the latest messages the member gets, if it does not get what was published
    /// [since](Self::since): 256 and 256 KiB at most. Default 50 with `since`, none without.
    pub history: Option<u32>,
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
}

impl<M: Deliver + Clone + 'static> Hub<M> {
    /// Makes `member` a member of `topic` until the [`Membership`] is dropped.
    ///
    /// Returns when the topic is subscribed and the member has what it asked for: the messages that
    /// it missed, in order, or a gap where they are gone. What follows on them is delivered from
    /// then on, with no gap and no repeat.
    ///
    /// What it missed comes from the memory of the hub, if it is there. Else it is read from the
    /// broker, in pages of 256 messages and 256 KiB at most, the next one when the member has
    /// [taken](Deliver::drained) the last. That may take as long as the member likes: the connection
    /// has to be served meanwhile. A member that has received a part, and cannot be given the rest,
    /// is [closed](Deliver::close) with [`InternalError`](chat_core::CloseReason::InternalError),
    /// and may join again from there; one whose outbox has no room for a page, as any slow consumer
    /// is. The join succeeds then: the membership is that of a member that is being closed, and says
    /// so by [`is_detached`](Membership::is_detached).
    ///
    /// # Errors
    /// What [`Broker::subscribe`], [`Broker::history`] and
    /// [`PresenceTracker::occupancy`](crate::PresenceTracker::occupancy) report, or that the broker
    /// was away for too long ([`HubConfig::join_timeout`](super::HubConfig::join_timeout)).
    /// Then `member` is not a member, and has received nothing. If its user was announced before
    /// the error, the user leaves as one whose connection was lost.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves the topic again.
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

    /// [`join`](Self::join), with a part for the member's owner: `joiner` is given the snapshot, to
    /// hand it to the member in a form of its own, and says when the member is ready for a page.
    ///
    /// # Errors
    /// As for [`join`](Self::join).
    ///
    /// # Cancel safety
    /// As for [`join`](Self::join).
    pub async fn join_with(
        &self,
        topic: &Topic,
        id: ConnectionId,
        member: M,
        options: JoinOptions,
        joiner: impl Joiner<M>,
    ) -> Result<Membership<M>, BrokerError> {
        let JoinOptions { occupant, since, history } = options;
        let member_slot = MemberSlot::new(member.clone());
        let mut catch_up =
            CatchUp::new(&self.shared, topic.clone(), member, joiner, Wanted::new(since, history));
        let started = self.enter(topic, id, &member_slot, {
            let member_slot = member_slot.clone();
            move |snapshot| {
                let state = catch_up.start(snapshot);
                if state == JoinState::CatchingUp || catch_up.is_closed() {
                    member_slot.detach();
                }
                (catch_up, state)
            }
        });
        let mut membership = self.membership(topic, id, member_slot);
        let (mut catch_up, state) = match started {
            Started::Now(started) => started,
            Started::Later(started) => self.shared.answer_in_time(started).await?,
        };
        // Before the history is read: the time for a user to return may end meanwhile.
        if let Some(occupant) = occupant {
            membership.user = Some(occupant.user.clone());
            self.shared.enter(topic, occupant);
        }
        if state == JoinState::CatchingUp {
            match catch_up.first_page().await {
                Ok(page) => catch_up.run(&mut membership, page).await,
                Err(error) => {
                    // The member will try again: its user has not left.
                    membership.disconnect();
                    return Err(error);
                }
            }
        }
        Ok(membership)
    }

    /// Adds a member, and starts it in the same step if the topic is live, else in the same step in
    /// which it goes live: nothing is delivered to the member before.
    fn enter<T: Send + 'static>(
        &self,
        topic: &Topic,
        id: ConnectionId,
        member_slot: &MemberSlot<M>,
        start: impl FnOnce(Snapshot<'_, M>) -> T + Send + 'static,
    ) -> Started<T> {
        let (started, is_first) =
            self.shared.registry.join_with(topic, id, member_slot.clone(), |room, joined| {
                if joined.first {
                    self.shared.begin(topic, &mut room.state);
                }
                room.state.sequence.expire(Instant::now());
                if let Some(snapshot) = room.state.snapshot(topic, room.members()) {
                    return (Started::Now(start(snapshot)), false);
                }
                let (done, started) = oneshot::channel();
                let member_slot = member_slot.clone();
                let waiter: Waiter<M> = Box::new(move |room| {
                    if room.is_err() {
                        // The join has yet to learn of it and to leave, and the room may go live before.
                        member_slot.detach();
                    }
                    // A join that was dropped has left the topic, or is about to.
                    if !done.is_closed() {
                        let _ = done.send(room.map(start));
                    }
                });
                room.state.wait(waiter);
                (Started::Later(started), joined.first)
            });
        if is_first {
            self.shared.dirty_topics.moved(topic.clone());
        }
        started
    }
}

/// When a member starts: with a topic that is live, or once it is.
enum Started<T> {
    Now(T),
    Later(oneshot::Receiver<Result<T, BrokerError>>),
}

impl<M: Deliver + Clone + 'static> Membership<M> {
    /// Joins again: has `member`, in the place of this member, catch up as in [`Hub::join`]. Without
    /// [`since`](JoinOptions::since) there is nothing to catch up with: it gets as many of the
    /// latest messages as [`history`](JoinOptions::history) says and the hub holds, and beside them
    /// what is on its way to the member, so that a message may be delivered twice. A member that was
    /// [detached](Self::is_detached) joins as a new one. An
    /// [`occupant`](JoinOptions::occupant) renames the user, as [`rename`](Self::rename) does.
    ///
    /// # Errors
    /// As for [`Hub::join`]; then the member is in the topic as before. A member that cannot be given
    /// all that it missed is closed, as in [`Hub::join`].
    ///
    /// # Cancel safety
    /// Not safe: a member that was catching up receives nothing more, unless it joins again.
    pub async fn rejoin(&mut self, member: M, options: JoinOptions) -> Result<(), BrokerError> {
        self.rejoin_with(member, options, ()).await
    }

    /// [`rejoin`](Self::rejoin), with a part for the member's owner, as in [`Hub::join_with`].
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
        let JoinOptions { occupant, since, history } = options;
        if let Some(live) = self.wait_to_go_live() {
            self.shared.answer_in_time(live).await?;
        }
        let wanted = Wanted::new(since, history);
        let mut catch_up =
            CatchUp::new(&self.shared, self.topic.clone(), member.clone(), joiner, wanted);
        let state = if since.is_some() || self.is_detached() {
            let at_hand = |snapshot: &Snapshot<'_, M>| -> Option<Vec<HistoryEntry>> {
                Some(wanted.at_hand(snapshot)?.into_iter().cloned().collect())
            };
            self.attach(member, at_hand, |snapshot, messages| {
                catch_up.present_all(snapshot, messages.iter().collect());
                !catch_up.is_closed()
            })
        } else {
            self.replace(member);
            self.look(|snapshot| {
                catch_up.show_latest(snapshot);
                if catch_up.is_closed() {
                    self.detach();
                }
            });
            JoinState::Live
        };
        // Read while the member still receives the room: if that fails, nothing has changed.
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

impl<M: Deliver + Clone> Shared<M> {
    /// The answer to a join, within the time for it if the broker is away. The broker limits its
    /// own calls; but the hub makes few at a time, so that a join may wait for several.
    async fn answer_in_time<T>(
        &self,
        started: oneshot::Receiver<Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let limit = self.config.join_timeout.max(Duration::from_millis(1));
        let mut answer = pin!(self.answer(started));
        loop {
            match timeout(limit, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) if self.broker.status() != Status::Ready => {
                    return Err(BrokerError::unavailable("the join took too long"));
                }
                Err(_) => {}
            }
        }
    }
}
