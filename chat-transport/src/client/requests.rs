//! Requests on the wire that wait for their answers.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backoff::later;
use super::error::ClientError;
use super::events::{History, Joined, Members};

/// Takes a call's outcome to its caller.
pub(super) type Reply<T> = oneshot::Sender<Result<T, ClientError>>;

/// What was asked.
#[derive(Debug)]
pub(super) enum Request {
    Hello,
    /// To go on with a new token.
    Renew,
    /// To come into a room.
    Join(String),
    /// To see a room that the client is in.
    JoinAgain(Reply<Joined>),
    Leave(Reply<()>),
    /// The message in flight of a room.
    Send(String),
    Direct(Reply<u32>),
    Members(Reply<Members>),
    History(Reply<History>),
}

impl Request {
    /// Whether the client itself asks, and not a caller.
    fn is_own(&self) -> bool {
        matches!(self, Self::Hello | Self::Renew | Self::Join(_) | Self::Send(_))
    }

    /// Whether the server has something to publish.
    pub(super) fn is_message(&self) -> bool {
        matches!(self, Self::Send(_) | Self::Direct(_))
    }

    /// Tells the caller, where one waits for nothing but this request. A caller that no
    /// longer waits is none of ours, here and wherever a reply is given.
    pub(super) fn fail(self, error: ClientError) {
        match self {
            Self::Hello | Self::Renew | Self::Join(_) | Self::Send(_) => {}
            Self::JoinAgain(reply) => drop(reply.send(Err(error))),
            Self::Leave(reply) => drop(reply.send(Err(error))),
            Self::Direct(reply) => drop(reply.send(Err(error))),
            Self::Members(reply) => drop(reply.send(Err(error))),
            Self::History(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// Requests by id, which rises: the first of them is the first to run out of time.
#[derive(Debug)]
pub(super) struct Requests {
    waiting: BTreeMap<u64, Posted>,
    last_id: u64,
    timeout: Duration,
}

/// A request on the wire.
#[derive(Debug)]
struct Posted {
    deadline: Instant,
    request: Request,
    /// The size of its frame.
    bytes: usize,
}

/// What the server has not answered of the messages that it publishes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Unanswered {
    pub(super) messages: usize,
    /// The sizes of their frames.
    pub(super) bytes: usize,
}

impl Requests {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { waiting: BTreeMap::new(), last_id: 0, timeout }
    }

    /// How many are on the wire.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many callers wait.
    pub(super) fn called(&self) -> usize {
        self.waiting.values().filter(|posted| !posted.request.is_own()).count()
    }

    /// The messages that are on the wire.
    pub(super) fn unanswered(&self) -> Unanswered {
        let messages = self.waiting.values().filter(|posted| posted.request.is_message());
        messages.fold(Unanswered::default(), |sum, posted| Unanswered {
            messages: sum.messages + 1,
            bytes: sum.bytes + posted.bytes,
        })
    }

    /// The id of the next request.
    pub(super) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// The request leaves, under the [next id](Self::next_id), in a frame of so many bytes.
    pub(super) fn add(&mut self, request: Request, bytes: usize) {
        self.last_id += 1;
        let posted = Posted { deadline: later(self.timeout), request, bytes };
        self.waiting.insert(self.last_id, posted);
    }

    /// The request that this id answers.
    pub(super) fn take(&mut self, id: u64) -> Option<Request> {
        self.waiting.remove(&id).map(|posted| posted.request)
    }

    /// The largest message on the wire, and the size of its frame.
    pub(super) fn take_largest_message(&mut self) -> Option<(u64, Request, usize)> {
        let messages = self.waiting.iter().filter(|(_, posted)| posted.request.is_message());
        let id = *messages.max_by_key(|(_, posted)| posted.bytes)?.0;
        self.waiting.remove(&id).map(|posted| (id, posted.request, posted.bytes))
    }

    /// A request that ran out of time.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<(u64, Request)> {
        let is_due = self.deadline().is_some_and(|deadline| deadline <= now);
        let (id, posted) = is_due.then(|| self.waiting.pop_first()).flatten()?;
        Some((id, posted.request))
    }

    /// When the next one runs out of time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, posted)| posted.deadline)
    }

    /// No answer will come to any.
    pub(super) fn fail_all(&mut self, error: &ClientError) {
        for (_, posted) in std::mem::take(&mut self.waiting) {
            posted.request.fail(error.clone());
        }
    }
}
