//! Frames as they stand on the wire; `docs/protocol.md` is their specification.

use std::borrow::Cow;
use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Epoch, Position, PresenceChange};

use super::config::Resume;
use super::error::Rejection;
use super::events::{Event, Members, Message, User, Welcome};
use super::limits::Limits;

/// What a client sends. A request gets its [id](with_id) when it leaves.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Outgoing<'a> {
    Hello {
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resume: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<&'a str>,
    },
    Join {
        room: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<Position>,
        #[serde(skip_serializing_if = "Option::is_none")]
        history: Option<u32>,
    },
    Leave {
        room: &'a str,
    },
    Send {
        room: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a RawValue>,
        key: &'a str,
    },
    Direct {
        to: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a RawValue>,
    },
    Typing {
        room: &'a str,
        typing: bool,
    },
    Members {
        room: &'a str,
    },
    History {
        room: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
}

/// What an id adds to a frame, in bytes, at most.
pub(super) const ID_BYTES: usize = r#""id":18446744073709551615,"#.len();

impl Outgoing<'_> {
    pub(super) fn encode(&self) -> String {
        // Texts, numbers and JSON that was parsed before: nothing that cannot be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The frame of a request, of an [encoded](Outgoing::encode) one.
pub(super) fn with_id(frame: &str, id: u64) -> String {
    format!(r#"{{"id":{id},{}"#, frame.get(1..).unwrap_or("}"))
}

/// What a server says.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Of the request that it answers.
    pub(super) id: Option<u64>,
    /// Of a frame that is part of a room's sequence.
    pub(super) entry: Option<Entry>,
    pub(super) body: Body,
}

/// The place of a frame in its room's sequence.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) room: String,
    pub(super) offset: u64,
    epoch: Option<EpochField>,
}

impl Entry {
    /// The sequence that the entry says it begins.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.epoch.map(|EpochField(epoch)| epoch)
    }
}

#[derive(Debug)]
pub(super) enum Body {
    Welcome(WelcomeFrame),
    Joined(JoinedFrame),
    Left(LeftFrame),
    Message(MessageFrame),
    Presence(PresenceFrame),
    Typing(TypingFrame),
    Direct(DirectFrame),
    Gap(GapFrame),
    Ok(OkFrame),
    Error(Rejection),
    Members(Members),
    History(HistoryFrame),
    Goodbye(GoodbyeFrame),
    Undelivered(UndeliveredFrame),
    /// A type that this client has no use for.
    Other,
}

impl Incoming {
    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
            id: Option<&'a RawValue>,
            offset: Option<&'a RawValue>,
        }
        let Head { kind, id, offset } = serde_json::from_str(text)?;
        let body = match &*kind {
            "welcome" => Body::Welcome(serde_json::from_str(text)?),
            "joined" => Body::Joined(serde_json::from_str(text)?),
            "left" => Body::Left(serde_json::from_str(text)?),
            "message" => Body::Message(serde_json::from_str(text)?),
            "presence" => Body::Presence(serde_json::from_str(text)?),
            "typing" => Body::Typing(serde_json::from_str(text)?),
            "direct" => Body::Direct(serde_json::from_str(text)?),
            "gap" => Body::Gap(serde_json::from_str(text)?),
            "ok" => Body::Ok(serde_json::from_str(text)?),
            "error" => Body::Error(serde_json::from_str::<ErrorFrame>(text)?.into()),
            "members" => Body::Members(serde_json::from_str(text)?),
            "history" => Body::History(serde_json::from_str(text)?),
            "goodbye" => Body::Goodbye(serde_json::from_str(text)?),
            "undelivered" => Body::Undelivered(serde_json::from_str(text)?),
            _ => Body::Other,
        };
        // The offset of an answer, or of a gap, says where a room stands.
        let is_entry = offset.is_some() && id.is_none() && !matches!(body, Body::Gap(_));
        let entry = is_entry.then(|| serde_json::from_str(text).ok()).flatten();
        Ok(Self { id: id.and_then(|id| id.get().parse().ok()), entry, body })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct WelcomeFrame {
    session: String,
    resume: Option<String>,
    user: User,
    node: String,
    expires_in_ms: Option<u64>,
    pub(super) limits: Limits,
}

