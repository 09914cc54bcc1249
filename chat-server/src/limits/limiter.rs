//! The rate limits of one connection.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cost::{Buckets, Cost, Owner, Resource, Uncovered, Wait, longer};
use super::usage_by_key::{KeyPermit, RoomSlot};
use super::{ConnectionPermit, Limits, LimitsConfig, Rates};

/// A connection's own buckets, and its permits on those that it shares.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    /// Counts the connection.
    permit: ConnectionPermit,
    user: Option<KeyPermit>,
    own: Buckets,
    /// The limits in effect at the latest frame.
    config: Arc<LimitsConfig>,
    /// The number of these in [`Limits::replaced`].
    replaced: usize,
    has_no_rates: bool,
    /// Multiplies every rate.
    factor: u32,
    /// At most one for each resource.
    #[allow(clippy::box_collection, reason = "few connections have one, and all have the field")]
    reserved: Option<Box<Vec<Reservation>>>,
}

/// The charge of a rejected frame that the client was asked to send again: the retry is paid for.
#[derive(Debug)]
struct Reservation {
    /// When the retry is due.
    at: Duration,
    cost: Cost,
    /// The resource that the frame had to wait for longest.
    resource: Resource,
}

/// The outcome of charging a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Charge {
    /// The wait before the frame is carried out or rejected.
    pub(crate) wait: Option<Wait>,
    /// Why the frame is rejected.
    pub(crate) refused: Option<RateLimited>,
}

/// A frame whose wait exceeds [`LimitsConfig::max_wait`](super::LimitsConfig::max_wait).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimited {
    /// When the client may send the frame again.
    pub(crate) retry_after: Duration,
    /// The limit, as metrics name it.
    pub(crate) limit: &'static str,
}

impl RateLimiter {
    pub(crate) fn new(permit: ConnectionPermit, limits: &Limits) -> Self {
        let (replaced, config) = (limits.replaced.load(Ordering::Acquire), limits.config());
        Self {
            permit,
            user: None,
            own: Buckets::default(),
            has_no_rates: config.has_no_rates(),
            config,
            replaced,
            factor: 1,
            reserved: None,
        }
    }

    /// The limits in effect at the latest frame.
    pub(crate) fn config(&self) -> &LimitsConfig {
        &self.config
    }

    fn refresh(&mut self, limits: &Limits) {
        let replaced = limits.replaced.load(Ordering::Acquire);
        if replaced != self.replaced {
            self.replaced = replaced;
            self.replace_config(limits.config(), limits.now());
        }
    }

    /// The buckets keep their tokens. What reservations have paid is given back: their times are of the old
    /// rates, and a client would wait for them until then.
    #[cold]
    fn replace_config(&mut self, config: Arc<LimitsConfig>, now: Duration) {
        let old = mem::replace(&mut self.config, config);
        if *old == *self.config {
            return;
        }
        self.own.convert(&old.connection, &self.config.connection, now);
        for kept in *self.reserved.take().unwrap_or_default() {
            self.give_back(kept.cost);
        }
        self.has_no_rates = self.config.has_no_rates();
    }

    /// Shares the buckets of the user; `None` if users have no limits.
    pub(crate) fn share_with(&mut self, user: Option<KeyPermit>) {
        self.user = user;
    }

    /// Multiplies every rate of the connection by `factor`.
    pub(crate) fn set_factor(&mut self, factor: u32) {
        self.factor = factor.max(1);
    }

    pub(crate) fn factor(&self) -> u32 {
        self.factor
    }

