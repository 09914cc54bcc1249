//! The encoding of an [`Event`] between servers.
//!
//! It is binary, so that a receiving server finds the parts without parsing JSON:
//!
//! ```text
//! version u8 | kind u8 | flags u8 | at u64 | field*
//! field = length u32 | bytes          (big endian, like all numbers here)
//! ```
//!
//! | kind | | fields after the sender's `id`, `name` and `color` |
//! |---|---|---|
//! | 1 | message | `text`, `data` (flag 1), `key` (flag 2) |
//! | 2 | presence | none; flag 4: in the room, else left; flag 8: announced |
//! | 3 | typing | none; flag 4: typing, else stopped |
//! | 4 | direct | the sender's frame; with flag 16 the request: `session`, `id` or nothing |
//! | 5 | undelivered | the request: `session`, `id` or nothing; the sender's are those of the recipient |
//!
//! A server skips an envelope of a version or kind that it does not know: a newer server may share
//! the broker. An envelope has no position: the broker assigns it.
//!
//! ```
//! use chat_core::{Event, Sender, envelope};
//!
//! let user = Sender::new("u1", "Ann", "#FF6B6B");
//! let bytes = envelope::encode(&Event::Typing { user, typing: true });
//! assert!(matches!(envelope::decode(&bytes)?, Event::Typing { typing: true, .. }));
//! # Ok::<(), envelope::EnvelopeError>(())
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::value::RawValue;

use crate::event::{
    Direct, Event, Message, Presence, PresenceChange, RequestRef, Sender, Undelivered,
};

const VERSION: u8 = 1;
const HEADER: usize = 11;

#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Kind {
    Message = 1,
    Presence = 2,
    Typing = 3,
    Direct = 4,
    Undelivered = 5,
}

mod flag {
    pub(super) const DATA: u8 = 1;
    pub(super) const KEY: u8 = 2;
    /// The user is in the room, or is typing; else left, or stopped.
    pub(super) const ON: u8 = 4;
    pub(super) const ANNOUNCED: u8 = 8;
    pub(super) const REQUEST: u8 = 16;
}

/// Why bytes are not an envelope that this version reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The bytes are of another version, or no envelope.
    #[error("unknown envelope version {0}")]
    UnknownVersion(u8),
    /// A kind of event that this version does not know.
    #[error("unknown kind of event {0}")]
    UnknownKind(u8),
    /// Shorter than it says, or not text where text belongs.
    #[error("malformed envelope")]
    Malformed,
}

/// Writes `event` as bytes for [`decode`].
///
/// [`PresenceChange::Renamed`] is read as `Joined`: both say that the user is in the room, and the
/// broker's event says which of them happened.
///
/// An [`Event::Custom`] is written as it is. An [`Event::Gap`] and an [`Event::Count`] concern one server alone; they give an empty
/// envelope, which every reader skips.
#[must_use]
pub fn encode(event: &Event<'_>) -> Bytes {
    match event {
        Event::Message(Message { user, text, data, key, at }) => {
            let data = data.map(RawValue::get);
            let flags = set(flag::DATA, data.is_some()) | set(flag::KEY, key.is_some());
            let fields = [Some(*text), data, *key];
            write(Kind::Message, flags, *at, *user, &fields)
        }
        Event::Presence(Presence { user, change, announced }) => {
            let is_here = *change != PresenceChange::Left;
            let flags = set(flag::ON, is_here) | set(flag::ANNOUNCED, *announced);
            write(Kind::Presence, flags, 0, *user, &[])
        }
        Event::Typing { user, typing } => {
            write(Kind::Typing, set(flag::ON, *typing), 0, *user, &[])
        }
        Event::Direct(Direct { user, frame, at, request }) => {
            let flags = set(flag::REQUEST, request.is_some());
            let fields = [Some(*frame), request.map(|r| r.session), request.map(|r| r.id)];
            write(Kind::Direct, flags, *at, *user, &fields)
        }
        Event::Undelivered(Undelivered { to, request }) => {
            write(Kind::Undelivered, 0, 0, *to, &[Some(request.session), Some(request.id)])
        }
        Event::Custom(payload) => Bytes::copy_from_slice(payload),
        Event::Gap(_) | Event::Count(_) => Bytes::new(),
    }
}

