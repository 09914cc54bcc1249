//! The interface between the fan-out and the connection of a member.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::close::CloseReason;
use crate::dialect::Dialect;
use crate::envelope;
use crate::event::{Event, Presence, PresenceChange};
use crate::frames::{Frames, FramesBuilder};
use crate::json;
use crate::position::Position;
use crate::topic::Topic;

/// A handle on one member of a room.
///
/// [`deliver`](Self::deliver), [`flush`](Self::flush) and [`close`](Self::close) are called from the
/// fan-out loop: they return at once, never block, and never call back into the registry or the hub.
pub trait Deliver: Send + Sync {
    /// Takes a batch of events for this member: typically puts
    /// [`batch.frames(dialect)`](Batch::frames) into a bounded outbox.
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome;

    /// Writes what the member holds back, to be one write with a batch. By default it holds nothing.
    fn flush(&self) {}

    /// Ends the connection, for example after a [`DeliveryOutcome::Full`]. Later batches need not
    /// continue the earlier ones: the member should take none of them
    /// ([`DeliveryOutcome::Closed`]), and its user joins again from the last received message.
    fn close(&self, reason: CloseReason);

    /// Waits until the member has taken all that was delivered to it, or its connection has ended.
    /// The hub awaits it before each page for a member that catches up with missed messages, so
    /// that it sends them as fast as the member takes them. By default it is always ready: then
    /// everything that a member can miss has to fit into its outbox, or the member is closed as a
    /// slow consumer.
    ///
    /// # Cancel safety
    /// An implementation must be safe to drop: it changes nothing.
    fn drained(&self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        std::future::ready(())
    }
}

/// What became of a batch at one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeliveryOutcome {
    /// Written, or queued.
    Queued,
    /// Nothing in the batch concerns this member.
    Skipped,
    /// No room: the member reads too slowly, and the hub closes it.
    Full,
    /// No room, and the member stays: the batch was dropped.
    Dropped,
    /// The connection has ended.
    Closed,
}

/// Events of one topic, in order, for all its members at once.
///
/// Each dialect's frames are made when the first member asks for them, and shared by the
/// rest.
#[derive(Debug)]
pub struct Batch {
    topic: Topic,
    items: Vec<Item>,
    frames: [OnceLock<Option<Frames>>; Dialect::COUNT],
    /// For members that may not see who is in the room.
    without_presence: [OnceLock<Option<Frames>>; Dialect::COUNT],
}

/// One event of a [`Batch`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Item {
    /// An [envelope] from the broker, with its position in the room's
    /// sequence if it has one.
    Envelope(Bytes, Option<Position>),
    /// See [`Event::Gap`].
    Gap(Option<Position>),
    /// A user joined, left or was renamed; the envelope is that of the [`Event::Presence`] of the
    /// user's join, with the latest name.
    Presence(PresenceChange, Bytes),
    /// See [`Event::Count`].
    Count(u32),
}

impl Item {
    fn payload_len(&self) -> usize {
        match self {
            Self::Envelope(bytes, _) | Self::Presence(_, bytes) => bytes.len(),
            Self::Gap(_) | Self::Count(_) => 0,
        }
    }

    /// The position of the item in the room's sequence, if it has one: for a gap, the position after
    /// which the sequence continues.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Envelope(_, position) | Self::Gap(position) => *position,
            Self::Presence(..) | Self::Count(_) => None,
        }
    }

    /// Upper bound of its bytes in a frame, without those that every frame has: JSON escapes a
    /// control character to six bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Envelope(bytes, _) | Self::Presence(_, bytes) => {
                bytes.len() + 5 * json::count(bytes, |byte| byte.is_ascii_control())
            }
            Self::Gap(_) | Self::Count(_) => 0,
        }
    }
}

/// About the bytes of a frame besides the payload of its event: so the buffers need not grow.
const FRAME_OVERHEAD: usize = 96;

impl Batch {
    /// A batch of `items`, oldest first.
    ///
    /// ```
    /// use chat_core::{Batch, Dialect, Item, RoomId, Topic};
    ///
    /// let batch = Batch::new(Topic::from(RoomId::new("r1")?), vec![Item::Count(3)]);
    /// let frames = batch.frames(Dialect::Native).unwrap();
    /// let frame = r#"{"type":"presence","room":"r1","event":"count","count":3}"#;
    /// assert_eq!(frames.texts().collect::<Vec<_>>(), [frame]);
    /// assert!(batch.frames_without_presence(Dialect::Native).is_none());
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    #[must_use]
    pub fn new(topic: Topic, items: Vec<Item>) -> Self {
        Self { topic, items, frames: Default::default(), without_presence: Default::default() }
    }

