//! One connection, from its first frame to its end: the only place where transport and
//! hub meet.

mod alarm;
mod budget;
mod connect_params;
mod hello;
mod history;
mod join_request;
mod members;
mod permit;
mod rooms;
mod sanctions;
mod send;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chat_broker::{BrokerError, Membership, Receipt};
use chat_core::wire::{Accepted, Pong, ServerFrame};
use chat_core::{
    CloseReason, Command, ConnectionId, Dialect, ErrorCode, Rejection, Request, RoomId, Topic, User,
};
use chat_transport::{Incoming, Session};
use futures_util::FutureExt;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::auth::Access;
use crate::deadline::Deadline;
use crate::drain;
use crate::limits::{ConnectionPermit, RateLimiter};
use crate::member::Member;
use crate::moderation::UNSUPPORTED;
use crate::state::State;
pub(crate) use connect_params::ConnectParams;
use rooms::JoinedRoom;
use send::Permitted;

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
    opening: ConnectParams,
    permit: ConnectionPermit,
) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = Connection::open(state, &session, &opening, permit);
    // Boxed, since few have one, and its place would be there twice and stay.
    let entry = opening.room.map(|room| Box::new((room, opening.history)));
    async move {
        let talk = async {
            if let Some((room, history)) = entry.map(|entry| *entry)
                && !connection.member.is_closed()
            {
                Box::pin(connection.enter_by_url(&mut session, room, history)).await;
            }
            connection.talk(&mut session).await;
        };
        // What goes wrong with one client ends with it.
        if AssertUnwindSafe(talk).catch_unwind().await.is_err() {
            connection.state.metrics.panicked();
            session.outbox().close(CloseReason::InternalError);
        }
        // The rooms are told at once, however long the goodbye takes.
        connection.leave_all();
        // Boxed, so that the task of a living connection has no place for it.
        let end = Box::pin(session.finish()).await;
        connection.state.metrics.closed(&end, session.violation());
        // The socket is closed before the connection's slot is released.
        drop(session);
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
    rooms: Vec<JoinedRoom>,
    /// The room that a `rooms` client entered last.
    current: Option<RoomId>,
    /// Publications that the broker has not answered, oldest first.
    in_flight: VecDeque<InFlight>,
    access: Access,
    ends: Deadline,
    limiter: RateLimiter,
    /// The reading of the moderation's clock at the beginning.
    since: u32,
}

/// A publication that the broker has not answered.
struct InFlight {
    id: Option<Box<RawValue>>,
    receipt: Receipt,
    /// When the client's frame was read.
    begun: Instant,
    /// Answered by how many servers hold the user.
    direct: bool,
    /// It was paid for as the first message of its room.
    is_new_room: bool,
}

impl Connection {
    fn open<S>(
        state: Arc<State>,
        session: &Session<S>,
        opening: &ConnectParams,
        permit: ConnectionPermit,
    ) -> Self {
        let id = state.sessions.next_id();
        let dialect = opening.dialect();
        let user = Arc::new(opening.user(|| state.user_id(id)));
        let outbox = session.outbox().clone();
        let dialect_or_default = dialect.unwrap_or(Dialect::Native);
        let member = Member::new(user, dialect_or_default, outbox, state.drops.clone());
        state.sessions.insert(id, member.clone());
        if state.is_draining() {
            // Those who were here before have been told.
            drain::tell(&member, Duration::ZERO);
        }
        // Read after others can find the connection: no sanction falls between.
        let since = state.moderation.now();
        let mut connection = Self {
            access: opening.access.clone(),
            ends: Deadline::default(),
            limiter: RateLimiter::new(permit),
            since,
            state,
            id,
            member,
            recognised: opening.native,
            inbox: None,
            rooms: Vec::new(),
            current: None,
            in_flight: VecDeque::new(),
        };
        if let Some(notice) = connection.server_ban() {
            connection.enforce(&notice);
        }
        connection.set_deadline();
        if opening.user_id.is_some() || connection.access.identity().is_some() {
            connection.share_with_others();
        }
        if dialect.is_some() {
            connection.open_inbox();
        }
        connection
    }

    /// Direct messages are for those whose dialect has them.
    fn open_inbox(&mut self) {
        let topic = match self.member.dialect {
            // Nobody writes to somebody whom nobody knows yet.
            _ if self.access.is_pending() => None,
            Dialect::Native | Dialect::Direct => Some(Topic::User(self.member.user.id.clone())),
            _ => None,
        };
        if self.inbox.as_ref().map(Membership::topic) != topic.as_ref() {
            self.inbox =
                topic.map(|topic| self.state.hub.attach(&topic, self.id, self.member.clone()));
        }
    }

    /// The client is known by another name from here on, or speaks another dialect.
    fn become_member(&mut self, user: Arc<User>, dialect: Dialect) {
        let is_renamed = user != self.member.user;
        self.member = self.member.with(user, dialect);
        self.state.sessions.insert(self.id, self.member.clone());
        for place in &self.rooms {
            place.membership.replace(self.member.seeing(place.sees_presence));
            if is_renamed {
                place.membership.rename(self.occupant(place.announced));
            }
        }
        if let Some(inbox) = &self.inbox {
            inbox.replace(self.member.clone());
        }
    }

