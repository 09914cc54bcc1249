//! Each condition is made, and each alarm fires, in a real Prometheus. The times of the rules are
//! seconds instead of minutes.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chat_broker::testing::{RedisServer, TcpProxy, free_port};
use chat_transport::client::{Client, ClientConfig};
use chat_transport::testing::{WsClient, read_head};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::sleep;

use super::alarms;
use super::prometheus::Prometheus;
use crate::support::crowd::Crowd;
use crate::support::raw::Raw;
use crate::support::{Chat, DEADLINE, FAST, command, command_of, join, next_of, say};

/// More than the least from which `ChatConnectionsFell` judges, and fewer than a server takes.
const CLIENTS: usize = 40;
const MAX_CONNECTIONS: usize = 90;

/// The right of this user is taken away.
const USER: [&str; 7] = ["ACL", "SETUSER", "chat", "on", ">password", "~*", "&*"];

struct World {
    prometheus: Prometheus,
    redis: RedisServer,
    /// Between Redis and the second server.
    proxy: TcpProxy,
    servers: [Chat; 2],
    fired: BTreeSet<String>,
}

#[ignore = "minutes; .ci/run --long runs it"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_fires_no_alarm_and_each_condition_fires_its_own() {
    let mut world = World::start().await;
    // Until Prometheus had found the servers, they were down for it.
    let began = Instant::now();
    let crowd = world.crowd().await;
    world.rolling_restart().await;
    assert_eq!(world.prometheus.fired_since(began).await, Vec::<String>::new());
    drop(crowd.finish().await);

    // Its clients leave.
    drop(crowd);
    world.until_fires("ChatConnectionsFell", async |_| {}).await;
    clients(&mut world).await;
    messages(&mut world).await;
    redis(&mut world).await;
    servers(&mut world).await;

    let all = alarms().into_iter().map(str::to_owned).collect();
    assert_eq!(world.fired, all);
}

impl World {
    async fn start() -> Self {
        let redis = RedisServer::start();
        redis.command(&[&USER[..], &["+@all"]].concat()).await;
        let proxy = TcpProxy::before(&redis);
        let servers = [redis.port(), proxy.port()].map(|redis| server(redis, free_port()));
        for server in &servers {
            server.until_ready().await;
        }
        let prometheus = Prometheus::start(&servers.each_ref().map(Chat::port)).await;
        Self { prometheus, redis, proxy, servers, fired: BTreeSet::new() }
    }

    /// Clients that talk, on both servers.
    async fn crowd(&self) -> Crowd {
        let urls = |n: usize| {
            let mut urls = self.servers.each_ref().map(|server| server.ws("/ws")).to_vec();
            urls.rotate_left(n % 2);
            urls
        };
        let crowd = Crowd::join_with(ClientConfig::default(), urls, CLIENTS, 4).await;
        // The rules have an earlier value to compare with.
        let connected = |value: &str| value == CLIENTS.to_string();
        self.prometheus.until("sum(chat_connections offset 20s)", connected).await;
        crowd
    }

    async fn rolling_restart(&mut self) {
        let connected = |value: &str| value == CLIENTS.to_string();
        for (n, redis) in [self.redis.port(), self.proxy.port()].into_iter().enumerate() {
            self.servers[n].signal("TERM");
            assert_eq!(block_in_place(|| self.servers[n].exit()).code(), Some(0));
            self.servers[n] = server(redis, self.servers[n].port());
            self.servers[n].until_ready().await;
            self.prometheus.until("sum(chat_connections)", connected).await;
        }
        // The rules have seen the whole restart.
        self.prometheus.until("sum(up offset 10s)", |up| up == "2").await;
        self.prometheus.until("sum(chat_connections offset 20s)", connected).await;
    }

    fn ports(&self) -> [u16; 2] {
        self.servers.each_ref().map(Chat::port)
    }

    /// A further server, without Redis, which Prometheus scrapes as well.
    fn add(&self, settings: &[&str]) -> Chat {
        self.add_with(&mut command(), settings)
    }

    /// As `add`, by this command.
    fn add_with(&self, command: &mut Command, settings: &[&str]) -> Chat {
        let server = Chat::start(command.args(["--port", "0"]).args(settings));
        self.prometheus.scrape(&[&self.ports()[..], &[server.port()]].concat());
        server
    }

