//! The task that owns a client's connections, one after another.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chat_core::CloseReason;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::timer::was_missed;

use super::backoff::{Backoff, later};
use super::commands::{Call, Command};
use super::config::{ClientConfig, Resume};
use super::error::ClientError;
use super::events::{Event, EventSender, Loss, State, Welcome};
use super::frames::{GoodbyeFrame, ID_BYTES, Outgoing};
use super::limits::Limits;
use super::pace::{Pace, Rates};
use super::requests::{Reply, Request, Requests};
use super::rooms::Rooms;
use super::sends::Sends;
use super::socket::{Heard, Socket};
use super::token::{Asking, Renewal, Token, TokenError, TokenSource};

/// How long a connection must have lasted before the next loss counts as the first again.
const STABLE: Duration = Duration::from_secs(5);

/// The same for a connection that the server ended for what the client sent: that may well
/// happen again.
const STABLE_AFTER_VIOLATION: Duration = Duration::from_secs(60);

/// What handles may see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: State,
    pub(super) welcome: Option<Welcome>,
}

/// A client. The rest of its methods are with the [commands](super::commands) of handles and
/// the [frames](super::inbound) of the server.
pub(super) struct Task {
    pub(super) config: ClientConfig,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: EventSender,
    pub(super) shared: watch::Sender<Shared>,
    pub(super) rooms: Rooms,
    pub(super) sends: Sends,
    pub(super) requests: Requests,
    /// Requests of the application that wait for their turns, in order.
    pub(super) calls: VecDeque<Call>,
    /// Turns that were given.
    pub(super) turns: u64,
    pub(super) limits: Limits,
    /// Of the present connection.
    pub(super) pace: Pace,
    pub(super) goodbye: Option<GoodbyeFrame>,
    pub(super) resume: Option<Resume>,
    /// What is shown at the beginning of the present connection.
    token: Option<Token>,
    /// The size of the frame that shows it.
    hello_bytes: usize,
    pub(super) renewal: Renewal,
    urls: Vec<String>,
    /// Which of them is next.
    next_url: usize,
    backoff: Backoff,
    link: Link,
    clock: Clock,
    /// Until then nothing runs out of time: the process did not run, and what the server sent
    /// meanwhile is read first.
    reprieve: Option<Instant>,
    is_closed: bool,
}

/// The connection.
enum Link {
    Waiting(Instant),
    /// There is none before there is a token for it: a server does not wait long for one.
    Asking(Asking),
    Opening(Pin<Box<dyn Future<Output = Result<Socket, Loss>> + Send>>),
    Open(Box<Socket>),
}

/// What happens next on it.
enum Step {
    Retry,
    Token(Token),
    Opened(Box<Socket>),
    Heard(Heard),
    Lost(Loss),
    /// There will be no token any more.
    Unauthorized(Loss),
}

/// Deadlines of a connection. While the application does not read its events, nothing is
/// heard, and the clock stands still.
struct Clock {
    /// When the server was last heard, or its connection begun.
    heard: Instant,
    /// How many bytes it had sent when that was last looked at.
    read: u64,
    pinged: bool,
    online_since: Option<Instant>,
}

impl Link {
    /// Writes, and goes on unless it is `blocked`. Nothing is lost when it is dropped.
    async fn next(&mut self, blocked: bool) -> Step {
        match self {
            Self::Open(socket) => match socket.next(!blocked).await {
                Ok(heard) => Step::Heard(heard),
                Err(loss) => Step::Lost(loss),
            },
            _ if blocked => std::future::pending().await,
            Self::Waiting(until) => {
                sleep_until(*until).await;
                Step::Retry
            }
            Self::Asking(asking) => match asking.as_mut().await {
                Ok(token) => Step::Token(token),
                Err(TokenError::Retry(why)) => {
                    Step::Lost(Loss::new(format!("there is no token: {why}")))
                }
                Err(TokenError::Unauthorized(why)) => Step::Unauthorized(Loss::new(why)),
            },
            Self::Opening(opening) => match opening.as_mut().await {
                Ok(socket) => Step::Opened(Box::new(socket)),
                Err(loss) => Step::Lost(loss),
            },
        }
    }
}

