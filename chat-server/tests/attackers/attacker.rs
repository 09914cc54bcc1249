//! An attacker: a client that connects again whenever it is closed, and is in a hurry.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chat_transport::testing::raw_frame;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use super::members::{self, MEMBERS};
use super::trial::Tokens;

/// Attackers of a kind.
pub(crate) const ATTACKERS: usize = 10;

/// Before an attacker connects again: not its own CPU is to be the attack.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What an attacker does until its runtime ends, and the name of that.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Attacker) -> BoxFuture<'static, ()>,
}

/// `Attack`s of async functions, each with its name.
macro_rules! attacks {
    ($($name:literal => $run:path,)+) => {
        &[$($crate::attackers::attacker::Attack { name: $name, run: |attacker| Box::pin($run(attacker)) }),+]
    };
}
pub(crate) use attacks;

#[derive(Clone)]
pub(crate) struct Attacker {
    /// Which of the attackers it is.
    pub(crate) n: usize,
    pub(crate) port: u16,
    pub(crate) tally: Arc<Tally>,
    /// The user id of a member, to write to.
    pub(crate) victim: Arc<str>,
    tokens: Option<Tokens>,
}

/// What attackers of one server have done.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) connections: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
}

impl Tally {
    pub(crate) fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Ordering::Relaxed);
    }

    pub(crate) fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// The attackers of one server, on a thread of lower priority: the CPU that they use themselves is
/// not to be held against the server. They end when this is dropped.
pub(crate) struct Attackers {
    runtime: Option<Runtime>,
    pub(crate) tally: Arc<Tally>,
}

impl Attackers {
    pub(crate) fn start(
        attacks: &'static [Attack],
        port: u16,
        victim: &str,
        tokens: Option<&Tokens>,
    ) -> Self {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().on_thread_start(lower_priority);
        let runtime = builder.build().unwrap();
        let tally = Arc::<Tally>::default();
        for n in 0..ATTACKERS {
            let (tally, victim) = (Arc::clone(&tally), Arc::from(victim));
            let attacker = Attacker { n, port, tally, victim, tokens: tokens.cloned() };
            runtime.spawn((attacks[n % attacks.len()].run)(attacker));
        }
        Self { runtime: Some(runtime), tally }
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A test is async, and may not wait for the thread.
            runtime.shutdown_background();
        }
    }
}

/// Of this thread: Linux takes the id of a thread for that of a process here.
fn lower_priority() {
    let thread = std::fs::read_link("/proc/thread-self").unwrap();
    let id = thread.file_name().unwrap();
    let mut renice = Command::new("renice");
    let status = renice.args(["-n", "10", "-p"]).arg(id).stdout(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "renice");
}

impl Attacker {
    /// A room that members are in.
    pub(crate) fn members_room(&self) -> String {
        members::room_name(self.n)
    }

    /// A room of its own.
    pub(crate) fn own_room(&self) -> String {
        format!("own-{}", self.n)
    }

    /// A connection of this kind.
    pub(crate) async fn open(&self, client: Client) -> Connection {
        match client {
            Client::Native => self.connect(&self.path("/ws?"), NATIVE, None).await,
            Client::NativeAs(user) => {
                self.connect(&format!("/ws?userId={user}"), NATIVE, None).await
            }
            Client::Narrow => self.connect(&self.path("/ws?"), NATIVE, Some(4096)).await,
            Client::Plain => self.connect(&self.path("/?"), "", None).await,
            Client::Http => self.tcp().await,
        }
    }

    pub(crate) async fn native(&self) -> Connection {
        self.open(Client::Native).await
    }

    /// Connects, as often as it takes.
    pub(crate) async fn connect(&self, path: &str, head: &str, buffer: Option<u32>) -> Connection {
        loop {
            let attempt = Connection::connect(self.port, path, head, buffer);
            if let Ok(Some(stream)) = timeout(HANDSHAKE, attempt).await {
                Tally::add(&self.tally.connections, 1);
                return Connection { stream, tally: Arc::clone(&self.tally) };
            }
            sleep(PAUSE).await;
        }
    }

