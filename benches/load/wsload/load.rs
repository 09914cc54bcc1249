//! The clients: how they connect and join, and the loop over their sockets.

use std::io;
use std::mem;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::args::Load as Args;
use crate::dialect::Reaction;
use crate::histogram::Histogram;
use crate::plan::{Client, Plan};
use crate::socket::Socket;
use crate::window::Window;
use crate::wire::{self, Mark};

/// Bytes read at once, from whichever connection.
const READ_BUFFER: usize = 512 * 1024;

pub struct Load {
    pub args: Args,
    pub plan: Plan,
    pub connections: Vec<Connection>,
    /// Connections for which something was written and not flushed.
    pub dirty: Vec<usize>,
    poll: Poll,
    events: Events,
    start: Instant,
    buffer: Vec<u8>,
    random: u32,
    /// Connections that were started and have neither joined nor failed.
    connecting: usize,
    pub joined: usize,
    pub reached: usize,
    pub count: Count,
    pub latency_ns: Histogram,
    /// Whether latencies are recorded.
    pub measuring: bool,
    /// Whether a closed loop still sends.
    pub sending: bool,
}

#[derive(Clone, Copy, Default)]
pub struct Count {
    pub reads: u64,
    pub sent: u64,
    pub expected: u64,
    pub delivered: u64,
    pub doubled: u64,
    pub reordered: u64,
    pub timeouts: u64,
    pub closed: usize,
}

pub struct Connection {
    pub socket: Socket,
    pub client: Client,
    state: State,
    pub reached: bool,
    /// Where the latest mark was in its frame.
    mark: usize,
    /// The beginning of a frame whose end has not arrived.
    partial: Vec<u8>,
    /// One for each route to the member's room.
    pub windows: Vec<Window>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Connecting,
    Upgrading,
    Upgraded,
    Joined,
    Closed,
}

impl Load {
    pub fn new(args: Args) -> io::Result<Load> {
        Ok(Load {
            plan: Plan::new(&args),
            args,
            connections: Vec::new(),
            dirty: Vec::new(),
            poll: Poll::new()?,
            events: Events::with_capacity(512),
            start: Instant::now(),
            buffer: vec![0; READ_BUFFER],
            random: 0x9e37_79b9,
            connecting: 0,
            joined: 0,
            reached: 0,
            count: Count::default(),
            latency_ns: Histogram::new(),
            measuring: false,
            sending: false,
        })
    }

    /// Time since the start, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Starts as many connections as may be concurrent; returns whether all have joined or failed.
    pub fn connect(&mut self) -> io::Result<bool> {
        while self.connecting < self.args.handshakes {
            let index = self.connections.len();
            let Some(&(server, client)) = self.plan.clients.get(index) else { break };
            let address = self.args.servers[server].address;
            let windows = match client {
                Client::Member { room, .. } => self.plan.rooms[room].routes,
                Client::Publisher => 0,
            };
            self.connections.push(Connection {
                socket: Socket::connect(address, self.poll.registry(), Token(index))?,
                client,
                state: State::Connecting,
                reached: false,
                mark: 0,
                partial: Vec::new(),
                windows: vec![Window::default(); windows],
            });
            self.connecting += 1;
        }
        Ok(self.joined + self.count.closed >= self.plan.clients.len())
    }

