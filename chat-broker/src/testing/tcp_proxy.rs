//! The network between two processes, which fails when a test asks for it.

use std::future::pending;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use std::{io, str};

use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::redis_server::RedisServer;
use crate::random;

/// Maximum bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// How much of what the server sends the kernel may take in advance, in bytes: what is not read
/// here stays with the server.
const RECEIVE_BUFFER: u32 = 64 * 1024;

/// A TCP proxy that cuts connections, holds them up, slows them down, or loses what passes. It runs
/// on a thread of its own, so that tests with and without a runtime can use it. Dropping it refuses
/// new connections, and leaves open ones as they are.
///
/// # Panics
/// Every method panics when there is no port or no thread left: this is a tool for tests.
///
/// ```no_run
/// use chat_broker::testing::{Direction, TcpProxy};
///
/// let proxy = TcpProxy::start(8080);
/// let url = format!("ws://127.0.0.1:{}/ws", proxy.port());
/// // … a client connects to `url`, and from here on receives nothing, without an error:
/// proxy.swallow(Direction::ToClient);
/// proxy.restore();
/// ```
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    network: Arc<Network>,
}

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// The purpose of a connection to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// The client has subscribed to something.
    PubSub,
    /// The client has not, or the connection does not lead to Redis.
    Commands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// Bytes pass as they arrive.
    Bytes,
    /// Replies pass one by one, and connections that subscribe are distinguished from the others.
    Redis,
}

#[derive(Debug)]
struct Network {
    protocol: Protocol,
    rules: watch::Sender<Rules>,
    /// How often garbage was sent to all clients.
    garbage: watch::Sender<u64>,
    connections: Mutex<Connections>,
    /// Turns true when the proxy is dropped.
    closed: watch::Sender<bool>,
}

/// Connections are numbered from 0.
#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: Vec<AbortHandle>,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    /// The port that new connections lead to; `None`: they are refused.
    server: Option<u16>,
    /// The port that they lead to when they are not refused.
    target: u16,
    swallowed: [bool; 2],
    hold: Option<Hold>,
    /// Messages that Redis pushes are swallowed on the connections below this one.
    swallow_messages_below: u64,
    /// How long each piece takes to reach the server.
    delay: Duration,
    /// Bytes a second on each connection and direction; 0: all at once.
    bytes_per_second: u64,
}

/// The traffic that does not pass; `None` for any kind.
#[derive(Debug, Clone, Copy)]
struct Hold {
    kind: Option<ConnectionKind>,
    direction: Option<Direction>,
    /// Only on connections below this number.
    below: u64,
}

impl TcpProxy {
    /// Starts a proxy before the server on a port of this host.
    #[must_use]
    pub fn start(server: u16) -> Self {
        Self::with(Protocol::Bytes, server)
    }

    /// Starts a proxy before a Redis, which knows the kinds of its connections.
    #[must_use]
    pub fn before(redis: &RedisServer) -> Self {
        Self::with(Protocol::Redis, redis.port())
    }

    fn with(protocol: Protocol, server: u16) -> Self {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let network = Arc::new(Network {
            protocol,
            rules: watch::Sender::new(Rules::to(server)),
            garbage: watch::Sender::new(0),
            connections: Mutex::default(),
            closed: watch::Sender::new(false),
        });
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let (runtime, shared) = (runtime.expect("a runtime"), Arc::clone(&network));
        thread::spawn(move || runtime.block_on(serve(listener, shared)));
        Self { port, network }
    }

    /// The port that clients connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:<port>`
    #[must_use]
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// New connections lead to the server on this port.
    pub fn redirect(&self, server: u16) {
        self.change(|rules| {
            rules.target = server;
            rules.server = rules.server.map(|_| server);
        });
    }

    /// Cuts about this share of the connections (0 to 1), at random and without a goodbye.
    pub fn cut(&self, share: f64) {
        self.network.connections().open.retain(|connection| {
            let is_cut = random::bits() as f64 / u64::MAX as f64 <= share;
            if is_cut {
                connection.abort();
            }
            !(is_cut || connection.is_finished())
        });
    }

    /// Cuts all connections, and refuses new ones until [`restore`](Self::restore).
    pub fn disconnect(&self) {
        self.change(|rules| rules.server = None);
        self.cut(1.0);
    }

    /// Bytes in this direction are accepted and dropped, the end of a connection
    /// included.
    pub fn swallow(&self, direction: Direction) {
        self.change(|rules| rules.swallowed[direction as usize] = true);
    }

    /// Messages that Redis pushes are swallowed on the open connections; new ones work.
    pub fn swallow_messages(&self) {
        let next = self.next();
        self.change(|rules| rules.swallow_messages_below = next);
    }

    /// Sends bytes that are no frame to all clients.
    pub fn garble(&self) {
        self.network.garbage.send_modify(|times| *times += 1);
    }

    /// Nothing passes any more, and nothing is closed, new connections included.
    pub fn hold(&self) {
        self.set_hold(None, None, u64::MAX);
    }

    /// Nothing passes on the open connections; new ones work.
    pub fn hold_present(&self) {
        self.set_hold(None, None, self.next());
    }

    /// As [`hold_present`](Self::hold_present), for connections of this kind alone.
    pub fn half_open(&self, kind: ConnectionKind) {
        self.set_hold(Some(kind), None, self.next());
    }

    /// Nothing passes in this direction on connections of this kind, new ones included.
    pub fn block(&self, kind: ConnectionKind, direction: Direction) {
        self.set_hold(Some(kind), Some(direction), u64::MAX);
    }

