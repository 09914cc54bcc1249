//! A member's subscription to a topic, from the join to the leave.

use std::fmt;
use std::sync::Arc;

use chat_core::{ConnectionId, Deliver, Occupant, Position, Topic, UserId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use super::awaited::Awaited;
use super::joiner::{JoinState, Snapshot};
use super::member_slot::MemberSlot;
use super::room::Waiter;
use crate::error::BrokerError;
use crate::presence::Departure;

/// A place in a topic. Dropping it leaves the topic: nothing is delivered afterwards, and
/// the others are told at once that the user has left, if this was the user's last place.
pub struct Membership<M: Deliver + Clone> {
    pub(super) shared: Arc<Shared<M>>,
    pub(super) topic: Topic,
    pub(super) id: ConnectionId,
    pub(super) member_slot: MemberSlot<M>,
    /// Who is told to be in the room by this.
    pub(super) user: Option<UserId>,
    pub(super) is_lost: bool,
    pub(super) has_left: bool,
}

impl<M: Deliver + Clone> Membership<M> {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Looks at the topic under its lock: `look` must not block or call the hub.
    pub fn look(&self, look: impl FnOnce(Snapshot<'_, M>)) {
        self.shared.registry.update(&self.topic, |room| {
            room.state.sequence.expire(Instant::now());
            room.state.snapshot(&self.topic, room.members()).map(look);
        });
    }

    /// Whether the member receives nothing more, though it is in the topic until this is dropped: it
    /// was closed as a slow consumer, or because it could not be given what it missed, or has
    /// answered its snapshot or a page of what it missed with
    /// [`Closed`](chat_core::DeliveryOutcome::Closed). A [`rejoin`](Self::rejoin) ends that.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.member_slot.with(|_| ()).is_none()
    }

    /// Waits until the topic no longer stands at `from`, the position of a [`Snapshot`]: until more
    /// has been delivered to its members, the latest of which may still be on its way. Returns at
    /// once if it stands elsewhere. A topic in which nothing is published does not move, nor does any
    /// after the [driver](crate::HubDriver) has ended, so give it a time limit.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub async fn moved_on(&self, from: Option<Position>) {
        let moved = self.shared.registry.update(&self.topic, |room| room.state.moved_on(from));
        if let Some(moved) = moved.flatten() {
            moved.await;
        }
    }

    /// Has `member` receive what follows on the snapshot that `start` is given, in one step with
    /// it, if `at_hand` finds in the room all that the member is to get before. If not, nothing has
    /// changed. The member receives nothing if `start` returns `false`.
    pub(super) fn attach<T>(
        &mut self,
        member: M,
        at_hand: impl FnOnce(&Snapshot<'_, M>) -> Option<T>,
        start: impl FnOnce(Snapshot<'_, M>, T) -> bool,
    ) -> JoinState {
        let attached = self.shared.registry.update(&self.topic, |room| {
            room.state.sequence.expire(Instant::now());
            let found = at_hand(&room.state.snapshot(&self.topic, room.members())?)?;
            // Another member_slot: batches that were cut before the snapshot hold the one before. A worker may
            // be delivering one of them right now, so that member_slot is vacated before `start`: afterwards
            // it could still put into the same outbox, behind the snapshot, what is in the snapshot.
            self.member_slot.detach();
            let member_slot = MemberSlot::new(member);
            room.replace(self.id, member_slot.clone());
            self.member_slot = member_slot;
            if !start(room.state.snapshot(&self.topic, room.members())?, found) {
                self.member_slot.detach();
            }
            Some(())
        });
        match attached.flatten() {
            Some(()) => JoinState::Live,
            None => JoinState::CatchingUp,
        }
    }

    /// The member receives nothing until it is [attached](Self::attach).
    pub(super) fn detach(&self) {
        self.member_slot.detach();
    }

    /// Waits until the topic is subscribed: what is published from then on arrives. Only
    /// for a member that was [attached](crate::Hub::attach) is it not so already.
    ///
    /// # Errors
    /// What [`Broker::subscribe`](crate::Broker::subscribe) reports. The member stays registered; the
    /// hub keeps retrying.
    ///
    /// # Cancel safety
    /// Safe: the membership does not depend on it.
    pub async fn subscribed(&self) -> Result<(), BrokerError> {
        match self.wait_to_go_live() {
            Some(waiting) => self.shared.answer(waiting).await,
            None => Ok(()),
        }
    }

    /// The answer when the topic goes live, or cannot for now; `None` if it is live.
    pub(super) fn wait_to_go_live(&self) -> Option<oneshot::Receiver<Result<(), BrokerError>>> {
        let waiting = self.shared.registry.update(&self.topic, |room| {
            if !room.state.is_waiting() {
                return None;
            }
            let (done, waiting) = oneshot::channel();
            let waiter: Waiter<M> = Box::new(move |room| {
                // A caller that stopped waiting needs no answer.
                let _ = done.send(room.map(drop));
            });
            room.state.wait(waiter);
            Some(waiting)
        });
        waiting.flatten()
    }

    /// Puts another handle in the place of this member's, unless that is
    /// [detached](Self::is_detached).
    pub fn replace(&self, member: M) {
        self.member_slot.replace(member);
    }

    /// Changes what is told of the user to `occupant`, who must be the same user, to all servers.
    pub fn rename(&self, occupant: Occupant) {
        if self.user.as_ref() == Some(&occupant.user) {
            self.shared.rename(&self.topic, occupant);
        }
    }

    /// Leaves the topic at once, as dropping it does. The future resolves when the
    /// [roster](Snapshot::roster) of this server shows it: when the user is not in it, unless
    /// another connection or server holds the user. While the broker is away that takes as long,
    /// so give it a time limit.
    ///
    /// # Cancel safety
    /// The topic is left before the future is polled; dropping it changes nothing.
    pub fn leave(mut self) -> impl Future<Output = ()> + Send + use<M> {
        let departure = self.leave_now();
        let (shared, topic) = (Arc::clone(&self.shared), self.topic.clone());
        async move {
            let Some(departure) = departure else { return };
            let Some(version) = departure.await else { return };
            shared.until(&topic, Awaited::Version(version)).await;
        }
    }

    fn leave_now(&mut self) -> Option<Departure> {
        self.has_left = true;
        self.member_slot.detach();
        self.shared.leave(&self.topic, self.id);
        let user = self.user.take()?;
        self.shared.leave_presence(&self.topic, &user, self.is_lost)
    }

    /// Leaves the topic as one whose connection was lost: the others are told only if the
    /// user is not back in time, here or on another server; see [`HubConfig::grace`](crate::HubConfig::grace).
    pub fn disconnect(mut self) {
        self.is_lost = true;
    }
}

impl<M: Deliver + Clone> Drop for Membership<M> {
    fn drop(&mut self) {
        // Unless that was done already.
        if !self.has_left {
            self.leave_now();
        }
    }
}

impl<M: Deliver + Clone> fmt::Debug for Membership<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("topic", &self.topic).field("id", &self.id).finish()
    }
}