impl Task {
    pub(super) fn new(
        urls: Vec<String>,
        config: ClientConfig,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        shared: watch::Sender<Shared>,
        places: Arc<Semaphore>,
    ) -> Self {
        let now = Instant::now();
        Self {
            commands,
            events: EventSender::new(events),
            shared,
            rooms: Rooms::default(),
            sends: Sends::new(places, config.send_timeout),
            requests: Requests::new(config.request_timeout),
            calls: VecDeque::new(),
            turns: 0,
            limits: Limits::default(),
            pace: Pace::new(Rates::default(), now),
            goodbye: None,
            resume: config.resume.clone(),
            token: None,
            hello_bytes: 0,
            renewal: Renewal::Never,
            urls,
            next_url: 0,
            backoff: Backoff::new(config.backoff_base, config.backoff_cap),
            link: Link::Waiting(now),
            clock: Clock { heard: now, read: 0, pinged: false, online_since: None },
            reprieve: None,
            is_closed: false,
            config,
        }
    }

    pub(super) async fn run(mut self) {
        self.open();
        while !self.is_closed {
            self.tick(Instant::now());
            let deadline = self.deadline();
            let (waits, blocked) = (self.events.is_waiting(), self.is_blocked());
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Close(reply)) => self.close(Some(reply)).await,
                    Some(command) => self.obey(command),
                    // The last handle is gone.
                    None => self.close(None).await,
                },
                () = self.events.drain(), if waits => self.clock.start(),
                step = self.link.next(blocked) => self.advance(step),
                token = self.renewal.next() => self.renew(token),
                () = until(deadline) => {}
            }
            if deadline.is_some_and(|due| was_missed(due, Instant::now())) {
                self.resume_after_stop();
            }
        }
        // Calls that were not taken any more fail now; only events may still be read.
        drop(self.commands);
        self.events.drain().await;
    }

    fn advance(&mut self, step: Step) {
        match step {
            Step::Retry => self.open(),
            Step::Token(token) => {
                self.token = Some(token);
                self.connect();
            }
            Step::Opened(socket) => {
                self.link = Link::Open(socket);
                self.hello();
            }
            Step::Heard(heard) => {
                if self.clock.online_since.is_some() {
                    self.clock.start();
                }
                if let Link::Open(socket) = &self.link {
                    self.clock.read = socket.read_bytes();
                }
                if let Heard::Text(text) = heard {
                    self.hear(&text);
                }
            }
            Step::Lost(loss) => self.lost(loss),
            Step::Unauthorized(loss) => self.end(loss),
        }
    }

    fn open(&mut self) {
        self.set_state(State::Connecting { url: self.url() });
        match &self.config.token {
            Some(source) => self.link = Link::Asking(source.token()),
            None => self.connect(),
        }
    }

    fn connect(&mut self) {
        self.link = Link::Opening(Box::pin(Socket::open(self.url())));
        self.clock.start();
        self.clock.read = 0;
        self.clock.online_since = None;
    }

    fn url(&self) -> String {
        self.urls[self.next_url % self.urls.len()].clone()
    }

    pub(super) fn hello(&mut self) {
        let Self { config, resume, token, .. } = self;
        let name = config.name.as_deref();
        let resume = resume.as_ref().map(Resume::as_str);
        let frame = Outgoing::Hello { name, resume, token: token.as_ref() }.encode();
        self.hello_bytes = frame.len() + ID_BYTES;
        match self.limits.check_frame(self.hello_bytes) {
            Ok(()) => self.post(Request::Hello, &frame),
            Err(error) => self.end(Loss::new(error.to_string())),
        }
    }

    /// A connection begins, with all that its rates allow but for the `hello`.
    pub(super) fn begin_pace(&mut self, rates: Rates) {
        let now = Instant::now();
        self.pace = Pace::new(rates, now);
        self.pace.spend(self.hello_bytes, now);
    }

    /// Puts a frame on the wire, if there is one.
    pub(super) fn write(&mut self, frame: String) {
        if let Link::Open(socket) = &mut self.link {
            self.pace.spend(frame.len(), Instant::now());
            socket.push(frame);
        }
    }

    /// Whether frames go out as they come.
    pub(super) fn is_fluent(&self) -> bool {
        matches!(&self.link, Link::Open(socket) if socket.stuck_since().is_none())
    }

    pub(super) fn is_online(&self) -> bool {
        self.clock.online_since.is_some()
    }

    /// The server has said welcome.
    pub(super) fn online(&mut self) {
        self.clock.start();
        self.clock.online_since = Some(Instant::now());
        self.set_state(State::Online);
    }

    /// Whether the application has to read events before the server is read any further. One that
    /// waits for an answer may do so where it reads its events, so these wait, within a bound.
    fn is_blocked(&self) -> bool {
        self.events.is_waiting() && !(self.events.may_wait() && self.has_callers())
    }

    /// Whether the application waits for an answer.
    fn has_callers(&self) -> bool {
        let has_sends = !self.sends.is_empty();
        has_sends || self.waiting_requests() > 0 || self.rooms.has_callers()
    }

    // Time.

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        self.reprieve = self.reprieve.filter(|until| now < *until);
        if self.reprieve.is_none() {
            self.expire(now);
        }
        self.sends.end_pauses(now);
        for room in self.rooms.take_due(now) {
            self.enter(&room);
        }
        self.flush(now);
        self.watch(now);
    }

    /// Gives up what has run out of time.
    fn expire(&mut self, now: Instant) {
        while let Some((id, request)) = self.requests.take_expired(now) {
            self.unanswered(id, request);
        }
        for room in self.rooms.expire(now) {
            self.give_up(&room);
        }
        self.sends.expire(now);
    }

    /// The process did not run when something was due: it was stopped, or the machine slept. That
    /// is not the server's fault, whose answers may be in the socket: everything has as long as a
    /// pong, and an open connection has to show that it is still one.
    fn resume_after_stop(&mut self) {
        let now = Instant::now();
        self.reprieve = Some(later(self.config.pong_timeout));
        self.clock.start();
        if let Link::Open(socket) = &mut self.link {
            socket.restart_stuck();
            if self.clock.online_since.is_some() {
                socket.ping();
                self.clock.pinged = true;
                self.clock.heard = now.checked_sub(self.config.ping_after).unwrap_or(now);
            }
        }
    }

    /// Gives up a server that does not answer, or that takes nothing.
    fn watch(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(stuck_until(&self.config, &self.link)) {
            self.lost(Loss::new("the server reads nothing"));
            return;
        }
        if self.is_blocked() || !is_due(self.clock.due(&self.config, &self.link)) {
            return;
        }
        let Link::Open(socket) = &mut self.link else {
            self.lost(Loss::new("no connection in time"));
            return;
        };
        let read = std::mem::replace(&mut self.clock.read, socket.read_bytes());
        if self.clock.online_since.is_some() && self.clock.read > read {
            // A large frame on a slow line is not whole yet, and its server is there.
            self.clock.start();
        } else if self.clock.online_since.is_none() {
            self.lost(Loss::new("no welcome in time"));
        } else if self.clock.pinged {
            self.lost(Loss::new("no answer to a ping"));
        } else {
            self.clock.pinged = true;
            socket.ping();
        }
    }

    /// When something is due next.
    fn deadline(&self) -> Option<Instant> {
        let link = self.clock.due(&self.config, &self.link).filter(|_| !self.is_blocked());
        let stuck = stuck_until(&self.config, &self.link);
        let waiting = [self.requests.deadline(), self.rooms.deadline(), self.sends.deadline()];
        let now = Instant::now();
        let reprieved = |at: Instant| self.reprieve.filter(|_| at <= now).unwrap_or(at);
        let waiting = waiting.into_iter().flatten().map(reprieved);
        waiting.chain([self.flush_at(), link, stuck].into_iter().flatten()).min()
    }

    // The end of a connection.

    /// The connection is gone, or given up.
    pub(super) fn lost(&mut self, loss: Loss) {
        let goodbye = self.goodbye.take();
        let can_renew = loss.code == Some(CloseReason::TokenExpired.code())
            && self.config.token.as_ref().is_some_and(TokenSource::renews);
        let is_too_large = loss.code == Some(CloseReason::TooBig.code());
        let is_welcome = match &goodbye {
            _ if can_renew => true,
            // It was the `hello`, and would be again.
            _ if is_too_large && !self.is_online() => false,
            Some(goodbye) => goodbye.reconnect,
            None => loss.code.is_none_or(may_reconnect),
        };
        if !is_welcome {
            let reason = goodbye.map_or(loss.reason, |goodbye| goodbye.reason);
            self.end(Loss { reason, ..loss });
            return;
        }
        if is_too_large {
            self.fail_largest_message();
        }
        let is_violation = is_too_large || loss.code == Some(CloseReason::PolicyViolation.code());
        let stable = if is_violation { STABLE_AFTER_VIOLATION } else { STABLE };
        if self.clock.online_since.take().is_some_and(|since| since.elapsed() >= stable) {
            self.backoff.reset();
        }
        let asked = Duration::from_millis(goodbye.map_or(0, |goodbye| goodbye.after_ms));
        let retry_in = asked.saturating_add(self.backoff.next());
        self.next_url += 1;
        self.suspend(Link::Waiting(later(retry_in)), &ClientError::Disconnected);
        self.set_state(State::Waiting { retry_in, loss });
    }

    /// No connection will be made any more.
    pub(super) fn end(&mut self, loss: Loss) {
        self.suspend(Link::Waiting(Instant::now()), &ClientError::Closed);
        self.rooms.fail_all(&ClientError::Closed);
        self.sends.fail_all(&ClientError::Closed);
        self.is_closed = true;
        self.set_state(State::Closed { loss });
    }

    /// Everything fails before the connection is ended, which may take its time: a call that comes
    /// from then on is answered at once.
    async fn close(&mut self, reply: Option<Reply<()>>) {
        let link = std::mem::replace(&mut self.link, Link::Waiting(Instant::now()));
        let code = Some(CloseReason::Normal.code());
        self.end(Loss { code, reason: "closed by the application".into() });
        let mut replies = Vec::from_iter(reply);
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            // Any other call fails when it is dropped.
            if let Command::Close(reply) = command {
                replies.push(reply);
            }
        }
        if let Link::Open(socket) = link {
            socket.close().await;
        }
        for reply in replies {
            let _ = reply.send(Ok(()));
        }
    }

    fn suspend(&mut self, link: Link, error: &ClientError) {
        if let Link::Open(socket) = std::mem::replace(&mut self.link, link) {
            // The server may take its time, and has no one to hear it.
            tokio::spawn(socket.close());
        }
        self.clock.online_since = None;
        self.renewal = Renewal::Never;
        self.rooms.lost();
        self.sends.lost();
        self.requests.fail_all(error);
        // They have not left, so nothing about them is unknown.
        let never_sent = match error {
            ClientError::Disconnected => &ClientError::Offline,
            error => error,
        };
        for call in std::mem::take(&mut self.calls) {
            call.request.fail(never_sent.clone());
        }
    }

    fn set_state(&mut self, state: State) {
        self.shared.send_modify(|shared| shared.state = state.clone());
        self.events.push(Event::State(state));
    }
}