    /// Makes a condition again and again until its alarm fires.
    async fn until_fires(&mut self, alarm: &str, make: impl AsyncFn(&Self)) {
        let began = Instant::now();
        while !self.prometheus.fires(alarm).await {
            assert!(began.elapsed() < 8 * DEADLINE, "{alarm} does not fire");
            make(self).await;
            sleep(Duration::from_millis(300)).await;
        }
        say(&format!("{alarm} fires after {:.1?}", began.elapsed()));
        self.fired.insert(alarm.to_owned());
    }

    /// Waits until all servers are well again.
    async fn until_well(&self) {
        for server in &self.servers {
            server.until_ready().await;
            server.until_metric("chat_broker_up", |up| up == 1).await;
            server.until_metric("chat_broker_full", |full| full == 0).await;
        }
    }
}

/// With the Redis on this port, listening on `port`.
fn server(redis: u16, port: u16) -> Chat {
    let url = format!("redis://chat:password@127.0.0.1:{redis}");
    let places = MAX_CONNECTIONS.to_string();
    Chat::start(
        command()
            .args(["--port", &port.to_string(), "--redis-url", &url, "--outbox-bytes", "65536"])
            .args(["--max-frame-bytes", "65536", "--max-connections", &places])
            .env("API_KEY", "a key for backends")
            .args(FAST),
    )
}

/// As settings have a time.
fn in_20_seconds() -> String {
    let output = Command::new("date").args(["-u", "-d", "20 seconds", "+%FT%TZ"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The program with so many open files at most.
fn with_files(files: u32) -> Command {
    let mut command = command_of("/bin/sh", 2);
    let program = env!("CARGO_BIN_EXE_chat-server");
    command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), program]);
    command
}

async fn clients(world: &mut World) {
    let mut connected = Vec::new();
    while connected.len() < MAX_CONNECTIONS {
        connected.push(Raw::connect(world.servers[0].port()).await.expect("a slot"));
    }
    let one_more = async |world: &World| {
        assert_eq!(Raw::connect(world.servers[0].port()).await.err(), Some(503));
    };
    world.until_fires("ChatServerFull", one_more).await;
    drop(connected);

    let foreign = async |world: &World| {
        for _ in 0..5 {
            let origin = [("Origin", "https://evil.example")];
            let refused = WsClient::try_connect(&world.servers[0].ws("/ws"), &origin).await;
            assert_eq!(refused.err().unwrap(), 403);
        }
    };
    world.until_fires("ChatForeignOrigin", foreign).await;

    let wrong_key = async |world: &World| {
        for _ in 0..5 {
            let request = "GET /api/bans HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: wrong\r\n\
                           Connection: close\r\n\r\n";
            world.servers[0].raw(request).await;
        }
    };
    world.until_fires("ChatWrongCredentials", wrong_key).await;

    let keys = format!("http://127.0.0.1:{}/", issuer().await);
    let third = world.add(&["--jwt-jwks-url", &keys]);
    world.until_fires("ChatKeysOutdated", async |_| {}).await;
    drop(third);

    // The settings of this server are others, and no keys are at this address.
    let third = world.add(&["--jwt-jwks-url", "http://127.0.0.1:1/"]);
    world.until_fires("ChatNotReady", async |_| {}).await;
    world.until_fires("ChatSettingsDiffer", async |_| {}).await;
    drop(third);

    let file = world.prometheus.file("chat.toml");
    let end = in_20_seconds();
    let secret = "0123456789abcdef0123456789abcdef";
    fs::write(&file, format!("[[jwt_keys]]\nsecret = \"{secret}\"\nuntil = \"{end}\"\n")).unwrap();
    let third = world.add(&["--config", file.to_str().unwrap()]);
    world.until_fires("ChatKeyEnding", async |_| {}).await;
    world.until_fires("ChatTokenKeysEnded", async |_| {}).await;
    drop(third);

    let third = world.add_with(&mut with_files(100), &["--max-connections", "95"]);
    let mut connected = Vec::new();
    while third.metric("process_open_fds").await <= 92 {
        connected.push(Raw::connect(third.port()).await.expect("a slot"));
    }
    world.until_fires("ChatOpenFilesHigh", async |_| {}).await;
    drop((connected, third));

    fs::write(&file, "history = 7\n").unwrap();
    let third = world.add(&["--config", file.to_str().unwrap()]);
    fs::write(&file, "history = \"seven\"\n").unwrap();
    third.signal("HUP");
    world.until_fires("ChatReloadFailed", async |_| {}).await;
    fs::write(&file, "history = 8\n").unwrap();
    third.signal("HUP");
    world.until_fires("ChatRestartPending", async |_| {}).await;
    drop(third);

    let with_secret =
        |secret| Chat::start(command().env("JWT_SECRET", secret).args(["--port", "0"]));
    let differing = [secret.to_owned(), secret.replace('0', "1")].map(with_secret);
    let ports = differing.each_ref().map(Chat::port);
    world.prometheus.scrape(&[&world.ports()[..], &ports].concat());
    world.until_fires("ChatTokenKeysDiffer", async |_| {}).await;
    drop(differing);

    // A machine whose latest copy is of 1970.
    let machine = answering("chat_backup_timestamp_seconds 0\n".to_owned()).await;
    world.prometheus.scrape(&[&world.ports()[..], &[machine]].concat());
    world.until_fires("ChatBackupOld", async |_| {}).await;
    world.prometheus.scrape(&world.ports());
    panic_of_a_connection(world).await;
}

