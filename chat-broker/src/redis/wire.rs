//! The payloads in our channels.
//!
//! | first byte | then | |
//! |---|---|---|
//! | 0 | payload | ephemeral |
//! | 2 | offset, 8 bytes; epoch, 8 letters or digits; id, 8 bytes; payload | kept |
//! | 6 | offset of the first, 8 bytes; epoch, 8 letters or digits; of each: length of what follows, 4 bytes; id, 8 bytes; payload | several that are kept |
//! | 3, 4, 5 | version, 8 bytes; count, 4 bytes; length, 2 bytes; user; info | joined, left, has another info |
//!
//! Numbers are unsigned and big endian. The scripts write all but the first form.

use bytes::{Buf, Bytes};
use chat_core::{Epoch, Occupant, Position, PresenceChange, UserId};

use crate::random;

const EPHEMERAL: u8 = 0;
const KEPT: u8 = 2;
const JOINED: u8 = 3;
const LEFT: u8 = 4;
const RENAMED: u8 = 5;
const KEPT_BATCH: u8 = 6;

/// The bytes of the head of a log.
const HEAD_LEN: usize = 44;

/// The greatest offset: Lua counts in doubles.
pub(super) const MAX_OFFSET: u64 = Position::MAX_OFFSET;

/// The reply of `history.lua`: epoch, offset, offset of the oldest entry, entries.
pub(super) type HistoryReply = (Vec<u8>, u64, u64, Vec<Bytes>);

/// Distinguishes a publication from another that was given the same position by a Redis that
/// restarted with older data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageId([u8; Self::LEN]);

impl MessageId {
    pub(super) const LEN: usize = 8;

    pub(super) fn random() -> Self {
        Self(random::bits().to_be_bytes())
    }

    /// Reads one as it is stored.
    pub(super) fn parse(stored: &[u8]) -> Option<Self> {
        stored.try_into().ok().map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A message in a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Ephemeral(Bytes),
    Kept {
        position: Position,
        id: MessageId,
        payload: Bytes,
    },
    /// Several with consecutive offsets.
    KeptBatch {
        first: Position,
        entries: Vec<(MessageId, Bytes)>,
    },
    Presence {
        change: PresenceChange,
        occupant: Occupant,
        version: u64,
        count: u32,
    },
}

/// For tests of any input: the part of a message in one of our channels after its header;
/// `None` for what is not ours.
#[cfg(feature = "testing")]
#[must_use]
pub fn redis_payload(message: Bytes) -> Option<Bytes> {
    decode(message).and_then(|message| match message {
        Message::Ephemeral(payload) | Message::Kept { payload, .. } => Some(payload),
        Message::KeptBatch { entries, .. } => entries.into_iter().next().map(|entry| entry.1),
        Message::Presence { occupant, .. } => Some(occupant.info),
    })
}

pub(super) fn ephemeral(payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 + payload.len());
    message.push(EPHEMERAL);
    message.extend_from_slice(payload);
    message
}

/// An entry of a log.
pub(super) fn entry(id: MessageId, payload: &[u8]) -> Vec<u8> {
    [id.as_bytes(), payload].concat()
}

/// Reads an entry of a log; `None` for what is not ours.
pub(super) fn decode_entry(mut entry: Bytes) -> Option<(MessageId, Bytes)> {
    let id = MessageId(take(&mut entry)?);
    Some((id, entry))
}

/// Reads epoch, base and most entries of the head of a log, see `publish.lua`; `None` for what is not
/// ours.
pub(super) fn decode_head(mut head: Bytes) -> Option<(Epoch, u64, u64)> {
    if head.len() != HEAD_LEN {
        return None;
    }
    let epoch = Epoch::parse(&take::<{ Epoch::LEN }>(&mut head)?)?;
    Some((epoch, head.try_get_u64().ok()?, head.try_get_u32().ok()?.into()))
}

/// Takes the header off, without a copy; `None` for what is not ours.
pub(super) fn decode(mut message: Bytes) -> Option<Message> {
    match message.try_get_u8().ok()? {
        EPHEMERAL => Some(Message::Ephemeral(message)),
        KEPT => {
            let position = take_position(&mut message)?;
            let (id, payload) = decode_entry(message)?;
            Some(Message::Kept { position, id, payload })
        }
        KEPT_BATCH => {
            let first = take_position(&mut message)?;
            let mut entries = Vec::new();
            while message.has_remaining() {
                let length = message.try_get_u32().ok()? as usize;
                let entry = (length <= message.len()).then(|| message.split_to(length))?;
                entries.push(decode_entry(entry)?);
            }
            let last = first.offset.checked_add(entries.len() as u64)?;
            (last <= MAX_OFFSET + 1).then_some(Message::KeptBatch { first, entries })
        }
        JOINED => presence(PresenceChange::Joined, message),
        LEFT => presence(PresenceChange::Left, message),
        RENAMED => presence(PresenceChange::Renamed, message),
        _ => None,
    }
}

