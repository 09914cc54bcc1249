//! The task of a client: a machine with sockets and a clock.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chat_core::CloseReason;
use chat_core::client::{
    Action, Answer, ClientError, Disconnect, Event, Machine, Rejection, RequestId, State,
    TokenError, Welcome,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::connect::Dialer;
use super::socket::{Inbound, Socket};
use super::token::{Fetch, TokenSource};

/// The state that handles read.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: State,
    pub(super) welcome: Option<Welcome>,
    /// How the latest connection ended.
    pub(super) loss: Option<Disconnect>,
    pub(super) refusal: Option<Rejection>,
}

/// The task's ends of the channels to the handles and to the application.
pub(super) struct Channels {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) shared: watch::Sender<Shared>,
    pub(super) slots: Slots,
}

/// A command of a handle to the task.
pub(super) enum Command {
    Request(Box<Ask>, Caller),
    Typing { room: String, typing: bool, reply: oneshot::Sender<Result<(), ClientError>> },
    Close(oneshot::Sender<()>),
}

/// Passes a request to the machine.
pub(super) type Ask = dyn FnOnce(&mut Machine, Duration) -> Result<RequestId, ClientError> + Send;

/// The caller of a request.
pub(super) struct Caller {
    pub(super) reply: oneshot::Sender<Result<Answer, ClientError>>,
    /// The slot of the send queue that a message holds until its outcome is known.
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

impl Caller {
    /// Frees the slot first: the caller may call `try_send` as soon as it has the outcome. A caller
    /// that no longer waits is no error.
    fn settle(self, outcome: Result<Answer, ClientError>) {
        drop(self.slot);
        let _ = self.reply.send(outcome);
    }
}

/// The send queue. Calls that wait for a slot fail when it is dropped, even by a panic.
pub(super) struct Slots(pub(super) Arc<Semaphore>);

impl Drop for Slots {
    fn drop(&mut self) {
        self.0.close();
    }
}

pub(super) struct Task {
    machine: Machine,
    /// The moment from which the machine's time counts.
    start: Instant,
    commands: mpsc::Receiver<Command>,
    callers: HashMap<RequestId, Caller>,
    shared: watch::Sender<Shared>,
    events: mpsc::Sender<Event>,
    /// Whether `events` was full when it was last tried.
    is_full: bool,
    slots: Slots,
    link: Link,
    dialer: Arc<Dialer>,
    token: Option<TokenSource>,
    fetch: Option<Fetch>,
    /// The task that ends the latest connection, for up to 5 s.
    closing: Option<JoinHandle<()>>,
    /// Callers of `close`, which wait for that.
    closers: Vec<oneshot::Sender<()>>,
}

/// The connection.
enum Link {
    None,
    Opening(Pin<Box<dyn Future<Output = Result<Socket, Disconnect>> + Send>>),
    Open {
        socket: Box<Socket>,
        /// How many bytes the server had sent when it last showed a sign of life.
        read: u64,
    },
}

/// The next event of the connection.
enum Progress {
    Opened(Box<Socket>),
    Inbound(Inbound),
    Lost(Disconnect),
}

impl Link {
    /// Writes, and reads if `reading`. Nothing is lost when it is dropped.
    async fn next(&mut self, reading: bool) -> Progress {
        match self {
            Self::None => std::future::pending().await,
            Self::Opening(opening) => match opening.await {
                Ok(socket) => Progress::Opened(Box::new(socket)),
                Err(loss) => Progress::Lost(loss),
            },
            Self::Open { socket, read } => match socket.next(reading).await {
                Ok(inbound @ (Inbound::Text(_) | Inbound::Alive)) => {
                    *read = socket.read_bytes();
                    Progress::Inbound(inbound)
                }
                Ok(inbound) => Progress::Inbound(inbound),
                Err(loss) => Progress::Lost(loss),
            },
        }
    }

    fn socket(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Open { socket, .. } => Some(socket),
            Self::None | Self::Opening(_) => None,
        }
    }

    /// Whether the server has sent more bytes since the last time.
    fn has_moved(&mut self) -> bool {
        let Self::Open { socket, read } = self else { return false };
        std::mem::replace(read, socket.read_bytes()) != *read
    }

    /// Ends the connection.
    fn close(&mut self, code: u16) -> Option<JoinHandle<()>> {
        match std::mem::replace(self, Self::None) {
            Self::Open { socket, .. } => Some(tokio::spawn(socket.close(code))),
            Self::None | Self::Opening(_) => None,
        }
    }
}

