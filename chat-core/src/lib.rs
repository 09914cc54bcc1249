#![doc = include_str!("../README.md")]
//!
//! # Words
//! | word | meaning |
//! |---|---|
//! | room, user, [`Topic`] | what people join; who they are; the broker's address of either |
//! | [`Command`], [`Event`] | what a client asks; what a room sees |
//! | [`envelope`], [`Frames`] | an event between servers; bytes for a socket |
//! | [`wire`] | the frames of the native protocol |
//! | [`Dialect`] | an encoding that clients see |
//! | [`Capability`], [`Grants`] | what a user may do, and in which rooms |
//! | [`Registry`], [`Members`] | who is in which room on this server |
//! | [`Position`] | a place in a room's sequence: offset and epoch |
//! | [`Batch`], [`Deliver`] | events for all members of a room; a handle on one member |

pub mod backoff;
pub mod client;
mod close;
mod command;
mod deliver;
mod dialect;
pub mod envelope;
mod error;
mod event;
mod fields;
mod frames;
mod grants;
mod heavy_hitters;
mod history;
mod id;
pub mod json;
mod members;
mod nesting;
mod pattern;
mod position;
mod recent;
mod registry;
pub mod roster;
mod scan;
mod secret;
#[doc(hidden)] // The sequence of a room as `chat_broker::Hub` keeps it; may change with it.
pub mod timeline;
mod topic;
mod user;
mod visibility;
pub mod wire;

#[cfg(doc)]
#[doc = include_str!("../GUIDE.md")]
pub mod guide {}

pub use backoff::Backoff;
pub use close::CloseReason;
pub use command::{Command, Content, Hello, Join, Request, Sanction};
pub use deliver::{Batch, Deliver, DeliveryOutcome, Item};
pub use dialect::Dialect;
pub use error::{ErrorCode, Rejection, UnknownCode};
pub use event::{
    Direct, Event, Message, Presence, PresenceChange, RequestRef, Sender, Undelivered,
};
pub use frames::{FramePayload, Frames, FramesBuilder};
pub use grants::{Capabilities, Capability, Grants};
#[doc(hidden)]
// How the hub and the server find the busiest rooms and clients; may change with them.
pub use heavy_hitters::{HeavyHitters, Sample};
pub use history::{History, HistoryEntry, HistoryRange, Retention};
pub use id::{ConnectionId, InvalidName, MAX_NAME_BYTES, RoomId, UserId, UserName};
pub use members::Members;
#[doc(hidden)] // The groups are how fan-out divides its work, and may change with it.
pub use members::{GROUP, Group};
pub use pattern::Pattern;
pub use position::{Epoch, InvalidEpoch, InvalidPosition, Position, Step};
pub use recent::{Recent, RecentPage};
pub use registry::{JoinOutcome, LeaveOutcome, Registry, RegistryEntry};
pub use roster::{Occupancy, Occupant, Roster};
pub use topic::Topic;
pub use user::{Color, InvalidColor, User};
pub use visibility::printable;
