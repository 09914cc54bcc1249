//! Two servers behind a real nginx, HAProxy and Caddy, each with the configuration that the
//! documentation shows.

mod added;
mod caddy;
mod haproxy;
mod instance;
mod load;
mod nginx;
mod pages;
mod tls;
mod websockets;

use std::time::Instant;

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::{Chat, DEADLINE, command, exchange};
use instance::{Balancer, Program};

/// Makes each scenario, a function of a [`Program`], a module with a test of each balancer.
macro_rules! for_each_balancer {
    ($($scenario:ident)*) => {$(
        mod $scenario {
            use crate::e2e::balancers::{caddy::CADDY, haproxy::HAPROXY, nginx::NGINX};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn nginx() {
                super::$scenario(&NGINX).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn haproxy() {
                super::$scenario(&HAPROXY).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn caddy() {
                super::$scenario(&CADDY).await;
            }
        }
    )*};
}
use for_each_balancer;

/// What the documentation shows: a balancer, two servers, one Redis.
struct Site {
    balancer: Balancer,
    first: Chat,
    second: Chat,
    redis: RedisServer,
}

impl Site {
    async fn start(program: &'static Program) -> Self {
        Self::start_with(program, &[]).await
    }

    /// With further arguments of the servers.
    async fn start_with(program: &'static Program, args: &[&str]) -> Self {
        let redis = RedisServer::start();
        let args = [&["--allow-host", "chat.example"], args].concat();
        let [first, second] = Chat::several(&redis, &args).await;
        let balancer = Balancer::start(program, [first.port(), second.port()]);
        Self { balancer, first, second, redis }
    }

    /// Two clients in the room `r`, of which one is on the first server and one on the
    /// second, and the second server's name.
    async fn one_on_each(&self) -> (WsClient, WsClient, String) {
        let [(mut a, on_a), (mut b, _)] = by_turns(self.balancer.port(), async || {}).await;
        let (_, second) = native(self.second.port()).await;
        join(&mut a, "r").await;
        join(&mut b, "r").await;
        if on_a == second { (b, a, second) } else { (a, b, second) }
    }

    /// Ends the first server, which the balancer has taken out, with a client on it: its messages pass until
    /// it receives a goodbye.
    async fn first_ends_in_order(
        &mut self,
        mut on_first: WsClient,
        mut on_second: WsClient,
        second: &str,
    ) {
        say(&mut on_first, "r", "still here").await;
        assert_eq!(next(&mut on_second, "message").await["message"], "still here");
        self.first.signal("TERM");
        assert_eq!(next(&mut on_first, "goodbye").await["reconnect"], true);
        assert_eq!(on_first.recv_close().await.0, 1001);
        assert_eq!(self.first.exit().code(), Some(0));
        assert_eq!(native(self.balancer.port()).await.1, second);
    }

    /// Waits until new clients are on the server with this name alone.
    async fn until_all_reach(&self, node: &str) {
        let deadline = Instant::now() + DEADLINE;
        let mut in_a_row = 0;
        while in_a_row < 4 {
            assert!(Instant::now() < deadline, "clients still reach another server");
            let reached = native(self.balancer.port()).await.1;
            in_a_row = if reached == node { in_a_row + 1 } else { 0 };
        }
    }
}

/// The program on the port of one that has ended, ready to serve.
async fn restarted(redis: &RedisServer, port: u16) -> Chat {
    let (port, redis) = (port.to_string(), redis.url());
    let server = Chat::start(command().args(["--port", &port, "--redis-url", &redis]));
    server.until_ready().await;
    server
}

/// A client of the native protocol, and the name of the server where it is.
async fn native(port: u16) -> (WsClient, String) {
    let url = format!("ws://127.0.0.1:{port}/ws");
    let mut client = WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
    assert_eq!(client.protocol(), Some("chat.v1"));
    client.send(r#"{"type":"hello"}"#).await;
    let welcome = client.recv_json().await;
    let node = welcome["node"].as_str().expect("the name of a server").to_owned();
    (client, node)
}

/// Two clients on two servers, to which the balancer sends them by turns; `before` is called before each
/// of them. Until it does: on a busy machine a server may miss its checks, and then the balancer sends
/// all clients to the other for a moment.
async fn by_turns(port: u16, before: impl AsyncFn()) -> [(WsClient, String); 2] {
    let deadline = Instant::now() + DEADLINE;
    loop {
        before().await;
        let first = native(port).await;
        before().await;
        let second = native(port).await;
        if first.1 != second.1 {
            return [first, second];
        }
        assert!(Instant::now() < deadline, "both clients are on {}", first.1);
    }
}

async fn join(client: &mut WsClient, room: &str) {
    client.send_json(&json!({"type": "join", "room": room})).await;
    assert_eq!(next(client, "joined").await["room"], room);
}

async fn say(client: &mut WsClient, room: &str, message: &str) {
    client.send_json(&json!({"type": "send", "room": room, "message": message})).await;
}

/// The next frame of a type. The joins of others are passed over.
async fn next(client: &mut WsClient, kind: &str) -> Value {
    loop {
        let frame = client.recv_json().await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

/// A request through the balancer for `chat.example`.
async fn request(port: u16, line: &str, header: &str) -> (u16, String, String) {
    let head = format!("{line} HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n");
    exchange(port, &format!("{head}Content-Length: 0\r\n{header}\r\n")).await
}
