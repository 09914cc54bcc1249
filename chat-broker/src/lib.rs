//! Rooms in sync across servers: a [`Broker`] trait, backends for Redis and for memory,
//! and a [`Hub`] that keeps the members of rooms on one server in step with any broker.
//!
//! ```
//! use std::sync::Arc;
//! use bytes::Bytes;
//! use chat_broker::{Broker, Delivery, Hub, HubConfig, JoinOptions, MemoryBus};
//! use chat_core::{
//!     Batch, CloseReason, ConnectionId, Deliver, Delivery as Delivered, Dialect, Event, Message,
//!     RoomId, Sender, Topic, envelope,
//! };
//! use tokio::sync::mpsc;
//!
//! /// A member whose connection is a channel.
//! #[derive(Clone)]
//! struct Member(mpsc::Sender<String>);
//!
//! impl Deliver for Member {
//!     fn deliver(&self, batch: &Batch) -> Delivered {
//!         let Some(frames) = batch.frames(Dialect::Topics) else { return Delivered::Skipped };
//!         for text in frames.texts() {
//!             if self.0.try_send(text.to_owned()).is_err() {
//!                 return Delivered::Full;
//!             }
//!         }
//!         Delivered::Queued
//!     }
//!     fn close(&self, _: CloseReason) {}
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two servers on one bus. With Redis each would call `RedisBroker::connect`.
//! let bus = MemoryBus::new();
//! let (broker, events) = bus.connect();
//! let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
//! tokio::spawn(driver.run());
//! let (elsewhere, _events) = bus.connect();
//!
//! // Somebody joins here …
//! let room = Topic::Room(RoomId::new("room1")?);
//! let (sender, mut inbox) = mpsc::channel(8);
//! let _place = hub.join(&room, ConnectionId(1), Member(sender), JoinOptions::default()).await?;
//!
//! // … and hears what is said there.
//! let user = Sender { id: "u1", name: "Quiet Otter", color: "#FF6B6B" };
//! let said = Event::Message(Message { user, text: "hi", data: None, key: None, at: 0 });
//! let payload = envelope::encode(&said);
//! let receipt = elsewhere.publish(&room, payload, Delivery::kept()).await?;
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
mod hub;
mod memory;
mod random;
mod records;
#[cfg(feature = "redis")]
mod redis;
mod stats;
#[cfg(feature = "testing")]
pub mod testing;

pub use broker::{
    Broker, Delivery, Departure, DepartureSender, HistoryRead, Published, Receipt, ReceiptSender,
    Status,
};
pub use error::BrokerError;
pub use events::{BrokerEvent, BrokerEvents, EventSender};
pub use hub::{
    HistoryRules, Hub, HubConfig, HubDriver, HubStats, JoinOptions, Joiner, Membership, Seat,
    Snapshot,
};
pub use memory::{MemoryBroker, MemoryBus};
pub use records::{Record, Records};
#[cfg(feature = "redis")]
pub use redis::{RedisBroker, RedisConfig};
pub use stats::{BrokerStats, CommandRefusals, Histogram, Latencies};