    /// Sends the join again for members whose first one may have been lost.
    pub fn join_again(&mut self) {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.state == State::Joined && !connection.reached {
                self.join(index);
            }
        }
    }

    /// Waits for events, at most until this time, and handles them.
    pub fn turn(&mut self, until_ns: u64) -> io::Result<()> {
        let timeout = Duration::from_nanos(until_ns.saturating_sub(self.now_ns()));
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let events = mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let Token(index) = event.token();
            if event.is_writable() {
                self.writable(index);
            }
            if event.is_readable() {
                self.readable(index);
            }
        }
        self.events = events;
        self.fill_windows();
        Ok(())
    }

    fn writable(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.state == State::Closed {
            return;
        }
        if connection.state == State::Connecting {
            if let Err(error) = connection.socket.connected() {
                return self.close(index, &error.to_string());
            }
            let server = &self.args.servers[self.plan.clients[index].0];
            let path = self.args.dialect.path(server, connection.client);
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\r\n",
                server.host,
                wire::KEY
            );
            connection.socket.out().extend(request.into_bytes());
            connection.state = State::Upgrading;
        }
        self.flush(index);
    }

    pub fn flush(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.state == State::Closed {
            return;
        }
        if let Err(error) = connection.socket.flush() {
            self.close(index, &error.to_string());
        }
    }

    fn readable(&mut self, index: usize) {
        let mut buffer = mem::take(&mut self.buffer);
        while self.connections[index].state != State::Closed {
            let connection = &mut self.connections[index];
            let partial = mem::take(&mut connection.partial);
            buffer[..partial.len()].copy_from_slice(&partial);
            let room = buffer.len() - partial.len();
            let size = match connection.socket.receive(&mut buffer[partial.len()..]) {
                Ok(Some(size)) => size,
                Ok(None) => {
                    connection.partial = partial;
                    break;
                }
                Err(error) => {
                    self.close(index, &error.to_string());
                    break;
                }
            };
            self.count.reads += 1;
            let end = partial.len() + size;
            let used = self.received(index, &buffer[..end]);
            self.connections[index].partial = buffer[used..end].to_vec();
            if size < room {
                break; // That was all, and more is another event.
            }
        }
        self.buffer = buffer;
    }

    /// Handles the complete frames, and returns how many bytes they had.
    fn received(&mut self, index: usize, bytes: &[u8]) -> usize {
        let now_ns = self.now_ns();
        let mut used = 0;
        if self.connections[index].state == State::Upgrading {
            let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { return 0 };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                self.close(index, &String::from_utf8_lossy(&bytes[..end]));
                return bytes.len();
            }
            used = end + 4;
            self.connections[index].state = State::Upgraded;
            self.react(index, self.args.dialect.upgraded(), &[]);
        }
        while let Some(frame) = wire::read(&bytes[used..]) {
            match frame.opcode {
                wire::PING => self.answer(index, wire::PONG, frame.payload),
                wire::CLOSE => {
                    self.close(index, &String::from_utf8_lossy(frame.payload));
                    return bytes.len();
                }
                _ if self.args.dialect.packs_lines() => {
                    for line in frame.payload.split(|&byte| byte == b'\n') {
                        self.text(index, line, now_ns);
                    }
                }
                _ => self.text(index, frame.payload, now_ns),
            }
            used += frame.size;
        }
        used
    }

    fn text(&mut self, index: usize, payload: &[u8], now_ns: u64) {
        if let Some(at) = Mark::find(payload, self.connections[index].mark) {
            self.connections[index].mark = at;
            return self.delivered(index, Mark::read(payload, at), now_ns);
        }
        self.react(index, self.args.dialect.react(payload), payload);
    }

    fn react(&mut self, index: usize, reaction: Reaction, text: &[u8]) {
        match reaction {
            Reaction::Nothing => {}
            Reaction::Answer(answer) => self.answer(index, wire::TEXT, answer.as_bytes()),
            Reaction::Open => self.opened(index),
            Reaction::Close => self.close(index, &String::from_utf8_lossy(text)),
        }
    }

    fn opened(&mut self, index: usize) {
        if self.connections[index].state == State::Upgraded {
            self.connections[index].state = State::Joined;
            self.connecting -= 1;
            self.joined += 1;
            self.join(index);
        }
    }

    fn join(&mut self, index: usize) {
        let Client::Member { room, .. } = self.connections[index].client else { return };
        if let Some(join) = self.args.dialect.join(room) {
            self.answer(index, wire::TEXT, join.as_bytes());
        }
    }

    fn answer(&mut self, index: usize, opcode: u8, payload: &[u8]) {
        let mask = self.mask();
        wire::write(self.connections[index].socket.out(), opcode, payload, Some(mask));
        self.flush(index);
    }

    /// A mask that differs from frame to frame (xorshift).
    pub fn mask(&mut self) -> [u8; 4] {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random.to_le_bytes()
    }

    fn close(&mut self, index: usize, why: &str) {
        let connection = &mut self.connections[index];
        if self.count.closed < 3 {
            eprintln!("wsload: connection {index}, {:?}, is closed: {why}", connection.state);
        }
        if connection.state != State::Joined {
            self.connecting -= 1;
        }
        connection.state = State::Closed;
        self.count.closed += 1;
    }
}
