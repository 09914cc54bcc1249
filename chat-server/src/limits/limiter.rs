//! What one connection may use.

use std::time::Duration;

use super::cost::{Buckets, Cost, Owner, Resource, Wait, longer};
use super::usage_by_key::{KeyPermit, RoomSlot};
use super::{ConnectionPermit, Limits, Rates};

/// A connection's own buckets, and its parts in those that it shares.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    /// Given back with the connection.
    permit: ConnectionPermit,
    user: Option<KeyPermit>,
    own: Buckets,
    /// As many times as much is allowed.
    factor: u32,
    /// One for each resource at most.
    #[allow(clippy::box_collection, reason = "few connections have one, and all have the field")]
    reserved: Option<Box<Vec<Reservation>>>,
}

/// What a connection has paid for before it may have it: a frame that was refused, and that the
/// client was asked to send again.
#[derive(Debug)]
struct Reservation {
    at: Duration,
    cost: Cost,
    /// What there was too little of.
    resource: Resource,
}

/// What a frame has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Charge {
    /// Before it is carried out, or refused.
    pub(crate) wait: Option<Wait>,
    pub(crate) refused: Option<Refusal>,
}

/// A frame would wait for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// When it may come again.
    pub(crate) retry_after: Duration,
    /// As metrics name it.
    pub(crate) limit: &'static str,
}

impl RateLimiter {
    pub(crate) fn new(permit: ConnectionPermit) -> Self {
        Self { permit, user: None, own: Buckets::default(), factor: 1, reserved: None }
    }