    /// Takes `cost` from all buckets of the connection.
    ///
    /// A frame that would wait longer than [`LimitsConfig::max_wait`](super::LimitsConfig::max_wait)
    /// is rejected, and its charge is kept as a reservation: sent again after that time, the frame is
    /// paid for. A connection has one reservation for each resource. Buckets that others have overdrawn
    /// by twice `max_wait` give no reservations, which bounds the overdraft by clients that never retry.
    /// The time that the frame needs for itself, because it costs more than the burst, does not count
    /// there: it is the same at each attempt, and without a reservation the frame could never pass.
    ///
    /// Every frame waits for the connection's own rate of frames, also one that is rejected.
    pub(crate) fn take(&mut self, limits: &Limits, cost: Cost) -> Charge {
        self.refresh(limits);
        if self.has_no_rates {
            return Charge::default();
        }
        let (max_wait, now) = (self.config.max_wait, limits.now());
        let pace = self.take_frame(&cost, now);
        if self.reserved.is_none() && self.is_frame_only(&cost) {
            return Charge { wait: pace, refused: None };
        }
        let refused = |retry_after, limit| Charge {
            wait: pace,
            refused: Some(RateLimited { retry_after, limit }),
        };
        if let Some(retry_after) = self.time_to_retry(&cost, now) {
            return refused(retry_after, "early_retry");
        }
        let left = cost.less(&self.reserved_for(&cost));
        match self.take_rest(left, now) {
            Some(Uncovered { wait, behind }) if wait.time > max_wait => {
                if behind > 2 * max_wait {
                    self.give_back(left);
                } else {
                    let at = now + wait.time;
                    self.reserve(Reservation { at, cost: left, resource: wait.resource });
                }
                refused(wait.time, wait.limit())
            }
            uncovered => {
                self.use_up(&cost);
                let wait = uncovered.map(|uncovered| uncovered.wait);
                Charge { wait: longer(pace, wait), refused: None }
            }
        }
    }

    /// Takes `cost` of a frame that is never rejected and waits only for the connection's own rate of
    /// frames, such as a ping or a leave. It does not overdraw shared buckets: other connections would
    /// wait for a frame that did not wait itself.
    pub(crate) fn take_unrefused(&mut self, limits: &Limits, cost: Cost) -> Charge {
        self.refresh(limits);
        if self.has_no_rates {
            return Charge::default();
        }
        let now = limits.now();
        let wait = self.take_frame(&cost, now);
        if !self.is_frame_only(&cost) && self.take_rest(cost, now).is_some() {
            self.give_back(cost);
        }
        Charge { wait, refused: None }
    }

    /// Takes a cost that was unknown before. The next frame of that kind waits for it.
    pub(crate) fn debit(&mut self, limits: &Limits, cost: Cost) {
        self.take_rest(cost, limits.now());
    }

    /// Gives `cost` back, except to the connection's own rate of frames.
    pub(crate) fn give_back(&mut self, cost: Cost) {
        let rest = cost.besides_frame();
        self.own.refund(&rest, &self.config.connection, self.factor);
        for (permit, rates, owner) in self.shared() {
            permit.buckets().refund(&cost, rates, self.factor, owner);
        }
    }

    /// Counts a membership among the rooms of the user.
    ///
    /// # Errors
    /// The limit, if it is reached.
    pub(crate) fn room(&self) -> Result<Option<RoomSlot>, usize> {
        let max = self.config.rooms_per_user.map(|max| max.saturating_mul(self.factor as usize));
        match (&self.user, max) {
            (Some(user), Some(max)) => user.room(max).map(Some).ok_or(max),
            _ => Ok(None),
        }
    }

    /// Takes what every frame costs from the connection's own buckets.
    fn take_frame(&mut self, cost: &Cost, now: Duration) -> Option<Wait> {
        self.own.take_frame(cost, &self.config.connection, self.factor, now)
    }

    /// Whether [`take_frame`](Self::take_frame) takes all of this cost.
    fn is_frame_only(&self, cost: &Cost) -> bool {
        let is_alone = self.user.is_none() && self.permit.address.is_none();
        is_alone && cost.besides_frame().is_zero()
    }

    /// How long until the retry of a rejected frame with this cost is due.
    fn time_to_retry(&self, cost: &Cost, now: Duration) -> Option<Duration> {
        let needed = self.reservations().filter(|kept| cost.of(kept.resource) > 0);
        let left = needed.map(|kept| kept.at.saturating_sub(now)).max()?;
        (!left.is_zero()).then_some(left)
    }

    /// The reservations for frames of this kind.
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

    /// Removes the reservations for frames of this kind.
    fn use_up(&mut self, cost: &Cost) {
        if let Some(reserved) = &mut self.reserved {
            reserved.retain(|kept| cost.of(kept.resource) == 0);
            if reserved.is_empty() {
                self.reserved = None;
            }
        }
    }

