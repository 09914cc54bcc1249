//! A server is added, and gets its part of the clients, as docs/operating.md says.

use std::time::Instant;

use super::caddy::CADDY;
use super::haproxy::{HAPROXY, tell};
use super::instance::Program;
use super::websockets::Crowd;
use super::{Site, for_each_balancer, native};
use crate::support::{Chat, DEADLINE, alone, command, eventually};

for_each_balancer! {
    added_server_gets_its_part_after_a_reload
}

const KEY: &str = "0123456789abcdefghijkl";

const CLIENTS: usize = 60;

/// The balancer has read its configuration again and counts no connection of before: all clients move, or
/// those that do are spread over the servers that they come from as well. Caddy moves all by itself.
async fn added_server_gets_its_part_after_a_reload(program: &'static Program) {
    let _alone = alone().await;
    let (site, _crowd) = crowded(program).await;
    let third = third_server(&site).await;
    site.balancer.add_server(third.port());
    until_reached(&site, &third).await;
    if program.name != CADDY.name {
        move_clients(&site, 100).await;
    }
    each_has_its_part(&site, &third).await;
}

/// Without a reload HAProxy knows where its clients are: those that move go to the server that was added.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn added_server_gets_its_part_without_a_reload() {
    let _alone = alone().await;
    let (site, _crowd) = crowded(&HAPROXY).await;
    let third = third_server(&site).await;
    let (port, check) = (third.port(), "check inter 500ms fall 2 rise 1");
    let added = format!("add server chat/third 127.0.0.1:{port} {check}");
    let answer = tell(&site.balancer, &added);
    assert!(answer.contains("New server registered"), "{answer}");
    for command in ["enable health chat/third", "enable server chat/third"] {
        assert_eq!(tell(&site.balancer, command).trim(), "");
    }
    until_reached(&site, &third).await;
    move_clients(&site, 34).await;
    each_has_its_part(&site, &third).await;
}

async fn crowded(program: &'static Program) -> (Site, Crowd) {
    let site = Site::start_with(program, &["--api-key", KEY]).await;
    let mut crowd = Crowd::connect_with(site.balancer.port(), CLIENTS, &Default::default());
    crowd.online("").await;
    (site, crowd)
}

async fn third_server(site: &Site) -> Chat {
    let server = Chat::start(command().args(["--port", "0", "--redis-url", &site.redis.url()]));
    server.until_ready().await;
    server
}

/// Waits until new clients reach this server as well.
async fn until_reached(site: &Site, server: &Chat) {
    let (_, node) = native(server.port()).await;
    let deadline = Instant::now() + DEADLINE;
    while native(site.balancer.port()).await.1 != node {
        assert!(Instant::now() < deadline, "no client reaches the server that was added");
    }
}

async fn move_clients(site: &Site, percent: u8) {
    let body = format!("{{\"percent\":{percent},\"seconds\":3}}");
    let head = format!(
        "POST /api/connections/rebalance HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    for server in [&site.first, &site.second] {
        let (status, _, answer) = server.raw(&format!("{head}{body}")).await;
        assert_eq!(status, 200, "{answer}");
    }
}

/// A third, or nearly: for a moment after a reload the former process accepts clients as well, and a server
/// that misses a check on a busy machine gets none.
async fn each_has_its_part(site: &Site, third: &Chat) {
    eventually("each server to have a third", async || {
        let mut counts = Vec::new();
        for server in [&site.first, &site.second, third] {
            counts.push(server.metric("chat_connections").await as usize);
        }
        counts.iter().sum::<usize>() == CLIENTS && counts.iter().all(|count| *count >= CLIENTS / 4)
    })
    .await;
}
