//! The task that takes the [samples](crate::samples) of a server.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_broker::{Latencies, Status};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::samples::{Rates, Sample, rounded};
use crate::state::{State, Task};

/// The time between two samples.
const INTERVAL: Duration = Duration::from_secs(5);

/// The share of latencies that are at most the value of a sample.
const QUANTILE: f64 = 0.99;

/// What has been counted since the start.
#[derive(Debug, Default)]
struct Counted {
    messages: u64,
    deliveries: u64,
    limits: BTreeMap<&'static str, u64>,
    refused: u64,
    gaps: u64,
    publishing: Latencies,
    fan_out: Latencies,
    round_trips: Latencies,
}

/// Takes samples from the moment when the server has an API key until the server is dropped.
pub(crate) fn start(state: &Arc<State>) {
    let task = tokio::spawn(take(Arc::downgrade(state)));
    // Fails if the task exists: it is started once.
    let _ = state.sampler.set(Task(task));
}

async fn take(state: Weak<State>) {
    let Some(mut keys) = state.upgrade().map(|state| state.api_keys.watch()) else { return };
    if keys.wait_for(|keys| !keys.is_empty()).await.is_err() {
        return;
    }
    let (mut times, mut before, mut since) = (interval(INTERVAL), None, Instant::now());
    // After a pause of the process no sample is of a shorter time.
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        let Some(state) = state.upgrade() else { return };
        let counted = Counted::of(&state);
        if let Some(before) = &before {
            state.samples.add(sample(&state, before, &counted, since.elapsed()));
        }
        (before, since) = (Some(counted), Instant::now());
    }
}

fn sample(state: &State, before: &Counted, now: &Counted, time: Duration) -> Sample {
    let stats = state.hub.broker().stats();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Sample {
        at: since_1970.as_millis() as u64,
        ready: state.is_ready(),
        broker_up: state.hub.broker().status() == Status::Ready,
        broker_full: stats.full,
        connections: state.sessions.len(),
        rooms: state.hub.rooms(),
        outbox_bytes: state.outboxes.waiting_bytes(),
        redis_memory_bytes: Some(stats.memory_used).filter(|bytes| *bytes > 0),
        redis_memory_max_bytes: Some(stats.memory_max).filter(|bytes| *bytes > 0),
        rates: rates(before, now, time),
        limits: limits(before, now, time),
        publish_ms: latency(&before.publishing, &now.publishing),
        fan_out_ms: latency(&before.fan_out, &now.fan_out),
        round_trip_ms: latency(&before.round_trips, &now.round_trips),
    }
}

impl Counted {
    fn of(state: &State) -> Self {
        let (hub, metrics) = (state.hub.stats(), &state.metrics);
        Self {
            messages: metrics.messages(),
            deliveries: hub.deliveries,
            limits: metrics.limits_reached(),
            refused: metrics.handshakes_refused.load(Relaxed),
            gaps: hub.gaps,
            publishing: metrics.publishing.snapshot(),
            fan_out: hub.fan_out,
            round_trips: state.hub.broker().stats().round_trips,
        }
    }
}

fn rates(before: &Counted, now: &Counted, time: Duration) -> Rates {
    let rate = |before, now| rate(before, now, time);
    Rates {
        messages: rate(before.messages, now.messages),
        deliveries: rate(before.deliveries, now.deliveries),
        limited: rate(before.limits.values().sum(), now.limits.values().sum()),
        refused: rate(before.refused, now.refused),
        gaps: rate(before.gaps, now.gaps),
    }
}

/// Of the limits that were reached in between.
fn limits(before: &Counted, now: &Counted, time: Duration) -> BTreeMap<&'static str, f64> {
    let counts = now.limits.iter().map(|(limit, count)| {
        (*limit, before.limits.get(limit).copied().unwrap_or_default(), *count)
    });
    let reached = counts.filter(|(_, before, now)| now > before);
    reached.map(|(limit, before, now)| (limit, rate(before, now, time))).collect()
}

fn rate(before: u64, now: u64, time: Duration) -> f64 {
    rounded(now.saturating_sub(before) as f64 / time.as_secs_f64())
}

/// The upper bound of the bucket of the quantile, of what was counted in between, in milliseconds. What
/// is in the last bucket is at least the greatest bound.
fn latency(before: &Latencies, now: &Latencies) -> Option<f64> {
    let counts: Vec<(f64, u64)> = before
        .buckets()
        .zip(now.buckets())
        .map(|((bound, before), (_, now))| (bound, now.saturating_sub(before)))
        .collect();
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let (mut counted, mut greatest) = (0, 0.0);
    for (bound, count) in counts {
        counted += count;
        greatest = if bound.is_finite() { bound } else { greatest };
        if total > 0 && counted as f64 >= total as f64 * QUANTILE {
            return Some(greatest * 1000.0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use chat_broker::Histogram;

    use super::*;
    use crate::samples::KEPT;

    #[test]
    fn latency_is_that_of_the_time_between_two_samples() {
        let histogram = Histogram::new();
        let observe = |count, time| (0..count).for_each(|_| histogram.observe(time));
        observe(1000, Duration::from_secs(1));
        let before = histogram.snapshot();
        assert_eq!(latency(&before, &before), None);
        observe(99, Duration::from_micros(100));
        observe(1, Duration::from_millis(30));
        assert_eq!(latency(&before, &histogram.snapshot()), Some(0.128));
        observe(2, Duration::from_millis(30));
        assert_eq!(latency(&before, &histogram.snapshot()), Some(32.768));
        let before = histogram.snapshot();
        observe(1, Duration::from_secs(60));
        assert_eq!(latency(&before, &histogram.snapshot()), Some(16_777.216));
    }

    #[tokio::test(start_paused = true)]
    async fn last_ten_minutes_are_kept_of_a_server_with_a_key() {
        let config =
            crate::ServerConfig::default().api_key(Some(crate::Secret::new("0123456789abcdef")));
        let server = crate::Server::builder().config(config).start();
        let state = &server.state;
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(state.samples.after(0).len(), 2);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let samples = state.samples.after(0);
        assert_eq!(samples.len(), KEPT);
        let latest = samples.last().map(|sample| sample.at).unwrap_or_default();
        assert!(state.samples.after(latest).is_empty());

        let server = crate::Server::builder().start();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(server.state.samples.after(0).is_empty());
    }
}
