//! The fields of a client's frame, of any dialect, each checked when it is read.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::command::{Content, Sanction};
use crate::error::{ErrorCode, Rejection};
use crate::history::HistoryRange;
use crate::id::{InvalidName, RoomId, UserId, UserName};
use crate::json::{self, Unportable};
use crate::position::{Epoch, Position};
use crate::visibility::is_invisible;

/// Longest `id` and `key`, in bytes as they are written in the frame.
const MAX_TAG_BYTES: usize = 128;

/// Raw values: a field that the frame's type does not use costs no more than a scan, and
/// is not checked. `null` counts as absent.
#[derive(Debug, Deserialize)]
pub(crate) struct Fields<'a> {
    /// The whole frame.
    #[serde(skip)]
    frame: &'a str,
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
    pub(crate) fn parse(text: &'a str) -> Field<Self> {
        // serde would read an array as a struct.
        if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
            return Err(Rejection::new(ErrorCode::BadJson, "A frame is one JSON object."));
        }
        let mut fields: Self = serde_json::from_str(text).map_err(|error| {
            Rejection::new(ErrorCode::BadJson, format!("The frame is not valid JSON: {error}."))
        })?;
        fields.frame = text;
        Ok(fields)
    }

    pub(crate) fn kind(&self) -> Field<Option<Cow<'a, str>>> {
        optional("type", self.kind, string)
    }

    pub(crate) fn required_kind(&self) -> Field<Cow<'a, str>> {
        required("type", self.kind, string)
    }

    pub(crate) fn has_recipient(&self) -> bool {
        self.to.is_some()
    }

    pub(crate) fn id(&self) -> Field<Option<&'a RawValue>> {
        optional("id", self.id, |raw| {
            let is_tag = || forwardable_text(raw).is_some() || json::integer(raw.get()).is_some();
            (raw.get().len() <= MAX_TAG_BYTES && is_tag()).then_some(raw)
        })
    }

    pub(crate) fn room(&self) -> Field<RoomId> {
        room("room", self.room)
    }

    pub(crate) fn room_id(&self) -> Field<RoomId> {
        room("roomId", self.room_id)
    }

    pub(crate) fn to(&self) -> Field<UserId> {
        required("to", self.to, |raw| UserId::new(string(raw)?).ok())
    }

    pub(crate) fn name(&self) -> Field<Option<UserName>> {
        user_name("name", self.name)
    }

    pub(crate) fn user_or_username(&self) -> Field<Option<UserName>> {
        match self.user {
            Some(_) => user_name("user", self.user),
            None => user_name("username", self.username),
        }
    }

    /// A text that has to be visible: the frame has nothing else to show.
    pub(crate) fn message(&self) -> Field<Cow<'a, str>> {
        let message = self.text()?;
        check_visible(&message)?;
        Ok(message)
    }

    fn text(&self) -> Field<Cow<'a, str>> {
        required("message", self.message, forwardable_text)
    }

    pub(crate) fn content(&self) -> Field<Content<'a>> {
        check_data(self.data)?;
        self.checked_content()
    }

    /// The content of a frame that is forwarded as a whole.
    pub(crate) fn content_of_frame(&self) -> Field<Content<'a>> {
        json::check_portable(self.frame).map_err(|why| unportable("frame", why))?;
        self.checked_content()
    }

    fn checked_content(&self) -> Field<Content<'a>> {
        let key = optional("key", self.key, |raw| {
            (raw.get().len() <= MAX_TAG_BYTES).then(|| forwardable_text(raw)).flatten()
        })?;
        let message = if self.data.is_some() { self.text()? } else { self.message()? };
        Ok(Content { message, data: self.data, key })
    }

    /// The `message` and the `data` of a frame that was [checked](Self::content_of_frame) before.
    pub(crate) fn checked_text_and_data(&self) -> Option<(Cow<'a, str>, Option<&'a RawValue>)> {
        Some((string(self.message?)?, self.data))
    }

    pub(crate) fn typing(&self) -> Field<bool> {
        required("typing", self.typing, parse)
    }

    pub(crate) fn token(&self) -> Field<Option<Cow<'a, str>>> {
        optional("token", self.token, string)
    }

    pub(crate) fn resume(&self) -> Field<Option<Cow<'a, str>>> {
        optional("resume", self.resume, string)
    }

    pub(crate) fn since(&self) -> Field<Option<Position>> {
        optional("since", self.since, position)
    }

    pub(crate) fn history(&self) -> Field<Option<u32>> {
        optional("history", self.history, integer)
    }

    /// Which part of a history: `before`, `after`, or neither.
    pub(crate) fn range(&self) -> Field<HistoryRange> {
        let before = optional("before", self.before, integer)?.map(HistoryRange::Before);
        let after = optional("after", self.after, integer)?.map(HistoryRange::After);
        match (before, after) {
            (Some(_), Some(_)) => Err(Rejection::new(
                ErrorCode::BadField,
                "A frame has \"before\" or \"after\", and not both.",
            )),
            (before, after) => Ok(before.or(after).unwrap_or(HistoryRange::Latest)),
        }
    }

    pub(crate) fn limit(&self) -> Field<Option<u32>> {
        optional("limit", self.limit, integer)
    }

    pub(crate) fn sanction(&self) -> Field<Sanction<'a>> {
        let reason = optional("reason", self.reason, |raw| {
            forwardable_text(raw).filter(|reason| reason.len() <= Sanction::MAX_REASON_BYTES)
        })?;
        Ok(Sanction { room: self.room()?, user: self.user_id()?, reason })
    }

    pub(crate) fn user_id(&self) -> Field<UserId> {
        required("user", self.user, |raw| UserId::new(string(raw)?).ok())
    }

    pub(crate) fn seconds(&self) -> Field<Option<u64>> {
        optional("seconds", self.seconds, integer)
    }
}