    /// All that was held passes, in its order.
    pub fn release(&self) {
        self.change(|rules| rules.hold = None);
    }

    /// Delays each byte from clients to the server by `time`.
    pub fn delay(&self, time: Duration) {
        self.change(|rules| rules.delay = time);
    }

    /// So many bytes a second pass on each connection and direction, and one piece in 20 waits for
    /// as long as a lost packet that is sent again; 0: all at once.
    pub fn slow_down(&self, bytes_per_second: u64) {
        self.change(|rules| rules.bytes_per_second = bytes_per_second);
    }

    /// The network works again. What was swallowed stays lost.
    pub fn restore(&self) {
        self.change(|rules| *rules = Rules::to(rules.target));
    }

    fn set_hold(&self, kind: Option<ConnectionKind>, direction: Option<Direction>, below: u64) {
        self.change(|rules| rules.hold = Some(Hold { kind, direction, below }));
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        self.network.rules.send_modify(change);
    }

    /// The number of the next connection.
    fn next(&self) -> u64 {
        self.network.connections().next
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.network.closed.send_replace(true);
    }
}

impl Network {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock()
    }
}

impl Rules {
    /// All passes.
    fn to(server: u16) -> Self {
        Self {
            server: Some(server),
            target: server,
            swallowed: [false; 2],
            hold: None,
            swallow_messages_below: 0,
            delay: Duration::ZERO,
            bytes_per_second: 0,
        }
    }
}

/// Accepts connections until the proxy is dropped, then serves those that are open to their end.
async fn serve(listener: StdListener, network: Arc<Network>) {
    listener.set_nonblocking(true).expect("a socket");
    let listener = TcpListener::from_std(listener).expect("a runtime");
    let (mut closed, mut open) = (network.closed.subscribe(), JoinSet::new());
    loop {
        let client = tokio::select! {
            _ = closed.wait_for(|closed| *closed) => break,
            Ok((client, _)) = listener.accept() => client,
        };
        accept(client, &network, &mut open);
        while open.try_join_next().is_some() {}
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

fn accept(client: TcpStream, network: &Arc<Network>, open: &mut JoinSet<()>) {
    // Decided under the lock, so that `disconnect` cuts each connection that it does not refuse.
    let mut connections = network.connections();
    let Some(server) = network.rules.borrow().server else { return };
    let number = connections.next;
    connections.next += 1;
    connections.open.retain(|connection| !connection.is_finished());
    connections.open.push(open.spawn(connect(client, server, number, Arc::clone(network))));
}

async fn connect(client: TcpStream, server: u16, number: u64, network: Arc<Network>) {
    let Ok(server) = open(server).await else { return };
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let subscribes = Arc::new(AtomicBool::new(false));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let pipe = |direction, to| {
        let (subscribes, network) = (Arc::clone(&subscribes), Arc::clone(&network));
        Pipe { number, direction, to, pieces: 0, subscribes, network }
    };
    let up = pipe(Direction::ToServer, to_server).run(from_client);
    let down = pipe(Direction::ToClient, to_client).run(from_server);
    tokio::join!(up, down);
}

async fn open(server: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.connect((Ipv4Addr::LOCALHOST, server).into()).await
}

/// One direction of a connection.
struct Pipe {
    number: u64,
    direction: Direction,
    to: OwnedWriteHalf,
    /// How many have passed.
    pieces: u64,
    /// The connection has subscribed to something in Redis.
    subscribes: Arc<AtomicBool>,
    network: Arc<Network>,
}

impl Pipe {
    /// Passes all on. At the end the drop of `to` shuts down the other side.
    async fn run(mut self, from: OwnedReadHalf) {
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

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net;

    use super::*;

    /// Echoes what each client sends.
    fn echo() -> u16 {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let mut from = stream.try_clone().unwrap();
                    let _ = io::copy(&mut from, &mut stream);
                });
            }
        });
        port
    }

    fn client(proxy: &TcpProxy) -> net::TcpStream {
        let client = net::TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }

    fn ask(mut client: &net::TcpStream, word: &[u8; 4]) -> io::Result<[u8; 4]> {
        let mut echo = [0; 4];
        client.write_all(word)?;
        client.read_exact(&mut echo).map(|()| echo)
    }

    #[test]
    fn disconnected_proxy_ends_and_refuses_connections_until_restored() {
        let proxy = TcpProxy::start(echo());
        let before = client(&proxy);
        assert_eq!(ask(&before, b"ping").unwrap(), *b"ping");
        proxy.disconnect();
        assert_ne!(ask(&before, b"ping").unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_ne!(ask(&client(&proxy), b"ping").unwrap_err().kind(), ErrorKind::WouldBlock);
        proxy.restore();
        assert_eq!(ask(&client(&proxy), b"pong").unwrap(), *b"pong");
    }

    #[test]
    fn held_bytes_arrive_after_release() {
        let proxy = TcpProxy::start(echo());
        let mut client = client(&proxy);
        proxy.hold();
        client.write_all(b"held").unwrap();
        proxy.release();
        let mut echo = [0; 4];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(echo, *b"held");
    }

    #[test]
    fn redirected_proxy_serves_new_connections_elsewhere() {
        let nowhere = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = TcpProxy::start(nowhere.local_addr().unwrap().port());
        drop(nowhere);
        assert!(ask(&client(&proxy), b"ping").is_err());
        proxy.redirect(echo());
        assert_eq!(ask(&client(&proxy), b"ping").unwrap(), *b"ping");
    }
}