fn set(flag: u8, on: bool) -> u8 {
    if on { flag } else { 0 }
}

fn write(kind: Kind, flags: u8, at: u64, user: Sender<'_>, fields: &[Option<&str>]) -> Bytes {
    let user = [user.id, user.name, user.color];
    let fields = || user.iter().copied().chain(fields.iter().copied().flatten());
    let len: usize = fields().map(|field| 4 + field.len()).sum();
    let mut out = BytesMut::with_capacity(HEADER + len);
    out.put_u8(VERSION);
    out.put_u8(kind as u8);
    out.put_u8(flags);
    out.put_u64(at);
    for field in fields() {
        // A field is part of one frame, which is far below 4 GiB.
        out.put_u32(field.len() as u32);
        out.put_slice(field.as_bytes());
    }
    out.freeze()
}

/// The latest time of an event, in milliseconds since 1970: no clock reaches it, and JavaScript has
/// no larger exact number.
const LATEST: u64 = (1 << 53) - 1;

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`EnvelopeError`]; the caller skips the envelope and counts it.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, EnvelopeError> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(EnvelopeError::Malformed)?;
    let [version, kind, flags, at @ ..] = *header;
    if version != VERSION {
        return Err(EnvelopeError::UnknownVersion(version));
    }
    let at = u64::from_be_bytes(at);
    if at > LATEST {
        return Err(EnvelopeError::Malformed);
    }
    let has = |flag| flags & flag != 0;
    let mut fields = Fields(rest);
    let user = Sender { id: fields.next()?, name: fields.next()?, color: fields.next()? };
    Ok(match kind {
        k if k == Kind::Message as u8 => Event::Message(Message {
            user,
            text: fields.next()?,
            data: if has(flag::DATA) { Some(fields.next_json()?) } else { None },
            key: if has(flag::KEY) { Some(fields.next()?) } else { None },
            at,
        }),
        k if k == Kind::Presence as u8 => {
            let change = if has(flag::ON) { PresenceChange::Joined } else { PresenceChange::Left };
            Event::Presence(Presence { user, change, announced: has(flag::ANNOUNCED) })
        }
        k if k == Kind::Typing as u8 => Event::Typing { user, typing: has(flag::ON) },
        k if k == Kind::Direct as u8 => Event::Direct(Direct {
            user,
            frame: fields.next()?,
            at,
            request: if has(flag::REQUEST) { Some(fields.next_request()?) } else { None },
        }),
        k if k == Kind::Undelivered as u8 => {
            Event::Undelivered(Undelivered { to: user, request: fields.next_request()? })
        }
        unknown => return Err(EnvelopeError::UnknownKind(unknown)),
    })
}

