//! The interface between the fan-out and the connection of a member.

use std::any::Any;
use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::close::CloseReason;
use crate::dialect::Dialect;
use crate::envelope;
use crate::event::{Event, Presence, PresenceChange};
use crate::frames::{Frames, FramesBuilder};
use crate::position::Position;
use crate::scan;
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
/// rest; so are [encodings of the application's own](Self::shared).
#[derive(Debug)]
pub struct Batch {
    topic: Topic,
    items: Vec<Item>,
    frames: DialectFrames,
    /// Encodings that few batches need: each batch is initialized and dropped, and most are of few
    /// bytes.
    shared: OnceLock<Box<Shared>>,
}

/// The frames of each dialect, once a member has asked for them.
type DialectFrames = [OnceLock<Option<Frames>>; Dialect::COUNT];

/// The frames for members that may not see who is in the room.
#[derive(Default)]
struct WithoutPresence(DialectFrames);

/// The encoding of one type, a `OnceLock<T>`, and those of other types.
struct Shared<T: ?Sized = dyn Any + Send + Sync> {
    next: OnceLock<Box<Shared>>,
    encoding: T,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("next", &self.next).finish_non_exhaustive()
    }
}

/// One event of a [`Batch`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Item {
    /// The payload of a publication, with its position in the room's sequence if it has one: an
    /// [envelope], or bytes of the application's own.
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
                bytes.len() + 5 * scan::count(bytes, |byte| byte.is_ascii_control())
            }
            Self::Gap(_) | Self::Count(_) => 0,
        }
    }
}

