//! What the proxy does to its connections at the moment.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::task::AbortHandle;

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
pub(super) enum Protocol {
    /// Bytes pass as they arrive.
    Bytes,
    /// Replies pass one by one, and connections that subscribe are distinguished from the others.
    Redis,
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) protocol: Protocol,
    pub(super) rules: watch::Sender<Rules>,
    /// How often garbage was sent to all clients.
    pub(super) garbage: watch::Sender<u64>,
    pub(super) connections: Mutex<Connections>,
    /// Turns true when the proxy is dropped.
    pub(super) closed: watch::Sender<bool>,
}

/// Connections are numbered from 0.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) next: u64,
    pub(super) open: Vec<AbortHandle>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The port that new connections lead to; `None`: they are refused.
    pub(super) server: Option<u16>,
    /// The port that they lead to when they are not refused.
    pub(super) target: u16,
    pub(super) swallowed: [bool; 2],
    pub(super) hold: Option<Hold>,
    /// Messages that Redis pushes are swallowed on the connections below this one.
    pub(super) swallow_messages_below: u64,
    /// How long each piece takes to reach the server.
    pub(super) delay: Duration,
    /// Bytes a second on each connection and direction; 0: all at once.
    pub(super) bytes_per_second: u64,
}

/// The traffic that does not pass; `None` for any kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    pub(super) kind: Option<ConnectionKind>,
    pub(super) direction: Option<Direction>,
    /// Only on connections below this number.
    pub(super) below: u64,
}

impl Network {
    pub(super) fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock()
    }
}

impl Rules {
    /// All passes.
    pub(super) fn to(server: u16) -> Self {
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
