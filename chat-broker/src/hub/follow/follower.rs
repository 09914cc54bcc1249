//! Follows of a program without rooms and members.

use std::fmt;
use std::sync::Arc;

use chat_core::{Batch, CloseReason, Deliver, DeliveryOutcome, Position, Topic};

use super::Follow;
use crate::broker::Broker;
use crate::events::BrokerEvents;
use crate::hub::{Hub, HubConfig, HubStats, Shared};

/// Follows any number of topics over one connection to a broker, for programs without a [`Hub`].
/// A clone is another handle on the same follower.
///
/// ```
/// use std::sync::Arc;
/// use chat_broker::{Broker, Followed, Follower, MemoryBroker, PublishOptions};
/// use chat_core::{Position, Retention, RoomId, Topic};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (broker, events) = MemoryBroker::connect();
/// let broker = Arc::new(broker);
/// let follower = Follower::new(broker.clone(), events);
///
/// let orders = Topic::Room(RoomId::new("orders")?);
/// let options = PublishOptions::default().retention(Retention::default());
/// broker.publish(&orders, "order 1 is paid".into(), options).await?.await?;
///
/// let mut follow = follower.follow(&orders, Some(Position::default()));
/// let Some(Followed::Publication { payload, position, .. }) = follow.recv().await else { panic!() };
/// assert_eq!(payload, "order 1 is paid");
/// assert_eq!(position.map(|position| position.offset), Some(1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Follower {
    hub: Hub<NoMember>,
    driver: Arc<DriverHandle>,
}

impl Follower {
    /// A follower over `broker`, whose events are `events`. Its task ends with the broker, or when
    /// the last clone and the last [`Follow`] are dropped.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>, events: BrokerEvents) -> Self {
        Self::with_config(broker, events, HubConfig::default())
    }

    /// As [`new`](Self::new), with settings: of these, [`history`](HubConfig::history),
    /// [`linger`](HubConfig::linger) and [`recent_bytes`](HubConfig::recent_bytes) apply. The loss of
    /// ephemeral publications is reported in rooms that have no history by these rules; by default
    /// all rooms have one.
    ///
    /// # Panics
    /// As for [`new`](Self::new).
    #[must_use]
    pub fn with_config(broker: Arc<dyn Broker>, events: BrokerEvents, config: HubConfig) -> Self {
        // Rosters would cost a read and memory for each topic, and nothing shows them.
        let (hub, driver) = Hub::with_rosters(broker, events, config, false);
        tokio::spawn(driver.run());
        let driver = Arc::new(DriverHandle(Arc::clone(&hub.shared)));
        Self { hub, driver }
    }

    /// Follows what is published to `topic`: after `since`, or from now on if that is `None`. See
    /// [`Hub::follow`].
    #[must_use = "dropping it unsubscribes"]
    pub fn follow(&self, topic: &Topic, since: Option<Position>) -> Follow {
        Follow { _driver: Some(Arc::clone(&self.driver)), ..self.hub.follow(topic, since) }
    }

    /// What the follower has counted since it was made.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        self.hub.stats()
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        self.hub.broker()
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("broker", self.broker()).finish_non_exhaustive()
    }
}

/// Keeps the driver of a hub running. When it is dropped, the driver unsubscribes and ends.
pub(super) struct DriverHandle(Arc<Shared<NoMember>>);

impl Drop for DriverHandle {
    fn drop(&mut self) {
        // The driver is not aborted: it has yet to unsubscribe the topics of the last follow.
        self.0.stopping.notify_one();
    }
}

/// The member of a hub that has followers alone.
#[derive(Clone)]
pub(super) enum NoMember {}

impl Deliver for NoMember {
    fn deliver(&self, _: &Batch) -> DeliveryOutcome {
        match *self {}
    }

    fn close(&self, _: CloseReason) {
        match *self {}
    }
}
