//! Rooms in sync across servers: a [`Broker`] trait, backends for Redis and for memory,
//! and a [`Hub`] that keeps the members of rooms on one server in step with any broker.
//!
//! ```
//! use std::sync::Arc;
//! use chat_broker::{Hub, HubConfig, JoinOptions, MemoryBus};
//! use chat_core::{
//!     Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, Dialect, RoomId, Sender, Topic,
//! };
//! use tokio::sync::mpsc;
//!
//! /// A member whose connection is a channel.
//! #[derive(Clone)]
//! struct Member(mpsc::Sender<String>);
//!
//! impl Deliver for Member {
//!     fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
//!         let Some(frames) = batch.frames(Dialect::Topics) else { return DeliveryOutcome::Skipped };
//!         for text in frames.texts() {
//!             if self.0.try_send(text.to_owned()).is_err() {
//!                 return DeliveryOutcome::Full;
//!             }
//!         }
//!         DeliveryOutcome::Queued
//!     }
//!     fn close(&self, _: CloseReason) {}
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two servers on one bus. With Redis each would call `RedisBroker::connect`.
//! let bus = MemoryBus::new();
//! let start = || {
//!     let (broker, events) = bus.connect();
//!     let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
//!     tokio::spawn(driver.run());
//!     hub
//! };
//! let (here, elsewhere) = (start(), start());
//!
//! // A member joins on one server …
//! let room = RoomId::new("room1")?;
//! let (sender, mut inbox) = mpsc::channel(8);
//! let topic = Topic::Room(room.clone());
//! let options = JoinOptions::default();
//! let _membership = here.join(&topic, ConnectionId::new(1), Member(sender), options).await?;
//!
//! // … and receives what is published on the other.
//! let user = Sender::new("u1", "Quiet Otter", "#FF6B6B");
//! let receipt = elsewhere.publish(&room, user, "hi").await?;
//! assert_eq!(receipt.await?.position.unwrap().offset, 1);
//! assert_eq!(
//!     inbox.recv().await.as_deref(),
//!     Some(r#"{"type":"sendMessage","roomId":"room1","message":"hi"}"#),
//! );
//! # Ok(())
//! # }
//! ```

mod broker;
mod error;
pub mod events;
mod forward;
mod history;
mod hub;
mod memory;
mod presence;
mod publish;
mod random;
#[cfg(feature = "redis")]
mod redis;
mod stats;
mod table;
#[cfg(feature = "testing")]
pub mod testing;

/// The crate of the types in this crate's signatures ([`Topic`](chat_core::Topic),
/// [`Deliver`](chat_core::Deliver), [`Position`](chat_core::Position) and others), of the version
/// that fits: a dependency on it is not needed.
pub use chat_core;

pub use broker::{Broker, Status};
pub use error::{BrokerError, Cause};
pub use events::{BrokerEvent, BrokerEvents, EventSender};
pub use history::HistoryRead;
pub use hub::{
    HistoryRules, Hub, HubConfig, HubDriver, HubStats, JoinOptions, Joiner, MemberSlot, Membership,
    Snapshot, unix_millis,
};
pub use memory::{MemoryBroker, MemoryBus};
pub use presence::{Departure, DepartureSender, PresenceTracker};
pub use publish::{PublishOptions, Published, Receipt, ReceiptSender};
#[cfg(feature = "redis")]
pub use redis::{RedisBroker, RedisConfig};
pub use stats::{BrokerStats, CommandRefusals, Histogram, Latencies};
pub use table::{Record, Records, SetOptions, SharedTable};