impl Clock {
    fn start(&mut self) {
        self.heard = Instant::now();
        self.pinged = false;
    }

    /// When a server that says nothing is asked, or given up.
    fn due(&self, config: &ClientConfig, link: &Link) -> Option<Instant> {
        // How long a token takes is limited by its source.
        if let Link::Waiting(_) | Link::Asking(_) = link {
            return None;
        }
        let patience = match (self.online_since, self.pinged) {
            (None, _) => config.connect_timeout,
            (Some(_), false) => config.ping_after,
            (Some(_), true) => silence(config),
        };
        self.heard.checked_add(patience)
    }
}

/// How long a server may be silent.
fn silence(config: &ClientConfig) -> Duration {
    config.ping_after.saturating_add(config.pong_timeout)
}

/// When a server that takes nothing is given up: it has as long as one that says nothing.
fn stuck_until(config: &ClientConfig, link: &Link) -> Option<Instant> {
    let Link::Open(socket) = link else { return None };
    socket.stuck_since()?.checked_add(silence(config))
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Whether a close code asks to come back; those of later servers do.
fn may_reconnect(code: u16) -> bool {
    let known = CloseReason::ALL.iter().find(|reason| reason.code() == code);
    known.is_none_or(|reason| reason.may_reconnect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_mean_stay_away() {
        let known = [
            1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1013, 4000, 4001, 4002,
            4003, 4004, 4005,
        ];
        let away: Vec<u16> = known.into_iter().filter(|code| !may_reconnect(*code)).collect();
        assert_eq!(away, [1000, 1002, 1003, 1007, 4002, 4003, 4004]);
    }
}
