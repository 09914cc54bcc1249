//! What one connection may use.

use std::time::Duration;

use super::cost::{Buckets, Cost, Resource, SharedBuckets, Wait};
use super::shares::{Part, RoomSlot};
use super::{Admission, Limits};

/// A connection's own buckets, and its parts in those that it shares.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    /// Given back with the connection.
    admission: Admission,
    user: Option<Part>,
    own: Buckets,
    /// As many times as much is allowed.
    factor: u32,
    reserved: Option<Box<Reservation>>,
}

/// What a connection has paid for before it may have it: a frame that was refused, and that the
/// client was asked to send again.
#[derive(Debug)]
struct Reservation {
    at: Duration,
    cost: Cost,
    /// What there was too little of: frames that need none of it are another matter.
    resource: Resource,
}

/// What a frame has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Charge {
    /// Before it is carried out, or refused.
    pub(crate) wait: Wait,
    /// It is refused: when it may come again.
    pub(crate) refused: Option<Wait>,
}

impl RateLimiter {
    pub(crate) fn new(admission: Admission) -> Self {
        Self { admission, user: None, own: Buckets::default(), factor: 1, reserved: None }
    }

    /// The connection is of a user who may have others.
    pub(crate) fn share_with(&mut self, user: Option<Part>) {
        self.user = user;
    }

    /// The connection may use `factor` times as much.
    pub(crate) fn set_factor(&mut self, factor: u32) {
        self.factor = factor.max(1);
    }

    pub(crate) fn factor(&self) -> u32 {
        self.factor
    }

    /// Takes `cost` from all buckets of the connection.
    ///
    /// A frame that would wait longer than [`LimitsConfig::max_wait`](super::LimitsConfig::max_wait)
    /// is refused, and its place is kept: if it comes again after that time, it has been paid for.
    /// The connection has one such place; the newest counts.
    pub(crate) fn take(&mut self, limits: &Limits, cost: Cost) -> Charge {
        if limits.has_no_rates {
            return Charge::default();
        }
        let (config, now) = (limits.config(), limits.now());
        let mut cost = cost;
        if let Some(reserved) = self.reserved.take_if(|kept| cost.of(kept.resource) > 0) {
            if now < reserved.at {
                // Early retries are refused at the pace of the connection's own rate.
                let wait =
                    self.own.take(&cost.of_any_frame(), &config.connection, self.factor, now);
                let (time, resource) = (reserved.at - now, reserved.resource);
                self.reserved = Some(reserved);
                let refused = Some(Wait { time, limit: "early_retry", resource });
                return Charge { wait, refused };
            }
            cost = cost.less(reserved.cost);
        }
        let own = self.own.take(&cost, &config.connection, self.factor, now);
        let wait = own.or(self.take_shared(limits, &cost, now));
        if wait.time > config.max_wait {
            let (at, resource) = (now + wait.time, wait.resource);
            self.reserved = Some(Box::new(Reservation { at, cost, resource }));
            return Charge { wait: Wait::default(), refused: Some(wait) };
        }
        Charge { wait, refused: None }
    }

    /// Takes what something has turned out to cost. The next frame of that kind waits for it.
    pub(crate) fn debit(&mut self, limits: &Limits, cost: Cost) {
        let now = limits.now();
        self.own.take(&cost, &limits.config().connection, self.factor, now);
        self.take_shared(limits, &cost, now);
    }

    /// A place among the rooms that the connections of the user may be in.
    ///
    /// # Errors
    /// There are as many as may be.
    pub(crate) fn room(&self, limits: &Limits) -> Result<Option<RoomSlot>, usize> {
        let max =
            limits.config().rooms_per_user.map(|max| max.saturating_mul(self.factor as usize));
        match (&self.user, max) {
            (Some(user), Some(max)) => user.room(max).map(Some).ok_or(max),
            _ => Ok(None),
        }
    }

    fn take_shared(&self, limits: &Limits, cost: &Cost, now: Duration) -> Wait {
        let (config, factor) = (limits.config(), self.factor);
        let take = |part: Option<&Part>, rates, names| {
            part.map_or(Wait::default(), |part| {
                part.buckets().take(cost, rates, factor, names, now)
            })
        };
        let user = take(self.user.as_ref(), &config.user, &SharedBuckets::OF_USER);
        let address = self.admission.address.as_ref();
        user.or(take(address, &config.address, &SharedBuckets::OF_ADDRESS))
    }
}

