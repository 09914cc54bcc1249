//! One connection after another, with a `hello` first on each, until the client is closed.
//!
//! | a connection ends | next |
//! |---|---|
//! | the application closes the client, or there is [no token](TokenError::Unauthorized) | closed |
//! | the `hello` is rejected, and the error is not temporary | closed |
//! | `token_expired` (4004), and tokens can be fetched | a new connection |
//! | 1009 before the welcome: the `hello` is too large | closed |
//! | after a `goodbye` | what the `goodbye` says |
//! | with any other close code | [`CloseReason::may_reconnect`]; unknown codes: a new connection |
//! | without a close code | a new connection |

use std::borrow::Cow;
use std::time::Duration;

use crate::wire::{self, ClientRequest};
use crate::{Backoff, CloseReason, ErrorCode, Hello, UserName};

use super::config::{Config, Resume};
use super::error::{ClientError, Disconnect, Rejection};
use super::events::{Event, State, Welcome};
use super::inbound::{self, Signal};
use super::limits::check_frame;
use super::link::{Due, Link};
use super::output::Action;
use super::requests::{ID_BYTES, Request, encode};
use super::session::Session;
use super::token::{FETCH_TIMEOUT, Renewal, Token, TokenError};

/// How long a connection must have lasted for the pauses to restart at the first: a server that
/// accepts and then drops connections must not be asked at the shortest interval.
const STABLE: Duration = Duration::from_secs(5);

/// The same for a connection that the server ended because of what the client sent, which is likely
/// to happen again.
const STABLE_AFTER_VIOLATION: Duration = Duration::from_secs(60);

pub(super) struct Lifecycle {
    pub(super) session: Session,
    pub(super) link: Link,
    pub(super) state: State,
    config: Config,
    name: Option<UserName>,
    urls: Vec<String>,
    /// The number of the next one; it is counted modulo their number.
    next_url: usize,
    backoff: Backoff,
    /// The `goodbye` of the current connection.
    goodbye: Option<wire::Goodbye<'static>>,
    resume: Option<Resume>,
    /// The token in the `hello` of the current connection.
    token: Option<String>,
    /// The size of that frame, in bytes.
    hello_bytes: usize,
    pub(super) renewal: Renewal,
}