    /// The connection is of a user who may have others.
    pub(crate) fn share_with(&mut self, user: Option<KeyPermit>) {
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
    /// The connection has one place for each resource. No place is kept in buckets that are
    /// overdrawn by twice that time, so that what was reserved and never used ends soon.
    ///
    /// Any frame waits for the connection's own rate of frames, also one that is refused.
    pub(crate) fn take(&mut self, limits: &Limits, cost: Cost) -> Charge {
        if limits.has_no_rates {
            return Charge::default();
        }
        let (max_wait, now) = (limits.config().max_wait, limits.now());
        let pace = self.take_frame(limits, &cost, now);
        if self.reserved.is_none() && self.has_nothing_else(&cost) {
            return Charge { wait: pace, refused: None };
        }
        let refused = |retry_after, limit| Charge {
            wait: pace,
            refused: Some(Refusal { retry_after, limit }),
        };
        if let Some(retry_after) = self.too_early(&cost, now) {
            return refused(retry_after, "early_retry");
        }
        let left = cost.less(&self.reserved_for(&cost));
        match self.take_rest(limits, left, now) {
            Some(wait) if wait.time > max_wait => {
                if wait.time > 2 * max_wait {
                    self.give_back(limits, left);
                } else {
                    let at = now + wait.time;
                    self.reserve(Reservation { at, cost: left, resource: wait.resource });
                }
                refused(wait.time, wait.limit())
            }
            wait => {
                self.use_up(&cost);
                Charge { wait: longer(pace, wait), refused: None }
            }
        }
    }

    /// Takes `cost` of a frame that is never refused and waits for nothing but the connection's own
    /// rate of frames: a ping, or the end of something. It never overdraws a bucket: others who
    /// share it would wait for a frame that did not.
    pub(crate) fn take_unrefused(&mut self, limits: &Limits, cost: Cost) -> Charge {
        if limits.has_no_rates {
            return Charge::default();
        }
        let now = limits.now();
        let wait = self.take_frame(limits, &cost, now);
        if !self.has_nothing_else(&cost) && self.take_rest(limits, cost, now).is_some() {
            self.give_back(limits, cost);
        }
        Charge { wait, refused: None }
    }

    /// Takes what something has turned out to cost. The next frame of that kind waits for it.
    pub(crate) fn debit(&mut self, limits: &Limits, cost: Cost) {
        self.take_rest(limits, cost, limits.now());
    }

    /// Gives back what something did not cost, but for the connection's own rate of frames.
    pub(crate) fn give_back(&mut self, limits: &Limits, cost: Cost) {
        let rest = cost.besides_frame();
        self.own.refund(&rest, &limits.config().connection, self.factor);
        for (part, rates, owner) in self.shared(limits) {
            part.buckets().refund(&cost, rates, self.factor, owner);
        }
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

    /// Takes what every frame costs from the connection's own buckets.
    fn take_frame(&mut self, limits: &Limits, cost: &Cost, now: Duration) -> Option<Wait> {
        self.own.take_frame(cost, &limits.config().connection, self.factor, now)
    }

    /// Whether a frame with this cost is done with when that is taken.
    fn has_nothing_else(&self, cost: &Cost) -> bool {
        let is_alone = self.user.is_none() && self.permit.address.is_none();
        is_alone && cost.besides_frame().is_zero()
    }

    /// How long it is until a frame with this cost may come that was refused before.
    fn too_early(&self, cost: &Cost, now: Duration) -> Option<Duration> {
        let needed = self.reservations().filter(|kept| cost.of(kept.resource) > 0);
        let left = needed.map(|kept| kept.at.saturating_sub(now)).max()?;
        (!left.is_zero()).then_some(left)
    }

    /// What has been paid for frames of this kind.
    fn reserved_for(&self, cost: &Cost) -> Cost {
        let needed = self.reservations().filter(|kept| cost.of(kept.resource) > 0);
        needed.fold(Cost::default(), |paid, kept| paid.plus(&kept.cost))
    }

    fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.reserved.iter().flat_map(|reserved| reserved.iter())
    }

    fn reserve(&mut self, reservation: Reservation) {
        let reserved = self.reserved.get_or_insert_default();
        reserved.retain(|kept| kept.resource != reservation.resource);
        reserved.push(reservation);
    }

    /// The reservations of frames of this kind have served.
    fn use_up(&mut self, cost: &Cost) {
        if let Some(reserved) = &mut self.reserved {
            reserved.retain(|kept| cost.of(kept.resource) == 0);
            if reserved.is_empty() {
                self.reserved = None;
            }
        }
    }

    /// Takes `cost`, but for what the connection's own rate of frames has given already; returns how
    /// long to wait until it is covered.
    fn take_rest(&mut self, limits: &Limits, cost: Cost, now: Duration) -> Option<Wait> {
        let rest = cost.besides_frame();
        let own = self.own.take(&rest, &limits.config().connection, self.factor, now);
        self.shared(limits).fold(own, |wait, (part, rates, owner)| {
            longer(wait, part.buckets().take(&cost, rates, self.factor, owner, now))
        })
    }

    /// The buckets that the connection shares, and their rates.
    fn shared<'a>(
        &'a self,
        limits: &'a Limits,
    ) -> impl Iterator<Item = (&'a KeyPermit, &'a Rates, Owner)> {
        let config = limits.config();
        let user = self.user.as_ref().map(|part| (part, &config.user, Owner::User));
        let address = self.permit.address.as_ref();
        let address = address.map(|part| (part, &config.address, Owner::Address));
        user.into_iter().chain(address)
    }
}

#[cfg(test)]
mod tests {
    use chat_core::UserId;

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
        greedy.debit(&limits, frames(700));
        let refused = late.take(&limits, frames(1)).refused.unwrap();
        let again = late.take(&limits, frames(1)).refused.unwrap();
        assert!(again.retry_after <= refused.retry_after, "{again:?} after {refused:?}");
        assert_eq!(again.limit, "early_retry");

