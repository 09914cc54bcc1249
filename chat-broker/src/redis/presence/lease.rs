//! The lease of this node in Redis.
//!
//! If a node does not renew its lease, other nodes remove its occupants. A node that has lost its
//! lease (it was paused, or Redis was flushed) registers under a new name and sends all joins
//! again; so it does when Redis is another process, which may have restarted with older data. The
//! lease of the former name expires after that, so no leave is announced, and no failure is logged.
//!
//! A node expires the leases of others only after it has renewed its own steadily for as long as
//! one lasts: after an outage of Redis, all nodes have the time to renew theirs.

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, RedisResult};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Presence;
use crate::redis::connection::{Link, PING_INTERVAL};
use crate::redis::error::{is_refusal, was_unknown_script};
use crate::redis::health::ConnectionHealth;
use crate::redis::names;
use crate::redis::shared::Shared;

/// A lease further ahead than this, and than the lease and the grace of this node, is cut to the
/// longest of the three: Redis' clock was set back. A node that runs with a longer lease renews it
/// each second, and loses nothing. A node that is closing stops renewing, and its last lease is its
/// grace: a node with a shorter grace may cut that, so nodes that share a Redis need the same
/// grace.
const LONGEST_LEASE: Duration = Duration::from_secs(10);

/// Keeps the lease of this node, on a connection of its own.
pub(crate) struct LeaseTask {
    shared: Arc<Shared>,
    presence: Arc<Presence>,
    /// The reaper's queue: nodes whose lease has expired.
    expired: mpsc::Sender<ExpiredNodes>,
    link: Option<Link>,
    was_connected: bool,
    health: ConnectionHealth,
    node: Arc<str>,
    /// How many names of this node have lost their lease.
    lost: u32,
    /// The name of this node before it lost its lease, until Redis has it: the next renewal sends
    /// it, so that the occupants under it expire. Without that, nothing would find them.
    previous: Option<Arc<str>>,
    /// The node has a lease.
    has_lease: bool,
    monitor: LeaseMonitor,
}

impl LeaseTask {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        presence: &Arc<Presence>,
        expired: mpsc::Sender<ExpiredNodes>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            presence: Arc::clone(presence),
            expired,
            link: None,
            was_connected: false,
            health: shared.health.connection(),
            node: names::leaseholder(&shared.node, 0).into(),
            lost: 0,
            previous: None,
            has_lease: false,
            monitor: LeaseMonitor::new(shared.config.lease),
        }
    }

    /// Renews until `released`, as often as other connections are probed: the renewal is this
    /// connection's probe.
    pub(crate) async fn run(mut self, mut released: watch::Receiver<bool>) {
        let mut tick = interval((self.shared.config.lease / 4).min(PING_INTERVAL));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = released.wait_for(|released| *released) => break,
                _ = tick.tick() => {}
                () = self.presence.check_lease.notified() => {}
            }
            if self.presence.take_changed() {
                self.reregister();
            }
            self.try_to_renew().await;
        }
        if let Err(error) = self.release().await {
            tracing::debug!(%error, "lease not released, it will expire");
        }
    }

    /// Renews, a second time on a new connection if the old one may have broken since its last use:
    /// a lease should not lose a tick to that.
    async fn try_to_renew(&mut self) {
        let was_connected = self.link.is_some();
        let mut outcome = self.renew().await;
        if outcome.is_err() {
            self.fail();
            if was_connected && self.link.is_none() {
                outcome = self.renew().await;
            }
        }
        match outcome {
            Ok(()) => self.health.set_up(),
            Err(error) if self.link.is_some() => {
                self.shared.damage.note_shared(&self.shared.names.nodes(), &error);
                self.health.set_refused(&error);
            }
            Err(error) => self.health.set_down(&error),
        }
    }

    async fn renew(&mut self) -> RedisResult<()> {
        let now = Instant::now();
        let may_expire_others = self.monitor.lasts(now);
        let Renewal { mut is_late, is_held, expired } =
            self.call(self.shared.config.lease, may_expire_others, false).await?;
        if !is_held {
            tracing::warn!("lease lost (expired, or redis was flushed): re-registering");
            self.reregister();
            self.call(self.shared.config.lease, false, false).await?;
            is_late = true;
        }
        self.previous = None;
        if is_late {
            self.fail();
        }
        self.monitor.succeed(now);
        self.presence.set_may_expire_others(self.monitor.lasts(now));
        if !std::mem::replace(&mut self.has_lease, true) {
            self.presence.restart_as(&self.node);
        }
        if !expired.is_empty() {
            // A busy reaper drops them: a later renewal finds them again.
            let _ = self.expired.try_send(expired);
        }
        Ok(())
    }

    /// Redis has lost the node, or may have: takes a new name. Under the old one, a reaper of
    /// another node may be at work, and would remove the users that are sent again.
    fn reregister(&mut self) {
        self.lost = self.lost.wrapping_add(1);
        let name = names::leaseholder(&self.shared.node, self.lost);
        let before = std::mem::replace(&mut self.node, name.into());
        if std::mem::take(&mut self.has_lease) {
            self.previous = Some(before);
        }
    }

    /// Starts the time again for which this node must renew before it expires others.
    fn fail(&mut self) {
        self.monitor.fail();
        self.presence.set_may_expire_others(false);
    }

    /// Renews the lease of `self.node`, for the last time if it `closes`.
    async fn call(
        &mut self,
        lease: Duration,
        may_expire_others: bool,
        closes: bool,
    ) -> RedisResult<Renewal> {
        let (names, config) = (&self.shared.names, &self.shared.config);
        let previous = self.previous.as_deref().unwrap_or_default();
        let keys = [names.nodes(), names.rooms(previous)];
        let longest = config.lease.max(config.grace).max(LONGEST_LEASE);
        let mut commands = Pipeline::with_capacity(1);
        let call = self.shared.scripts.renew.call(&mut commands, &keys);
        call.arg(&*self.node).arg(lease.as_millis() as u64);
        call.arg(u8::from(!self.has_lease)).arg(u8::from(may_expire_others));
        call.arg(longest.as_millis() as u64).arg(previous).arg(u8::from(closes));
        let ((is_held, crashed, is_late, closed),) = self.send(&commands).await?;
        Ok(Renewal { is_held, expired: ExpiredNodes { crashed, closed }, is_late })
    }

    /// Releases the lease. If users are still here, it lasts for the grace period, in which they can
    /// connect to another node without a leave.
    async fn release(&mut self) -> RedisResult<()> {
        if !self.has_lease {
            // Another name replaces the former one, which is no crash.
            return match self.previous {
                Some(_) => self.call(self.shared.config.grace, false, true).await.map(drop),
                None => Ok(()),
            };
        }
        if !self.presence.is_empty() {
            return self.call(self.shared.config.grace, false, true).await.map(drop);
        }
        let names = &self.shared.names;
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("DEL").arg(names.rooms(&self.node)).ignore();
        commands.cmd("ZREM").arg(names.nodes()).arg(&*self.node).ignore();
        self.send(&commands).await
    }

    /// Sends commands, on a new connection if there is none.
    async fn send<T: redis::FromRedisValue>(&mut self, commands: &Pipeline) -> RedisResult<T> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                let link = Link::open(&self.shared, |_| {}).await?;
                if std::mem::replace(&mut self.was_connected, true) {
                    self.shared.counters.reconnected();
                }
                link
            }
        };
        let mut outcome = link.query(commands).await;
        if outcome.as_ref().is_err_and(was_unknown_script) {
            link.load().await?;
            outcome = link.query(commands).await;
        }
        if outcome.as_ref().err().is_none_or(is_refusal) {
            self.link = Some(link);
        }
        outcome
    }
}

