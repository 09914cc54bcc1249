//! `chat-server size`: what so many users and messages need.
//!
//! The one place of the formula. docs/sizing.md explains it, and says how each figure was measured;
//! e2e tests compare the memory of Redis and of a server with real ones.

use std::fmt::Write;
use std::process::ExitCode;

use chat_core::{Retention, RoomId};
use serde::Serialize;
use serde_json::json;

use super::{mib, print};
use crate::open_files;
use crate::settings::{Exit, Invalid, Settings, SizeArgs};

/// Bytes of Redis, by its `used_memory`.
mod redis_bytes {
    /// A Redis with the connections and the scripts of one server.
    pub(super) const BASE: f64 = 2.05e6;
    /// A connected user: the channel of direct messages.
    pub(super) const USER: f64 = 240.0;
    /// A room with users, and each user in it.
    pub(super) const ROOM: f64 = 620.0;
    pub(super) const MEMBER: f64 = 150.0;
    /// A room with a history, and each message in it: the text, the key of 32 bytes, the names.
    pub(super) const HISTORY: f64 = 400.0;
    pub(super) const MESSAGE: f64 = 106.0;
    /// Each byte of a text: lists are allocated in blocks.
    pub(super) const TEXT: f64 = 1.06;
    /// The record of the key of a message.
    pub(super) const KEY: f64 = 218.0;
}

/// How long Redis has the record of a key, in seconds.
const KEY_SECONDS: f64 = 300.0;

/// By which part a history may exceed `--history` before it is trimmed.
const TRIM_SLACK: f64 = 1.0 / 8.0;

/// Bytes of a server, by its resident memory.
mod server_bytes {
    /// The optimized program, with the page for operators and the figures of ten minutes.
    pub(super) const BASE: f64 = 13.4e6;
    /// A connected user, of the native protocol.
    pub(super) const USER: f64 = 3_400.0;
    /// A room with users of this server, and each of these.
    pub(super) const ROOM: f64 = 2_000.0;
    pub(super) const MEMBER: f64 = 1_300.0;
    /// A message that the server holds for joins, beside its text.
    pub(super) const MESSAGE: f64 = 265.0;
    /// The most that it holds of a room.
    pub(super) const RECENT: f64 = 524_288.0;
    pub(super) const RECENT_MESSAGES: f64 = 256.0;
    /// What the kernel has for a connection that reads what it is sent.
    pub(super) const KERNEL: f64 = 5_000.0;
    /// A frame to a member beside the text, with the headers of TCP.
    pub(super) const FRAME: f64 = 280.0;
}

/// Seconds of CPU of one core.
mod cpu_seconds {
    /// Of a server in a second.
    pub(super) const BASE: f64 = 600e-6;
    /// A message from a client, at its server; and at each other server with members in the room.
    pub(super) const MESSAGE: f64 = 12e-6;
    pub(super) const RECEIVED: f64 = 4.5e-6;
    /// A delivery to a member, without others to be written with it.
    pub(super) const DELIVERY: f64 = 4.5e-6;
    /// A user in a second: a ping each 25 s.
    pub(super) const USER: f64 = 0.5e-6;
    /// What each of these takes more if nothing else arrives at the same time: threads that wake up, and
    /// system calls for one message alone.
    pub(super) const LONE_MESSAGE: f64 = 400e-6;
    pub(super) const LONE_RECEIVED: f64 = 100e-6;
    pub(super) const LONE_DELIVERY: f64 = 4.5e-6;
    /// Of Redis: a message in a room with history, and without; each further server that receives it.
    pub(super) const KEPT: f64 = 6e-6;
    pub(super) const EPHEMERAL: f64 = 1.7e-6;
    pub(super) const FURTHER_SERVER: f64 = 1e-6;
    /// What a message takes more if no other arrives at the same time.
    pub(super) const LONE_PUBLISH: f64 = 250e-6;
    /// Of Redis in a second: itself; a server; a room with users, whose presence is compared.
    pub(super) const REDIS: f64 = 2e-3;
    pub(super) const SERVER: f64 = 450e-6;
    pub(super) const ROOM: f64 = 1e-6;
}

/// Within so many seconds messages share what a lone one would take, as measured.
const SHARING_SECONDS: f64 = 2e-3;

