//! WebSockets alone. nginx clears a failure mark when a request to that server ends, and a WebSocket
//! does not end: a request for a page in between would hide what these tests show.

use std::time::{Duration, Instant};

use chat_broker::testing::{RedisServer, TcpProxy};
use chat_transport::client::{Client, ClientConfig, Events, State};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::instance::{Balancer, Program};
use super::{Site, by_turns, for_each_balancer, native, restarted};
use crate::e2e::commands::end;
use crate::support::{Chat, DEADLINE, alone, assert_within, command, eventually, say};

for_each_balancer! {
    client_sends_over_wss
    rolling_restart_refuses_no_client
    killed_server_excludes_no_client_from_the_other
    full_server_passes_clients_on
    silent_host_delays_clients_by_the_connect_timeout
    clients_of_a_frozen_server_reach_the_other
    server_that_alone_has_lost_redis_is_passed_over
}

/// Enough that many of them connect while a server is away.
const CLIENTS: usize = 100;

/// The longest that a client with the default backoff may be away, on a busy machine.
const AWAY: Duration = Duration::from_secs(5);

pub(super) struct Crowd(pub(super) Vec<(Client, Events)>);

impl Crowd {
    pub(super) fn connect(port: u16) -> Self {
        Self::connect_with(port, CLIENTS, &ClientConfig::default())
    }

    pub(super) fn connect_with(port: u16, clients: usize, config: &ClientConfig) -> Self {
        let url = format!("ws://127.0.0.1:{port}/ws");
        let client = |_| Client::connect([url.clone()], config.clone()).unwrap();
        Self((0..clients).map(client).collect())
    }

    /// Waits until all are online, none of them on the server with this name, and returns how long
    /// it took.
    pub(super) async fn online(&mut self, but_not_on: &str) -> Duration {
        let begin = Instant::now();
        join_all(self.0.iter_mut().map(|client| online(client, but_not_on))).await;
        begin.elapsed()
    }
}

async fn online((client, events): &mut (Client, Events), but_not_on: &str) {
    let is_elsewhere = |client: &Client| client.welcome().is_some_and(|w| w.node != but_not_on);
    let online = async {
        while client.state() != State::Online || !is_elsewhere(client) {
            if events.recv().await.is_none() {
                panic!("the client has ended: {:?}", client.state());
            }
        }
    };
    timeout(3 * DEADLINE, online).await.expect("the client is online in time");
}

async fn client_sends_over_wss(program: &'static Program) {
    let site = Site::start(program).await;
    let port = site.balancer.tls_port();
    let config = ClientConfig::default()
        .root_certificates(std::fs::read(site.balancer.certificate()).unwrap())
        .connector(move |_| TcpStream::connect(("127.0.0.1", port)));
    let (client, _events) = Client::connect(["wss://chat.example/ws"], config).unwrap();
    let sent = async {
        client.join("r", 0).await.unwrap();
        client.send("r", "private").await.unwrap()
    };
    let sent = timeout(DEADLINE, sent).await.expect("the balancer and a server answer in time");
    assert_eq!(sent.position.unwrap().offset, 1);
}

/// The documented way to a new version: one server after the other is stopped and started.
async fn rolling_restart_refuses_no_client(program: &'static Program) {
    let _alone = alone().await;
    let mut site = Site::start(program).await;
    let mut crowd = Crowd::connect(site.balancer.port());
    crowd.online("").await;

    for server in [&mut site.first, &mut site.second] {
        let (_, node) = native(server.port()).await;
        server.signal("TERM");
        let away = crowd.online(&node).await;
        assert_within("to be back", away, AWAY);
        assert_eq!(server.exit().code(), Some(0));
        *server = restarted(&site.redis, server.port()).await;
    }
    assert_eq!(site.balancer.errors_answered(), Vec::<String>::new());
}

