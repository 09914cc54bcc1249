//! What stands between a node and its Redis.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// A proxy that can hold connections, and can swallow what Redis pushes on them.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

/// Connections are numbered from 0.
struct Shared {
    next: AtomicU64,
    /// Nothing passes on the connections below this one.
    held: watch::Sender<u64>,
    /// Messages are swallowed on the connections below this one.
    deaf: AtomicU64,
    /// For how long commands are under way, in milliseconds.
    delay: AtomicU64,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            held: watch::Sender::new(0),
            deaf: AtomicU64::new(0),
            delay: AtomicU64::new(0),
        });
        let accept = tokio::spawn(accept(listener, server, Arc::clone(&shared)));
        Self { port, shared, accept }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Nothing passes any more, and nothing is closed.
    pub(crate) fn pause(&self) {
        self.shared.held.send_replace(u64::MAX);
    }

    /// Nothing passes on the connections that there are; new ones work as they should.
    pub(crate) fn hold_present(&self) {
        self.shared.held.send_replace(self.shared.next.load(Ordering::SeqCst));
    }

    /// What was held passes on, in its order.
    pub(crate) fn resume(&self) {
        self.shared.held.send_replace(0);
    }

    /// Commands take this long to reach Redis.
    pub(crate) fn delay(&self, time: Duration) {
        self.shared.delay.store(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// Messages that Redis pushes are swallowed on the connections that there are; new ones
    /// work as they should.
    pub(crate) fn swallow_messages(&self) {
        self.shared.deaf.store(self.shared.next.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Shared {
    /// Waits until the connection is not held.
    async fn pass(&self, number: u64) {
        let _ = self.held.subscribe().wait_for(|held| *held <= number).await;
    }
}

async fn accept(listener: TcpListener, server: u16, shared: Arc<Shared>) {
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { continue };
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let ((near_read, near_write), (far_read, far_write)) =
            (near.into_split(), far.into_split());
        tokio::spawn(pass_commands(near_read, far_write, number, Arc::clone(&shared)));
        tokio::spawn(pass_replies(far_read, near_write, number, Arc::clone(&shared)));
    }
}

async fn pass_commands(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    shared: Arc<Shared>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer).await {
        shared.pass(number).await;
        sleep(Duration::from_millis(shared.delay.load(Ordering::SeqCst))).await;
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Passes one reply after the other.
async fn pass_replies(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    shared: Arc<Shared>,
) {
    let mut from = BufReader::new(from);
    while let Ok(reply) = one_reply(&mut from).await {
        let is_message = reply.starts_with(b">3\r\n$7\r\nmessage\r\n");
        if is_message && number < shared.deaf.load(Ordering::SeqCst) {
            continue;
        }
        shared.pass(number).await;
        if to.write_all(&reply).await.is_err() {
            return;
        }
    }
}

/// The bytes of one reply in RESP3.
async fn one_reply(from: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Vec<u8>> {
    let (mut reply, mut left) = (Vec::new(), 1usize);
    while left > 0 {
        left -= 1;
        let start = reply.len();
        if from.read_until(b'\n', &mut reply).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let head = std::str::from_utf8(&reply[start..]).unwrap().trim_end();
        let length = || head[1..].parse::<i64>().unwrap().max(0) as usize;
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