impl From<WelcomeFrame> for Welcome {
    fn from(frame: WelcomeFrame) -> Self {
        let WelcomeFrame { session, resume, user, node, expires_in_ms, limits } = frame;
        let Limits { message_bytes, frame_bytes, .. } = limits;
        let resume = resume.map(Resume::new);
        let expires_in = expires_in_ms.map(Duration::from_millis);
        Self { user, resume, session, node, expires_in, message_bytes, frame_bytes }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct JoinedFrame {
    epoch: Option<EpochField>,
    offset: Option<u64>,
    pub(super) recovered: bool,
    pub(super) members: Vec<User>,
    pub(super) count: u32,
    #[serde(default)]
    pub(super) messages: Vec<PageEntry>,
}

impl JoinedFrame {
    pub(super) fn position(&self) -> Option<Position> {
        position(self.epoch, self.offset)
    }

    /// The rest, without its messages.
    pub(super) fn into_members(self) -> Members {
        Members { users: self.members, count: self.count }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct LeftFrame {
    pub(super) room: String,
    /// Of a client that was put out.
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct MessageFrame {
    pub(super) room: String,
    offset: Option<u64>,
    user: User,
    message: String,
    data: Option<Box<RawValue>>,
    at: u64,
    key: Option<String>,
}

impl MessageFrame {
    /// The message as one of the sequence `epoch`.
    pub(super) fn within(self, epoch: Option<Epoch>) -> Message {
        let Self { room, offset, user, message: text, data, at, key, .. } = self;
        let position = epoch.zip(offset).map(|(epoch, offset)| Position { epoch, offset });
        Message { room, position, user, text, data, key, at }
    }
}

/// An entry of a page.
#[derive(Debug)]
pub(super) struct PageEntry {
    pub(super) offset: Option<u64>,
    /// `None`: of a type that this client has no use for.
    pub(super) message: Option<MessageFrame>,
}

impl<'de> Deserialize<'de> for PageEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let Incoming { entry, body, .. } = Incoming::parse(text).map_err(D::Error::custom)?;
        let message = match body {
            Body::Message(message) => Some(message),
            _ => None,
        };
        Ok(Self { offset: entry.map(|entry| entry.offset), message })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct HistoryFrame {
    epoch: Option<EpochField>,
    offset: Option<u64>,
    pub(super) messages: Vec<PageEntry>,
    pub(super) more: bool,
}

impl HistoryFrame {
    pub(super) fn position(&self) -> Option<Position> {
        position(self.epoch, self.offset)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct PresenceFrame {
    pub(super) room: String,
    #[serde(flatten)]
    pub(super) event: PresenceEvent,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum PresenceEvent {
    Joined {
        user: User,
    },
    Left {
        user: User,
    },
    Renamed {
        user: User,
    },
    Count {
        count: u32,
    },
    /// Of a later version.
    #[serde(other)]
    Other,
}

impl PresenceFrame {
    /// The event for the application; `None` if this client does not know it.
    pub(super) fn into_event(self) -> Option<Event> {
        let room = self.room;
        let (change, user) = match self.event {
            PresenceEvent::Joined { user } => (PresenceChange::Joined, user),
            PresenceEvent::Left { user } => (PresenceChange::Left, user),
            PresenceEvent::Renamed { user } => (PresenceChange::Renamed, user),
            PresenceEvent::Count { count } => return Some(Event::Count { room, count }),
            PresenceEvent::Other => return None,
        };
        Some(Event::Presence { room, change, user })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct TypingFrame {
    pub(super) room: String,
    pub(super) user: User,
    pub(super) typing: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct DirectFrame {
    pub(super) user: User,
    pub(super) message: String,
    pub(super) data: Option<Box<RawValue>>,
    pub(super) at: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct GapFrame {
    pub(super) room: String,
    epoch: Option<EpochField>,
    offset: Option<u64>,
}

impl GapFrame {
    pub(super) fn position(&self) -> Option<Position> {
        position(self.epoch, self.offset)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct OkFrame {
    epoch: Option<EpochField>,
    offset: Option<u64>,
    pub(super) delivered: Option<u32>,
}

impl OkFrame {
    pub(super) fn position(&self) -> Option<Position> {
        position(self.epoch, self.offset)
    }
}

#[derive(Debug, Deserialize)]
struct ErrorFrame {
    code: String,
    #[serde(default)]
    message: String,
    retry_after_ms: Option<u64>,
}

impl From<ErrorFrame> for Rejection {
    fn from(frame: ErrorFrame) -> Self {
        let ErrorFrame { code, message, retry_after_ms } = frame;
        Self { code, message, retry_after: retry_after_ms.map(Duration::from_millis) }
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct GoodbyeFrame {
    pub(super) reason: String,
    pub(super) reconnect: bool,
    #[serde(default)]
    pub(super) after_ms: u64,
    pub(super) message: Option<String>,
}

/// A direct message that a server could not pass on.
#[derive(Debug, Deserialize)]
pub(super) struct UndeliveredFrame {
    /// The connection that sent it.
    pub(super) session: String,
    pub(super) to: String,
}

/// [`Epoch`] as it stands in frames.
#[derive(Debug, Clone, Copy)]
struct EpochField(Epoch);

impl<'de> Deserialize<'de> for EpochField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Epoch::parse(text.as_bytes()).map(Self).ok_or_else(|| D::Error::custom("not an epoch"))
    }
}

fn position(epoch: Option<EpochField>, offset: Option<u64>) -> Option<Position> {
    let (EpochField(epoch), offset) = epoch.zip(offset)?;
    Some(Position { epoch, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_the_specification_is_understood() {
        let specification = include_str!("../../../docs/protocol.md");
        let blocks = specification.split("```json server\n").skip(1);
        let frames = blocks.flat_map(|block| block.split("```").next().unwrap().lines());
        let mut count = 0;
        for frame in frames {
            let incoming = Incoming::parse(frame).unwrap_or_else(|why| panic!("{why}: {frame}"));
            let is_other = matches!(incoming.body, Body::Other);
            assert_eq!(is_other, frame.contains(r#""type":"pong""#), "{frame}");
            if let Body::Presence(presence) = incoming.body {
                assert!(presence.into_event().is_some(), "{frame}");
            }
            assert_eq!(incoming.id.is_some(), frame.contains(r#","id":"#), "{frame}");
            count += 1;
        }
        assert!(count > 15, "{count}");
    }

    #[test]
    fn data_is_any_json() {
        let nested = "[".repeat(500) + &"]".repeat(500);
        for data in ["1e999", "12345678901234567890123", &nested] {
            let frame = format!(
                r#"{{"type":"message","room":"r","user":{{"id":"a","name":"a","color":"c"}},"message":"hi","data":{data},"at":1}}"#
            );
            let Body::Message(message) = Incoming::parse(&frame).unwrap().body else { panic!() };
            assert_eq!(message.within(None).data.unwrap().get(), data);
        }
    }

    #[test]
    fn what_is_absent_is_not_sent() {
        let frame = Outgoing::Join { room: "r", since: None, history: None };
        assert_eq!(frame.encode(), r#"{"type":"join","room":"r"}"#);
        let since = Some(Position { epoch: Epoch::from_random(0), offset: 4 });
        let frame = Outgoing::Join { room: "r", since, history: Some(2) };
        assert_eq!(
            with_id(&frame.encode(), 1),
            r#"{"id":1,"type":"join","room":"r","since":{"epoch":"00000000","offset":4},"history":2}"#
        );
    }
}