async fn killed_server_excludes_no_client_from_the_other(program: &'static Program) {
    let _alone = alone().await;
    let mut site = Site::start(program).await;
    let mut crowd = Crowd::connect(site.balancer.port());
    crowd.online("").await;

    let (_, node) = native(site.first.port()).await;
    site.first.signal("KILL");
    site.first.exit();
    let away = crowd.online(&node).await;
    assert_within("to be back", away, AWAY);
    assert_eq!(site.balancer.errors_answered(), Vec::<String>::new());
}

/// With new clients until they are distributed so: on a busy machine a server may miss its checks, and
/// then the balancer sends all clients to the other for a moment.
async fn full_server_passes_clients_on(program: &'static Program) {
    let _alone = alone().await;
    let places = CLIENTS / 4;
    let port = ["--port", "0"];
    let full = Chat::start(command().args(port).args(["--max-connections", &places.to_string()]));
    let other = Chat::start(command().args(port));
    let balancer = Balancer::start(program, [full.port(), other.port()]);

    let connections = async |server: &Chat| server.metric("chat_connections").await as usize;
    let connected = async || [connections(&full).await, connections(&other).await];
    let deadline = Instant::now() + 3 * DEADLINE;
    loop {
        let mut crowd = Crowd::connect(balancer.port());
        crowd.online("").await;
        let found = connected().await;
        if found == [places, CLIENTS - places] {
            break;
        }
        assert!(Instant::now() < deadline, "{found:?} are connected");
        drop(crowd);
        eventually("all clients to leave", async || connected().await == [0, 0]).await;
    }
    assert_eq!(balancer.errors_answered(), Vec::<String>::new());
}

/// A port that answers no attempt to connect, as a host that is switched off, for as long as this
/// is kept.
async fn silent_host() -> (u16, TcpListener, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    // One connection fills the queue of those to accept. Linux drops what asks for another.
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let queued = TcpStream::connect(address).await.unwrap();
    (address.port(), listener, queued)
}

async fn silent_host_delays_clients_by_the_connect_timeout(program: &'static Program) {
    let _alone = alone().await;
    let (silent, _listener, _queued) = silent_host().await;
    let server = Chat::alone();
    let balancer = Balancer::start(program, [silent, server.port()]);

    let took = Crowd::connect(balancer.port()).online("").await;
    assert_within("to be online", took, Duration::from_secs(1) + AWAY);
    assert_eq!(balancer.errors_answered(), Vec::<String>::new());
}

pub(super) async fn reload_disconnects_no_client(program: &'static Program) {
    let site = Site::start(program).await;
    let mut before = Crowd::connect(site.balancer.port());
    before.online("").await;
    let connected = async || {
        site.first.metric("chat_connections").await + site.second.metric("chat_connections").await
    };
    assert_eq!(connected().await as usize, CLIENTS);

    // While clients connect: some of them meet the old workers and some the new ones.
    let mut during = Crowd::connect(site.balancer.port());
    site.balancer.reload();
    during.online("").await;
    assert!(before.0.iter().all(|(client, _)| client.state() == State::Online));
    assert_eq!(connected().await as usize, 2 * CLIENTS);
    assert_eq!(site.balancer.errors_answered(), Vec::<String>::new());
}

/// The checks find a server that accepts connections and answers nothing, as a process or a virtual
/// machine that is stopped does.
pub(super) async fn frozen_server_is_passed_over(program: &'static Program) {
    let site = Site::start(program).await;
    site.first.signal("STOP");
    let mut crowd = Crowd::connect(site.balancer.port());
    crowd.online("").await;
    let has_all = |clients| clients as usize == CLIENTS;
    site.second.until_metric("chat_connections", has_all).await;
    site.first.signal("CONT");
}