impl Task {
    /// `machine` counts its time from `start`.
    pub(super) fn new(
        machine: Machine,
        start: Instant,
        dialer: Dialer,
        token: Option<TokenSource>,
        channels: Channels,
    ) -> Self {
        let Channels { commands, events, shared, slots } = channels;
        Self {
            machine,
            start,
            commands,
            callers: HashMap::new(),
            shared,
            events,
            is_full: false,
            slots,
            link: Link::None,
            dialer: Arc::new(dialer),
            token,
            fetch: None,
            closing: None,
            closers: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        self.settle();
        while !self.machine.is_closed() {
            let deadline = self.machine.poll_timeout();
            let deadline = deadline.and_then(|deadline| self.start.checked_add(deadline));
            let (reading, is_full) = (self.machine.wants_text(), self.is_full);
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    // The last handle was dropped.
                    None => self.machine.close(self.now()),
                },
                () = has_room(&self.events), if is_full => {}
                progress = self.link.next(reading) => self.advance(progress),
                token = fetched(&mut self.fetch) => self.pass_token(token),
                () = until(deadline) => self.tick(),
            }
            self.settle();
        }
        self.finish().await;
    }

    fn handle_command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Request(ask, caller) => match ask(&mut self.machine, now) {
                Ok(request) => drop(self.callers.insert(request, caller)),
                Err(error) => caller.settle(Err(error)),
            },
            Command::Typing { room, typing, reply } => {
                let _ = reply.send(self.machine.typing(&room, typing, now));
            }
            Command::Close(reply) => {
                self.closers.push(reply);
                self.machine.close(now);
            }
        }
    }

    fn advance(&mut self, progress: Progress) {
        let now = self.now();
        match progress {
            Progress::Opened(socket) => {
                self.link = Link::Open { socket, read: 0 };
                self.machine.handle_connected(now);
            }
            Progress::Inbound(Inbound::Text(text)) => {
                if let Err(error) = self.machine.handle_text(&text, now) {
                    tracing::debug!(%error, "received a frame that is not of the protocol");
                }
            }
            Progress::Inbound(Inbound::Alive) => self.machine.handle_alive(now),
            Progress::Inbound(Inbound::Writable(all)) => self.machine.handle_writable(all, now),
            Progress::Lost(loss) => {
                // Writes the answer to the server's close frame, in a task of its own.
                drop(self.link.close(CloseReason::Normal.code()));
                self.machine.handle_disconnected(loss, now);
            }
        }
    }

    fn pass_token(&mut self, token: Result<String, TokenError>) {
        if let Err(TokenError::Retry(why)) = &token {
            tracing::debug!(%why, "no token from the application, retrying");
        }
        self.machine.handle_token(token, self.now());
    }

    fn tick(&mut self) {
        let now = self.now();
        if self.link.has_moved() {
            // A large frame on a slow connection is not complete yet, and its server is alive.
            self.machine.handle_alive(now);
        }
        self.machine.handle_timeout(now);
    }

    /// Carries out the machine's actions, and passes on its answers and events.
    fn settle(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            self.carry_out(action);
        }
        // Before the answers: a caller that has its answer sees the state that belongs to it.
        self.publish();
        while let Some((request, outcome)) = self.machine.poll_answer() {
            if let Some(caller) = self.callers.remove(&request) {
                caller.settle(outcome);
            }
        }
        self.pass_events();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::FetchToken => self.fetch = self.token.as_ref().and_then(TokenSource::fetch),
            Action::Connect { url } => {
                let opening = Socket::open(Arc::clone(&self.dialer), url);
                self.link = Link::Opening(Box::pin(opening));
            }
            Action::Send(text) => {
                if let Some(socket) = self.link.socket() {
                    socket.push(text);
                }
            }
            Action::Ping => {
                if let Some(socket) = self.link.socket() {
                    socket.ping();
                }
            }
            Action::Close { code } => self.closing = self.link.close(code),
            // An action of a later version.
            _ => {}
        }
    }

    fn publish(&self) {
        let (state, welcome) = (self.machine.state(), self.machine.welcome());
        let refusal = self.machine.last_refusal();
        let is_new = self.shared.send_if_modified(|shared| {
            if shared.refusal.as_ref() != refusal {
                shared.refusal = refusal.cloned();
            }
            let is_new = shared.state != *state || shared.welcome.as_ref() != welcome;
            if is_new {
                if let State::Waiting { loss, .. } | State::Closed { loss } = state {
                    shared.loss = Some(loss.clone());
                }
                shared.state.clone_from(state);
                shared.welcome = welcome.cloned();
            }
            is_new
        });
        if is_new && let State::Waiting { retry_in, loss } = state {
            // An application that only waits for its calls has no other sign of it.
            tracing::warn!(%loss, ?retry_in, "the client is not connected, retrying");
        }
    }

    fn pass_events(&mut self) {
        self.is_full = loop {
            match self.events.try_reserve() {
                Ok(slot) => match self.machine.poll_event() {
                    Some(event) => slot.send(event),
                    None => break false,
                },
                Err(TrySendError::Full(())) => break true,
                Err(TrySendError::Closed(())) => {
                    while self.machine.poll_event().is_some() {}
                    break false;
                }
            }
        };
    }

    /// The machine is closed. Calls that were not taken fail at once, and so do those that wait for a
    /// slot; then this waits for the connection to end, and for the application to read its events.
    async fn finish(self) {
        let Self { mut machine, mut commands, mut closers, events, slots, closing, .. } = self;
        drop(slots);
        commands.close();
        while let Ok(command) = commands.try_recv() {
            // Any other command is dropped, and with it its reply: the caller fails.
            if let Command::Close(reply) = command {
                closers.push(reply);
            }
        }
        let close = async {
            if let Some(closing) = closing {
                let _ = closing.await;
            }
            for reply in closers {
                let _ = reply.send(());
            }
        };
        let pass_events = async move {
            while let Some(event) = machine.poll_event() {
                if events.send(event).await.is_err() {
                    break;
                }
            }
        };
        tokio::join!(close, pass_events);
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The seed of a machine, from hash functions with random keys: the standard library has no other
/// source of randomness, and pauses and message keys need no better one.
pub(super) fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    for word in seed.chunks_exact_mut(8) {
        word.copy_from_slice(&RandomState::new().hash_one(()).to_le_bytes());
    }
    seed
}

/// The token, once. Nothing is lost when it is dropped.
async fn fetched(fetch: &mut Option<Fetch>) -> Result<String, TokenError> {
    let Some(running) = fetch else { return std::future::pending().await };
    let token = running.await;
    *fetch = None;
    token
}

/// Waits until the application has read an event, or has dropped the receiver.
async fn has_room(events: &mpsc::Sender<Event>) {
    let _ = events.reserve().await;
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