#[cfg(test)]
mod tests {
    use chat_core::UserId;

    use super::super::cost::Rates;
    use super::super::{LimitsConfig, Rate};
    use super::*;

    fn limits(user: Rate) -> Limits {
        let mut config = LimitsConfig::off();
        config.user = Rates { frames: Some(user), ..Rates::default() };
        Limits::new(config)
    }

    fn connection(limits: &Limits) -> RateLimiter {
        let mut limiter = RateLimiter::new(limits.admit(None).unwrap());
        limiter.share_with(limits.user(&UserId::new("ann").unwrap()));
        limiter
    }

    fn frames(count: usize) -> Cost {
        Cost::default().and(Resource::Frames, count)
    }

    #[test]
    fn refused_frame_is_paid_for_when_it_comes_back() {
        let limits = limits(Rate::new(100, 100));
        let (mut greedy, mut late) = (connection(&limits), connection(&limits));
        // An hour's worth: the clock of the test is real, and does not matter by then.
        let _ = greedy.take(&limits, frames(360_000));
        let refused = late.take(&limits, frames(1)).refused.unwrap();
        let again = late.take(&limits, frames(1)).refused.unwrap();
        assert!(again.time <= refused.time, "the place is kept: {again:?} after {refused:?}");
        let other = connection(&limits).take(&limits, frames(1)).refused.unwrap();
        assert!(other.time > again.time, "those who come later wait for longer");

        late.reserved.as_mut().unwrap().at = Duration::ZERO;
        assert_eq!(late.take(&limits, frames(1)), Charge::default(), "it was paid for");
        assert!(late.take(&limits, frames(1)).refused.is_some(), "once");
    }

    #[test]
    fn reservation_pays_for_no_more_than_was_asked() {
        let limits = limits(Rate::new(100, 100));
        let mut late = connection(&limits);
        let _ = connection(&limits).take(&limits, frames(360_000));
        assert!(late.take(&limits, frames(1)).refused.is_some());
        late.reserved.as_mut().unwrap().at = Duration::ZERO;
        assert!(late.take(&limits, frames(5)).refused.is_some(), "the other four are not paid for");
    }

    #[test]
    fn own_bucket_refuses_what_would_wait_long() {
        let mut config = LimitsConfig::off();
        let (frames, kept_bytes) = (Some(Rate::new(1000, 1000)), Some(Rate::new(1, 1)));
        config.connection = Rates { frames, kept_bytes, ..Rates::default() };
        let limits = Limits::new(config);
        let mut limiter = connection(&limits);
        let message = Cost::frame(10).and(Resource::Kept, 100);
        let refused = limiter.take(&limits, message).refused.unwrap();
        assert_eq!((refused.limit, refused.resource), ("connection_kept_bytes", Resource::Kept));
        // What needs nothing of it goes on, and does not use up the place.
        assert_eq!(limiter.take(&limits, Cost::frame(10)), Charge::default());
        assert_eq!(limiter.take(&limits, message).refused.unwrap().limit, "early_retry");
        limiter.reserved.as_mut().unwrap().at = Duration::ZERO;
        assert_eq!(limiter.take(&limits, Cost::frame(10)), Charge::default());
        assert_eq!(limiter.take(&limits, message), Charge::default(), "it was paid for");
    }

    #[test]
    fn factor_raises_every_rate() {
        let mut config = LimitsConfig::off();
        config.connection = Rates { frames: Some(Rate::new(1, 10)), ..Rates::default() };
        let limits = Limits::new(config);
        let mut bot = connection(&limits);
        bot.set_factor(3);
        assert_eq!(bot.take(&limits, frames(30)), Charge::default());
        assert!(!bot.take(&limits, frames(1)).wait.time.is_zero());
    }

    #[test]
    fn rooms_of_a_user_are_counted_over_connections() {
        let mut config = LimitsConfig::off();
        config.rooms_per_user = Some(2);
        let limits = Limits::new(config);
        let (one, other) = (connection(&limits), connection(&limits));
        let first = one.room(&limits).unwrap();
        let _second = other.room(&limits).unwrap();
        assert_eq!(one.room(&limits).unwrap_err(), 2);
        drop(first);
        assert!(other.room(&limits).is_ok());
    }
}