impl Lifecycle {
    /// `urls` are not empty.
    pub(super) fn new(
        config: Config,
        urls: Vec<String>,
        seed: [u8; 32],
        now: Duration,
    ) -> Result<Self, ClientError> {
        let name = config.name.as_ref().map(UserName::new).transpose();
        let mut lifecycle = Self {
            name: name.map_err(|_| ClientError::UserName)?,
            session: Session::new(&config, seed, now),
            link: Link::new(&config, now),
            state: State::Connecting { url: String::new() },
            next_url: 0,
            backoff: Backoff::new(config.backoff_base, config.backoff_cap),
            goodbye: None,
            resume: config.resume.clone(),
            token: None,
            hello_bytes: 0,
            renewal: Renewal::Never,
            urls,
            config,
        };
        lifecycle.open(now);
        Ok(lifecycle)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    // The start of a connection.

    fn open(&mut self, now: Duration) {
        self.set_state(State::Connecting { url: self.url() });
        match &self.config.token {
            None => self.connect(now),
            Some(Token::Fixed(token)) => {
                self.token = Some(token.clone());
                self.connect(now);
            }
            Some(Token::Fetched) => {
                self.link.fetch_token(now);
                self.push(Action::FetchToken);
            }
        }
    }

    fn connect(&mut self, now: Duration) {
        self.link.open(now);
        self.push(Action::Connect { url: self.url() });
    }

    fn url(&self) -> String {
        self.urls[self.next_url % self.urls.len()].clone()
    }

    pub(super) fn connected(&mut self, now: Duration) {
        if self.link.is_opening() {
            self.link.opened();
            self.hello(now);
        }
    }

    fn hello(&mut self, now: Duration) {
        let resume = self.resume.as_ref().map(|resume| resume.as_str().into());
        let token = self.token.as_deref().map(Cow::from);
        let hello = Hello { token, name: self.name.clone(), resume };
        let frame = encode(&ClientRequest::Hello(hello));
        self.hello_bytes = frame.len() + ID_BYTES;
        match check_frame(&self.session.outbox.limits, self.hello_bytes) {
            Ok(()) => self.session.outbox.send_request(Request::Hello, &frame, now),
            Err(error) => self.end(Disconnect::new(error.to_string())),
        }
    }

    // Frames.

    pub(super) fn received(&mut self, text: &str, now: Duration) -> Result<(), serde_json::Error> {
        if self.link.is_open() {
            self.link.alive(now);
            let frame = serde_json::from_str(text)?;
            let signal = inbound::handle(&mut self.session, frame, now);
            self.handle_signal(signal, now);
        }
        Ok(())
    }

    fn handle_signal(&mut self, signal: Option<Signal<'_>>, now: Duration) {
        match signal {
            None => {}
            Some(Signal::Welcome(frame)) => self.welcomed(frame, now),
            Some(Signal::HelloRejected(rejection)) => self.hello_rejected(&rejection, now),
            Some(Signal::HelloUnanswered) => self.lost(Disconnect::new("no welcome"), now),
            Some(Signal::Renewed(frame)) => self.set_identity(frame, now),
            Some(Signal::NotRenewed) => self.retry_renewal(now),
            Some(Signal::Goodbye(frame)) => self.goodbye = Some(frame.into_owned()),
        }
    }

    fn welcomed(&mut self, frame: wire::Welcome<'_>, now: Duration) {
        self.session.outbox.start_pacer(&frame.limits, self.hello_bytes, now);
        self.set_identity(frame, now);
        self.link.welcomed(now);
        self.set_state(State::Online);
        self.session.online();
    }

    /// Applies a welcome: the user of the client, and the lifetime of its token.
    fn set_identity(&mut self, frame: wire::Welcome<'_>, now: Duration) {
        let mut welcome = Welcome::from(frame);
        // A server whose broker is unavailable sends no secret: the old one stays valid.
        welcome.resume = welcome.resume.or(self.resume.take());
        self.resume.clone_from(&welcome.resume);
        self.renewal = match welcome.expires_in {
            Some(time) if self.can_renew() => Renewal::before(time, &mut self.session.rng, now),
            _ => Renewal::Never,
        };
        self.session.set_welcome(welcome, self.config.token.is_some());
    }

    fn hello_rejected(&mut self, rejection: &Rejection, now: Duration) {
        if rejection.is(ErrorCode::Unauthorized) && self.resume.take().is_some() {
            // The servers no longer accept the secret: connect as a new user, once.
            self.hello(now);
        } else if rejection.retry().is_some() {
            self.lost(Disconnect::new(rejection.to_string()), now);
        } else {
            self.end(Disconnect::new(rejection.to_string()));
        }
    }

    // Tokens.

    pub(super) fn token(&mut self, token: Result<String, TokenError>, now: Duration) {
        let is_renewal = matches!(self.renewal, Renewal::Fetching(_));
        if !is_renewal && !self.link.is_fetching_token() {
            return;
        }
        match token {
            Err(TokenError::Unauthorized(why)) => self.end(Disconnect::new(why)),
            Ok(token) if is_renewal => self.renew(&token, now),
            Err(TokenError::Retry(_)) if is_renewal => self.retry_renewal(now),
            Ok(token) => {
                self.token = Some(token);
                self.connect(now);
            }
            Err(TokenError::Retry(why)) => {
                self.lost(Disconnect::new(format!("there is no token: {why}")), now);
            }
        }
    }

    /// Sends the new token on the current connection.
    fn renew(&mut self, token: &str, now: Duration) {
        self.renewal = Renewal::Never;
        let hello = Hello { token: Some(token.into()), name: None, resume: None };
        let frame = encode(&ClientRequest::Hello(hello));
        match check_frame(&self.session.outbox.limits, frame.len() + ID_BYTES) {
            Ok(()) => self.session.outbox.send_request(Request::Renew, &frame, now),
            Err(_) => self.retry_renewal(now),
        }
    }

    /// The renewal failed and is retried. If it fails until the token expires, the server ends the
    /// connection.
    fn retry_renewal(&mut self, now: Duration) {
        self.renewal = Renewal::again(&mut self.session.rng, now);
    }

    fn can_renew(&self) -> bool {
        self.config.token == Some(Token::Fetched)
    }

    // Time.

    /// Fails what has timed out.
    pub(super) fn expire(&mut self, now: Duration) {
        let signal = inbound::expire(&mut self.session, now);
        self.handle_signal(signal, now);
    }

    /// Does what is due. `is_read`: whether the server can be read.
    pub(super) fn advance(&mut self, is_read: bool, now: Duration) {
        self.session.end_pauses(now);
        match self.renewal {
            Renewal::At(due) if due <= now => {
                self.renewal = Renewal::Fetching(now.saturating_add(FETCH_TIMEOUT));
                self.push(Action::FetchToken);
            }
            Renewal::Fetching(due) if due <= now => self.retry_renewal(now),
            Renewal::Never | Renewal::At(_) | Renewal::Fetching(_) => {}
        }
        let unanswered_since = self.session.outbox.requests.unanswered_since();
        match self.link.take_due(is_read, unanswered_since, now) {
            Some(Due::Connect) => self.open(now),
            Some(Due::Ping) => self.push(Action::Ping),
            Some(Due::Lost(why)) => self.lost(Disconnect::new(why), now),
            None => {}
        }
    }

    /// The process did not run for a while. An open connection is pinged: it may be dead.
    pub(super) fn resume_after_suspension(&mut self, now: Duration) {
        if self.link.restart_with_ping(now) {
            self.push(Action::Ping);
        }
    }

    // The end of a connection.

    /// The connection has ended, or could not be opened.
    pub(super) fn disconnected(&mut self, loss: Disconnect, now: Duration) {
        if self.is_connected() {
            self.ended(loss, now);
        }
    }

    /// Ends a connection that has failed.
    fn lost(&mut self, loss: Disconnect, now: Duration) {
        let is_connected = self.is_connected();
        self.ended(loss, now);
        if is_connected {
            // The user does not leave: another connection follows.
            self.push(Action::Close { code: CloseReason::GoingAway.code() });
        }
    }

    /// Ends the connection, and makes no other.
    pub(super) fn end(&mut self, loss: Disconnect) {
        let is_connected = self.is_connected();
        self.close(loss);
        if is_connected {
            self.push(Action::Close { code: CloseReason::Normal.code() });
        }
    }

    /// The connection is lost. The next one is opened, unless it would end in the same way.
    fn ended(&mut self, loss: Disconnect, now: Duration) {
        let goodbye = self.goodbye.take();
        if !self.may_reconnect(&loss, goodbye.as_ref()) {
            self.close(match goodbye {
                Some(wire::Goodbye { reason, message, until, .. }) => Disconnect {
                    reason: reason.into_owned(),
                    message: message.map(Cow::into_owned),
                    until,
                    ..loss
                },
                None => loss,
            });
            return;
        }
        if loss.is(CloseReason::TooBig) {
            inbound::fail_largest_message(&mut self.session, now);
        }
        let is_violation = loss.is(CloseReason::TooBig) || loss.is(CloseReason::PolicyViolation);
        let stable = if is_violation { STABLE_AFTER_VIOLATION } else { STABLE };
        if self.link.online_since().is_some_and(|since| now.saturating_sub(since) >= stable) {
            self.backoff.reset();
        }
        // The jitter is added to the requested pause: all clients of a server that shuts down get the
        // same one.
        let asked = Duration::from_millis(goodbye.map_or(0, |goodbye| goodbye.after_ms));
        let retry_in = asked.saturating_add(self.backoff.next_jittered(self.session.rng.next()));
        self.next_url += 1;
        self.link.wait(now.saturating_add(retry_in));
        self.renewal = Renewal::Never;
        self.session.offline(&ClientError::Disconnected);
        self.set_state(State::Waiting { retry_in, loss });
    }

    fn may_reconnect(&self, loss: &Disconnect, goodbye: Option<&wire::Goodbye<'_>>) -> bool {
        if loss.is(CloseReason::TokenExpired) && self.can_renew() {
            return true;
        }
        if loss.is(CloseReason::TooBig) && !self.session.is_online {
            // The `hello` was too large, and would be again.
            return false;
        }
        match goodbye {
            Some(goodbye) => goodbye.reconnect,
            None => loss.code.is_none_or(may_reconnect),
        }
    }

    fn close(&mut self, loss: Disconnect) {
        self.link.wait(Duration::MAX);
        self.renewal = Renewal::Never;
        self.session.close(loss.clone());
        self.set_state(State::Closed { loss });
    }

    fn is_connected(&self) -> bool {
        self.link.is_opening() || self.link.is_open()
    }

    fn push(&mut self, action: Action) {
        self.session.outbox.actions.push_back(action);
    }

    fn set_state(&mut self, state: State) {
        self.state = state.clone();
        self.session.events.push(Event::State(state));
    }
}

/// Whether a client may connect again after a close code. It may after unknown codes: later servers
/// and proxies send them.
fn may_reconnect(code: u16) -> bool {
    let known = CloseReason::ALL.iter().find(|reason| reason.code() == code);
    known.is_none_or(|reason| reason.may_reconnect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_close_codes() {
        let known = [
            1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1013, 4000, 4001, 4002,
            4003, 4004, 4005,
        ];
        let is_final: Vec<u16> = known.into_iter().filter(|code| !may_reconnect(*code)).collect();
        assert_eq!(is_final, [1000, 1002, 1003, 1007, 4002, 4003, 4004]);
    }
}
