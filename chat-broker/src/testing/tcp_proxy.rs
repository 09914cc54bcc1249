//! The network between two processes, which fails when a test asks for it.

mod network;
mod pipe;

use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::redis_server::RedisServer;
use crate::random;

pub use network::{ConnectionKind, Direction};
use network::{Hold, Network, Protocol, Rules};
use pipe::Pipe;

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
