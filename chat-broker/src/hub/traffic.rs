//! The rooms with the most traffic on this server.

use std::sync::atomic::{AtomicU64, Ordering};

use chat_core::{Batch, Deliver, HeavyHitters, RoomId, Sample, Topic};
use tokio::time::Instant;

use super::Hub;

/// What one delivery weighs beside its bytes, in bytes: a write, or a wakeup.
const DELIVERY: u64 = 256;

/// The traffic of a room on this server in the last minute: estimates by samples.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RoomTraffic {
    /// The room.
    pub room: RoomId,
    /// Its members on this server now.
    pub members: usize,
    /// Messages in a second.
    pub messages: f64,
    /// Messages to members in a second: one for each message and member.
    pub deliveries: f64,
    /// Bytes of payload to members in a second.
    pub bytes: f64,
}

pub(super) struct Traffic {
    /// Counts batches of rooms.
    batches: AtomicU64,
    /// Messages, deliveries and bytes.
    rooms: HeavyHitters<RoomId, 3>,
}

impl Traffic {
    pub(super) fn new() -> Self {
        Self { batches: AtomicU64::new(0), rooms: HeavyHitters::new(now()) }
    }

    /// Counts a batch of `payload` bytes for so many members.
    pub(super) fn count(&self, batch: &Batch, payload: usize, members: usize) {
        let Topic::Room(room) = batch.topic() else { return };
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        self.rooms.sample(number, || {
            let (messages, members) = (batch.payloads().count() as u64, members as u64);
            let (deliveries, bytes) = (messages * members, payload as u64 * members);
            let weight = bytes + deliveries * DELIVERY;
            let amounts = [messages, deliveries, bytes];
            Sample { key: room.clone(), weight, amounts, at: now() }
        });
    }
}

impl<M: Deliver + Clone + 'static> Hub<M> {
    /// The `count` rooms with the most traffic on this server in the last minute, by the bytes to their
    /// members, to which each delivery adds 256. A room with less than a 128th of the traffic may be
    /// missing, and so may one with few messages: one batch of messages in 16 is looked at.
    ///
    /// ```
    /// # fn example<M: chat_core::Deliver + Clone + 'static>(hub: chat_broker::Hub<M>) {
    /// for room in hub.hottest_rooms(10) {
    ///     println!("{}: {:.0} messages a second", room.room, room.messages);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn hottest_rooms(&self, count: usize) -> Vec<RoomTraffic> {
        let hottest = self.shared.traffic.rooms.heaviest(count, now());
        let traffic = hottest.into_iter().map(|(room, [messages, deliveries, bytes])| {
            let members = self.members(&Topic::Room(room.clone())).len();
            RoomTraffic { room, members, messages, deliveries, bytes }
        });
        traffic.collect()
    }
}

/// By the clock of the runtime, which tests may stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
