#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

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

#[cfg(doc)]
#[doc = include_str!("../GUIDE.md")]
pub mod guide {}

/// The crate of the types in this crate's signatures ([`Topic`](chat_core::Topic),
/// [`Deliver`](chat_core::Deliver), [`Position`](chat_core::Position) and others), of the version
/// that fits: a dependency on it is not needed.
pub use chat_core;

pub use broker::{Broker, Status};
pub use error::{BrokerError, Cause};
pub use events::{BrokerEvent, BrokerEvents, EventSender};
pub use history::HistoryRead;
pub use hub::{
    Follow, Followed, Follower, HistoryRules, Hub, HubConfig, HubDriver, HubStats, JoinOptions,
    Joiner, MemberSlot, Membership, RoomTraffic, Snapshot, unix_millis,
};
pub use memory::{MemoryBroker, MemoryBus};
pub use presence::{
    Departure, DepartureSender, EnterReceipt, EnterReceiptSender, OccupiedRoom, OccupiedRooms,
    PresenceTracker,
};
pub use publish::{PublishOptions, Published, Receipt, ReceiptSender};
#[cfg(feature = "redis")]
pub use redis::{RedisBroker, RedisConfig, RedisInspection};
pub use stats::{BrokerStats, CommandRefusals, Histogram, Latencies};
pub use table::{Record, Records, SetOptions, SharedTable};