/// On the page of a server, since no client can make the task of its connection panic.
async fn panic_of_a_connection(world: &mut World) {
    let panics = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&panics);
    let page = move || format!("chat_panics_total {}\n", counter.load(Ordering::Relaxed));
    let server = answering_with(page).await;
    world.prometheus.scrape(&[&world.ports()[..], &[server]].concat());
    let scraped = format!("chat_panics_total{{instance=\"127.0.0.1:{server}\"}}");
    world.prometheus.until(&scraped, |panics| panics == "0").await;
    panics.store(1, Ordering::Relaxed);
    world.until_fires("ChatPanics", async |_| {}).await;
    world.prometheus.scrape(&world.ports());
}

/// A port that answers each request with one key.
async fn issuer() -> u16 {
    let key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let jwks =
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": "a", "x": key}]});
    answering(jwks.to_string()).await
}

/// A port that answers each request with this text.
async fn answering(text: String) -> u16 {
    answering_with(move || text.clone()).await
}

/// A port that answers each request with the text of that time.
async fn answering_with(text: impl Fn() -> String + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            let text = text();
            let len = text.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{text}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

async fn messages(world: &mut World) {
    let slow = member(&world.servers[1], "slow").await;
    world.proxy.delay(Duration::from_millis(700));
    let send = async |_: &World| {
        slow.send("slow", "x").await.unwrap();
    };
    world.until_fires("ChatPublishSlow", send).await;
    world.proxy.restore();

    let (writer, readers) = room(world, "r").await;
    let garbage = async |world: &World| {
        for channel in world.redis.command(&["PUBSUB", "CHANNELS"]).await.lines() {
            world.redis.command(&["PUBLISH", channel, "garbage"]).await;
        }
    };
    world.until_fires("ChatUnreadableMessages", garbage).await;

    let stalled = async |world: &World| {
        let mut stalled = Raw::connect_narrow(world.servers[0].port()).await;
        stalled.ask("joined", &json!({"type": "join", "room": "r"})).await.unwrap();
        for _ in 0..30 {
            writer.send("r", &"x".repeat(30_000)).await.unwrap();
        }
    };
    world.until_fires("ChatSlowConsumers", stalled).await;

    // The process is stopped in the middle of its work.
    let stopped = async |world: &World| {
        let send = |n: u32| {
            let writer = writer.clone();
            async move { drop(writer.send("r", &n.to_string()).await) }
        };
        let burst = tokio::spawn(futures_util::future::join_all((0..50).map(send)));
        for _ in 0..3 {
            sleep(Duration::from_millis(5)).await;
            world.servers[0].signal("STOP");
            sleep(Duration::from_millis(700)).await;
            world.servers[0].signal("CONT");
        }
        burst.await.unwrap();
    };
    world.until_fires("ChatFanOutSlow", stopped).await;

    let emptied = async |world: &World| {
        writer.send("r", "before").await.unwrap();
        world.redis.command(&["FLUSHALL"]).await;
        writer.send("r", "after").await.unwrap();
    };
    world.until_fires("ChatGaps", emptied).await;
    readers.iter().for_each(JoinHandle::abort);
}

/// A client on the first server, and members that read there.
async fn room(world: &World, name: &str) -> (Client, Vec<JoinHandle<()>>) {
    let mut readers = Vec::new();
    for _ in 0..40 {
        let mut member = world.servers[0].native().await;
        join(&mut member, name).await;
        readers.push(tokio::spawn(async move {
            loop {
                next_of(&mut member, "message").await;
            }
        }));
    }
    (member(&world.servers[0], name).await, readers)
}

async fn member(server: &Chat, room: &str) -> Client {
    let (client, _) = Client::connect([server.ws("/ws")], ClientConfig::default()).unwrap();
    client.join(room, 0).await.unwrap();
    client
}

async fn redis(world: &mut World) {
    world.until_fires("ChatRedisReconnects", async |world| world.proxy.cut(1.0)).await;

    world.proxy.disconnect();
    world.until_fires("ChatRedisUnreachable", async |_| {}).await;
    world.proxy.restore();
    world.until_well().await;

    let other = RedisServer::start();
    other.command(&[&USER[..], &["+@all"]].concat()).await;
    world.proxy.redirect(other.port());
    world.proxy.cut(1.0);
    world.until_fires("ChatServersOnDifferentRedis", async |_| {}).await;
    world.proxy.redirect(world.redis.port());
    world.proxy.cut(1.0);
    drop(other);
    world.until_well().await;

    let info = world.redis.command(&["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.parse().ok());
    let used: u64 = used.unwrap();
    world.redis.command(&["CONFIG", "SET", "maxmemory", &(used * 11 / 10).to_string()]).await;
    world.until_fires("ChatRedisMemoryHigh", async |_| {}).await;
    world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    world.until_fires("ChatRedisFull", async |_| {}).await;
    world.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    world.until_well().await;

    let refused = refused_member(world, "broken").await;
    world.redis.command(&["SET", "chat:{r.broken}", "x"]).await;
    world.until_fires("ChatRedisRefuses", async |_| refused.send().await).await;
    world.until_fires("ChatMessagesRefused", async |_| refused.send().await).await;

    world.redis.command(&["ACL", "SETUSER", "chat", "-hdel"]).await;
    world.until_fires("ChatRedisRightMissing", async |_| {}).await;
    world.redis.command(&["ACL", "SETUSER", "chat", "+hdel"]).await;
    world.until_well().await;

    world.redis.command(&["ACL", "SETUSER", "chat", "resetkeys", "~other:*"]).await;
    world.until_fires("ChatRedisNamesRefused", async |_| {}).await;
    world.redis.command(&["ACL", "SETUSER", "chat", "~*"]).await;
    world.until_well().await;

    world.redis.command(&["CONFIG", "SET", "maxclients", "1"]).await;
    world.proxy.cut(1.0);
    world.until_fires("ChatRedisClientsExhausted", async |_| {}).await;
    world.redis.pause();
    world.until_fires("ChatRedisUnavailable", async |_| {}).await;
}

/// A member whose messages Redis does not accept.
struct RefusedMember(Mutex<WsClient>, &'static str);

async fn refused_member(world: &World, room: &'static str) -> RefusedMember {
    let mut client = world.servers[0].native().await;
    join(&mut client, room).await;
    RefusedMember(Mutex::new(client), room)
}

impl RefusedMember {
    async fn send(&self) {
        let mut client = self.0.lock().await;
        client.send_json(&json!({"type": "send", "room": self.1, "message": "x"})).await;
        assert_eq!(next_of(&mut client, "error").await["code"], "broker_unavailable");
    }
}

async fn servers(world: &mut World) {
    world.servers[1].signal("STOP");
    world.until_fires("ChatServerUnresponsive", async |_| {}).await;
    world.servers[1].signal("CONT");
    let down = "count(ALERTS{alertname=\"ChatServerDown\"}) or vector(0)";
    world.prometheus.until(down, |alarms| alarms == "0").await;
    for (n, alarm) in ["ChatServerDown", "ChatDown"].into_iter().enumerate() {
        world.servers[n].signal("KILL");
        block_in_place(|| world.servers[n].exit());
        world.until_fires(alarm, async |_| {}).await;
    }
}
