//! The protocol and the room registry of a real-time chat backend: pure types, no I/O, no
//! runtime, no clock.
//!
//! A server reads a client's frame, hands what it says to a broker as an *envelope*, and
//! gives every envelope that comes back to the *members* of the room as one *batch*, whose
//! *frames* are built once per dialect:
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use chat_core::{
//!     Batch, CloseReason, Command, ConnectionId, Deliver, DeliveryOutcome, Dialect, Event, Item,
//!     Message, Registry, RoomId, Sender, Topic, envelope,
//! };
//!
//! /// A member whose connection is a list of lines.
//! struct Lines(Mutex<Vec<String>>);
//!
//! impl Deliver for Lines {
//!     fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
//!         let Some(frames) = batch.frames(Dialect::Topics) else { return DeliveryOutcome::Skipped };
//!         self.0.lock().unwrap().extend(frames.texts().map(String::from));
//!         DeliveryOutcome::Queued
//!     }
//!     fn close(&self, _: CloseReason) {}
//! }
//!
//! // Two members; the first is the edge at which a server subscribes.
//! let topic = Topic::Room(RoomId::new("room1")?);
//! let registry = Registry::<Arc<Lines>>::new();
//! let alice = Arc::new(Lines(Mutex::default()));
//! assert!(registry.join(&topic, ConnectionId::new(1), alice.clone()).first);
//! assert!(!registry.join(&topic, ConnectionId::new(2), alice.clone()).first);
//!
//! // A frame comes in …
//! let frame = r#"{"type":"sendMessage","roomId":"room1","message":"hi"}"#;
//! let request = Dialect::Topics.decode(frame)?;
//! let Command::Send { content, .. } = request.command else { unreachable!() };
//! let user = Sender::new("u1", "Quiet Otter", "#FF6B6B");
//! let said = Event::Message(Message::new(user, &content.message, 0));
//! let payload = envelope::encode(&said);
//!
//! // … and, when the broker has brought it back, goes out to all.
//! let batch = Batch::new(topic.clone(), vec![Item::Envelope(payload, None)]);
//! for (_, member) in registry.members(&topic).iter() {
//!     member.deliver(&batch);
//! }
//! assert_eq!(*alice.0.lock().unwrap(), [frame, frame]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
mod secret;
#[doc(hidden)] // The sequence of a room as `chat_broker::Hub` keeps it; may change with it.
pub mod timeline;
mod topic;
mod user;
mod visibility;
pub mod wire;

pub use backoff::Backoff;
pub use close::CloseReason;
pub use command::{Command, Content, Hello, Join, Request, Sanction};
pub use deliver::{Batch, Deliver, DeliveryOutcome, Item};
pub use dialect::Dialect;
pub use error::{ErrorCode, Rejection, UnknownCode};
pub use event::{
    Direct, Event, Message, Presence, PresenceChange, RequestRef, Sender, Undelivered,
};
pub use frames::Frames;
pub use grants::{Capabilities, Capability, Grants};
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