impl Content<'_> {
    /// Checks a message that was not decoded from a frame by the rules for frames: every client can
    /// show it.
    ///
    /// ```
    /// use chat_core::{Content, ErrorCode};
    ///
    /// assert!(Content::from("hello").check().is_ok());
    /// let blank = Content::from(" ").check();
    /// assert_eq!(blank.map_err(|rejection| rejection.code), Err(ErrorCode::BadField));
    /// ```
    ///
    /// # Errors
    /// [`ErrorCode::BadField`] if the text has no visible character and there is no data, if text or
    /// key has a NUL character, if the key has more than 128 bytes, and if the data is not
    /// [portable](json::check_portable).
    pub fn check(&self) -> Result<(), Rejection> {
        let key = self.key.as_deref().unwrap_or_default();
        if self.data.is_none() {
            check_visible(&self.message)?;
        }
        if self.message.contains('\0') {
            return Err(bad("message"));
        }
        if key.len() > MAX_TAG_BYTES || key.contains('\0') {
            return Err(bad("key"));
        }
        check_data(self.data)
    }
}

fn check_visible(message: &str) -> Field<()> {
    if is_invisible(message) {
        let why = "The \"message\" holds no visible character, and there is no \"data\".";
        return Err(Rejection::new(ErrorCode::BadField, why));
    }
    Ok(())
}

fn check_data(data: Option<&RawValue>) -> Field<()> {
    let Some(data) = data else { return Ok(()) };
    json::check_portable(data.get()).map_err(|why| unportable("field \"data\"", why))
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

fn unportable(what: &str, why: Unportable) -> Rejection {
    let message = format!("The {what} {why}: not every client could read it.");
    Rejection::new(ErrorCode::BadField, message)
}

/// Half of an emoji, of a name that was cut by UTF-16 units, is no reason to refuse a `hello`.
fn user_name(field: &str, raw: Option<&RawValue>) -> Field<Option<UserName>> {
    let Some(name) = optional(field, raw, lossy_string)? else { return Ok(None) };
    UserName::new(name)
        .map(Some)
        .map_err(|why| Rejection::new(ErrorCode::BadField, format!("The field \"{field}\" {why}.")))
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

/// A JSON string that other clients get to read: without NUL, at which some parsers stop.
fn forwardable_text(raw: &RawValue) -> Option<Cow<'_, str>> {
    // Only an escape can be one.
    string(raw).filter(|text| matches!(text, Cow::Borrowed(_)) || !text.contains('\0'))
}

/// A JSON string, with U+FFFD for what has no UTF-8.
fn lossy_string(raw: &RawValue) -> Option<Cow<'_, str>> {
    string(raw).or_else(|| serde_json::from_str(&json::replace_lone_surrogates(raw.get())).ok())
}

fn integer<T: TryFrom<i128>>(raw: &RawValue) -> Option<T> {
    T::try_from(json::integer(raw.get())?).ok()
}

fn parse<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// A position. Clients keep it as they got it, from a server of this or of another kind: an
/// epoch in whatever form is one that the room may not have.
fn position(raw: &RawValue) -> Option<Position> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        epoch: &'a RawValue,
        #[serde(borrow)]
        offset: &'a RawValue,
    }
    // An array would pass for a struct.
    let Raw { epoch, offset } = raw.get().starts_with('{').then(|| parse(raw)).flatten()?;
    let epoch = match string(epoch) {
        Some(text) => Epoch::parse(text.as_bytes()).unwrap_or(Epoch::UNKNOWN),
        None if epoch.get().starts_with('"') => Epoch::UNKNOWN,
        None => return None,
    };
    Some(Position { epoch, offset: integer(offset)? })
}
