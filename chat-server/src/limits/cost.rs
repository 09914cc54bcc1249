//! What the things cost that a client can do, and what pays for them.

use std::time::Duration;

use super::rate::{Bucket, Rate, SharedBucket};

/// What is limited. Each has a bucket per connection, per user and per address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Resource {
    /// Frames received: the server's CPU.
    #[default]
    Frames,
    /// Bytes of frames received: the bandwidth of the members who get them.
    Received,
    /// Bytes of answers, other than short ones: the server's CPU, and Redis' for pages that the
    /// server does not hold.
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

/// How much of each [`Resource`] something takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cost([u64; Resource::COUNT]);

impl Cost {
    /// Of any frame of so many bytes.
    pub(crate) fn frame(bytes: usize) -> Self {
        Self::default().and(Resource::Frames, 1).and(Resource::Received, bytes)
    }

    /// This, and so much of `resource`.
    pub(crate) fn and(mut self, resource: Resource, amount: usize) -> Self {
        self.0[resource as usize] += amount as u64;
        self
    }

    pub(crate) fn of(&self, resource: Resource) -> u64 {
        self.0[resource as usize]
    }

    /// The part of it that every frame has.
    pub(crate) fn of_any_frame(&self) -> Self {
        let mut part = Self::default();
        for resource in [Resource::Frames, Resource::Received] {
            part.0[resource as usize] = self.of(resource);
        }
        part
    }

    /// What is left of it when so much is paid.
    pub(crate) fn less(mut self, paid: Self) -> Self {
        for (left, paid) in self.0.iter_mut().zip(paid.0) {
            *left = left.saturating_sub(paid);
        }
        self
    }
}

/// Rates of each resource, for one connection, one user or one address. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Rates {
    /// Frames received.
    pub frames: Option<Rate>,
    /// Bytes of frames received.
    pub received_bytes: Option<Rate>,
    /// Bytes of answers that may be large: `joined`, `members` and `history`. A page that is
    /// read from Redis counts twice.
    pub answer_bytes: Option<Rate>,
    /// Bytes that messages take in Redis: 5,600 for a room that is new there; for each message its
    /// text, its data, the names in it and 60; for its key 200, and its names as they are encoded.
    /// In a room that the connection is in, messages count until they come to the room's
    /// [`Retention::bytes`](chat_core::Retention::bytes): from there on they replace others.
    pub kept_bytes: Option<Rate>,
    /// Joins.
    pub joins: Option<Rate>,
    /// Kicks, bans and unbans.
    pub sanctions: Option<Rate>,
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

/// In how long a cost is covered, and which limit makes it so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wait {
    pub(crate) time: Duration,
    /// As metrics name it.
    pub(crate) limit: &'static str,
    /// What there is too little of.
    pub(crate) resource: Resource,
}

impl Wait {
    /// The longer of two.
    pub(crate) fn or(self, other: Self) -> Self {
        if other.time > self.time { other } else { self }
    }
}

/// Takes a cost from several buckets with `take`, each by its rate; returns the longest wait.
fn take_each(
    cost: &Cost,
    rates: &Rates,
    factor: u32,
    names: &[&'static str; Resource::COUNT],
    mut take: impl FnMut(usize, Rate, u64) -> Duration,
) -> Wait {
    let mut wait = Wait::default();
    for resource in Resource::ALL {
        let (nth, amount) = (resource as usize, cost.of(resource));
        if amount > 0
            && let Some(rate) = rates.of(resource)
        {
            let time = take(nth, rate.times(factor), amount);
            wait = wait.or(Wait { time, limit: names[nth], resource });
        }
    }
    wait
}

impl Buckets {
    /// The names of the limits, as metrics give them.
    const NAMES: [&str; Resource::COUNT] = [
        "connection_frames",
        "connection_received_bytes",
        "connection_answer_bytes",
        "connection_kept_bytes",
        "connection_joins",
        "connection_sanctions",
    ];

    /// Takes `cost`; with a `factor` above 1 all rates are as many times as high.
    pub(crate) fn take(&mut self, cost: &Cost, rates: &Rates, factor: u32, now: Duration) -> Wait {
        let take = |nth: usize, rate, amount| self.0[nth].take(rate, amount, now);
        take_each(cost, rates, factor, &Self::NAMES, take)
    }
}

impl SharedBuckets {
    /// The names of the limits of a user.
    pub(crate) const OF_USER: [&str; Resource::COUNT] = [
        "user_frames",
        "user_received_bytes",
        "user_answer_bytes",
        "user_kept_bytes",
        "user_joins",
        "user_sanctions",
    ];

    /// The names of the limits of an address.
    pub(crate) const OF_ADDRESS: [&str; Resource::COUNT] = [
        "address_frames",
        "address_received_bytes",
        "address_answer_bytes",
        "address_kept_bytes",
        "address_joins",
        "address_sanctions",
    ];

    /// As [`Buckets::take`].
    pub(crate) fn take(
        &self,
        cost: &Cost,
        rates: &Rates,
        factor: u32,
        names: &[&'static str; Resource::COUNT],
        now: Duration,
    ) -> Wait {
        let take = |nth: usize, rate, amount| self.0[nth].take(rate, amount, now);
        take_each(cost, rates, factor, names, take)
    }

    /// Whether nothing is missing: new ones are the same.
    pub(crate) fn are_full(&self, now: Duration) -> bool {
        self.0.iter().all(|bucket| bucket.is_full(now))
    }
}
