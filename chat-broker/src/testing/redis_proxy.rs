//! What stands between a node and its Redis.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{io, str};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::RedisServer;

/// How much is read at once of what goes to Redis, in bytes.
const PIECE: usize = 64 * 1024;

/// How much of what Redis sends the kernel may take in advance, in bytes: what is not read
/// here stays with Redis.
const TAKEN: u32 = 64 * 1024;

/// A TCP proxy before a [`RedisServer`] that holds connections up, slows them down, or swallows
/// what Redis pushes. It tells the connection that subscribes from the others. Connections
/// that it was dropped with stay as they are.
///
/// # Panics
/// Every method panics when there is no port left: this is a tool for tests.
#[derive(Debug)]
pub struct RedisProxy {
    port: u16,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

/// What a connection is for: the one that subscribes, or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// It has subscribed to something.
    PubSub,
    /// It has not.
    Commands,
}

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// That of commands.
    ToRedis,
    /// That of replies and of messages.
    FromRedis,
}

/// Connections are numbered from 0.
#[derive(Debug)]
struct Shared {
    next: AtomicU64,
    hold: watch::Sender<Option<Hold>>,
    /// Messages are swallowed on the connections below this one.
    deaf: AtomicU64,
    /// For how long commands are under way, in milliseconds.
    delay: AtomicU64,
    /// Bytes a second on each connection and way; 0: all at once.
    pace: AtomicU64,
}

/// What does not pass; `None`: of any.
#[derive(Debug, Clone, Copy)]
struct Hold {
    kind: Option<ConnectionKind>,
    way: Option<Way>,
    /// Only on connections below this number.
    below: u64,
}

impl RedisProxy {
    /// Starts a proxy.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves nothing behind.
    pub async fn start(redis: &RedisServer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            hold: watch::Sender::new(None),
            deaf: AtomicU64::new(0),
            delay: AtomicU64::new(0),
            pace: AtomicU64::new(0),
        });
        let accept = tokio::spawn(accept(listener, redis.port(), Arc::clone(&shared)));
        Self { port, shared, accept }
    }

    /// `redis://127.0.0.1:<port>`
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Nothing passes any more, on new connections neither, and nothing is closed.
    pub fn hold(&self) {
        self.set(None, None, u64::MAX);
    }

    /// Nothing passes on the connections that there are; new ones work as they should.
    pub fn hold_present(&self) {
        self.set(None, None, self.next());
    }

    /// As [`hold_present`](Self::hold_present), of this kind alone.
    pub fn half_open(&self, kind: ConnectionKind) {
        self.set(Some(kind), None, self.next());
    }

    /// Nothing passes this way on connections of this kind, new ones among them.
    pub fn block(&self, kind: ConnectionKind, way: Way) {
        self.set(Some(kind), Some(way), u64::MAX);
    }

    /// All that was held passes on, in its order.
    pub fn release(&self) {
        self.shared.hold.send_replace(None);
    }

    /// Commands take this long to reach Redis.
    pub fn delay(&self, time: Duration) {
        self.shared.delay.store(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// So many bytes a second pass on each connection and way, and one piece in 20 waits for
    /// as long as a lost packet that is sent again; 0: all at once.
    pub fn slow_down(&self, bytes_per_second: u64) {
        self.shared.pace.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Messages that Redis pushes are swallowed on the connections that there are; new ones
    /// work as they should.
    pub fn swallow_messages(&self) {
        self.shared.deaf.store(self.next(), Ordering::SeqCst);
    }

    fn set(&self, kind: Option<ConnectionKind>, way: Option<Way>, below: u64) {
        self.shared.hold.send_replace(Some(Hold { kind, way, below }));
    }

    fn next(&self) -> u64 {
        self.shared.next.load(Ordering::SeqCst)
    }
}

impl Drop for RedisProxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, redis: u16, shared: Arc<Shared>) {
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = connect(redis).await else { continue };
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let subscribes = Arc::new(AtomicBool::new(false));
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let pipe = |way, to| {
            let (subscribes, shared) = (Arc::clone(&subscribes), Arc::clone(&shared));
            Pipe { number, way, to, pieces: 0, subscribes, shared }
        };
        tokio::spawn(pipe(Way::ToRedis, far_write).pass_commands(near_read));
        tokio::spawn(pipe(Way::FromRedis, near_write).pass_replies(far_read));
    }
}

async fn connect(redis: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(TAKEN)?;
    socket.connect((Ipv4Addr::LOCALHOST, redis).into()).await
}

/// One way of a connection.
struct Pipe {
    number: u64,
    way: Way,
    to: OwnedWriteHalf,
    /// How many have passed.
    pieces: u64,
    /// The connection has subscribed to something.
    subscribes: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Pipe {
    async fn pass_commands(mut self, mut from: OwnedReadHalf) {
        let mut buffer = vec![0; PIECE];
        while let Ok(length) = from.read(&mut buffer).await {
            let piece = &buffer[..length];
            if piece.windows(9).any(|word| word == b"SUBSCRIBE") {
                self.subscribes.store(true, Ordering::SeqCst);
            }
            let delay = self.shared.delay.load(Ordering::SeqCst);
            sleep(Duration::from_millis(delay)).await;
            if self.pass(piece).await.is_err() || length == 0 {
                return;
            }
        }
    }

    /// Passes one reply after the other.
    async fn pass_replies(mut self, from: OwnedReadHalf) {
        let mut from = BufReader::new(from);
        while let Ok(reply) = one_reply(&mut from).await {
            let is_message = reply.starts_with(b">3\r\n$7\r\nmessage\r\n");
            if is_message && self.number < self.shared.deaf.load(Ordering::SeqCst) {
                continue;
            }
            if self.pass(&reply).await.is_err() {
                return;
            }
        }
    }

    async fn pass(&mut self, piece: &[u8]) -> io::Result<()> {
        let passes = |hold: &Option<Hold>| !hold.is_some_and(|hold| self.is_held(hold));
        // It fails if the sender is gone, which we hold.
        let _ = self.shared.hold.subscribe().wait_for(passes).await;
        self.pieces += 1;
        let pace = self.shared.pace.load(Ordering::SeqCst);
        if let Some(time) = (piece.len() as u64 * 1000).checked_div(pace) {
            let lost = if self.pieces.is_multiple_of(20) { 200 } else { 0 };
            sleep(Duration::from_millis(time + lost)).await;
        }
        self.to.write_all(piece).await
    }

    fn is_held(&self, Hold { kind, way, below }: Hold) -> bool {
        let own = match self.subscribes.load(Ordering::SeqCst) {
            true => ConnectionKind::PubSub,
            false => ConnectionKind::Commands,
        };
        self.number < below
            && kind.is_none_or(|kind| kind == own)
            && way.is_none_or(|way| way == self.way)
    }
}

/// The bytes of one reply in RESP3.
async fn one_reply(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Vec<u8>> {
    let (mut reply, mut left) = (Vec::new(), 1_usize);
    while left > 0 {
        left -= 1;
        let start = reply.len();
        if from.read_until(b'\n', &mut reply).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let head = str::from_utf8(&reply[start..]).expect("a head in ASCII").trim_end();
        let length = || head[1..].parse::<i64>().expect("a length").max(0) as usize;
        match head.as_bytes()[0] {
            b'*' | b'>' | b'~' => left += length(),
            b'%' => left += 2 * length(),
            b'$' | b'=' if !head.ends_with("-1") => {
                let start = reply.len();
                reply.resize(start + length() + 2, 0);
                from.read_exact(&mut reply[start..]).await?;
            }
            _ => {}
        }
    }
    Ok(reply)
}