fn presence(change: PresenceChange, mut message: Bytes) -> Option<Message> {
    let version = message.try_get_u64().ok()?;
    let count = message.try_get_u32().ok()?;
    let length = usize::from(message.try_get_u16().ok()?);
    if message.len() < length {
        return None;
    }
    let user = message.split_to(length);
    let user = UserId::new(std::str::from_utf8(&user).ok()?).ok()?;
    Some(Message::Presence { change, occupant: Occupant::new(user, message), version, count })
}

fn take_position(message: &mut Bytes) -> Option<Position> {
    let offset = message.try_get_u64().ok()?;
    let epoch = Epoch::parse(&take::<{ Epoch::LEN }>(message)?)?;
    (1..=MAX_OFFSET).contains(&offset).then_some(Position { epoch, offset })
}

fn take<const N: usize>(message: &mut Bytes) -> Option<[u8; N]> {
    let taken = *message.first_chunk()?;
    message.advance(N);
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEVENTH: &[u8] = b"\x02\0\0\0\0\0\0\0\x07abcdEF12\xff\0\x01\x02\x03\x04\x05\x06hello";

    #[test]
    fn every_payload_form_is_decoded() {
        let position = Position { epoch: Epoch::parse(b"abcdEF12").unwrap(), offset: 7 };
        let id = MessageId([0xff, 0, 1, 2, 3, 4, 5, 6]);
        let hello = Bytes::from("hello");
        let seventh = Message::Kept { position, id, payload: hello.clone() };
        assert_eq!(decode(Bytes::from_static(SEVENTH)), Some(seventh));
        let batch =
            [b"\x06", &SEVENTH[1..17], b"\0\0\0\x0d", &SEVENTH[17..], b"\0\0\0\x08"].concat();
        let batch = [&batch[..], b"12345678"].concat();
        let entries = vec![(id, hello.clone()), (MessageId(*b"12345678"), Bytes::new())];
        assert_eq!(
            decode(batch.clone().into()),
            Some(Message::KeptBatch { first: position, entries })
        );
        assert_eq!(decode(batch[..batch.len() - 1].to_vec().into()), None);
        let joined = b"\x03\0\0\0\0\0\0\0\x09\0\0\0\x02\0\x03u 1hello";
        let left = [b"\x04", &joined[1..]].concat();
        let renamed = [b"\x05", &joined[1..]].concat();
        for (message, change) in [
            (joined.to_vec(), PresenceChange::Joined),
            (left, PresenceChange::Left),
            (renamed, PresenceChange::Renamed),
        ] {
            let occupant = Occupant::new(UserId::new("u 1").unwrap(), hello.clone());
            let expected = Message::Presence { change, occupant, version: 9, count: 2 };
            assert_eq!(decode(message.into()), Some(expected));
        }
        assert_eq!(decode(ephemeral(b"hello").into()), Some(Message::Ephemeral(hello)));
        assert_eq!(decode(ephemeral(b"").into()), Some(Message::Ephemeral(Bytes::new())));
    }

    #[test]
    fn foreign_payloads_are_refused() {
        let mut wrong_epoch = SEVENTH.to_vec();
        wrong_epoch[9] = b' ';
        let mut offset_zero = SEVENTH.to_vec();
        offset_zero[8] = 0;
        let mut offset_huge = SEVENTH.to_vec();
        offset_huge[1] = 1;
        let mut of_an_old_version = SEVENTH.to_vec();
        of_an_old_version[0] = 1;
        let cases = [
            vec![],
            vec![2],
            b"hello".to_vec(),
            SEVENTH[..24].to_vec(),
            b"\x03\0\0\0\0\0\0\0\x09\0\0\0\x02\0\x04u 1".to_vec(),
            b"\x03\0\0\0\0\0\0\0\x09\0\0\0\x02\0\0info".to_vec(),
            b"\x04\0\0\0\0\0\0\0\x09\0\0\0\x02\0\x01\xffinfo".to_vec(),
            wrong_epoch,
            offset_zero,
            offset_huge,
            of_an_old_version,
        ];
        for message in cases {
            assert_eq!(decode(message.clone().into()), None, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(message in proptest::collection::vec(any::<u8>(), 0..64)) {
            match decode(message.clone().into()) {
                Some(Message::Ephemeral(payload) | Message::Kept { payload, .. }) => {
                    prop_assert!(message.ends_with(&payload));
                }
                Some(Message::KeptBatch { entries, .. }) => {
                    let last = entries.last().map(|(_, payload)| payload.clone());
                    prop_assert!(message.ends_with(&last.unwrap_or_default()));
                }
                Some(Message::Presence { occupant, .. }) => {
                    prop_assert!(message.ends_with(&occupant.info));
                }
                None => {}
            }
        }
    }
}
