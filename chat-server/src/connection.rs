//! One connection, from its first frame to its end: the only place where transport and
//! hub meet.

mod history;
mod members;
mod recovery;
mod rooms;
mod send;

use std::collections::VecDeque;
use std::sync::Arc;

use chat_broker::{BrokerError, Membership, Receipt, Status};
use chat_core::reply::{Ok as Acknowledged, Welcome};
use chat_core::{
    CloseReason, Command, ConnectionId, Deliver, Dialect, ErrorCode, Hello, Rejection, Reply,
    Request, RoomId, Topic, User, UserId, UserName,
};
use chat_transport::{Incoming, Session};
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::member::Member;
use crate::state::State;
use recovery::Wish;
use rooms::Place;

/// What is known of a client before its first frame.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// It asked for [`Dialect::SUBPROTOCOL`]: no first frame can say otherwise.
    pub(crate) native: bool,
    /// `?userId=`.
    pub(crate) user_id: Option<UserId>,
    /// `?user=` or `?username=`.
    pub(crate) name: Option<UserName>,
    /// `/join-room/{roomId}`.
    pub(crate) room: Option<RoomId>,
    /// `?history=`.
    pub(crate) history: u32,
}

impl Opening {
    /// What the client speaks unless its first frame says otherwise.
    fn dialect(&self) -> Option<Dialect> {
        if self.native {
            Some(Dialect::Native)
        } else if self.room.is_some() {
            Some(Dialect::Rooms)
        } else {
            self.user_id.as_ref().map(|_| Dialect::Direct)
        }
    }
}

/// Frames and answers that a busy connection works through before it lets others run: one
/// read of a socket may hold hundreds.
const FRAMES_PER_TURN: u32 = 32;

/// Serves a client until one side ends the connection: to be spawned.
///
/// An `async` block, since the parts of a connection would stand in an `async fn` twice: as
/// its arguments, and as what it makes of them.
pub(crate) fn serve<S>(
    state: Arc<State>,
    mut session: Session<S>,
    opening: Opening,
) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = Connection::open(state, &session, &opening);
    let Opening { room, history, .. } = opening;
    async move {
        if let Some(room) = room {
            session.drive(Box::pin(connection.switch(None, room, None, history))).await;
        }
        connection.talk(&mut session).await;
        // The rooms are told at once, however long the goodbye takes.
        connection.leave_all();
        // Boxed, so that the task of a living connection has no place for it.
        let end = Box::pin(session.finish()).await;
        connection.state.metrics.closed(&end);
    }
}

/// A client, as the server knows it.
struct Connection {
    state: Arc<State>,
    id: ConnectionId,
    member: Member,
    /// A frame has said what the client speaks, or its subprotocol has.
    recognised: bool,
    /// The user's own topic, if the client's dialect has direct messages.
    inbox: Option<Membership<Member>>,
    places: Vec<Place>,
    /// The room that a `rooms` client entered last.
    current: Option<RoomId>,
    /// Publications that the broker has not answered, oldest first.
    in_flight: VecDeque<InFlight>,
}

/// A publication that the broker has not answered.
struct InFlight {
    id: Option<Box<RawValue>>,
    receipt: Receipt,
    /// Answered by how many servers hold the user.
    direct: bool,
}

impl Connection {
    fn open<S>(state: Arc<State>, session: &Session<S>, opening: &Opening) -> Self {
        let id = state.sessions.next_id();
        let user_id = opening.user_id.clone().unwrap_or_else(|| state.user_id(id));
        let name = opening.name.clone().or_else(|| {
            // Whoever is called by an id goes by it.
            opening.user_id.as_ref().and_then(|id| UserName::new(id.as_str()).ok())
        });
        let dialect = opening.dialect();
        let user = Arc::new(User::new(user_id, name));
        let outbox = session.outbox().clone();
        let member = Member::new(user, dialect.unwrap_or(Dialect::Native), outbox);
        state.sessions.insert(id, member.clone());
        if state.is_draining() {
            // Those who were here before have been told.
            member.close(CloseReason::GoingAway);
        }
        let mut connection = Self {
            state,
            id,
            member,
            recognised: opening.native,
            inbox: None,
            places: Vec::new(),
            current: None,
            in_flight: VecDeque::new(),
        };
        if dialect.is_some() {
            connection.open_inbox();
        }
        connection
    }

