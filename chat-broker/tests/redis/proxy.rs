//! What stands between a node and its Redis.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A proxy that can be paused, and can swallow what Redis pushes. Dropping it ends its
/// connections.
pub(crate) struct Proxy {
    port: u16,
    paused: watch::Sender<bool>,
    deaf: Arc<AtomicBool>,
    accept: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (paused, gate) = watch::channel(false);
        let deaf = Arc::new(AtomicBool::new(false));
        let swallow = Arc::clone(&deaf);
        let accept = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
                    continue;
                };
                let ((near_read, near_write), (far_read, far_write)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(pass_on(near_read, far_write, gate.clone()));
                let replies = pass_replies(far_read, near_write, gate.clone(), swallow.clone());
                tokio::spawn(replies);
            }
        });
        Self { port, paused, deaf, accept }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Nothing passes, in either direction, and nothing is closed.
    pub(crate) fn pause(&self) {
        self.paused.send_replace(true);
    }

    pub(crate) fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// Messages that Redis pushes are swallowed on the connections that there are; new ones
    /// work as they should.
    pub(crate) fn swallow_messages(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn open(gate: &mut watch::Receiver<bool>) -> bool {
    gate.wait_for(|paused| !paused).await.is_ok()
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 || !open(&mut gate).await || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Passes one reply after the other.
async fn pass_replies(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut gate: watch::Receiver<bool>,
    deaf: Arc<AtomicBool>,
) {
    let began_deaf = deaf.load(Ordering::SeqCst);
    let mut from = BufReader::new(from);
    while let Ok(reply) = one_reply(&mut from).await {
        let is_message =
            reply.starts_with(b">") && reply.windows(11).any(|part| part == b"$7\r\nmessage");
        if is_message && !began_deaf && deaf.load(Ordering::SeqCst) {
            continue;
        }
        if !open(&mut gate).await || to.write_all(&reply).await.is_err() {
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