/// The envelope of a user's presence when a later one, `now`, replaces `before`; `None` if both have
/// the same name. Whether the join was announced does not change: a dialect that did not show the
/// join does not show the leave.
pub(crate) fn renamed(before: &Bytes, now: &Bytes) -> Option<Bytes> {
    if before == now {
        return None;
    }
    let (Ok(Event::Presence(known)), Ok(Event::Presence(latest))) = (decode(before), decode(now))
    else {
        return Some(now.clone());
    };
    if known.user == latest.user {
        return None;
    }
    if known.announced == latest.announced {
        return Some(now.clone());
    }
    Some(encode(&Event::Presence(Presence { announced: known.announced, ..latest })))
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<&'a str, EnvelopeError> {
        let (len, rest) = self.0.split_first_chunk::<4>().ok_or(EnvelopeError::Malformed)?;
        let (field, rest) = rest
            .split_at_checked(u32::from_be_bytes(*len) as usize)
            .ok_or(EnvelopeError::Malformed)?;
        self.0 = rest;
        std::str::from_utf8(field).map_err(|_| EnvelopeError::Malformed)
    }

    fn next_request(&mut self) -> Result<RequestRef<'a>, EnvelopeError> {
        Ok(RequestRef { session: self.next()?, id: self.next()? })
    }

    fn next_json(&mut self) -> Result<&'a RawValue, EnvelopeError> {
        serde_json::from_str(self.next()?).map_err(|_| EnvelopeError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALICE: Sender<'_> = Sender { id: "a1", name: "Alice", color: "#FF6B6B" };

    fn round_trip(event: &Event<'_>) {
        let bytes = encode(event);
        let decoded = decode(&bytes).unwrap();
        assert_eq!(format!("{event:?}"), format!("{decoded:?}"));
    }

    #[test]
    fn time_beyond_what_clients_can_read_is_malformed() {
        let at =
            |at| encode(&Event::Direct(Direct { user: ALICE, frame: "{}", at, request: None }));
        assert!(decode(&at(LATEST)).is_ok());
        assert_eq!(decode(&at(LATEST + 1)).unwrap_err(), EnvelopeError::Malformed);
    }

    #[test]
    fn every_kind_round_trips() {
        let data: &RawValue = serde_json::from_str(r#"{"a":[1, 2]}"#).unwrap();
        for data in [None, Some(data)] {
            for key in [None, Some(""), Some("k-1")] {
                let text = "héllo";
                round_trip(&Event::Message(Message { user: ALICE, text, data, key, at: 7 }));
            }
        }
        for change in [PresenceChange::Joined, PresenceChange::Left] {
            for announced in [true, false] {
                round_trip(&Event::Presence(Presence { user: ALICE, change, announced }));
            }
        }
        round_trip(&Event::Typing { user: ALICE, typing: true });
        let request = RequestRef { session: "n-1", id: "7" };
        for request in [None, Some(request)] {
            let frame = r#"{"to":"bob"}"#;
            round_trip(&Event::Direct(Direct { user: ALICE, frame, at: 9, request }));
        }
        round_trip(&Event::Undelivered(Undelivered { to: ALICE, request }));
    }

    #[test]
    fn unknown_version_and_kind_are_named() {
        let mut bytes = encode(&Event::Typing { user: ALICE, typing: true }).to_vec();
        bytes[1] = 99;
        assert_eq!(decode(&bytes).unwrap_err(), EnvelopeError::UnknownKind(99));
        bytes[0] = 2;
        assert_eq!(decode(&bytes).unwrap_err(), EnvelopeError::UnknownVersion(2));
        assert_eq!(decode(b"hello").unwrap_err(), EnvelopeError::Malformed);
        assert_eq!(decode(&encode(&Event::Gap(None))).unwrap_err(), EnvelopeError::Malformed);
    }

    #[test]
    fn only_a_new_name_renames_and_the_announcement_stays() {
        let presence = |name, announced| {
            let user = Sender { name, ..ALICE };
            encode(&Event::Presence(Presence { user, change: PresenceChange::Joined, announced }))
        };
        let quiet = presence("Alice", false);
        assert_eq!(renamed(&quiet, &quiet), None);
        assert_eq!(renamed(&quiet, &presence("Alice", true)), None);
        for announced in [true, false] {
            let latest = presence("Al", announced);
            assert_eq!(renamed(&quiet, &latest), Some(presence("Al", false)));
        }
        let unreadable = Bytes::from_static(b"?");
        assert_eq!(renamed(&quiet, &unreadable), Some(unreadable));
    }

    proptest! {
        #[test]
        fn bytes_that_are_read_are_written_as_the_same_event(
            kind in 0..8_u8,
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [&[VERSION, kind][..], &rest].concat();
            if let Ok(event) = decode(&bytes) {
                let written = encode(&event);
                prop_assert_eq!(encode(&decode(&written).unwrap()), written);
            }
        }

        #[test]
        fn every_cut_is_refused(cut in 0usize..60) {
            let whole = encode(&Event::Message(Message {
                user: ALICE, text: "hello there", data: None, key: Some("k"), at: 1,
            }));
            prop_assume!(cut < whole.len());
            prop_assert!(decode(&whole[..cut]).is_err());
        }
    }
}