    /// Takes `cost`, except what [`take_frame`](Self::take_frame) has taken; returns how long to wait
    /// until it is covered.
    fn take_rest(&mut self, cost: Cost, now: Duration) -> Option<Uncovered> {
        let rest = cost.besides_frame();
        let own = self.own.take(&rest, &self.config.connection, self.factor, now);
        let shared = self.shared().filter_map(|(permit, rates, owner)| {
            permit.buckets().take(&cost, rates, self.factor, owner, now)
        });
        own.into_iter().chain(shared).reduce(Uncovered::with)
    }

    /// The buckets that the connection shares, and their rates.
    fn shared(&self) -> impl Iterator<Item = (&KeyPermit, &Rates, Owner)> {
        let config = &self.config;
        let user = self.user.as_ref().map(|permit| (permit, &config.user, Owner::User));
        let address = self.permit.address.as_ref();
        let address = address.map(|permit| (permit, &config.address, Owner::Address));
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
        let mut limiter = RateLimiter::new(limits.admit(None).unwrap(), limits);
        limiter.share_with(limits.user(&UserId::new("ann").unwrap()));
        limiter
    }

    fn frames(count: usize) -> Cost {
        Cost::default().and(Resource::Frames, count)
    }

    #[test]
    fn retry_of_a_rejected_frame_is_paid_for() {
        let limits = limits(Rate::new(100, 100));
        let (mut greedy, mut late) = (connection(&limits), connection(&limits));
        // An hour's worth: the clock of the test is real, and does not matter by then.
        greedy.debit(&limits, frames(700));
        let refused = late.take(&limits, frames(1)).refused.unwrap();
        let again = late.take(&limits, frames(1)).refused.unwrap();
        assert!(again.retry_after <= refused.retry_after, "{again:?} after {refused:?}");
        assert_eq!(again.limit, "early_retry");

        make_due(&mut late);
        assert_eq!(late.take(&limits, frames(1)), Charge::default(), "paid for");
        assert!(late.take(&limits, frames(1)).refused.is_some(), "once");
    }

    /// Makes every reservation due.
    fn make_due(limiter: &mut RateLimiter) {
        limiter.reserved.as_mut().unwrap().iter_mut().for_each(|kept| kept.at = Duration::ZERO);
    }

    #[test]
    fn reservation_pays_for_the_rejected_cost_only() {
        let limits = limits(Rate::new(100, 100));
        let mut late = connection(&limits);
        connection(&limits).debit(&limits, frames(700));
        assert!(late.take(&limits, frames(1)).refused.is_some());
        make_due(&mut late);
        assert!(late.take(&limits, frames(5)).refused.is_some(), "the other four are not paid for");
    }

    /// By many connections that never retry.
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
    fn frame_that_costs_more_than_the_burst_passes_when_it_is_paid_for() {
        let limits = limits(Rate::new(100, 100));
        let mut client = connection(&limits);
        // 49 s for itself, far more than twice the longest wait.
        let refused = client.take(&limits, frames(5000)).refused.unwrap();
        assert!(refused.retry_after > Duration::from_secs(48), "{refused:?}");
        assert!(refused.retry_after <= Duration::from_secs(49), "{refused:?}");
        let early = client.take(&limits, frames(5000)).refused.unwrap();
        assert_eq!(early.limit, "early_retry");
        assert!(early.retry_after <= refused.retry_after, "{early:?} after {refused:?}");
        make_due(&mut client);
        assert_eq!(client.take(&limits, frames(5000)), Charge::default(), "paid for");

        // It is behind that one, and gets no reservation until the debt is paid.
        let mut other = connection(&limits);
        assert!(other.take(&limits, frames(5000)).refused.is_some());
        assert!(other.reserved.is_none(), "the overdraft is bounded");
    }

    #[test]
    fn exempt_frames_are_never_rejected() {
        let limits = limits(Rate::new(100, 100));
        let mut late = connection(&limits);
        connection(&limits).debit(&limits, frames(700));
        assert!(late.take(&limits, frames(1)).refused.is_some());
        assert_eq!(late.take_unrefused(&limits, frames(1)), Charge::default());
        make_due(&mut late);
        late.take_unrefused(&limits, frames(1));
        assert_eq!(late.take(&limits, frames(1)), Charge::default(), "the reservation is kept");
    }

