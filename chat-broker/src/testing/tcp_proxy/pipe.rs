//! One direction of a connection through the proxy.

use std::future::pending;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{io, str};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::sleep;

use super::network::{ConnectionKind, Direction, Hold, Network, Protocol, Rules};

/// Maximum bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// One direction of a connection.
pub(super) struct Pipe {
    pub(super) number: u64,
    pub(super) direction: Direction,
    pub(super) to: OwnedWriteHalf,
    /// How many have passed.
    pub(super) pieces: u64,
    /// The connection has subscribed to something in Redis.
    pub(super) subscribes: Arc<AtomicBool>,
    pub(super) network: Arc<Network>,
}

impl Pipe {
    /// Passes all on. At the end the drop of `to` shuts down the other side.
    pub(super) async fn run(mut self, from: OwnedReadHalf) {
        let mut from = BufReader::with_capacity(PIECE, from);
        let mut garbage = self.network.garbage.subscribe();
        loop {
            let next = tokio::select! {
                // Not cancel safe for Redis, whose clients never receive garbage.
                piece = next_piece(&mut from, self.network.protocol, self.direction) => {
                    self.pass(piece.unwrap_or_default()).await
                }
                () = changed(&mut garbage), if self.direction == Direction::ToClient => {
                    self.to.write_all(&[0xff; 16]).await.map(ControlFlow::Continue)
                }
            };
            if !matches!(next, Ok(ControlFlow::Continue(()))) {
                return;
            }
        }
    }

    /// Passes a piece on, or the end, which is an empty one.
    async fn pass(&mut self, piece: Vec<u8>) -> io::Result<ControlFlow<()>> {
        self.note_subscription(&piece);
        let rules = *self.network.rules.borrow();
        if self.direction == Direction::ToServer {
            sleep(rules.delay).await;
        }
        let own = self.direction as usize;
        if piece.is_empty() {
            self.until(|rules| !rules.swallowed[own]).await;
        }
        let is_message = piece.starts_with(b">3\r\n$7\r\nmessage\r\n");
        let is_lost = self.network.rules.borrow().swallowed[own]
            || is_message && self.number < rules.swallow_messages_below;
        if is_lost {
            return Ok(ControlFlow::Continue(()));
        }
        self.until(|rules| !rules.hold.is_some_and(|hold| self.is_held(hold))).await;
        self.pace(piece.len(), rules.bytes_per_second).await;
        self.to.write_all(&piece).await?;
        Ok(if piece.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn note_subscription(&self, piece: &[u8]) {
        let is_redis = self.network.protocol == Protocol::Redis;
        let is_command = self.direction == Direction::ToServer;
        if is_redis && is_command && piece.windows(9).any(|word| word == b"SUBSCRIBE") {
            self.subscribes.store(true, Ordering::SeqCst);
        }
    }

    fn is_held(&self, Hold { kind, direction, below }: Hold) -> bool {
        let own = match self.subscribes.load(Ordering::SeqCst) {
            true => ConnectionKind::PubSub,
            false => ConnectionKind::Commands,
        };
        self.number < below
            && kind.is_none_or(|kind| kind == own)
            && direction.is_none_or(|direction| direction == self.direction)
    }

    async fn until(&self, are_met: impl Fn(&Rules) -> bool) {
        // It cannot fail: the sender is in `network`.
        let _ = self.network.rules.subscribe().wait_for(are_met).await;
    }

    async fn pace(&mut self, bytes: usize, bytes_per_second: u64) {
        self.pieces += 1;
        if let Some(time) = (bytes as u64 * 1000).checked_div(bytes_per_second) {
            let lost = if self.pieces.is_multiple_of(20) { 200 } else { 0 };
            sleep(Duration::from_millis(time + lost)).await;
        }
    }
}

async fn changed(garbage: &mut watch::Receiver<u64>) {
    if garbage.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// The bytes that pass at once: all that has arrived, or one reply of Redis. Empty at the end.
async fn next_piece(
    from: &mut BufReader<OwnedReadHalf>,
    protocol: Protocol,
    direction: Direction,
) -> io::Result<Vec<u8>> {
    if (protocol, direction) == (Protocol::Redis, Direction::ToClient) {
        return one_reply(from).await;
    }
    let piece = from.fill_buf().await?.to_vec();
    from.consume(piece.len());
    Ok(piece)
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
