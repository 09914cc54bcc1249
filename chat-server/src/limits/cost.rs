//! The cost of frames, and the buckets that pay for it.

use std::time::Duration;

use super::rate::{Bucket, Rate, SharedBucket};
use crate::setters::setters;

/// A limited resource. Each has a bucket per connection, per user and per address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Frames received: the server's CPU.
    Frames,
    /// Bytes of frames received: the bandwidth of the members that receive them.
    Received,
    /// Bytes of large answers: the server's CPU, and that of Redis for pages that the server does not
    /// have in memory.
    Answered,
    /// Bytes added to Redis' memory.
    Kept,
    /// Joins: commands to Redis, and events to all members.
    Joins,
    /// Kicks, bans and unbans: records that all servers hold, and lines in the log.
    Sanctions,
}

impl Resource {
    pub(crate) const COUNT: usize = 6;

    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::Frames, Self::Received, Self::Answered, Self::Kept, Self::Joins, Self::Sanctions];
}

/// An amount of each [`Resource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cost([u64; Resource::COUNT]);

impl Cost {
    /// The cost that every frame of `bytes` bytes has.
    pub(crate) fn frame(bytes: usize) -> Self {
        Self::default().and(Resource::Frames, 1).and(Resource::Received, bytes)
    }

    /// Adds `amount` of `resource`.
    pub(crate) fn and(mut self, resource: Resource, amount: usize) -> Self {
        self.0[resource as usize] += amount as u64;
        self
    }

    pub(crate) fn of(&self, resource: Resource) -> u64 {
        self.0[resource as usize]
    }

    /// The cost without the part that every frame has.
    pub(crate) fn besides_frame(mut self) -> Self {
        for resource in [Resource::Frames, Resource::Received] {
            self.0[resource as usize] = 0;
        }
        self
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0 == [0; Resource::COUNT]
    }

    /// The sum of both.
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        for (sum, other) in self.0.iter_mut().zip(other.0) {
            *sum += other;
        }
        self
    }

    /// What remains when `paid` is paid.
    pub(crate) fn less(mut self, paid: &Self) -> Self {
        for (left, paid) in self.0.iter_mut().zip(paid.0) {
            *left = left.saturating_sub(paid);
        }
        self
    }

    /// The resources with an amount above 0.
    fn parts(&self) -> impl Iterator<Item = (Resource, u64)> {
        let all = Resource::ALL.into_iter().zip(self.0);
        all.filter(|(_, amount)| *amount > 0)
    }
}

/// Rates for one connection, one user or one address. `None` is no limit, and the default of each.
///
/// ```
/// use chat_server::{Rate, Rates};
///
/// let rates = Rates::default().frames(Some(Rate::new(50, 300))).joins(Some(Rate::new(10, 100)));
/// assert_eq!(rates.received_bytes, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Rates {
    /// Frames received from clients.
    pub frames: Option<Rate>,
    /// Bytes of frames received from clients.
    pub received_bytes: Option<Rate>,
    /// Bytes of answers that may be large: `joined`, `members` and `history`. A page that is
    /// read from Redis counts twice.
    pub answer_bytes: Option<Rate>,
    /// Bytes that messages take in Redis: 1,600 for a room that is new there; for each message its
    /// text, its data, the names in it and 60; for its key 200, and its names as they are encoded.
    /// In a room that the connection is in, messages count until they add up to the room's
    /// [`Retention::bytes`](chat_core::Retention::bytes): from there on they replace others.
    pub kept_bytes: Option<Rate>,
    /// Joins of rooms.
    pub joins: Option<Rate>,
    /// Kicks, bans and unbans.
    pub sanctions: Option<Rate>,
}

setters! {
    Rates {
        frames: Option<Rate>,
        received_bytes: Option<Rate>,
        answer_bytes: Option<Rate>,
        kept_bytes: Option<Rate>,
        joins: Option<Rate>,
        sanctions: Option<Rate>,
    }
}

impl Rates {
    pub(crate) fn of(&self, resource: Resource) -> Option<Rate> {
        match resource {
            Resource::Frames => self.frames,
            Resource::Received => self.received_bytes,
            Resource::Answered => self.answer_bytes,
            Resource::Kept => self.kept_bytes,
            Resource::Joins => self.joins,
            Resource::Sanctions => self.sanctions,
        }
    }

    pub(crate) fn is_unlimited(&self) -> bool {
        Resource::ALL.iter().all(|resource| self.of(*resource).is_none())
    }
}

/// The buckets of a connection.
#[derive(Debug, Default)]
pub(crate) struct Buckets([Bucket; Resource::COUNT]);

/// The buckets that the connections of a user, or of an address, share.
#[derive(Debug, Default)]
pub(crate) struct SharedBuckets([SharedBucket; Resource::COUNT]);

/// How long a cost is not covered, and by which bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) time: Duration,
    pub(crate) resource: Resource,
    /// The owner of the bucket.
    pub(crate) owner: Owner,
}

/// Whose buckets a cost is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Connection,
    User,
    Address,
}

