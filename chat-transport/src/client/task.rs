//! The task that owns a client's connections, one after another.

use std::pin::Pin;
use std::time::Duration;

use chat_core::CloseReason;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::backoff::{Backoff, later};
use super::commands::Command;
use super::config::{ClientConfig, Resume};
use super::error::ClientError;
use super::events::{Event, EventSender, Loss, State, Welcome};
use super::frames::{GoodbyeFrame, Outgoing};
use super::requests::{Request, Requests};
use super::rooms::Rooms;
use super::sends::Sends;
use super::socket::{Heard, Socket};
use super::token::{Renewal, Token, TokenSource};

/// How long a connection must have lasted before the next loss counts as the first again.
const STABLE: Duration = Duration::from_secs(5);

/// The limit of the protocol, until a server has told its own.
const FRAME_BYTES: usize = 65_536;

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
    pub(super) goodbye: Option<GoodbyeFrame>,
    pub(super) resume: Option<Resume>,
    /// What is shown at the beginning of the present connection.
    token: Option<Token>,
    pub(super) renewal: Renewal,
    urls: Vec<String>,
    /// Which of them is next.
    next_url: usize,
    backoff: Backoff,
    link: Link,
    clock: Clock,
    is_closed: bool,
}

/// The connection.
enum Link {
    Waiting(Instant),
    Opening(Pin<Box<dyn Future<Output = Result<Opened, Loss>> + Send>>),
    Open(Box<Socket>),
}

/// A connection without a word yet, and the token to begin with.
type Opened = (Socket, Option<Token>);

/// What happens next on it.
enum Step {
    Retry,
    Opened(Box<Opened>),
    Heard(Heard),
    Lost(Loss),
}

/// Deadlines of a connection. While the application does not read its events, nothing is
/// heard, and the clock stands still.
struct Clock {
    /// When the server was last heard, or its connection begun.
    heard: Instant,
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
            Self::Opening(opening) => match opening.as_mut().await {
                Ok(opened) => Step::Opened(Box::new(opened)),
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
    ) -> Self {
        let now = Instant::now();
        Self {
            commands,
            events: EventSender::new(events),
            shared,
            rooms: Rooms::default(),
            sends: Sends::new(config.send_queue),
            requests: Requests::new(config.request_timeout),
            goodbye: None,
            resume: config.resume.clone(),
            token: None,
            renewal: Renewal::Never,
            urls,
            next_url: 0,
            backoff: Backoff::new(config.backoff_base, config.backoff_cap),
            link: Link::Waiting(now),
            clock: Clock { heard: now, pinged: false, online_since: None },
            is_closed: false,
            config,
        }
    }

