//! What stands between a server and its Redis: it holds connections up, or slows them down.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What a connection is for: the one that subscribes, or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    PubSub,
    Commands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToRedis,
    FromRedis,
}

/// What does not pass.
#[derive(Debug, Clone, Copy)]
struct Block {
    kind: Kind,
    /// `None`: neither way.
    way: Option<Way>,
    /// Only on connections below this number.
    below: u64,
}

pub(super) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

/// Connections are numbered from 0.
struct Shared {
    next: AtomicU64,
    block: watch::Sender<Option<Block>>,
    /// Bytes a second on each connection and way; 0: all at once.
    pace: AtomicU64,
}

impl Proxy {
    pub(super) async fn start(redis: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            block: watch::Sender::new(None),
            pace: AtomicU64::new(0),
        });
        let accept = tokio::spawn(accept(listener, redis, Arc::clone(&shared)));
        Self { port, shared, accept }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Nothing passes any more on the connections of this kind that there are, and nothing is
    /// closed; new ones work as they should.
    pub(super) fn half_open(&self, kind: Kind) {
        let below = self.shared.next.load(Ordering::SeqCst);
        self.shared.block.send_replace(Some(Block { kind, way: None, below }));
    }

    /// Nothing passes this way on connections of this kind, new ones among them.
    pub(super) fn block(&self, kind: Kind, way: Way) {
        self.shared.block.send_replace(Some(Block { kind, way: Some(way), below: u64::MAX }));
    }

    /// All that was held passes on, in its order.
    pub(super) fn open(&self) {
        self.shared.block.send_replace(None);
    }

    /// So many bytes a second pass on each connection and way, and one piece in 20 waits for
    /// as long as a lost packet that is sent again.
    pub(super) fn slow_down(&self, bytes_per_second: u64) {
        self.shared.pace.store(bytes_per_second, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, redis: u16, shared: Arc<Shared>) {
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = connect(redis).await else { continue };
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let subscribes = Arc::new(AtomicBool::new(false));
        let ((near_read, near_write), (far_read, far_write)) =
            (near.into_split(), far.into_split());
        for (from, to, way) in
            [(near_read, far_write, Way::ToRedis), (far_read, near_write, Way::FromRedis)]
        {
            let (shared, subscribes) = (Arc::clone(&shared), Arc::clone(&subscribes));
            tokio::spawn(Pipe { number, way, subscribes, shared }.run(from, to));
        }
    }
}

/// With a small buffer: what is not read here stays with Redis.
async fn connect(redis: u16) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(64 * 1024)?;
    socket.connect((Ipv4Addr::LOCALHOST, redis).into()).await
}

/// One way of a connection.
struct Pipe {
    number: u64,
    way: Way,
    /// The connection has subscribed to something.
    subscribes: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Pipe {
    async fn run(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 16 * 1024];
        let mut pieces = 0_u64;
        while let Ok(length) = from.read(&mut buffer).await {
            let piece = &buffer[..length];
            if self.way == Way::ToRedis && piece.windows(9).any(|word| word == b"SUBSCRIBE") {
                self.subscribes.store(true, Ordering::SeqCst);
            }
            self.pass().await;
            pieces += 1;
            self.wait_for(length, pieces).await;
            if length == 0 || to.write_all(piece).await.is_err() {
                return;
            }
        }
    }

    /// Waits until nothing is in the way.
    async fn pass(&self) {
        let passes = |block: &Option<Block>| {
            !block.is_some_and(|Block { kind, way, below }| {
                let is_subscriber = self.subscribes.load(Ordering::SeqCst);
                (kind == Kind::PubSub) == is_subscriber
                    && way.is_none_or(|way| way == self.way)
                    && self.number < below
            })
        };
        let _ = self.shared.block.subscribe().wait_for(passes).await;
    }

    async fn wait_for(&self, length: usize, pieces: u64) {
        let pace = self.shared.pace.load(Ordering::SeqCst);
        if let Some(time) = (length as u64 * 1000).checked_div(pace) {
            let lost = if pieces.is_multiple_of(20) { 200 } else { 0 };
            sleep(Duration::from_millis(time + lost)).await;
        }
    }
}