    #[test]
    fn exempt_frames_do_not_overdraw_shared_buckets() {
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
    fn each_resource_has_its_own_reservation() {
        let limits = own(Rate::new(1000, 1000), Rate::new(10, 10), Rate::new(1, 1));
        let mut limiter = connection(&limits);
        let message = Cost::frame(10).and(Resource::Kept, 80);
        let ban = Cost::frame(10).and(Resource::Sanctions, 9);
        let refused =
            |limiter: &mut RateLimiter, cost| limiter.take(&limits, cost).refused.unwrap();
        assert_eq!(refused(&mut limiter, message).limit, "connection_kept_bytes");
        assert_eq!(refused(&mut limiter, ban).limit, "connection_sanctions");
        // A frame without these resources is admitted, and uses no reservation.
        assert_eq!(limiter.take(&limits, Cost::frame(10)), Charge::default());
        assert_eq!(refused(&mut limiter, message).limit, "early_retry");
        make_due(&mut limiter);
        for cost in [Cost::frame(10), message, ban] {
            assert_eq!(limiter.take(&limits, cost), Charge::default(), "paid for");
        }
    }

    #[test]
    fn rejected_frames_wait_for_the_rate_of_frames() {
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
    fn refund_can_be_taken_again() {
        let limits = own(Rate::new(1000, 1000), Rate::new(1, 100), Rate::new(1, 1));
        let mut limiter = connection(&limits);
        let room = Cost::default().and(Resource::Kept, 100);
        for _ in 0..10 {
            assert_eq!(limiter.take(&limits, room), Charge::default());
            limiter.give_back(room);
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
    fn replaced_rates_count_from_the_next_frame() {
        let limits = own(Rate::new(1, 1), Rate::new(1, 1), Rate::new(1, 1));
        let mut limiter = connection(&limits);
        assert_eq!(limiter.take(&limits, frames(1)), Charge::default());
        assert!(limiter.take(&limits, frames(1)).wait.is_some());
        let mut config = LimitsConfig::off();
        limits.replace(config.clone());
        assert_eq!(limiter.take(&limits, frames(1000)), Charge::default());
        config.connection = Rates { frames: Some(Rate::new(1, 10)), ..Rates::default() };
        limits.replace(config);
        assert!(limiter.take(&limits, frames(100)).wait.is_some());
    }

    #[test]
    fn higher_rates_free_a_client_at_once() {
        let with = |rate: Rate| {
            let mut config = LimitsConfig::off();
            config.connection = Rates { frames: Some(rate), joins: Some(rate), ..Rates::default() };
            config.user = config.connection.clone();
            config.address = config.connection.clone();
            config
        };
        let limits = Limits::new(with(Rate::new(1, 300)));
        let address = Some("10.0.0.1".parse().unwrap());
        let mut limiter = RateLimiter::new(limits.admit(address).unwrap(), &limits);
        limiter.share_with(limits.user(&UserId::new("ann").unwrap()));
        let join = Cost::frame(1).and(Resource::Joins, 1);
        for _ in 0..280 {
            assert_eq!(limiter.take(&limits, join), Charge::default());
        }
        limits.replace(with(Rate::new(100, 300)));
        assert_eq!(limiter.take(&limits, join), Charge::default(), "20 were left");

        limits.replace(with(Rate::new(1, 1)));
        while limiter.take(&limits, join).refused.is_none() {}
        limits.replace(with(Rate::new(1000, 1000)));
        let charge = limiter.take(&limits, join);
        assert_eq!(charge.refused, None, "the reservation of the old rate");
    }

    #[test]
    fn rooms_of_a_user_are_counted_over_connections() {
        let mut config = LimitsConfig::off();
        config.rooms_per_user = Some(2);
        let limits = Limits::new(config);
        let (one, other) = (connection(&limits), connection(&limits));
        let first = one.room().unwrap();
        let _second = other.room().unwrap();
        assert_eq!(one.room().unwrap_err(), 2);
        drop(first);
        assert!(other.room().is_ok());
    }
}
