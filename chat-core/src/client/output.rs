//! What a machine gives out: actions for its transport, and answers and events for its
//! application.

use std::collections::VecDeque;
use std::fmt;

use super::error::ClientError;
use super::events::{Event, History, Joined, Members, Sent};

/// What the transport of a [`Machine`](super::Machine) is to do. `Debug` hides the frame of a
/// `hello`, which has secrets.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Get a token and pass it to [`handle_token`](super::Machine::handle_token). A fetch that
    /// was not finished is obsolete.
    FetchToken,
    /// Open a WebSocket connection to this address, with the subprotocol `chat.v1`. There is no
    /// other connection then.
    Connect {
        /// One of the addresses that the machine was made with.
        url: String,
    },
    /// Send this text frame on the connection.
    Send(String),
    /// Send a WebSocket ping; the pong is a [sign of life](super::Machine::handle_alive). A
    /// transport that cannot ping, as in a browser, sends the text frame `{"type":"ping"}`: its
    /// answer is one as well.
    Ping,
    /// End the connection, with this close code. The machine has done with it: nothing that
    /// happens on it later may be passed to the machine.
    Close {
        /// The code of the close frame.
        code: u16,
    },
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FetchToken => f.write_str("FetchToken"),
            Self::Connect { url } => f.debug_struct("Connect").field("url", url).finish(),
            Self::Send(frame) if is_hello(frame) => f.write_str("Send(hello)"),
            Self::Send(frame) => f.debug_tuple("Send").field(frame).finish(),
            Self::Ping => f.write_str("Ping"),
            Self::Close { code } => f.debug_struct("Close").field("code", code).finish(),
        }
    }
}

/// Of a frame with an id, which precedes the type.
fn is_hello(frame: &str) -> bool {
    frame.split(',').nth(1).is_some_and(|field| field.starts_with(r#""type":"hello""#))
}

/// Names a request of the application among those of one [`Machine`](super::Machine).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// How a request succeeded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Answer {
    /// Of [`join`](super::Machine::join).
    Joined(Joined),
    /// Of [`leave`](super::Machine::leave).
    Left,
    /// Of [`send`](super::Machine::send).
    Sent(Sent),
    /// Of [`direct`](super::Machine::direct): how many servers hold the recipient; 0: offline.
    Direct(u32),
    /// Of [`members`](super::Machine::members).
    Members(Members),
    /// Of [`history`](super::Machine::history).
    History(History),
}

/// Answers that the application has not polled: one for each of its requests. The requests in progress
/// are bounded, but an application that makes requests and never polls their answers fills this.
#[derive(Debug, Default)]
pub(super) struct Answers(VecDeque<(RequestId, Result<Answer, ClientError>)>);

impl Answers {
    pub(super) fn succeed(&mut self, request: RequestId, answer: Answer) {
        self.0.push_back((request, Ok(answer)));
    }

    pub(super) fn fail(&mut self, request: RequestId, error: ClientError) {
        self.0.push_back((request, Err(error)));
    }

    pub(super) fn pop(&mut self) -> Option<(RequestId, Result<Answer, ClientError>)> {
        self.0.pop_front()
    }
}

/// Events that may wait for the application while it waits for an answer.
const WAITING: usize = 1024;

/// Events that the application has not polled.
///
/// Nothing is dropped, so the server must not be read while events wait. An application may wait
/// for an answer where it polls its events, and then never polls the event that holds
/// the answer back: while it waits for answers, up to 1,024 events are kept.
#[derive(Debug, Default)]
pub(super) struct Events(VecDeque<Event>);

impl Events {
    pub(super) fn push(&mut self, event: Event) {
        self.0.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }

    /// Whether the server may be read for more of them.
    pub(super) fn has_room(&self, awaits_answers: bool) -> bool {
        self.0.is_empty() || (awaits_answers && self.0.len() < WAITING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_wait_are_bounded_while_the_application_waits_for_an_answer() {
        let mut events = Events::default();
        assert!(events.has_room(false));
        for _ in 0..WAITING {
            assert!(events.has_room(true));
            events.push(Event::Undelivered { to: "bob".to_owned() });
            assert!(!events.has_room(false));
        }
        assert!(!events.has_room(true));
    }

    #[test]
    fn debug_shows_all_frames_but_a_hello() {
        let shown = |frame: &str| format!("{:?}", Action::Send(frame.to_owned()));
        let members = r#"{"id":2,"type":"members","room":"r"}"#;
        assert_eq!(shown(members), format!("Send({members:?})"));
        assert_eq!(shown(r#"{"id":1,"type":"hello","token":"secret"}"#), "Send(hello)");
    }
}