    pub(super) async fn run(mut self) {
        self.open();
        while !self.is_closed {
            self.tick(Instant::now());
            let deadline = self.deadline();
            let blocked = self.events.is_blocked();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Close(reply)) => {
                        self.close().await;
                        let _ = reply.send(Ok(()));
                    }
                    Some(command) => self.obey(command),
                    // The last handle is gone.
                    None => self.close().await,
                },
                () = self.events.drain(), if blocked => self.clock.start(),
                step = self.link.next(blocked) => self.advance(step),
                token = self.renewal.next() => self.renew(token),
                () = until(deadline) => {}
            }
        }
        // Calls that were not taken any more fail now; only events may still be read.
        drop(self.commands);
        self.events.drain().await;
    }

    fn advance(&mut self, step: Step) {
        match step {
            Step::Retry => self.open(),
            Step::Opened(opened) => {
                let (socket, token) = *opened;
                self.link = Link::Open(Box::new(socket));
                self.token = token;
                self.hello();
            }
            Step::Heard(heard) => {
                if self.clock.online_since.is_some() {
                    self.clock.start();
                }
                if let Heard::Text(text) = heard {
                    self.hear(&text);
                }
            }
            Step::Lost(loss) => self.lost(loss),
        }
    }

    fn open(&mut self) {
        let url = self.urls[self.next_url % self.urls.len()].clone();
        self.link = Link::Opening(Box::pin(open(url.clone(), self.config.token.clone())));
        self.clock.start();
        self.clock.online_since = None;
        self.set_state(State::Connecting { url });
    }

    pub(super) fn hello(&mut self) {
        let id = self.requests.add(Request::Hello);
        let Self { config, resume, token, .. } = self;
        let (name, resume, token) = (config.name.clone(), resume.clone(), token.clone());
        let (name, resume) = (name.as_deref(), resume.as_ref().map(Resume::as_str));
        let hello = Outgoing::Hello { id, name, resume, token: token.as_ref() };
        if let Err(error) = self.post(&hello) {
            self.end(Loss::new(error.to_string()));
        }
    }

    /// Puts a frame on the wire, if there is one.
    pub(super) fn post(&mut self, frame: &Outgoing<'_>) -> Result<(), ClientError> {
        let Link::Open(socket) = &mut self.link else { return Err(ClientError::Offline) };
        let Ok(text) = serde_json::to_string(frame) else { return Err(ClientError::TooLarge) };
        let welcome = &self.shared.borrow().welcome;
        let limit = welcome.as_ref().map_or(FRAME_BYTES, |welcome| welcome.frame_bytes);
        if text.len() > limit {
            return Err(ClientError::TooLarge);
        }
        socket.push(text);
        Ok(())
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

    // Time.

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        while let Some((id, request)) = self.requests.take_expired(now) {
            self.unanswered(id, request);
        }
        for room in self.rooms.expire(now) {
            self.give_up(&room);
        }
        self.sends.expire(now);
        for room in self.rooms.take_due(now) {
            self.enter(&room);
        }
        self.flush(now);
        self.watch(now);
    }

    /// Gives up a server that does not answer, or that takes nothing.
    fn watch(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(stuck_until(&self.config, &self.link)) {
            self.lost(Loss::new("the server reads nothing"));
            return;
        }
        if self.events.is_blocked() || !is_due(self.clock.due(&self.config, &self.link)) {
            return;
        }
        let Link::Open(socket) = &mut self.link else {
            self.lost(Loss::new("no connection in time"));
            return;
        };
        if self.clock.online_since.is_none() {
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
        let is_blocked = self.events.is_blocked();
        let link = self.clock.due(&self.config, &self.link).filter(|_| !is_blocked);
        let stuck = stuck_until(&self.config, &self.link);
        let waiting = [self.requests.deadline(), self.rooms.deadline(), self.sends.deadline()];
        waiting.into_iter().chain([link, stuck]).flatten().min()
    }

    // The end of a connection.

    /// The connection is gone, or given up.
    pub(super) fn lost(&mut self, loss: Loss) {
        let goodbye = self.goodbye.take();
        let can_renew = loss.code == Some(CloseReason::TokenExpired.code())
            && self.config.token.as_ref().is_some_and(TokenSource::renews);
        let is_welcome = match &goodbye {
            _ if can_renew => true,
            Some(goodbye) => goodbye.reconnect,
            None => loss.code.is_none_or(may_reconnect),
        };
        if !is_welcome {
            let reason = goodbye.map_or(loss.reason, |goodbye| goodbye.reason);
            self.end(Loss { reason, ..loss });
            return;
        }
        if self.clock.online_since.take().is_some_and(|since| since.elapsed() >= STABLE) {
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

    async fn close(&mut self) {
        if let Link::Open(socket) = std::mem::replace(&mut self.link, Link::Waiting(Instant::now()))
        {
            socket.close().await;
        }
        let code = Some(CloseReason::Normal.code());
        self.end(Loss { code, reason: "closed by the application".into() });
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
        if let Link::Waiting(_) = link {
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

async fn open(url: String, tokens: Option<TokenSource>) -> Result<Opened, Loss> {
    // First: a server does not wait long for one.
    let token = match tokens {
        Some(tokens) => Some(
            tokens
                .token()
                .await
                .map_err(|error| Loss::new(format!("there is no token: {error}")))?,
        ),
        None => None,
    };
    Ok((Socket::open(url).await?, token))
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
        assert_eq!(away, [1000, 1002, 1003, 1007, 1008, 1009, 4002, 4003, 4004]);
    }
}
