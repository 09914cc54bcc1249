//! The frames of the native protocol, for servers and for clients alike: each type is both
//! [`Serialize`](serde::Serialize) and [`Deserialize`](serde::Deserialize). `docs/protocol.md` is
//! the specification.
//!
//! A client writes a [`ClientFrame`] and reads a [`ServerFrame`]; a server does the opposite.
//!
//! ```
//! use chat_core::wire::{ClientFrame, ClientRequest, ServerFrame};
//! use chat_core::RoomId;
//!
//! let join = ClientRequest::Join { room: RoomId::new("general")?, since: None, history: None };
//! let text = ClientFrame::numbered(2, join).encode();
//! assert_eq!(text, r#"{"id":2,"type":"join","room":"general"}"#);
//!
//! let frame: ServerFrame = serde_json::from_str(r#"{"type":"left","id":5,"room":"general"}"#)?;
//! let ServerFrame::Left(left) = frame else { unreachable!() };
//! assert_eq!((&*left.room, left.reason), ("general", None));
//!
//! let error = serde_json::from_str::<ServerFrame>(r#"{"type":"left","id":5}"#).unwrap_err();
//! assert!(error.to_string().contains("missing field `room`"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How a frame is read
//! * Unknown fields are skipped. A `null` field counts as absent.
//! * A required field that is absent, or a field of another type, is an error that names the field.
//! * Texts and JSON values borrow from the frame where they can; `into_owned` of a [`ServerFrame`]
//!   makes a copy that outlives the text.
//! * A server frame of an unknown type is [`ServerFrame::Unknown`], which still has the fields that
//!   a client acts on: a client counts every frame that has an `offset`.
//! * [`ClientFrame::decode`] is what the server reads with: its error has the code of the `error`
//!   frame.
//!
//! A frame is deserialized from a text ([`serde_json::from_str`]), not from a reader or from a
//! [`serde_json::Value`]: values borrow from the text. What holds of a frame holds of
//! [`ServerFrame`] and [`ClientFrame`]; one of its parts alone ([`Message`]) is read as any struct
//! is, whatever its `type`.

mod client;
mod object;
mod own;
mod server;

pub use client::{ClientFrame, ClientRequest};
pub use server::{
    Accepted, Direct, Gap, Goodbye, History, Joined, Left, Limits, Members, Message, PageFrame,
    Pong, Presence, PresenceEvent, RateLimit, Rejected, RoomCapabilities, ServerFrame, Typing,
    Undelivered, Unknown, User, Welcome,
};

#[cfg(test)]
mod tests;