    async fn tcp(&self) -> Connection {
        loop {
            if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await {
                Tally::add(&self.tally.connections, 1);
                return Connection { stream, tally: Arc::clone(&self.tally) };
            }
            sleep(PAUSE).await;
        }
    }

    /// Says `first` and then one frame after the other, as fast as the kernel takes them, on one
    /// connection after the other. The frames are counted over all connections.
    pub(crate) async fn flood(
        &self,
        client: Client,
        first: &[Value],
        mut frame: impl FnMut(u64) -> Vec<u8>,
    ) {
        let mut n = 0;
        loop {
            let mut connection = self.open(client).await;
            if connection.send_frames(first).await {
                let next = || {
                    n += 1;
                    frame(n)
                };
                connection.send_all(next).await;
            }
            sleep(PAUSE).await;
        }
    }

    fn path(&self, path: &str) -> String {
        match &self.tokens {
            Some(tokens) => format!("{path}token={}", tokens.moderator(MEMBERS + self.n)),
            None => path.to_owned(),
        }
    }
}

/// What an attacker connects as.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Client {
    /// Of the native protocol, for a user that the server or the token names.
    Native,
    /// For a user with this id.
    NativeAs(&'static str),
    /// With a receive buffer of a few KiB.
    Narrow,
    /// Without a subprotocol.
    Plain,
    Http,
}

const NATIVE: &str = "Sec-WebSocket-Protocol: chat.v1\r\n";

/// A text frame.
pub(crate) fn text(value: &Value) -> Vec<u8> {
    raw_frame(0x81, value.to_string().as_bytes())
}

pub(crate) fn join(room: &str) -> Value {
    json!({"type": "join", "room": room})
}

/// A connection of an attacker. What it receives it passes over.
pub(crate) struct Connection {
    stream: TcpStream,
    tally: Arc<Tally>,
}

impl Connection {
    async fn connect(port: u16, path: &str, head: &str, buffer: Option<u32>) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(buffer) = buffer {
            socket.set_recv_buffer_size(buffer).unwrap();
        }
        let mut stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.ok()?;
        let request = handshake(port, path, head);
        stream.write_all(request.as_bytes()).await.ok()?;
        // What follows the head is passed over.
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).await.ok()?;
        answer[..read].starts_with(b"HTTP/1.1 101").then_some(stream)
    }

    /// Sends these frames; whether the connection took them.
    pub(crate) async fn send_frames(&mut self, frames: &[Value]) -> bool {
        for frame in frames {
            if !self.send(&text(frame)).await {
                return false;
            }
        }
        true
    }

    /// Sends these bytes; whether the connection took them.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let is_sent = self.stream.write_all(bytes).await.is_ok();
        if is_sent {
            Tally::add(&self.tally.frames, 1);
            Tally::add(&self.tally.sent_bytes, bytes.len());
        }
        is_sent
    }

    /// Sends one after the other, and receives meanwhile, until the connection ends.
    pub(crate) async fn send_all(&mut self, mut next: impl FnMut() -> Vec<u8>) {
        let tally = &self.tally;
        let (mut reader, mut writer) = self.stream.split();
        let send = async {
            loop {
                let bytes = next();
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
                Tally::add(&tally.frames, 1);
                Tally::add(&tally.sent_bytes, bytes.len());
            }
        };
        tokio::select! {
            () = send => {}
            () = discard(&mut reader, tally) => {}
        }
    }

    /// Receives until the connection ends.
    pub(crate) async fn discard(&mut self) {
        discard(&mut self.stream, &self.tally).await;
    }

    /// Receives for so long; whether the connection is still there.
    pub(crate) async fn discard_for(&mut self, time: Duration) -> bool {
        timeout(time, self.discard()).await.is_err()
    }
}

async fn discard(reader: &mut (impl AsyncReadExt + Unpin), tally: &Tally) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = reader.read(&mut bytes).await {
        Tally::add(&tally.received_bytes, read);
    }
}

/// The request of a handshake, with further lines of its head.
pub(crate) fn handshake(port: u16, path: &str, head: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{head}\r\n"
    )
}