    /// Direct messages are for those whose dialect has them.
    fn open_inbox(&mut self) {
        let topic = match self.member.dialect {
            Dialect::Native | Dialect::Direct => Some(Topic::User(self.member.user.id.clone())),
            Dialect::Rooms | Dialect::Topics => None,
        };
        if self.inbox.as_ref().map(Membership::topic) != topic.as_ref() {
            self.inbox =
                topic.map(|topic| self.state.hub.attach(&topic, self.id, self.member.clone()));
        }
    }

    /// The client is known by another name from here on, or speaks another dialect.
    fn become_member(&mut self, user: Arc<User>, dialect: Dialect) {
        self.member = self.member.with(user, dialect);
        self.state.sessions.insert(self.id, self.member.clone());
        let places = self.places.iter().map(|place| &place.membership);
        for membership in places.chain(&self.inbox) {
            membership.replace(self.member.clone());
        }
    }

    /// Takes frames and answers, until the session is over.
    async fn talk<S>(&mut self, session: &mut Session<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut turn = 0_u32;
        loop {
            turn = (turn + 1) % FRAMES_PER_TURN;
            if turn == 0 {
                session.drive(tokio::task::yield_now()).await;
            }
            if self.in_flight.len() >= self.state.config.max_in_flight {
                session.drive(self.answer()).await;
                continue;
            }
            tokio::select! {
                () = self.answer(), if !self.in_flight.is_empty() => {}
                incoming = session.recv() => match incoming {
                    // Boxed: it is there for a moment, and its place would stay.
                    Some(Incoming::Text(text)) => Box::pin(self.on_text(session, &text)).await,
                    Some(_) => session.outbox().close(CloseReason::Unsupported),
                    None => return,
                },
            }
        }
    }

