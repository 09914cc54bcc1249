//! Faults under load: many clients talk through a balancer while servers are replaced, are killed, or
//! the balancer reads its configuration again. `BALANCER_CLIENTS` is the number of clients.

use std::time::Duration;

use chat_transport::client::ClientConfig;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::instance::Program;
use super::{Site, for_each_balancer, restarted};
use crate::support::crowd::Crowd;
use crate::support::verdict::Verdict;
use crate::support::{Chat, alone, assert_within, eventually, say};

for_each_balancer! {
    rolling_restart_under_load
    crash_under_load
    reload_under_load
}

/// The longest that a client may be without a connection.
const AWAY: Duration = Duration::from_secs(2);

/// How long a server is away: the checks of a balancer have seen it.
const START: Duration = Duration::from_secs(2);

/// The documented way to a new version. As soon as one server is ready, the next is stopped.
async fn rolling_restart_under_load(program: &'static Program) {
    under_load(program, "rolling restart", async |site| {
        for server in [&mut site.first, &mut site.second] {
            server.signal("TERM");
            assert_eq!(block_in_place(|| server.exit()).code(), Some(0));
            sleep(START).await;
            *server = restarted(&site.redis, server.port()).await;
        }
    })
    .await;
}

/// A server is killed, and another process takes its place, as a supervisor has it.
async fn crash_under_load(program: &'static Program) {
    under_load(program, "crash", async |site| {
        site.first.signal("KILL");
        block_in_place(|| site.first.exit());
        until_connected([&site.second]).await;
        sleep(START).await;
        site.first = restarted(&site.redis, site.first.port()).await;
    })
    .await;
}

async fn reload_under_load(program: &'static Program) {
    under_load(program, "reload", async |site| {
        site.balancer.reload();
        // A client that connects later reaches the new workers.
        super::native(site.balancer.port()).await;
        site.balancer.reload();
    })
    .await;
}

/// Has clients talk while the fault happens, and judges what they received.
async fn under_load(program: &'static Program, fault: &str, happen: impl AsyncFn(&mut Site)) {
    let _alone = alone().await;
    let mut site = Site::start(program).await;
    let url = format!("ws://127.0.0.1:{}/ws", site.balancer.port());
    let urls = |_| vec![url.clone()];
    let crowd = Crowd::join_with(ClientConfig::default(), urls, clients(), clients() / 10).await;
    happen(&mut site).await;
    until_connected([&site.first, &site.second]).await;
    let records = crowd.finish().await;

    let verdict = Verdict::of(&records);
    let away = records.iter().map(|record| record.longest_absence).max().unwrap();
    let failed = site.balancer.errors_answered();
    say(&format!(
        "{} behind {}: {verdict}; {} failed at the balancer, nobody was away for more than {away:.1?}",
        fault,
        program.name,
        failed.len(),
    ));
    assert_eq!((verdict.lost, verdict.doubled, verdict.reordered, verdict.gaps), (0, 0, 0, 0));
    assert!(verdict.acknowledged >= clients() / 4 && verdict.unknown == 0, "{verdict}");
    assert_eq!(failed, Vec::<String>::new());
    assert_within("to be back", away, AWAY);
}

/// Waits until these servers have all clients.
async fn until_connected<const N: usize>(servers: [&Chat; N]) {
    eventually("all clients to be back", async || {
        let mut connected = 0;
        for server in servers {
            connected += server.metric("chat_connections").await as usize;
        }
        connected == clients()
    })
    .await;
}

fn clients() -> usize {
    let clients = std::env::var("BALANCER_CLIENTS").ok();
    clients.map_or(40, |clients| clients.parse().expect("a number of clients"))
}