/// Nodes whose occupants are to be removed.
#[derive(Debug)]
pub(crate) struct ExpiredNodes {
    /// They stopped renewing.
    pub(super) crashed: Vec<String>,
    /// They have closed, and their occupants had the grace period; or the node has another name since.
    pub(super) closed: Vec<String>,
}

impl ExpiredNodes {
    fn is_empty(&self) -> bool {
        self.crashed.is_empty() && self.closed.is_empty()
    }
}

/// The answer of Redis to a renewal.
struct Renewal {
    /// The node had a lease, or is new.
    is_held: bool,
    /// Nodes whose lease has expired.
    expired: ExpiredNodes,
    /// By Redis' clock the last renewal was long ago. If Redis was frozen, other nodes are as late
    /// as this one: they must not be expired for it.
    is_late: bool,
}

/// Measures for how long the lease was renewed without a failure or a pause.
#[derive(Debug)]
struct LeaseMonitor {
    lease: Duration,
    /// The first and the last success.
    run: Option<(Instant, Instant)>,
}

impl LeaseMonitor {
    fn new(lease: Duration) -> Self {
        Self { lease, run: None }
    }

    fn succeed(&mut self, now: Instant) {
        let first = self.current(now).unwrap_or(now);
        self.run = Some((first, now));
    }

    fn fail(&mut self) {
        self.run = None;
    }

    /// Whether renewals have been steady for as long as a lease.
    fn lasts(&self, now: Instant) -> bool {
        self.current(now).is_some_and(|first| now - first >= self.lease)
    }

    fn current(&self, now: Instant) -> Option<Instant> {
        self.run.filter(|(_, last)| now - *last <= self.lease / 2).map(|(first, _)| first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_steady_for_a_lease_expire_others() {
        let lease = Duration::from_secs(8);
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut monitor = LeaseMonitor::new(lease);
        let renew = |seconds: std::ops::RangeInclusive<u32>, monitor: &mut LeaseMonitor| {
            seconds
                .map(|n| {
                    let now = start + second * n;
                    let lasts = monitor.lasts(now);
                    monitor.succeed(now);
                    lasts
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(renew(0..=9, &mut monitor), [[false; 8].as_slice(), &[true; 2]].concat());
        monitor.fail();
        assert_eq!(renew(10..=18, &mut monitor), [[false; 8].as_slice(), &[true]].concat());
        assert_eq!(renew(22..=22, &mut monitor), [true], "half a lease is no pause");
        assert_eq!(renew(27..=35, &mut monitor), [[false; 8].as_slice(), &[true]].concat());
    }
}
