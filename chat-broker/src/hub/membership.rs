//! A member's subscription to a topic, from the join to the leave.

use std::fmt;
use std::sync::Arc;

use chat_core::{ConnectionId, Deliver, Occupant, Position, Topic, UserId};
use tokio::sync::oneshot;

use super::Shared;
use super::awaited::RosterCondition;
use super::joiner::{JoinState, Snapshot};
use super::member_slot::MemberSlot;
use super::presence_log::MissedPresence;
use super::room::Waiter;
use crate::error::BrokerError;
use crate::presence::Departure;

/// A member's subscription to a topic. Dropping it leaves the topic: nothing is delivered to the
/// member afterwards, and if it was the user's last one in the topic, on all servers, members
/// receive the leave at once.
///
/// ```
/// # use chat_broker::{Hub, JoinOptions};
/// # use chat_core::{ConnectionId, Deliver, RoomId, Topic};
/// # async fn example<M: Deliver + Clone + 'static>(hub: Hub<M>, member: M)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let lobby = Topic::Room(RoomId::new("lobby")?);
/// let membership = hub.join(&lobby, ConnectionId::new(1), member, JoinOptions::default()).await?;
/// assert_eq!(membership.topic(), &lobby);
/// drop(membership); // The member has left.
/// # Ok(())
/// # }
/// ```
pub struct Membership<M: Deliver + Clone> {
    pub(super) shared: Arc<Shared<M>>,
    pub(super) topic: Topic,
    pub(super) id: ConnectionId,
    pub(super) member_slot: MemberSlot<M>,
    /// The user whom this membership announces in the room.
    pub(super) user: Option<UserId>,
    pub(super) is_disconnected: bool,
    pub(super) has_left: bool,
}

impl<M: Deliver + Clone> Membership<M> {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Calls `read` with the topic's state, if it is live. The topic's lock is held:
    /// `read` must not block or call the hub.
    ///
    /// ```
    /// # use chat_broker::Membership;
    /// # fn example<M: chat_core::Deliver + Clone>(membership: &Membership<M>) {
    /// let mut users = 0;
    /// membership.with_snapshot(|snapshot| users = snapshot.roster.map_or(0, |roster| roster.count()));
    /// println!("{users} users");
    /// # }
    /// ```
    pub fn with_snapshot(&self, read: impl FnOnce(Snapshot<'_, M>)) {
        self.shared.with_snapshot(&self.topic, read);
    }

    /// Whether the member receives nothing more, though its membership lasts until this is dropped: it
    /// was closed as a slow consumer, or because the messages it missed could not be read, or it
    /// answered its snapshot or a page with [`Closed`](chat_core::DeliveryOutcome::Closed). A
    /// [`rejoin`](Self::rejoin) attaches it again.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.member_slot.with(|_| ()).is_none()
    }