/// The bytes of a native message besides the payload of its event and the name of its room, with the
/// room that [`FramesBuilder`] leaves for a header: so the buffers need not grow.
const FRAME_OVERHEAD: usize = 112;

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
        Self { topic, items, frames: Default::default(), shared: OnceLock::new() }
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

    /// The items, oldest first, with their bytes as they were published: for a protocol of one's own
    /// that must not lose the order of payloads, gaps and presence.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The payloads of the publications, each with its position in the room's sequence if it has
    /// one, whether they are envelopes or not.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use chat_core::{Batch, Item, RoomId, Topic};
    ///
    /// let items = vec![Item::Envelope(Bytes::from_static(&[7, 9]), None), Item::Gap(None)];
    /// let batch = Batch::new(Topic::from(RoomId::new("r1")?), items);
    /// assert!(batch.payloads().all(|(payload, _)| payload[..] == [7, 9]));
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    pub fn payloads(&self) -> impl Iterator<Item = (&Bytes, Option<Position>)> {
        self.items.iter().filter_map(|item| match item {
            Item::Envelope(payload, position) => Some((payload, *position)),
            _ => None,
        })
    }

    /// The events, each with its position in the room's sequence if it has one. A payload that is no
    /// envelope, or one of a later version, is an [`Event::Custom`]. The presence of an occupant
    /// whose info is no envelope is left out.
    pub fn events(&self) -> impl Iterator<Item = (Event<'_>, Option<Position>)> {
        self.items.iter().filter_map(|item| {
            Some(match item {
                // Not `unwrap_or`, which would make the other event each time.
                Item::Envelope(bytes, position) => match envelope::decode(bytes) {
                    Ok(event) => (event, *position),
                    Err(_) => (Event::Custom(bytes), *position),
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

    /// The encoding of type `T` that `make` makes of this batch, once for all members: the first
    /// member that asks for one of this type makes it, and the others wait for it. `make` must not
    /// ask for the same type. Give each encoding a type of its own, such as `struct Moves(Frames)`.
    ///
    /// ```
    /// use chat_core::{Batch, Deliver, DeliveryOutcome, CloseReason, Frames, FramesBuilder};
    ///
    /// /// The payloads of a batch as binary frames.
    /// struct Moves(Option<Frames>);
    ///
    /// fn moves(batch: &Batch) -> Option<&Frames> {
    ///     let encode = |batch: &Batch| {
    ///         let mut builder = FramesBuilder::new();
    ///         batch.payloads().for_each(|(payload, _)| builder.binary(payload));
    ///         Moves(builder.finish())
    ///     };
    ///     batch.shared(encode).0.as_ref()
    /// }
    /// # use chat_core::{Item, RoomId, Topic};
    /// # let items = vec![Item::Envelope("a".into(), None), Item::Envelope("b".into(), None)];
    /// # let batch = Batch::new(Topic::from(RoomId::new("r1").unwrap()), items);
    /// # assert_eq!(&moves(&batch).unwrap().bytes()[..], b"\x82\x01a\x82\x01b");
    /// ```
    pub fn shared<T: Send + Sync + 'static>(&self, make: impl FnOnce(&Self) -> T) -> &T {
        let mut slot = &self.shared;
        loop {
            // An empty place first, and the encoding in it: `make` may ask for another type.
            let shared = slot.get_or_init(|| {
                Box::new(Shared { next: OnceLock::new(), encoding: OnceLock::<T>::new() })
            });
            if let Some(encoding) = shared.encoding.downcast_ref::<OnceLock<T>>() {
                return encoding.get_or_init(|| make(self));
            }
            slot = &shared.next;
        }
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
        let WithoutPresence(frames) = self.shared(|_| WithoutPresence::default());
        frames[dialect as usize].get_or_init(|| self.encode(dialect, is_shown)).as_ref()
    }

    fn encode(&self, dialect: Dialect, is_shown: impl Fn(&Event<'_>) -> bool) -> Option<Frames> {
        let (payload, overhead) = (self.payload_len(), FRAME_OVERHEAD + self.topic.name().len());
        let mut frames = FramesBuilder::with_capacity(payload + overhead * self.items.len());
        let mut text = Vec::with_capacity(payload / self.items.len().max(1) + overhead);
        for (event, position) in self.events().filter(|(event, _)| is_shown(event)) {
            text.clear();
            if dialect.encode(&self.topic, &event, position, &mut text) {
                frames.utf8(&text);
            }
        }
        frames.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;
    use crate::event::{Message, Sender};
    use crate::id::RoomId;
    use crate::position::Epoch;

    fn room() -> Topic {
        Topic::Room(RoomId::new("r").unwrap())
    }

    fn at(offset: u64) -> Option<Position> {
        Some(Position { epoch: Epoch::parse(b"abcdEF12").unwrap(), offset })
    }

    #[test]
    fn payload_that_is_no_envelope_is_custom_and_a_gap_in_the_native_dialect() {
        let own = Bytes::from_static(b"\x63?");
        let items = vec![Item::Envelope(own.clone(), at(7)), Item::Envelope(own.clone(), None)];
        let batch = Batch::new(room(), items);
        assert_eq!(batch.payloads().collect::<Vec<_>>(), [(&own, at(7)), (&own, None)]);
        let events: Vec<_> = batch.events().collect();
        let [(Event::Custom(first), first_at), (Event::Custom(second), None)] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!((first, first_at, second), (&own[..], at(7), &own[..]));
        let frames = batch.frames(Dialect::Native).unwrap();
        let gap = r#"{"type":"gap","room":"r","epoch":"abcdEF12","offset":7}"#;
        assert_eq!(frames.texts().collect::<Vec<_>>(), [gap]);
        assert!(batch.frames(Dialect::Topics).is_none(), "the dialect has no frame for it");
    }

    #[test]
    fn encoding_of_each_type_is_made_once_for_all_threads() {
        struct Length(usize);
        struct Double(usize);
        let batch = Batch::new(room(), vec![Item::Envelope(Bytes::from_static(b"abc"), None)]);
        let made = AtomicUsize::new(0);
        let length = |batch: &Batch| {
            made.fetch_add(1, Ordering::Relaxed);
            Length(batch.payload_len())
        };
        // One encoding may use another.
        let double = |batch: &Batch| {
            made.fetch_add(1, Ordering::Relaxed);
            Double(2 * batch.shared(length).0)
        };
        let ask = || (batch.shared(double).0, batch.shared(length).0);
        thread::scope(|scope| {
            let members: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            members.into_iter().for_each(|member| assert_eq!(member.join().unwrap(), (6, 3)));
        });
        assert_eq!(made.into_inner(), 2);
    }

    #[test]
    fn item_size_bounds_its_frame() {
        let user = Sender { id: "u", name: "U", color: "#FFFFFF" };
        for text in ["x".repeat(10_000), "\u{1}".repeat(10_000), "é\n".repeat(10_000)] {
            let message = Message { user, text: &text, data: None, key: None, at: 0 };
            let item = Item::Envelope(envelope::encode(&Event::Message(message)), None);
            let (size, batch) = (item.size(), Batch::new(room(), vec![item]));
            let frame = batch.frames(Dialect::Native).unwrap().bytes().len();
            assert!(frame <= size + 200, "{frame} bytes, and estimated as {size}");
        }
    }
}
