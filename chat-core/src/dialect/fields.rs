//! The fields of a client's frame, of any dialect, each checked when asked for.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::command::{Content, MAX_REASON_BYTES, Sanction};
use crate::error::{ErrorCode, Rejection};
use crate::history::Range;
use crate::id::{InvalidName, RoomId, UserId, UserName};
use crate::position::{Epoch, Position};

/// Longest `id` and `key`, in bytes as they stand in the frame.
const MAX_TAG_BYTES: usize = 128;

/// Raw values: a field that the frame's type does not use costs no more than a scan, and
/// is not judged. `null` counts as absent.
#[derive(Debug, Deserialize)]
pub(super) struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    room: Option<&'a RawValue>,
    #[serde(rename = "roomId")]
    room_id: Option<&'a RawValue>,
    to: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    username: Option<&'a RawValue>,
    name: Option<&'a RawValue>,
    message: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    typing: Option<&'a RawValue>,
    token: Option<&'a RawValue>,
    resume: Option<&'a RawValue>,
    since: Option<&'a RawValue>,
    history: Option<&'a RawValue>,
    before: Option<&'a RawValue>,
    after: Option<&'a RawValue>,
    limit: Option<&'a RawValue>,
    seconds: Option<&'a RawValue>,
    reason: Option<&'a RawValue>,
}

type Field<T> = Result<T, Rejection>;

impl<'a> Fields<'a> {
    pub(super) fn parse(text: &'a str) -> Field<Self> {
        // An array would pass for a struct.
        if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
            return Err(Rejection::new(ErrorCode::BadJson, "A frame is one JSON object."));
        }
        serde_json::from_str(text).map_err(|error| {
            Rejection::new(ErrorCode::BadJson, format!("The frame is not valid JSON: {error}."))
        })
    }

    pub(super) fn kind(&self) -> Field<Option<Cow<'a, str>>> {
        optional("type", self.kind, string)
    }

    pub(super) fn required_kind(&self) -> Field<Cow<'a, str>> {
        required("type", self.kind, string)
    }

    pub(super) fn has_recipient(&self) -> bool {
        self.to.is_some()
    }

    pub(super) fn id(&self) -> Field<Option<&'a RawValue>> {
        optional("id", self.id, |raw| {
            let text = raw.get();
            let is_string = text.starts_with('"');
            let is_integer = serde_json::from_str::<i64>(text).is_ok();
            ((is_string || is_integer) && text.len() <= MAX_TAG_BYTES).then_some(raw)
        })
    }

    pub(super) fn room(&self) -> Field<RoomId> {
        room("room", self.room)
    }

    pub(super) fn room_id(&self) -> Field<RoomId> {
        room("roomId", self.room_id)
    }

    pub(super) fn to(&self) -> Field<UserId> {
        required("to", self.to, |raw| UserId::new(string(raw)?).ok())
    }

    pub(super) fn name(&self) -> Field<Option<UserName>> {
        user_name("name", self.name)
    }

    pub(super) fn user_or_username(&self) -> Field<Option<UserName>> {
        match self.user {
            Some(_) => user_name("user", self.user),
            None => user_name("username", self.username),
        }
    }

    pub(super) fn message(&self) -> Field<Cow<'a, str>> {
        required("message", self.message, string)
    }

    pub(super) fn content(&self) -> Field<Content<'a>> {
        let key = optional("key", self.key, |raw| {
            (raw.get().len() <= MAX_TAG_BYTES).then(|| string(raw)).flatten()
        })?;
        Ok(Content { message: self.message()?, data: self.data, key })
    }

    /// `message` and `data` as they stand in the frame.
    pub(super) fn raw_content(&self) -> (Option<&'a RawValue>, Option<&'a RawValue>) {
        (self.message, self.data)
    }

    pub(super) fn typing(&self) -> Field<bool> {
        required("typing", self.typing, parse)
    }

    pub(super) fn token(&self) -> Field<Option<Cow<'a, str>>> {
        optional("token", self.token, string)
    }

    pub(super) fn resume(&self) -> Field<Option<Cow<'a, str>>> {
        optional("resume", self.resume, string)
    }

    pub(super) fn since(&self) -> Field<Option<Position>> {
        optional("since", self.since, position)
    }

    pub(super) fn history(&self) -> Field<Option<u32>> {
        optional("history", self.history, parse)
    }

    /// Which part of a history: `before`, `after`, or neither.
    pub(super) fn range(&self) -> Field<Range> {
        let before = optional("before", self.before, parse)?.map(Range::Before);
        let after = optional("after", self.after, parse)?.map(Range::After);
        match (before, after) {
            (Some(_), Some(_)) => Err(Rejection::new(
                ErrorCode::BadField,
                "A frame has \"before\" or \"after\", and not both.",
            )),
            (before, after) => Ok(before.or(after).unwrap_or(Range::Latest)),
        }
    }

    pub(super) fn limit(&self) -> Field<Option<u32>> {
        optional("limit", self.limit, parse)
    }

    pub(super) fn sanction(&self) -> Field<Sanction<'a>> {
        let reason = optional("reason", self.reason, |raw| {
            string(raw).filter(|reason| reason.len() <= MAX_REASON_BYTES)
        })?;
        Ok(Sanction { room: self.room()?, user: self.user_id()?, reason })
    }

    pub(super) fn user_id(&self) -> Field<UserId> {
        required("user", self.user, |raw| UserId::new(string(raw)?).ok())
    }

    pub(super) fn seconds(&self) -> Field<Option<u64>> {
        optional("seconds", self.seconds, parse)
    }
}

fn required<'a, T>(
    name: &str,
    raw: Option<&'a RawValue>,
    read: impl FnOnce(&'a RawValue) -> Option<T>,
) -> Field<T> {
    optional(name, raw, read)?.ok_or_else(|| missing(name))
}

fn optional<'a, T>(
    name: &str,
    raw: Option<&'a RawValue>,
    read: impl FnOnce(&'a RawValue) -> Option<T>,
) -> Field<Option<T>> {
    raw.map(|raw| read(raw).ok_or_else(|| bad(name))).transpose()
}

fn missing(name: &str) -> Rejection {
    Rejection::new(ErrorCode::MissingField, format!("The frame needs the field \"{name}\"."))
}

fn bad(name: &str) -> Rejection {
    let message = format!("The field \"{name}\" is not of its type, or out of range.");
    Rejection::new(ErrorCode::BadField, message)
}

fn room(field: &str, raw: Option<&RawValue>) -> Field<RoomId> {
    let name = required(field, raw, string)?;
    RoomId::new(name).map_err(|why: InvalidName| {
        Rejection::new(ErrorCode::RoomNameInvalid, format!("The name of the room {why}."))
    })
}

fn user_name(field: &str, raw: Option<&RawValue>) -> Field<Option<UserName>> {
    optional(field, raw, |raw| UserName::new(string(raw)?).ok())
}

/// A JSON string; borrowed from the frame if nothing in it is escaped.
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(text).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

fn parse<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn position(raw: &RawValue) -> Option<Position> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        epoch: Cow<'a, str>,
        offset: u64,
    }
    let Raw { epoch, offset } = parse(raw)?;
    Some(Position { epoch: Epoch::parse(epoch.as_bytes())?, offset })
}
