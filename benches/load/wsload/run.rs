//! A run: connect, reach all members, load, drain; and its report.

use std::io;
use std::process;
use std::time::Duration;

use serde::Serialize;

use crate::args::Load as Args;
use crate::load::{Count, Load};
use crate::process::{self as proc, Cpu};

const SECOND_NS: u64 = 1_000_000_000;
/// How long all members may take to connect and join, and then to be reached.
const CONNECT_NS: u64 = 120 * SECOND_NS;
const REACH_NS: u64 = 30 * SECOND_NS;
/// After this long without the last probe a message of a closed loop counts as lost.
const TIMEOUT_NS: u64 = 2 * SECOND_NS;
/// The drain ends when nothing has arrived for so long.
const QUIET_NS: u64 = 3 * SECOND_NS / 2;

#[derive(Default, Serialize)]
pub struct Report {
    connections: usize,
    closed: usize,
    /// Members that a first message has reached.
    reached: usize,
    /// Until all had joined, and until all were reached.
    joined_ms: f64,
    reached_ms: f64,
    /// CPU of the servers until then, per connection.
    join_cpu_us: f64,
    /// Memory of the servers per connection, after the joins and at the end.
    kib_per_connection: f64,
    kib_per_connection_at_end: f64,
    #[serde(flatten)]
    measured: Measured,
    /// Over the whole run, the drain included.
    sent: u64,
    delivered: u64,
    lost: u64,
    /// Missing when the drain ended, while the servers still delivered.
    pending: u64,
    doubled: u64,
    reordered: u64,
    timeouts: u64,
}

/// The results of the measured seconds; the shares are of one core.
#[derive(Default, Serialize)]
struct Measured {
    cpu_us_per_delivery: f64,
    cpu_user_us_per_delivery: f64,
    broker_us_per_delivery: f64,
    deliveries_per_second: f64,
    messages_per_second: f64,
    messages_per_read: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    server_share: f64,
    broker_share: f64,
    load_share: f64,
    other_share: f64,
}

pub fn run(args: Args) -> io::Result<Report> {
    let mut load = Load::new(args)?;
    let connections = load.plan.clients.len();
    let mut report = Report { connections, ..Report::default() };
    let servers = load.args.server_pids.clone();
    let kib_before = proc::resident_kib(&servers);
    let kib_per_connection =
        || proc::resident_kib(&servers).saturating_sub(kib_before) as f64 / connections as f64;

    let cpu_before = proc::cpu(&servers);
    let start_ns = load.now_ns();
    while !load.connect()? && load.now_ns() < start_ns + CONNECT_NS {
        pass(&mut load, Duration::from_millis(50))?;
    }
    report.joined_ms = milliseconds(load.now_ns() - start_ns);
    reach_everybody(&mut load)?;
    report.reached_ms = milliseconds(load.now_ns() - start_ns);
    let join_cpu = proc::cpu(&servers).since(cpu_before);
    report.join_cpu_us = join_cpu.total_us as f64 / connections as f64;
    report.reached = load.reached;

    // Late greetings arrive, and memory settles.
    let settle_ms = if load.args.idle { 1_500 } else { 300 };
    pass_all(&mut load, Duration::from_millis(settle_ms))?;
    report.kib_per_connection = kib_per_connection();
    if load.args.idle {
        let seconds = Duration::from_secs_f64(load.args.seconds);
        pass_all(&mut load, seconds)?;
    } else {
        report.measured = measure(&mut load)?;
        report.pending = drain(&mut load)?;
    }
    report.kib_per_connection_at_end = kib_per_connection();

    let Count { sent, expected, delivered, doubled, reordered, timeouts, closed, .. } = load.count;
    let lost = expected - delivered - report.pending;
    Ok(Report { sent, delivered, lost, doubled, reordered, timeouts, closed, ..report })
}

/// One turn of the loop.
fn pass(load: &mut Load, time: Duration) -> io::Result<()> {
    load.turn(load.now_ns() + time.as_nanos() as u64)
}

/// As many turns as take this long.
fn pass_all(load: &mut Load, time: Duration) -> io::Result<()> {
    let until_ns = load.now_ns() + time.as_nanos() as u64;
    while load.now_ns() < until_ns {
        load.turn(until_ns)?;
    }
    Ok(())
}

fn reach_everybody(load: &mut Load) -> io::Result<()> {
    let (start_ns, mut next_ns) = (load.now_ns(), 0);
    while load.reached + load.count.closed < load.args.members {
        let waited_ns = load.now_ns() - start_ns;
        if waited_ns >= REACH_NS {
            break;
        }
        if waited_ns >= next_ns {
            load.greet();
            if waited_ns > SECOND_NS && load.args.dialect.joins_may_be_lost() {
                load.join_again();
            }
            // Greetings become rarer, or a slow server would be busy with them instead of the
            // joins, and keep them: its joins and its memory are what is measured.
            next_ns = waited_ns + (waited_ns / 4).max(SECOND_NS / 20);
        }
        load.turn(start_ns + next_ns)?;
    }
    Ok(())
}