    /// The room or user that the events are for.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Bytes of its envelopes: about as many as its frames have.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.items.iter().map(Item::payload_len).sum()
    }

    /// The events, each with its position in the room's sequence if it has one. An envelope that
    /// cannot be read, such as one of a later version, is a gap if it has a position, and left out
    /// otherwise.
    pub fn events(&self) -> impl Iterator<Item = (Event<'_>, Option<Position>)> {
        self.items.iter().filter_map(|item| {
            Some(match item {
                Item::Envelope(bytes, position) => match envelope::decode(bytes) {
                    Ok(event) => (event, *position),
                    // The members must see that the offset is used: without it, the next message
                    // would look like a hole to them, and they would all read the history.
                    Err(_) => (Event::Gap(Some((*position)?)), None),
                },
                Item::Gap(position) => (Event::Gap(*position), None),
                Item::Presence(change, bytes) => {
                    let Ok(Event::Presence(presence)) = envelope::decode(bytes) else {
                        return None;
                    };
                    (Event::Presence(Presence { change: *change, ..presence }), None)
                }
                Item::Count(count) => (Event::Count(*count), None),
            })
        })
    }

    /// The frames for a member with this `dialect`; `None` if the dialect has none for any of the
    /// events.
    #[must_use]
    pub fn frames(&self, dialect: Dialect) -> Option<&Frames> {
        self.frames[dialect as usize].get_or_init(|| self.encode(dialect, |_| true)).as_ref()
    }

    /// As [`frames`](Self::frames), for a member that may not see who is in the room.
    #[must_use]
    pub fn frames_without_presence(&self, dialect: Dialect) -> Option<&Frames> {
        let is_shown = |event: &Event<'_>| !matches!(event, Event::Presence(_) | Event::Count(_));
        self.without_presence[dialect as usize]
            .get_or_init(|| self.encode(dialect, is_shown))
            .as_ref()
    }

    fn encode(&self, dialect: Dialect, is_shown: impl Fn(&Event<'_>) -> bool) -> Option<Frames> {
        let payload = self.payload_len();
        let mut frames = FramesBuilder::with_capacity(payload + FRAME_OVERHEAD * self.items.len());
        let mut text = Vec::with_capacity(payload / self.items.len().max(1) + FRAME_OVERHEAD);
        for (event, position) in self.events().filter(|(event, _)| is_shown(event)) {
            text.clear();
            if dialect.encode(&self.topic, &event, position, &mut text) {
                frames.push(&text);
            }
        }
        frames.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Message, Sender};
    use crate::id::RoomId;
    use crate::position::Epoch;

    #[test]
    fn unreadable_envelope_is_a_gap() {
        let topic = Topic::Room(RoomId::new("r").unwrap());
        let (unknown, epoch) = (Bytes::from_static(b"\x63?"), Epoch::parse(b"abcdEF12").unwrap());
        let place = Some(Position { epoch, offset: 7 });
        let items = vec![Item::Envelope(unknown.clone(), place), Item::Envelope(unknown, None)];
        let batch = Batch::new(topic, items);
        let frames = batch.frames(Dialect::Native).unwrap();
        let gap = r#"{"type":"gap","room":"r","epoch":"abcdEF12","offset":7}"#;
        assert_eq!(frames.texts().collect::<Vec<_>>(), [gap]);
        assert!(batch.frames(Dialect::Topics).is_none(), "the dialect has no frame for it");
    }

    #[test]
    fn item_size_bounds_its_frame() {
        let user = Sender { id: "u", name: "U", color: "#FFFFFF" };
        for text in ["x".repeat(10_000), "\u{1}".repeat(10_000), "é\n".repeat(10_000)] {
            let message = Message { user, text: &text, data: None, key: None, at: 0 };
            let item = Item::Envelope(envelope::encode(&Event::Message(message)), None);
            let (size, topic) = (item.size(), Topic::Room(RoomId::new("r").unwrap()));
            let batch = Batch::new(topic, vec![item]);
            let frame = batch.frames(Dialect::Native).unwrap().bytes().len();
            assert!(frame <= size + 200, "{frame} bytes, and estimated as {size}");
        }
    }
}