/// Messages that a server has when it freezes are sent again to the other, and the frozen server publishes
/// none of them a second time when it continues.
pub(super) async fn messages_survive_a_frozen_server(program: &'static Program) {
    const CLIENTS: &str = "40";
    let _alone = alone().await;
    let site = Site::start(program).await;
    let url = format!("ws://127.0.0.1:{}/ws", site.balancer.port());
    // Each client sends once a second.
    let load = ["--clients", CLIENTS, "--rooms", "8", "--rate", CLIENTS, "--for", "60s", "--json"];
    let mut bench = command().args(["bench", "--url", &url]).args(load).spawn().unwrap();
    site.first.until_metric("chat_published_total", |count| count >= 20).await;

    let there = site.first.metric("chat_connections").await;
    let published = site.first.metric("chat_published_total").await;
    assert!(there > 10, "{there} clients are on the first server");
    site.first.signal("STOP");
    eventually("all clients to leave the frozen server", async || {
        site.second.metric("chat_connections").await.to_string() == CLIENTS
    })
    .await;
    site.first.signal("CONT");
    // One of each client of it, which had sent it again.
    let are_there = |count| count >= published + there;
    site.first.until_metric("chat_published_total", are_there).await;

    let (code, out) = end(&mut bench, "INT");
    let report: Value = serde_json::from_str(&out).expect("the figures of the run");
    assert_eq!(code, 0, "{report}");
    assert!(report["disconnects"].as_u64() >= Some(there), "{report}");
}

/// The first server's network to Redis is cut, and that of the second is not.
async fn server_that_alone_has_lost_redis_is_passed_over(program: &'static Program) {
    let redis = RedisServer::start();
    let network = TcpProxy::before(&redis);
    let start = |url: &str| {
        let settings = ["--port", "0", "--allow-host", "chat.example", "--redis-url", url];
        Chat::start(command().args(settings))
    };
    let (first, second) = (start(&network.redis_url()), start(&redis.url()));
    for server in [&first, &second] {
        server.until_ready().await;
    }
    let balancer = Balancer::start(program, [first.port(), second.port()]);
    let site = Site { balancer, first, second, redis };
    by_turns(site.balancer.port(), async || {}).await;
    let [(_, here), (_, there)] =
        [native(site.first.port()).await, native(site.second.port()).await];

    network.disconnect();
    site.first.until_status("/readyz", 503).await;
    // Checks take their time.
    let deadline = Instant::now() + 3 * DEADLINE;
    let is_there = |(client, _): &(Client, Events)| client.welcome().unwrap().node == there;
    let _crowd = loop {
        let mut crowd = Crowd::connect(site.balancer.port());
        crowd.online("").await;
        if crowd.0.iter().all(is_there) {
            break crowd;
        }
        assert!(Instant::now() < deadline, "clients reach the server without Redis");
    };
    assert_eq!(site.balancer.errors_answered(), Vec::<String>::new());
    network.restore();
    // It has the fewest connections now.
    site.until_all_reach(&here).await;
}

/// Clients on both servers, of which one freezes. No check and no timeout of a balancer ends their
/// connections: they notice it themselves, leave, and must not be sent back to the frozen server, which
/// then has the fewest connections. `FROZEN_WATCHDOG=default` is the clients' own time.
async fn clients_of_a_frozen_server_reach_the_other(program: &'static Program) {
    let _alone = alone().await;
    let site = Site::start(program).await;
    let (mut silence, mut config) = (Duration::from_secs(35), ClientConfig::default());
    if std::env::var("FROZEN_WATCHDOG").is_err() {
        // Checks take a frozen server out before: they need three seconds.
        silence = Duration::from_secs(6);
        config = config.ping_after(silence / 2).pong_timeout(silence / 2);
    }
    let mut crowd = Crowd::connect_with(site.balancer.port(), 60, &config);
    crowd.online("").await;
    let (_, node) = native(site.first.port()).await;
    let count = |client: &&(Client, Events)| client.0.welcome().is_some_and(|w| w.node == node);
    let there = crowd.0.iter().filter(count).count();
    assert!(there > 10, "{there} clients are on the first server");

    site.first.signal("STOP");
    let away = crowd.online(&node).await;
    site.first.signal("CONT");
    say(&format!(
        "{there} of 60 clients of a frozen server behind {}: back after {away:.1?}",
        program.name
    ));
    assert_within("to be back", away, silence + AWAY);
}