/// The part of what lone messages take that remains at so many messages a second.
fn lone(messages: f64) -> f64 {
    1.0 / (1.0 + messages * SHARING_SECONDS)
}

/// Local ports of an address by default (`net.ipv4.ip_local_port_range`).
const PORTS: u64 = 28_232;

/// By what `maxmemory` is to exceed the need: fragments, and a copy on write.
const RESERVE: f64 = 1.5;

pub(super) fn run(args: &SizeArgs, settings: &Settings) -> Result<ExitCode, Exit> {
    if args.members > args.users {
        let why = format!("at most as many as --users, {}", args.users);
        return Err(Invalid::new("members", args.members, why).into());
    }
    let server = settings.server()?;
    // Rooms of a class that differs are sized by a run of their own.
    let retention = RoomId::new("room").ok().and_then(|room| server.hub.history.of(&room));
    let load = Load::new(args, retention);
    let http_connections = server.limits.http_connections.unwrap_or(0);
    let size = Size { redis: load.redis(), server: load.server(http_connections) };
    let size = size.with_cpu_factor(args.cpu_factor);
    print(&if args.json { json!(size).to_string() } else { size.text(args) });
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Size {
    redis: RedisSize,
    /// Of each server.
    server: ServerSize,
}

#[derive(Debug, Serialize)]
struct RedisSize {
    memory_bytes: u64,
    base_bytes: u64,
    presence_bytes: u64,
    history_bytes: u64,
    key_bytes: u64,
    maxmemory_bytes: u64,
    /// If each message arrives alone, at most; and if all arrive together.
    cores: f64,
    cores_batched: f64,
}

#[derive(Debug, Serialize)]
struct ServerSize {
    connections: u64,
    memory_bytes: u64,
    kernel_bytes: u64,
    open_files: u64,
    /// Addresses that a balancer needs for its connections to this server.
    balancer_addresses: u64,
    /// If each message arrives alone, at most; and if all arrive together.
    cores: f64,
    cores_batched: f64,
    sent_bytes_per_second: u64,
}

impl Size {
    fn with_cpu_factor(mut self, factor: f64) -> Self {
        let Self { redis, server } = &mut self;
        for cores in [
            &mut redis.cores,
            &mut redis.cores_batched,
            &mut server.cores,
            &mut server.cores_batched,
        ] {
            *cores *= factor;
        }
        self
    }

    fn text(&self, args: &SizeArgs) -> String {
        let Self { redis, server } = self;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:22} {value}");
        };
        line("Redis: memory", mib(redis.memory_bytes));
        line("  presence", mib(redis.presence_bytes));
        line("  histories", mib(redis.history_bytes));
        line("  keys of messages", mib(redis.key_bytes));
        line("  maxmemory at least", mib(redis.maxmemory_bytes));
        line("Redis: CPU", cores(redis.cores_batched, redis.cores));
        line("", String::new());
        let away = if args.servers > 1 { ", while one is away" } else { "" };
        line(
            "each server of",
            format!("{}{away}, with {} connections", args.servers, server.connections),
        );
        line("  memory", mib(server.memory_bytes));
        line("  memory of the kernel", mib(server.kernel_bytes));
        line("  CPU", cores(server.cores_batched, server.cores));
        line("  sent", format!("{:.1} Mbit/s", server.sent_bytes_per_second as f64 * 8e-6));
        line("  open files", server.open_files.to_string());
        line("  balancer addresses", server.balancer_addresses.to_string());
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

fn cores(batched: f64, lone: f64) -> String {
    format!("{batched:.3} to {lone:.3} cores")
}

/// What users do, as numbers that can be multiplied.
struct Load {
    users: f64,
    rooms: f64,
    members: f64,
    messages: f64,
    text: f64,
    /// Those that serve while one restarts or is dead.
    servers: f64,
    /// Messages in a history, at most.
    kept: f64,
}

impl Load {
    fn new(args: &SizeArgs, retention: Option<Retention>) -> Self {
        let [users, rooms, members] = [args.users, args.rooms, args.members].map(|n| n as f64);
        let [messages, text] = [args.messages, args.text].map(|n| n as f64);
        let kept = retention.map_or(0.0, |retention| {
            let by_number = f64::from(retention.messages) * (1.0 + TRIM_SLACK);
            let by_bytes = retention.bytes as f64 / (text + server_bytes::MESSAGE);
            let by_time = messages * retention.ttl.as_secs_f64() / rooms.max(1.0);
            by_number.min(by_bytes).min(by_time)
        });
        let servers = args.servers.saturating_sub(1).max(1) as f64;
        Self { users, rooms, members, messages, text, servers, kept }
    }

    fn redis(&self) -> RedisSize {
        let Self { users, rooms, members, messages, text, .. } = self;
        let presence = users * redis_bytes::USER
            + if *members > 0.0 {
                rooms * (redis_bytes::ROOM + members * redis_bytes::MEMBER)
            } else {
                0.0
            };
        let message = redis_bytes::MESSAGE + text * redis_bytes::TEXT;
        let (history, keys) = if self.kept > 0.0 {
            let history = rooms * (redis_bytes::HISTORY + self.kept * message);
            (history, messages * KEY_SECONDS * redis_bytes::KEY)
        } else {
            (0.0, 0.0)
        };
        let memory = redis_bytes::BASE + presence + history + keys;
        let of_message = if self.kept > 0.0 { cpu_seconds::KEPT } else { cpu_seconds::EPHEMERAL };
        let further = self.servers_of_room() - 1.0;
        let batched = messages * (of_message + further * cpu_seconds::FURTHER_SERVER)
            + cpu_seconds::REDIS
            + self.servers * cpu_seconds::SERVER
            + rooms * cpu_seconds::ROOM;
        RedisSize {
            memory_bytes: memory as u64,
            base_bytes: redis_bytes::BASE as u64,
            presence_bytes: presence as u64,
            history_bytes: history as u64,
            key_bytes: keys as u64,
            maxmemory_bytes: (memory * RESERVE) as u64,
            cores: batched + messages * cpu_seconds::LONE_PUBLISH * lone(*messages),
            cores_batched: batched,
        }
    }

    /// Of one server with so many connections for HTTP, at most. A room counts at each server with members
    /// in it.
    fn server(&self, http_connections: usize) -> ServerSize {
        let Self { users, rooms, members, messages, text, servers, kept } = self;
        let connections = users / servers;
        let rooms_here = rooms * self.servers_of_room() / servers;
        let held = kept.min(server_bytes::RECENT_MESSAGES) * (text + server_bytes::MESSAGE);
        let memory = server_bytes::BASE
            + connections * server_bytes::USER
            + rooms_here * (server_bytes::ROOM + held.min(server_bytes::RECENT))
            + rooms * members / servers * server_bytes::MEMBER;
        let sent = messages / servers;
        let deliveries = messages * members / servers;
        let received = messages * (self.servers_of_room() - 1.0) / servers;
        let connections = connections.ceil();
        let batched = cpu_seconds::BASE
            + sent * cpu_seconds::MESSAGE
            + received * cpu_seconds::RECEIVED
            + deliveries * cpu_seconds::DELIVERY
            + connections * cpu_seconds::USER;
        let alone = sent * cpu_seconds::LONE_MESSAGE
            + received * cpu_seconds::LONE_RECEIVED
            + deliveries * cpu_seconds::LONE_DELIVERY;
        ServerSize {
            connections: connections as u64,
            memory_bytes: memory as u64,
            kernel_bytes: (connections * server_bytes::KERNEL) as u64,
            open_files: files_for(connections as usize, http_connections) as u64,
            balancer_addresses: (connections as u64).div_ceil(PORTS),
            cores: batched + alone * lone(sent + received),
            cores_batched: batched,
            sent_bytes_per_second: (deliveries * (text + server_bytes::FRAME)) as u64,
        }
    }

    /// Servers with members in a room, on average, at least one.
    fn servers_of_room(&self) -> f64 {
        let absent = (1.0 - 1.0 / self.servers).powf(self.members);
        (self.servers * (1.0 - absent)).max(1.0)
    }
}

/// The limit of open files with which a server admits so many clients: connections that speak HTTP
/// have a quarter of the files, and no more than their own limit.
fn files_for(connections: usize, http_connections: usize) -> usize {
    let clients = connections + open_files::SPARE;
    (clients + http_connections).min((clients * 4).div_ceil(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While one more server is away.
    fn load(servers: usize, members: usize) -> Load {
        let args = SizeArgs {
            users: 1000,
            rooms: 100,
            members,
            messages: 100,
            text: 200,
            servers: servers + 1,
            cpu_factor: 1.0,
            json: false,
        };
        Load::new(&args, Some(Retention::default()))
    }

    #[test]
    fn history_is_bounded_by_number_bytes_and_time() {
        let kept = |messages, text| {
            let args = SizeArgs {
                users: 1,
                rooms: 100,
                members: 1,
                messages,
                text,
                servers: 1,
                cpu_factor: 1.0,
                json: false,
            };
            Load::new(&args, Some(Retention::default())).kept as u64
        };
        assert_eq!(kept(100, 200), 288, "an eighth more than 256");
        assert_eq!(kept(100, 10_000), 102, "of 1 MiB");
        assert_eq!(kept(0, 200), 0, "none was sent in a day");
    }

    /// docs/sizing.md has the table.
    #[test]
    fn measured_cpu_is_between_both_ends() {
        // Servers, users, rooms, messages a second; measured cores of a server and of Redis.
        for (servers, users, rooms, messages, of_server, of_redis) in [
            (1, 250, 50, 40, 0.0132, 0.0115),
            (1, 250, 50, 100, 0.0305, 0.0215),
            (1, 250, 50, 500, 0.0825, 0.0521),
            (1, 250, 50, 2000, 0.1309, 0.0692),
            (1, 1000, 20, 40, 0.0288, 0.0090),
            (1, 1000, 20, 500, 0.1406, 0.0245),
            (2, 250, 50, 40, 0.0077, 0.0108),
            (2, 250, 50, 500, 0.0409, 0.0452),
            (2, 250, 50, 2000, 0.0759, 0.0728),
            (3, 250, 50, 500, 0.0331, 0.0489),
        ] {
            let args = SizeArgs {
                users,
                rooms,
                members: users / rooms,
                messages,
                text: 100,
                servers: if servers == 1 { 1 } else { servers + 1 },
                cpu_factor: 1.0,
                json: false,
            };
            let load = Load::new(&args, Some(Retention::default()));
            let (redis, server) = (load.redis(), load.server(0));
            let case = format!("{servers} servers, {users} users, {messages} messages a second");
            let server = (server.cores_batched, server.cores);
            assert!(server.0 < of_server && of_server < server.1, "{case}: {server:?}");
            let redis = (redis.cores_batched, redis.cores);
            assert!(redis.0 < of_redis && of_redis < redis.1, "{case}: {redis:?}");
        }
    }

    #[test]
    fn factor_counts_for_all_cpu_and_for_nothing_else() {
        let load = load(2, 10);
        let size = || Size { redis: load.redis(), server: load.server(0) };
        let (one, double) = (size(), size().with_cpu_factor(2.0));
        let cores = |Size { redis, server }: &Size| {
            [redis.cores, redis.cores_batched, server.cores, server.cores_batched]
        };
        assert_eq!(cores(&double), cores(&one).map(|cores| 2.0 * cores));
        assert_eq!(double.server.memory_bytes, one.server.memory_bytes);
    }

    #[test]
    fn room_is_on_the_servers_of_its_members() {
        assert!((load(1, 5).servers_of_room() - 1.0).abs() < 1e-9);
        assert!((load(10, 1).servers_of_room() - 1.0).abs() < 1e-9);
        assert!((load(2, 2).servers_of_room() - 1.5).abs() < 1e-9);
        assert!((load(4, 1000).servers_of_room() - 4.0).abs() < 1e-9);
        assert!((load(4, 0).servers_of_room() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn files_are_those_that_admit_the_clients() {
        // As the server does it: docs/operating.md#open-files.
        let admitted = |files: usize| files - 4096_usize.min(files / 4) - open_files::SPARE;
        for connections in [1, 1000, 12_000, 15_840, 100_000] {
            let files = files_for(connections, 4096);
            assert!(admitted(files) >= connections, "{connections}: {files}");
            assert!(admitted(files) <= connections + 1, "{connections}: {files}");
        }
        assert_eq!(files_for(15_840, 4096), 20_000);
    }
}