/// What was used and counted so far.
struct Snapshot {
    at_ns: u64,
    server: Cpu,
    broker: Cpu,
    own: Cpu,
    machine_us: u64,
    count: Count,
}

impl Snapshot {
    fn take(load: &Load) -> Snapshot {
        Snapshot {
            at_ns: load.now_ns(),
            server: proc::cpu(&load.args.server_pids),
            broker: proc::cpu(&load.args.broker_pids),
            own: proc::cpu(&[process::id()]),
            machine_us: proc::machine_us(),
            count: load.count,
        }
    }
}

fn measure(load: &mut Load) -> io::Result<Measured> {
    let mut due = Due { next_ns: load.now_ns(), nth: 0 };
    load.sending = true;
    load.fill_windows();
    send_for(load, load.args.warmup, &mut due)?;
    let before = Snapshot::take(load);
    load.measuring = true;
    send_for(load, load.args.seconds, &mut due)?;
    let after = Snapshot::take(load);
    load.measuring = false;
    load.sending = false;
    Ok(measured(load, &before, &after))
}

/// The next message of an open loop.
struct Due {
    next_ns: u64,
    nth: usize,
}

fn send_for(load: &mut Load, seconds: f64, due: &mut Due) -> io::Result<()> {
    let end_ns = load.now_ns() + (seconds * 1e9) as u64;
    let mut tick_ns = 0;
    loop {
        let now_ns = load.now_ns();
        if now_ns >= end_ns {
            return Ok(());
        }
        if now_ns >= tick_ns {
            load.give_up_sent_before(now_ns.saturating_sub(TIMEOUT_NS));
            tick_ns = now_ns + SECOND_NS / 10;
        }
        let mut until_ns = end_ns.min(tick_ns);
        if let Some(rate) = load.args.rate {
            while due.next_ns <= now_ns {
                load.send_due(due.nth);
                due.nth += 1;
                due.next_ns += (1e9 / rate) as u64;
            }
            until_ns = until_ns.min(due.next_ns);
        }
        load.turn(until_ns)?;
    }
}

fn measured(load: &Load, before: &Snapshot, after: &Snapshot) -> Measured {
    let seconds = (after.at_ns - before.at_ns) as f64 / 1e9;
    let deliveries = (after.count.delivered - before.count.delivered) as f64;
    let per_delivery = |us: u64| us as f64 / deliveries.max(1.0);
    let share = |us: u64| us as f64 / 1e6 / seconds;
    let quantile_us = |share: f64| load.latency_ns.quantile(share) as f64 / 1e3;
    let server = after.server.since(before.server);
    let broker_us = after.broker.since(before.broker).total_us;
    let own_us = after.own.since(before.own).total_us;
    let known_us = server.total_us + broker_us + own_us;
    Measured {
        cpu_us_per_delivery: per_delivery(server.total_us),
        cpu_user_us_per_delivery: per_delivery(server.user_us),
        broker_us_per_delivery: per_delivery(broker_us),
        deliveries_per_second: deliveries / seconds,
        messages_per_second: (after.count.sent - before.count.sent) as f64 / seconds,
        messages_per_read: deliveries / (after.count.reads - before.count.reads).max(1) as f64,
        p50_us: quantile_us(0.5),
        p90_us: quantile_us(0.9),
        p99_us: quantile_us(0.99),
        p999_us: quantile_us(0.999),
        max_us: load.latency_ns.max() as f64 / 1e3,
        server_share: share(server.total_us),
        broker_share: share(broker_us),
        load_share: share(own_us),
        other_share: share((after.machine_us - before.machine_us).saturating_sub(known_us)),
    }
}

/// Waits for the messages in flight, and a little longer for duplicates; returns how many
/// deliveries a server still owed when the time was over.
fn drain(load: &mut Load) -> io::Result<u64> {
    let end_ns = load.now_ns() + (load.args.drain * 1e9) as u64;
    let (mut delivered, mut last_ns) = (load.count.delivered, load.now_ns());
    while load.count.delivered < load.count.expected && load.now_ns() < last_ns + QUIET_NS {
        pass(load, Duration::from_millis(50))?;
        if load.count.delivered != delivered {
            (delivered, last_ns) = (load.count.delivered, load.now_ns());
            // Without a delivery it is not the time that is missing: what is due is lost.
            if last_ns >= end_ns {
                return Ok(load.count.expected - delivered);
            }
        }
    }
    pass_all(load, Duration::from_millis(100))?;
    Ok(0)
}

fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}