impl Wait {
    /// Every limit that a client can wait for, as metrics name it.
    pub(crate) fn limits() -> impl Iterator<Item = &'static str> {
        let owners = [Owner::Connection, Owner::User, Owner::Address].into_iter();
        owners.flat_map(|owner| {
            let wait = move |resource| Self { time: Duration::ZERO, resource, owner };
            Resource::ALL.into_iter().map(move |resource| wait(resource).limit())
        })
    }

    /// The limit, as metrics name it.
    pub(crate) fn limit(&self) -> &'static str {
        use Owner::{Address, Connection, User};
        match (self.owner, self.resource) {
            (Connection, Resource::Frames) => "connection_frames",
            (Connection, Resource::Received) => "connection_received_bytes",
            (Connection, Resource::Answered) => "connection_answer_bytes",
            (Connection, Resource::Kept) => "connection_kept_bytes",
            (Connection, Resource::Joins) => "connection_joins",
            (Connection, Resource::Sanctions) => "connection_sanctions",
            (User, Resource::Frames) => "user_frames",
            (User, Resource::Received) => "user_received_bytes",
            (User, Resource::Answered) => "user_answer_bytes",
            (User, Resource::Kept) => "user_kept_bytes",
            (User, Resource::Joins) => "user_joins",
            (User, Resource::Sanctions) => "user_sanctions",
            (Address, Resource::Frames) => "address_frames",
            (Address, Resource::Received) => "address_received_bytes",
            (Address, Resource::Answered) => "address_answer_bytes",
            (Address, Resource::Kept) => "address_kept_bytes",
            (Address, Resource::Joins) => "address_joins",
            (Address, Resource::Sanctions) => "address_sanctions",
        }
    }
}

/// The longer of two waits.
pub(crate) fn longer(one: Option<Wait>, other: Option<Wait>) -> Option<Wait> {
    match (one, other) {
        (Some(one), Some(other)) if other.time > one.time => Some(other),
        (Some(one), _) => Some(one),
        (None, other) => other,
    }
}

/// How long a cost is not covered by several buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uncovered {
    /// The longest wait.
    pub(crate) wait: Wait,
    /// The longest time without what the cost needs for itself: one larger than the burst waits even if
    /// the bucket is full.
    pub(crate) behind: Duration,
}

impl Uncovered {
    /// Both, in other buckets.
    pub(crate) fn with(self, other: Self) -> Self {
        let wait = if other.wait.time > self.wait.time { other.wait } else { self.wait };
        Self { wait, behind: self.behind.max(other.behind) }
    }
}

/// Calls `each` for every resource of a cost that has a rate; returns how long it is not covered.
fn longest_of(
    cost: &Cost,
    rates: &Rates,
    factor: u32,
    owner: Owner,
    mut each: impl FnMut(usize, Rate, u64) -> Duration,
) -> Option<Uncovered> {
    let mut longest: Option<Uncovered> = None;
    for (resource, amount) in cost.parts() {
        if let Some(rate) = rates.of(resource) {
            let rate = rate.times(factor);
            let time = each(resource as usize, rate, amount);
            if !time.is_zero() {
                let wait = Wait { time, resource, owner };
                let behind = time.saturating_sub(rate.beyond_burst(amount));
                let uncovered = Uncovered { wait, behind };
                longest = Some(longest.map_or(uncovered, |longest| longest.with(uncovered)));
            }
        }
    }
    longest
}

impl Buckets {
    /// Takes `cost`, and returns how long to wait until it is covered. `factor` multiplies the rates.
    pub(crate) fn take(
        &mut self,
        cost: &Cost,
        rates: &Rates,
        factor: u32,
        now: Duration,
    ) -> Option<Uncovered> {
        longest_of(cost, rates, factor, Owner::Connection, |nth, rate, amount| {
            self.0[nth].take(rate, amount, now)
        })
    }

    /// As [`take`](Self::take), of the part that every frame has. On the hot path.
    pub(crate) fn take_frame(
        &mut self,
        cost: &Cost,
        rates: &Rates,
        factor: u32,
        now: Duration,
    ) -> Option<Wait> {
        let mut take = |resource, rate: Option<Rate>| {
            let (rate, amount) = (rate?, cost.of(resource));
            let rate = if factor == 1 { rate } else { rate.times(factor) };
            let time = self.0[resource as usize].take(rate, amount, now);
            (!time.is_zero()).then_some(Wait { time, resource, owner: Owner::Connection })
        };
        let frames = take(Resource::Frames, rates.frames);
        longer(frames, take(Resource::Received, rates.received_bytes))
    }

    /// Gives `cost` back.
    pub(crate) fn refund(&mut self, cost: &Cost, rates: &Rates, factor: u32) {
        longest_of(cost, rates, factor, Owner::Connection, |nth, rate, amount| {
            self.0[nth].refund(rate, amount);
            Duration::ZERO
        });
    }

    /// Keeps the tokens when the rates are replaced.
    pub(crate) fn convert(&mut self, old: &Rates, new: &Rates, now: Duration) {
        for (resource, bucket) in Resource::ALL.into_iter().zip(&mut self.0) {
            bucket.convert(old.of(resource), new.of(resource), now);
        }
    }
}

impl SharedBuckets {
    /// As [`Buckets::take`].
    pub(crate) fn take(
        &self,
        cost: &Cost,
        rates: &Rates,
        factor: u32,
        owner: Owner,
        now: Duration,
    ) -> Option<Uncovered> {
        longest_of(cost, rates, factor, owner, |nth, rate, amount| {
            self.0[nth].take(rate, amount, now)
        })
    }

    /// As [`Buckets::refund`].
    pub(crate) fn refund(&self, cost: &Cost, rates: &Rates, factor: u32, owner: Owner) {
        longest_of(cost, rates, factor, owner, |nth, rate, amount| {
            self.0[nth].refund(rate, amount);
            Duration::ZERO
        });
    }

    /// As [`Buckets::convert`].
    pub(crate) fn convert(&self, old: &Rates, new: &Rates, now: Duration) {
        for (resource, bucket) in Resource::ALL.into_iter().zip(&self.0) {
            bucket.convert(old.of(resource), new.of(resource), now);
        }
    }

    /// Whether all are full, as new ones are.
    pub(crate) fn are_full(&self, now: Duration) -> bool {
        self.0.iter().all(|bucket| bucket.is_full(now))
    }
}