        ripen(&mut late);
        assert_eq!(late.take(&limits, frames(1)), Charge::default(), "it was paid for");
        assert!(late.take(&limits, frames(1)).refused.is_some(), "once");
    }

    /// The time of all reservations has come.
    fn ripen(limiter: &mut RateLimiter) {
        limiter.reserved.as_mut().unwrap().iter_mut().for_each(|kept| kept.at = Duration::ZERO);
    }

    #[test]
    fn reservation_pays_for_no_more_than_was_asked() {
        let limits = limits(Rate::new(100, 100));
        let mut late = connection(&limits);
        connection(&limits).debit(&limits, frames(700));
        assert!(late.take(&limits, frames(1)).refused.is_some());
        ripen(&mut late);
        assert!(late.take(&limits, frames(5)).refused.is_some(), "the other four are not paid for");
    }

    /// However many connections ask and never come back.
    #[test]
    fn overdraft_is_bounded() {
        let limits = limits(Rate::new(100, 100));
        for _ in 0..10_000 {
            let charge = connection(&limits).take(&limits, frames(10));
            let longest = charge.refused.map_or(Duration::ZERO, |refused| refused.retry_after);
            assert!(longest < Duration::from_secs(11), "{longest:?}");
        }
    }

    #[test]
    fn ends_and_pings_are_never_refused() {
        let limits = limits(Rate::new(100, 100));
        let mut late = connection(&limits);
        connection(&limits).debit(&limits, frames(700));
        assert!(late.take(&limits, frames(1)).refused.is_some());
        assert_eq!(late.take_unrefused(&limits, frames(1)), Charge::default());
        ripen(&mut late);
        late.take_unrefused(&limits, frames(1));
        assert_eq!(late.take(&limits, frames(1)), Charge::default(), "the place is still there");
    }

    #[test]
    fn pings_do_not_overdraw_what_others_share() {
        let limits = limits(Rate::new(100, 100));
        for _ in 0..10_000 {
            connection(&limits).take_unrefused(&limits, frames(1));
        }
        let wait = connection(&limits).take(&limits, frames(1)).wait;
        assert!(wait.is_none_or(|wait| wait.time < Duration::from_millis(20)), "{wait:?}");
    }

    fn own(frames: Rate, kept_bytes: Rate, sanctions: Rate) -> Limits {
        let mut config = LimitsConfig::off();
        let (kept_bytes, sanctions) = (Some(kept_bytes), Some(sanctions));
        config.connection =
            Rates { frames: Some(frames), kept_bytes, sanctions, ..Rates::default() };
        Limits::new(config)
    }

    #[test]
    fn each_resource_has_a_place_of_its_own() {
        let limits = own(Rate::new(1000, 1000), Rate::new(10, 10), Rate::new(1, 1));
        let mut limiter = connection(&limits);
        let message = Cost::frame(10).and(Resource::Kept, 80);
        let ban = Cost::frame(10).and(Resource::Sanctions, 9);
        let refused =
            |limiter: &mut RateLimiter, cost| limiter.take(&limits, cost).refused.unwrap();
        assert_eq!(refused(&mut limiter, message).limit, "connection_kept_bytes");
        assert_eq!(refused(&mut limiter, ban).limit, "connection_sanctions");
        // What needs nothing of them goes on, and uses up no place.
        assert_eq!(limiter.take(&limits, Cost::frame(10)), Charge::default());
        assert_eq!(refused(&mut limiter, message).limit, "early_retry");
        ripen(&mut limiter);
        for cost in [Cost::frame(10), message, ban] {
            assert_eq!(limiter.take(&limits, cost), Charge::default(), "it was paid for");
        }
    }

    /// Refused or not, of one kind or of several: all wait for the rate of frames.
    #[test]
    fn refusals_come_at_the_rate_of_frames() {
        let limits = own(Rate::new(10, 10), Rate::new(1, 1), Rate::new(1, 1));
        let mut limiter = connection(&limits);
        let (kept, sanctions) = (Resource::Kept, Resource::Sanctions);
        for resource in [kept, sanctions].into_iter().cycle().take(100) {
            let charge = limiter.take(&limits, Cost::frame(1).and(resource, 100));
            assert!(charge.refused.is_some());
        }
        let wait = limiter.take(&limits, Cost::frame(1)).wait.unwrap();
        assert!(wait.time > Duration::from_secs(8), "{wait:?}");
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let limits = own(Rate::new(1000, 1000), Rate::new(1, 100), Rate::new(1, 1));
        let mut limiter = connection(&limits);
        let room = Cost::default().and(Resource::Kept, 100);
        for _ in 0..10 {
            assert_eq!(limiter.take(&limits, room), Charge::default());
            limiter.give_back(&limits, room);
        }
    }

    #[test]
    fn factor_raises_every_rate() {
        let mut config = LimitsConfig::off();
        config.connection = Rates { frames: Some(Rate::new(1, 10)), ..Rates::default() };
        let limits = Limits::new(config);
        let mut bot = connection(&limits);
        bot.set_factor(3);
        assert_eq!(bot.take(&limits, frames(30)), Charge::default());
        assert!(bot.take(&limits, frames(1)).wait.is_some());
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