    async fn on_text<S>(&mut self, session: &mut Session<S>, text: &str)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.state.metrics.received(text.len());
        if !self.recognised {
            self.recognise(text);
        }
        match self.member.dialect.decode(text) {
            Err(rejection) => self.reject(&rejection),
            Ok(Request { id, command }) => match self.message(text, command) {
                Ok(Ok(message)) => session.drive(self.publish(id, message)).await,
                Ok(Err(command)) => session.drive(Box::pin(self.execute(id, command))).await,
                Err(rejection) => self.reject(&rejection.to_request(id)),
            },
        }
    }

    fn recognise(&mut self, text: &str) {
        let Some(dialect) = Dialect::recognise(text) else { return };
        self.recognised = true;
        if dialect != self.member.dialect || self.inbox.is_none() {
            self.become_member(Arc::clone(&self.member.user), dialect);
            self.open_inbox();
        }
    }

    /// Carries out a command that is not a message.
    async fn execute(&mut self, id: Option<&RawValue>, command: Command<'_>) {
        let done = match command {
            Command::Hello(hello) => self.hello(id, hello).await,
            Command::Join { room, since, history } => {
                let wish = Wish { since, history };
                self.enter(id, room, wish, true).await
            }
            Command::Leave { room } => self.leave(id, &room),
            Command::Switch { room, name, history } => {
                self.switch(id, room, name, history).await;
                Ok(())
            }
            Command::Exit => self.exit(),
            Command::Subscribe { room } => self.subscribe(room).await,
            Command::Unsubscribe { room } => self.go(&room),
            Command::Typing { room, typing } => self.typing(&room, typing).await,
            Command::Members { room } => self.members(id, &room),
            Command::History { room, range, limit } => self.history(id, &room, range, limit).await,
            Command::Ping => {
                self.member.reply(&Reply::Pong { id });
                Ok(())
            }
            _ => Err(Rejection::new(ErrorCode::UnknownType, "This server does not know that.")),
        };
        if let Err(rejection) = done {
            self.reject(&rejection.to_request(id));
        }
    }

    async fn hello(&mut self, id: Option<&RawValue>, hello: Hello<'_>) -> Result<(), Rejection> {
        let known = &self.member.user;
        let user_id = match &hello.resume {
            Some(resume) => self.resumed(resume).await?,
            None => known.id.clone(),
        };
        let name = hello.name.or_else(|| (user_id == known.id).then(|| known.name.clone()));
        let user = Arc::new(User::new(user_id, name));
        if *user != **known {
            if !self.places.is_empty() {
                return Err(Rejection::new(
                    ErrorCode::Forbidden,
                    "Say who you are before you join a room.",
                ));
            }
            self.become_member(user, self.member.dialect);
            self.open_inbox();
        }
        self.welcome(id).await;
        Ok(())
    }

    async fn resumed(&self, resume: &str) -> Result<UserId, Rejection> {
        let broker = &**self.state.hub.broker();
        let proven = self.state.resume.verify(broker, resume).await;
        proven.map_err(|error| unavailable(&error))?.ok_or_else(|| {
            Rejection::new(ErrorCode::Unauthorized, "The resume secret proves nothing here.")
        })
    }

    /// Whoever has been welcomed can be written to, unless the broker is away: then both
    /// that and the resume secret have to wait, and the client need not.
    async fn welcome(&self, id: Option<&RawValue>) {
        let (user, broker) = (&self.member.user, &**self.state.hub.broker());
        let mut resume = None;
        if broker.status() == Status::Ready {
            if let Some(inbox) = &self.inbox
                && let Err(error) = inbox.subscribed().await
            {
                tracing::debug!(%error, "welcomed without an inbox");
            }
            resume = self.state.resume.issue(broker, &user.id).await.ok();
        }
        self.member.reply(&Reply::Welcome(Welcome {
            id,
            session: &self.state.session_name(self.id),
            resume: resume.as_deref(),
            user,
            node: &self.state.node,
            protocol: 1,
            heartbeat_ms: self.state.heartbeat_ms(),
            limits: self.state.config.limits(),
        }));
    }

    /// Waits for the broker's answer to the oldest publication, and passes it on.
    ///
    /// Cancel safe: the publication stays in the queue until its answer is there.
    async fn answer(&mut self) {
        let Some(oldest) = self.in_flight.front_mut() else { return };
        let outcome = (&mut oldest.receipt).await;
        let Some(InFlight { id, direct, .. }) = self.in_flight.pop_front() else { return };
        match outcome {
            Ok(published) => self.member.reply(&Reply::Ok(Acknowledged {
                id: id.as_deref(),
                position: published.position,
                delivered: direct.then_some(published.nodes),
            })),
            Err(error) => self.reject(&unavailable(&error).to_request(id.as_deref())),
        }
    }

    fn reject(&self, rejection: &Rejection) {
        self.state.metrics.rejected(rejection.code);
        self.member.reply(&Reply::from(rejection));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // For a task that ended by a panic, or with its runtime.
        self.leave_all();
        self.state.sessions.remove(self.id);
    }
}

/// How soon to try again what the broker did not take.
const RETRY_AFTER_MS: u64 = 1000;

fn unavailable(error: &BrokerError) -> Rejection {
    tracing::debug!(%error, "the broker did not take a request");
    Rejection {
        retry_after_ms: Some(RETRY_AFTER_MS),
        ..Rejection::new(
            ErrorCode::BrokerUnavailable,
            "The message bus does not answer: whether this was carried out is unknown.",
        )
    }
}
