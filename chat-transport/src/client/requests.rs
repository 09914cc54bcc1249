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
    waiting: BTreeMap<u64, (Instant, Request)>,
    last_id: u64,
    timeout: Duration,
}

impl Requests {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { waiting: BTreeMap::new(), last_id: 0, timeout }
    }

    /// How many callers wait.
    pub(super) fn called(&self) -> usize {
        let is_own = |request: &Request| {
            matches!(request, Request::Hello | Request::Renew | Request::Join(_) | Request::Send(_))
        };
        self.waiting.values().filter(|(_, request)| !is_own(request)).count()
    }

    /// The id for a request that is sent now.
    pub(super) fn add(&mut self, request: Request) -> u64 {
        self.last_id += 1;
        self.waiting.insert(self.last_id, (later(self.timeout), request));
        self.last_id
    }

    /// The request that this id answers.
    pub(super) fn take(&mut self, id: u64) -> Option<Request> {
        self.waiting.remove(&id).map(|(_, request)| request)
    }

    /// A request that ran out of time.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<(u64, Request)> {
        let is_due = self.deadline().is_some_and(|deadline| deadline <= now);
        let (id, (_, request)) = is_due.then(|| self.waiting.pop_first()).flatten()?;
        Some((id, request))
    }

    /// When the next one runs out of time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, (deadline, _))| *deadline)
    }

    /// No answer will come to any.
    pub(super) fn fail_all(&mut self, error: &ClientError) {
        for (_, (_, request)) in std::mem::take(&mut self.waiting) {
            request.fail(error.clone());
        }
    }
}