    /// Waits until the topic's position differs from `from`, that of a [`Snapshot`]: until a later
    /// message was put into a batch for its members. Returns at once if it differs already. In a
    /// topic without publications, and after the [driver](crate::HubDriver) has ended, it does not
    /// return: use a timeout.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub async fn position_changed(&self, from: Option<Position>) {
        self.shared.position_changed(&self.topic, from).await;
    }

    /// Passes `start` a snapshot, and makes `member` receive what follows on it, in one step under
    /// the room's lock; but only if `in_memory` finds in the room all that the member must get
    /// before. If not, nothing changes. `start` returns how many presence changes of the next batches
    /// the member has; `None` if it is to receive nothing.
    pub(super) fn attach<T>(
        &mut self,
        member: M,
        in_memory: impl FnOnce(&Snapshot<'_, M>) -> Option<T>,
        start: impl FnOnce(Snapshot<'_, M>, T) -> Option<usize>,
    ) -> JoinState {
        let attached = self.shared.registry.update(&self.topic, |room| {
            self.shared.expire(&mut room.state.sequence);
            let found = in_memory(&room.state.snapshot(&self.topic, room.members())?)?;
            // A new slot, since batches that were cut before the snapshot hold the old one. A
            // worker may be delivering one of them now, so the old slot is detached before `start`:
            // detached after it, the worker could queue messages behind the snapshot that the
            // snapshot contains.
            self.member_slot.detach();
            let member_slot = MemberSlot::new(member);
            room.replace(self.id, member_slot.clone());
            self.member_slot = member_slot;
            match start(room.state.snapshot(&self.topic, room.members())?, found) {
                Some(ahead) => self.member_slot.skip_presence(ahead),
                None => self.member_slot.detach(),
            }
            Some(())
        });
        match attached.flatten() {
            Some(()) => JoinState::Live,
            None => JoinState::CatchingUp,
        }
    }

    /// Stops deliveries to the member.
    pub(super) fn detach(&self) {
        self.member_slot.detach();
    }

    /// Stops deliveries to the member until it is [attached](Self::attach). Passes `start` a snapshot,
    /// and returns the presence changes that follow on its roster; `None` if the topic is not live.
    pub(super) fn detach_at(&self, start: impl FnOnce(Snapshot<'_, M>)) -> Option<MissedPresence> {
        let missed = self.shared.registry.update(&self.topic, |room| {
            self.shared.expire(&mut room.state.sequence);
            let (members, state) = room.split();
            self.member_slot.detach();
            start(state.snapshot(&self.topic, members)?);
            Some(state.log_presence())
        });
        missed.flatten()
    }

    /// Waits until the topic is subscribed: what is published from then on arrives. After a
    /// [join](crate::Hub::join) it is; a member that was [attached](crate::Hub::attach) may have to
    /// wait.
    ///
    /// ```
    /// # use chat_broker::Hub;
    /// # use chat_core::{ConnectionId, Deliver, Topic, UserId};
    /// # async fn example<M: Deliver + Clone + 'static>(hub: Hub<M>, member: M)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let own = Topic::User(UserId::new("ann")?);
    /// let membership = hub.attach(&own, ConnectionId::new(1), member);
    /// membership.subscribed().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What [`Broker::subscribe`](crate::Broker::subscribe) reports. The member stays registered;
    /// the hub keeps retrying.
    ///
    /// # Cancel safety
    /// Safe: the membership does not depend on it.
    pub async fn subscribed(&self) -> Result<(), BrokerError> {
        match self.wait_to_go_live() {
            Some(waiting) => self.shared.answer(waiting).await,
            None => Ok(()),
        }
    }

    /// A future of the moment in which the topic goes live, or fails to; `None` if it is live.
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

    /// Replaces this member's handle, unless it is [detached](Self::is_detached): later batches are
    /// delivered to `member`.
    pub fn replace(&self, member: M) {
        self.member_slot.replace(member);
    }

    /// Changes the user's information to that of `occupant`, on all servers. Has no effect if
    /// `occupant` is another user than the one that joined.
    pub fn rename(&self, occupant: Occupant) {
        if self.user.as_ref() == Some(&occupant.user) {
            self.shared.rename(&self.topic, occupant);
        }
    }

    /// Leaves the topic at once, as dropping it does. The future resolves when the
    /// [roster](Snapshot::roster) of this server no longer lists the user; earlier
    /// if another connection or server holds the user. While the broker is unavailable it does not
    /// resolve: use a timeout.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use chat_broker::Membership;
    /// # async fn example<M: chat_core::Deliver + Clone + 'static>(membership: Membership<M>) {
    /// let leave = membership.leave(); // The member receives nothing from here on.
    /// let shown = tokio::time::timeout(Duration::from_secs(1), leave).await;
    /// if shown.is_err() {
    ///     println!("the roster may still list the user");
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Safe: the member has left before the future is polled.
    pub fn leave(mut self) -> impl Future<Output = ()> + Send + use<M> {
        let departure = self.leave_now();
        let (shared, topic) = (Arc::clone(&self.shared), self.topic.clone());
        async move {
            let Some(departure) = departure else { return };
            let Some(version) = departure.await else { return };
            shared.wait_until(&topic, RosterCondition::Version(version)).await;
        }
    }

    fn leave_now(&mut self) -> Option<Departure> {
        self.has_left = true;
        self.member_slot.detach();
        self.shared.leave(&self.topic, self.id);
        let user = self.user.take()?;
        self.shared.leave_presence(&self.topic, &user, self.is_disconnected)
    }

    /// Leaves the topic as a lost connection: members receive the leave only if the user does not
    /// return within the [grace](crate::HubConfig::grace) period, to this server or another.
    pub fn disconnect(mut self) {
        self.is_disconnected = true;
    }
}

impl<M: Deliver + Clone> Drop for Membership<M> {
    fn drop(&mut self) {
        // `leave` has done it already.
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