    /// Takes frames and answers, until the session is over.
    async fn talk<S>(&mut self, session: &mut Session<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut turn = 0_u32;
        let mut alarm = None;
        loop {
            turn = (turn + 1) % FRAMES_PER_TURN;
            if turn == 0 {
                session.drive(tokio::task::yield_now()).await;
            }
            if self.in_flight.len() >= self.state.config.max_in_flight {
                session.drive(self.answer()).await;
                continue;
            }
            alarm::set(&mut alarm, self.ends.at());
            tokio::select! {
                // The deadline first: it must not lose to frames that are always there.
                biased;
                () = alarm::ring(&mut alarm), if alarm.is_some() => self.run_out_of_time(),
                () = self.answer(), if !self.in_flight.is_empty() => {}
                incoming = session.recv() => match incoming {
                    // Boxed: it is there for a moment, and its place would stay.
                    Some(Incoming::Text(text)) => Box::pin(self.on_text(session, &text)).await,
                    Some(Incoming::Notified) => self.check_sanctions(),
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
        let admitted = match self.admit(text) {
            (admitted, None) => Some(admitted),
            // Boxed: few wait.
            (admitted, Some(wait)) => Box::pin(self.wait_with(session, wait, admitted)).await,
        };
        let Request { id, command, .. } = match admitted {
            Some(Ok(request)) => request,
            Some(Err(rejection)) => return self.reject(&rejection),
            None => return,
        };
        let is_new_room = self.may_be_new(&command);
        self.count_kept(&command);
        let permitted = match self.permit(&command) {
            // The application decides, and may take its time.
            None => session.drive(Box::pin(self.ask_to_permit(&command))).await,
            Some(permitted) => permitted,
        };
        match permitted.and_then(|()| self.prepare(id, text, command)) {
            Ok(Permitted::Message(message)) => {
                session.drive(self.publish(id, message, is_new_room)).await;
            }
            Ok(Permitted::Other(command)) => {
                session.drive(Box::pin(self.execute(id, command))).await;
            }
            Err(rejection) => self.reject(&rejection.to_request(id)),
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
            Command::Join(join) => self.join(id, join).await,
            Command::Leave { room } => self.leave(id, room).await,
            Command::Typing { room, typing } => self.typing(&room, typing).await,
            Command::Members { room } => self.members(id, &room),
            Command::History { room, range, limit } => self.history(id, &room, range, limit).await,
            Command::Kick(sanction) => self.kick(id, &sanction).await,
            Command::Ban { sanction, seconds } => self.ban(id, &sanction, seconds).await,
            Command::Unban { room, user } => self.unban(id, &room, &user).await,
            Command::Ping => {
                self.member.reply(&ServerFrame::Pong(Pong::default()).to_request(id));
                Ok(())
            }
            _ => Err(Rejection::new(ErrorCode::UnknownType, "This server does not know that.")),
        };
        if let Err(rejection) = done {
            self.reject(&rejection.to_request(id));
        }
    }

    /// Waits for the broker's answer to the oldest publication, and passes it on.
    ///
    /// Cancel safe: the publication stays in the queue until its answer is there.
    async fn answer(&mut self) {
        let Some(oldest) = self.in_flight.front_mut() else { return };
        let outcome = (&mut oldest.receipt).await;
        let Some(InFlight { id, begun, direct, is_new_room, .. }) = self.in_flight.pop_front()
        else {
            return;
        };
        self.state.metrics.answered(begun.elapsed());
        match outcome {
            Ok(published) => {
                let is_first = published.position.is_some_and(|position| position.offset == 1);
                if is_new_room && !is_first {
                    self.refund_room();
                }
                let mut accepted = Accepted::new(published.position);
                accepted.delivered = direct.then_some(published.nodes);
                self.member.reply(&ServerFrame::Ok(accepted).to_request(id.as_deref()));
            }
            Err(error) => self.reject(&unavailable(&error).to_request(id.as_deref())),
        }
    }

    /// Refuses a frame. It has cost the client as much as any other.
    fn reject(&self, rejection: &Rejection) {
        self.state.metrics.rejected(rejection.code);
        self.member.reply(&ServerFrame::from(rejection));
    }

    /// How long the client may take to read what waits for it before it gets more.
    fn time_limit(&self) -> Duration {
        self.state.transport.message_timeout
    }

    /// Other connections of the user use up the same budgets.
    fn share_with_others(&mut self) {
        self.limiter.set_factor(self.access.identity().map_or(1, |known| known.limit_factor));
        self.limiter.share_with(self.state.limits.user(&self.member.user.id));
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
    if let BrokerError::Unsupported(_) = error {
        return Rejection::new(ErrorCode::Unsupported, UNSUPPORTED);
    }
    let message = match error {
        BrokerError::Refused(_) => "The message bus refuses this for now.",
        BrokerError::Damaged { .. } => {
            "What the message bus holds of this room is damaged: its operator can mend that."
        }
        _ => "The message bus does not answer: whether this was carried out is unknown.",
    };
    Rejection::new(ErrorCode::BrokerUnavailable, message).retry_after_ms(RETRY_AFTER_MS)
}
