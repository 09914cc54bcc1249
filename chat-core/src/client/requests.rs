//! Requests that were sent and wait for their answers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::RoomId;
use crate::wire::ClientRequest;

use super::error::ClientError;
use super::output::{Answers, RequestId};

/// What the client has requested from the server.
#[derive(Debug)]
pub(super) enum Request {
    Hello,
    /// A `hello` with a new token on a connection that had its welcome.
    Renew,
    /// Joins a room.
    Join(RoomId),
    /// Reads the members of a room that the client is in.
    JoinAgain(RequestId),
    /// Leaves a room. `None`: the client itself leaves a room for which no request waits.
    Leave(Option<RequestId>),
    /// Sends the first message of a room's queue.
    Send(RoomId),
    Direct(RequestId),
    Members(RequestId),
    History(RequestId),
}

/// What an id adds to a frame, in bytes, at most.
pub(super) const ID_BYTES: usize = r#""id":18446744073709551615,"#.len();

/// The frame of a request without its id, which it gets when it is [sent](with_id): its size counts
/// before.
pub(super) fn encode(request: &ClientRequest<'_>) -> String {
    // Texts, numbers and JSON that was parsed before: nothing that cannot be written.
    serde_json::to_string(request).unwrap_or_default()
}

/// The frame of a request, of an [encoded](encode) one.
pub(super) fn with_id(frame: &str, id: u64) -> String {
    format!(r#"{{"id":{id},{}"#, frame.get(1..).unwrap_or("}"))
}

/// A frame that is ready to be sent, and its place in the order of all such frames.
#[derive(Debug)]
pub(super) struct Turn {
    /// Frames with lower numbers are sent first.
    pub(super) number: u64,
    /// The frame, without its id.
    pub(super) frame: String,
}

impl Request {
    /// The request of the application that nothing but the answer to this one settles.
    fn caller(&self) -> Option<RequestId> {
        match self {
            Self::Hello | Self::Renew | Self::Join(_) | Self::Send(_) => None,
            Self::Leave(caller) => *caller,
            Self::JoinAgain(caller)
            | Self::Direct(caller)
            | Self::Members(caller)
            | Self::History(caller) => Some(*caller),
        }
    }

    /// Whether the server has something to publish.
    pub(super) fn is_message(&self) -> bool {
        matches!(self, Self::Send(_) | Self::Direct(_))
    }

    /// Fails the request of the application that waits for nothing but this one.
    pub(super) fn fail(&self, error: ClientError, answers: &mut Answers) {
        if let Some(caller) = self.caller() {
            answers.fail(caller, error);
        }
    }
}

/// Requests by id. Ids increase, so the first request is the first to time out.
#[derive(Debug)]
pub(super) struct Requests {
    waiting: BTreeMap<u64, PendingRequest>,
    last_id: u64,
    timeout: Duration,
}

/// A request that was sent.
#[derive(Debug)]
struct PendingRequest {
    sent_at: Duration,
    deadline: Duration,
    request: Request,
    /// The size of its frame.
    bytes: usize,
}

/// Sums over the unanswered messages.
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

    /// The number of unanswered requests.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The number of unanswered requests that the application made.
    pub(super) fn waiting_callers(&self) -> usize {
        self.waiting.values().filter(|pending| pending.request.caller().is_some()).count()
    }

    /// The messages that are unanswered.
    pub(super) fn unanswered(&self) -> Unanswered {
        let messages = self.waiting.values().filter(|pending| pending.request.is_message());
        messages.fold(Unanswered::default(), |sum, pending| Unanswered {
            messages: sum.messages + 1,
            bytes: sum.bytes + pending.bytes,
        })
    }

    /// The id of the next request.
    pub(super) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// The request is sent, under the [next id](Self::next_id), in a frame of `bytes`.
    pub(super) fn add(&mut self, request: Request, bytes: usize, now: Duration) {
        self.last_id += 1;
        let deadline = now.saturating_add(self.timeout);
        let pending = PendingRequest { sent_at: now, deadline, request, bytes };
        self.waiting.insert(self.last_id, pending);
    }

    /// The request that this id answers.
    pub(super) fn take(&mut self, id: u64) -> Option<Request> {
        self.waiting.remove(&id).map(|pending| pending.request)
    }

    /// Removes the largest unanswered message; also returns the size of its frame.
    pub(super) fn take_largest_message(&mut self) -> Option<(u64, Request, usize)> {
        let messages = self.waiting.iter().filter(|(_, pending)| pending.request.is_message());
        let id = *messages.max_by_key(|(_, pending)| pending.bytes)?.0;
        self.waiting.remove(&id).map(|pending| (id, pending.request, pending.bytes))
    }

    /// Removes a request that timed out.
    pub(super) fn take_expired(&mut self, now: Duration) -> Option<(u64, Request)> {
        let is_due = self.deadline().is_some_and(|deadline| deadline <= now);
        let (id, pending) = is_due.then(|| self.waiting.pop_first()).flatten()?;
        Some((id, pending.request))
    }

    /// Since when the oldest request has been unanswered.
    pub(super) fn unanswered_since(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|(_, pending)| pending.sent_at)
    }

    /// When the next request times out.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|(_, pending)| pending.deadline)
    }

    /// No request will be answered: the connection was lost.
    pub(super) fn fail_all(&mut self, error: &ClientError, answers: &mut Answers) {
        for (_, pending) in std::mem::take(&mut self.waiting) {
            pending.request.fail(error.clone(), answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, Position};

    #[test]
    fn id_is_put_first() {
        let since = Some(Position { epoch: Epoch::from_random(0), offset: 4 });
        let room = RoomId::new("r").unwrap();
        let frame = encode(&ClientRequest::Join { room, since, history: Some(2) });
        assert_eq!(
            with_id(&frame, 1),
            r#"{"id":1,"type":"join","room":"r","since":{"epoch":"00000000","offset":4},"history":2}"#
        );
        assert!(with_id(&frame, u64::MAX).len() == frame.len() + ID_BYTES);
    }
}
