//! One connection, from its first frame to its end. Transport and hub meet in this module alone.

mod budget;
mod connect_params;
mod held;
mod hello;
mod history;
mod join_request;
mod permit;
mod refused;
mod report;
mod rooms;
mod sanctions;
mod send;
mod timer;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chat_broker::{BrokerError, Membership, Published, Receipt};
use chat_core::wire::{Accepted, Pong, ServerFrame};
use chat_core::{
    Capability, CloseReason, Command, ConnectionId, Dialect, ErrorCode, Rejection, Request, Topic,
    User,
};
use chat_transport::{Incoming, Session};
use futures_util::FutureExt;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::auth::Access;
use crate::deadline::Deadline;
use crate::drain;
use crate::error::unavailable;
use crate::limits::{ConnectionPermit, RateLimiter, Wait};
use crate::member::Member;
use crate::service::send::Outgoing;
use crate::state::State;
pub(crate) use connect_params::ConnectParams;
use held::Held;
use refused::Refused;
use rooms::JoinedRoom;
use send::Permitted;
use timer::Renewal;

/// Serves a client until one side ends the connection. The caller spawns the returned future.
///
/// An `async fn` would hold its arguments beside the `Connection` that is made of them for as long
/// as the connection lives. This function consumes them before the future starts, which keeps the
/// task of an idle connection small.
pub(crate) fn serve<S>(
    state: Arc<State>,
    mut session: Session<S>,
    params: ConnectParams,
    permit: ConnectionPermit,
) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = Connection::open(state, &session, &params, permit);
    connection.set_renewal(params.handshake);
    // Boxed, since few URLs name a room: the task of every connection has this variable.
    let url_room = params.room.map(|room| Box::new((room, params.history)));
    async move {
        let run = async {
            if let Some((room, history)) = url_room.map(|url_room| *url_room)
                && !connection.member.is_closed()
            {
                Box::pin(connection.join_by_url(&mut session, room, history)).await;
            }
            connection.run(&mut session).await;
        };
        // A panic ends only this connection.
        let has_panicked = AssertUnwindSafe(run).catch_unwind().await.is_err();
        if has_panicked {
            connection.state.metrics.panicked();
            session.outbox().close(CloseReason::InternalError);
        }
        // Before the close handshake, which may take seconds: the rooms must not wait for it, nor must
        // hooks decide for it.
        let is_departure = session.peer_close_code() == Some(CloseReason::Normal.code());
        connection.leave_all(is_departure);
        connection.held = None;
        // Boxed: otherwise every task reserves space for the close handshake while it is open.
        let end = Box::pin(session.finish()).await;
        connection.on_end(&session, &end, has_panicked);
        // The socket is closed before the permit is released: file descriptors never exceed the limit.
        drop(session);
    }
}

/// The server's state of one client.
struct Connection {
    state: Arc<State>,
    id: ConnectionId,
    /// By [`Sessions::milliseconds`](crate::sessions::Sessions::milliseconds).
    opened: u64,
    received_frames: u64,
    received_bytes: u64,
    member: Member,
    /// Whether the subprotocol or a frame has determined the dialect.
    dialect_known: bool,
    /// Whether the user was disconnected from the server, which has the close code of a kick.
    is_disconnected: bool,
    /// Whether requests of backends may wait whose notification was handled by something else.
    may_have_requests: bool,
    /// The user's own topic, if the client's dialect has direct messages. Boxed: the other dialects
    /// have none.
    inbox: Option<Box<Membership<Member>>>,
    rooms: Vec<JoinedRoom>,
    /// Publications that the broker has not answered, oldest first.
    in_flight: VecDeque<InFlight>,
    /// Messages that a hook decides on, and those behind them. Boxed: few servers have hooks.
    held: Option<Box<Held>>,
    access: Access,
    /// When the connection ends unless the client authenticates before.
    deadline: Deadline,
    /// What renews the identity before. Boxed: few clients have an identity that expires and no token.
    renewal: Option<Box<Renewal>>,
    limiter: RateLimiter,
    /// The moderation clock when the connection opened. Only later kicks from the server apply.
    since: u32,
}

/// A publication that the broker has not answered.
struct InFlight {
    id: Option<Box<RawValue>>,
    receipt: Receipt,
    /// When the client's frame was read.
    started: Instant,
    /// Of a direct message, the `ok` has the number of servers that delivered it.
    topic: Topic,
    /// Whether the client was charged for a new room.
    is_new_room: bool,
}

/// A frame that has to wait before it is answered.
enum Unfinished<'a> {
    /// Until the client's budgets cover it.
    Delayed { wait: Wait, admitted: Result<Request<'a>, Rejection> },
    /// For the authorizer.
    Undecided { id: Option<&'a RawValue>, command: Command<'a>, is_new_room: bool },
    /// For the broker, which takes a message.
    Message { id: Option<&'a RawValue>, message: Outgoing, is_new_room: bool },
    /// For what its command needs.
    Command { id: Option<&'a RawValue>, command: Command<'a> },
}

impl Connection {
    fn open<S>(
        state: Arc<State>,
        session: &Session<S>,
        params: &ConnectParams,
        permit: ConnectionPermit,
    ) -> Self {
        let id = state.sessions.next_id();
        let dialect = params.dialect();
        let user = Arc::new(params.user(|| state.user_id(id)));
        let outbox = session.outbox().clone();
        let dialect_or_default = dialect.unwrap_or(Dialect::Native);
        let member = Member::new(user, dialect_or_default, outbox, state.drop_reporter.clone());
        state.sessions.open(id, &member, params.address);
        if state.is_draining() {
            // The drain lists the connections once; this one may have been added after that.
            drain::send_goodbye(&member, "shutdown", Duration::ZERO);
        }
        // Read after the insert: an earlier sanction is visible to `server_ban` below, and a later
        // one finds the connection in `sessions` and notifies it.
        let since = state.moderation.now();
        let held = state.hooks.as_ref().map(|_| Box::default());
        let mut connection = Self {
            access: params.access.clone(),
            deadline: Deadline::default(),
            renewal: None,
            limiter: RateLimiter::new(permit, &state.limits),
            since,
            opened: state.sessions.milliseconds(),
            state,
            id,
            received_frames: 0,
            received_bytes: 0,
            member,
            dialect_known: params.native,
            is_disconnected: false,
            may_have_requests: false,
            inbox: None,
            rooms: Vec::new(),
            in_flight: VecDeque::new(),
            held,
        };
        connection.state.metrics.opened();
        connection.log_open();
        if let Some(notice) = connection.server_ban() {
            connection.enforce(&notice);
        }
        connection.set_deadline();
        if params.user_id.is_some() || connection.access.identity().is_some() {
            connection.share_budgets();
        }
        if dialect.is_some() {
            connection.open_inbox();
        }
        connection
    }

    /// Subscribes to the user's own topic if the dialect has direct messages.
    fn open_inbox(&mut self) {
        let topic = match self.member.dialect {
            // The id of a client that has yet to authenticate is provisional.
            _ if self.access.is_pending() => None,
            Dialect::Native | Dialect::Direct => Some(Topic::User(self.member.user.id.clone())),
            _ => None,
        };
        if self.inbox.as_ref().map(|inbox| inbox.topic()) != topic.as_ref() {
            self.inbox = topic
                .map(|topic| Box::new(self.state.hub.attach(&topic, self.id, self.member.clone())));
        }
    }

    /// Changes the user or the dialect of the connection, also in the rooms that it has joined.
    fn set_identity(&mut self, user: Arc<User>, dialect: Dialect) {
        let is_renamed = user != self.member.user;
        self.member = self.member.with_identity(user, dialect);
        self.state.sessions.replace(self.id, &self.member);
        for joined in &self.rooms {
            let sees_presence = joined.can.contains(Capability::Presence);
            joined.membership.replace(self.member.with_presence(sees_presence));
            if is_renamed {
                joined.membership.rename(self.occupant(joined.announced));
            }
        }
        if let Some(inbox) = &self.inbox {
            inbox.replace(self.member.clone());
        }
    }

    /// Handles frames and answers until the session ends.
    async fn run<S>(&mut self, session: &mut Session<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut timer = None;
        loop {
            // One read of a socket may hold hundreds of frames. The budget begins with each poll of
            // the task: frames that arrive together, and are few, are published together.
            session.drive(tokio::task::consume_budget()).await;
            if self.has_decided() {
                session.drive(Box::pin(self.publish_decided())).await;
            }
            if self.may_have_requests {
                session.drive(Box::pin(self.carry_out_requests())).await;
            }
            // Not reading the socket is the backpressure: TCP slows a client down whose messages
            // the broker, or a hook, answers late.
            if self.in_flight.len() + self.held_messages() >= self.state.config.max_in_flight {
                // Boxed: few connections get here, and the task of each would reserve space for it.
                Box::pin(session.drive(self.progress())).await;
                continue;
            }
            timer::set(&mut timer, self.wake_at());
            tokio::select! {
                // The deadline first: a client that sends without a pause must not outlive its token.
                // Answers before frames, so that `in_flight` drains while frames keep arriving.
                biased;
                () = timer::elapsed(&mut timer), if timer.is_some() => {
                    session.drive(self.on_timer()).await;
                }
                () = self.progress(), if self.is_waiting() => {}
                incoming = session.recv() => match incoming {
                    Some(Incoming::Text(text)) => {
                        // Boxed at once: the future is large and short-lived, the task is neither.
                        let unfinished = self.on_text(&text);
                        let rest = unfinished.map(|it| Box::pin(self.finish(session, &text, it)));
                        if let Some(rest) = rest {
                            rest.await;
                        }
                    }
                    Some(Incoming::Notified) => {
                        self.check_sanctions();
                        session.drive(Box::pin(self.carry_out_requests())).await;
                    }
                    Some(_) => session.outbox().close(CloseReason::Unsupported),
                    None => return,
                },
            }
        }
    }

    /// Decodes and charges a frame. Answers it, or returns what the caller has to
    /// [`finish`](Self::finish).
    ///
    /// Not `async`: the two futures of a `ping` took 12 % of its instructions.
    fn on_text<'a>(&mut self, text: &'a str) -> Option<Unfinished<'a>> {
        self.count_received(text.len());
        if !self.dialect_known {
            self.detect_dialect(text);
        }
        match self.admit(text) {
            (admitted, None) => self.on_admitted(text, admitted),
            (admitted, Some(wait)) => Some(Unfinished::Delayed { wait, admitted }),
        }
    }

    /// Continues [`on_text`](Self::on_text) with a frame that the client's budgets cover.
    fn on_admitted<'a>(
        &mut self,
        text: &'a str,
        admitted: Result<Request<'a>, Rejection>,
    ) -> Option<Unfinished<'a>> {
        let Request { id, command, .. } = match admitted {
            Ok(request) => request,
            Err(rejection) => {
                self.reject(&Refused::frame(text), &rejection);
                return None;
            }
        };
        let is_new_room = self.may_be_new(&command);
        self.count_kept(&command);
        match self.permit(&command) {
            Some(verdict) => self.on_verdict(text, id, command, is_new_room, verdict),
            None => Some(Unfinished::Undecided { id, command, is_new_room }),
        }
    }

    /// Continues [`on_text`](Self::on_text) with a command that is permitted, or not.
    fn on_verdict<'a>(
        &mut self,
        text: &str,
        id: Option<&'a RawValue>,
        command: Command<'a>,
        is_new_room: bool,
        verdict: Result<(), Rejection>,
    ) -> Option<Unfinished<'a>> {
        match verdict.and_then(|()| self.prepare(id, text, command)) {
            Ok(Permitted::Message(message)) => {
                return Some(Unfinished::Message { id, message, is_new_room });
            }
            Ok(Permitted::Held(message)) => self.hold(is_new_room, *message),
            Ok(Permitted::Other(Command::Ping)) => {
                self.member.reply(&ServerFrame::Pong(Pong::default()).to_request(id));
            }
            Ok(Permitted::Other(command)) => return Some(Unfinished::Command { id, command }),
            Err(rejection) => self.reject(&Refused::frame(text), &rejection.to_request(id)),
        }
        None
    }

    /// Waits for what [`on_text`](Self::on_text) could not, and carries out the command.
    async fn finish<'a, S>(
        &mut self,
        session: &mut Session<S>,
        text: &'a str,
        mut unfinished: Unfinished<'a>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        loop {
            let rest = match unfinished {
                Unfinished::Delayed { wait, admitted } => {
                    // Boxed: few frames wait.
                    let admitted = Box::pin(self.delay_frame(session, wait, admitted)).await;
                    admitted.and_then(|admitted| self.on_admitted(text, admitted))
                }
                Unfinished::Undecided { id, command, is_new_room } => {
                    // The authorizer is the application's and may be slow: the session is driven during the
                    // call, so that writes and heartbeats go on.
                    let asking = Box::pin(self.permit_by_authorizer(&command));
                    let verdict = session.drive(asking).await;
                    self.on_verdict(text, id, command, is_new_room, verdict)
                }
                Unfinished::Message { id, message, is_new_room } => {
                    // Pinned here: `drive` would hold the future twice.
                    let publishing = pin!(self.publish(id, message, is_new_room));
                    return session.drive(publishing).await;
                }
                Unfinished::Command { id, command } => {
                    return session.drive(Box::pin(self.execute(text, id, command))).await;
                }
            };
            match rest {
                Some(rest) => unfinished = rest,
                None => return,
            }
        }
    }

    fn detect_dialect(&mut self, text: &str) {
        let Some(dialect) = Dialect::recognise(text) else { return };
        self.dialect_known = true;
        if dialect != self.member.dialect || self.inbox.is_none() {
            self.set_identity(Arc::clone(&self.member.user), dialect);
            self.open_inbox();
        }
    }

    /// Carries out a command that is neither a message nor a ping.
    async fn execute(&mut self, text: &str, id: Option<&RawValue>, command: Command<'_>) {
        let done = match command {
            Command::Hello(hello) => self.hello(id, hello).await,
            Command::Join(join) => self.join(id, &join).await,
            Command::Leave { room } => self.leave(id, room).await,
            Command::Typing { room, typing } => self.typing(&room, typing).await,
            Command::Members { room } => self.members(id, &room),
            Command::History { room, range, limit } => self.history(id, &room, range, limit).await,
            Command::Kick(sanction) => self.kick(id, &sanction).await,
            Command::Ban { sanction, seconds } => self.ban(id, &sanction, seconds).await,
            Command::Unban { room, user } => self.unban(id, &room, &user).await,
            _ => Err(Rejection::new(
                ErrorCode::UnknownType,
                "This server does not support this type of frame.",
            )),
        };
        if let Err(rejection) = done {
            self.reject(&Refused::frame(text), &rejection.to_request(id));
        }
    }

    /// Whether the broker has yet to answer, or a hook to decide.
    fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty() || self.has_undecided()
    }

    /// Sends the client the broker's answer to the oldest publication, or notes what a hook has decided
    /// on the oldest message that is held, whichever is first.
    ///
    /// # Cancel safety
    /// Publication and question stay in their queues until they are answered.
    async fn progress(&mut self) {
        if self.has_undecided() {
            // Boxed: few connections have hooks.
            return Box::pin(self.answer_or_decide()).await;
        }
        if let Some(outcome) = answered(&mut self.in_flight).await {
            self.acknowledge_oldest(outcome);
        }
    }

    async fn answer_or_decide(&mut self) {
        let Some(held) = &mut self.held else { return };
        tokio::select! {
            biased;
            Some(outcome) = answered(&mut self.in_flight) => self.acknowledge_oldest(outcome),
            () = held.decided() => {}
        }
    }

    /// Waits for `event`. Answers are sent, messages that hooks have decided on are published, and
    /// sanctions and the end of the token are enforced, but no frame is read and no request of a
    /// backend is carried out. `None` if the connection is closed.
    async fn wait_for<T>(&mut self, event: impl Future<Output = T>) -> Option<T> {
        let (mut event, mut timer) = (pin!(event), None);
        let member = self.member.clone();
        loop {
            if self.has_decided() {
                Box::pin(self.publish_decided()).await;
            }
            timer::set(&mut timer, self.wake_at());
            tokio::select! {
                // A wait may outlast the token: the client must not stay connected beyond it.
                () = timer::elapsed(&mut timer), if timer.is_some() => self.on_timer().await,
                output = &mut event => return Some(output),
                () = self.progress(), if self.is_waiting() => {}
                is_notified = member.interrupted() => match is_notified {
                    true => {
                        self.may_have_requests = true;
                        self.check_sanctions();
                    }
                    false => return None,
                },
            }
        }
    }

    /// Sends the outcome of the oldest publication to the client.
    fn acknowledge_oldest(&mut self, outcome: Result<Published, BrokerError>) {
        let Some(InFlight { id, started, topic, is_new_room, .. }) = self.in_flight.pop_front()
        else {
            return;
        };
        self.state.metrics.answered(started.elapsed());
        match outcome {
            Ok(published) => {
                let is_first = published.position.is_some_and(|position| position.offset == 1);
                if is_new_room && !is_first {
                    self.refund_room();
                }
                let mut accepted = Accepted::new(published.position);
                let is_direct = matches!(topic, Topic::User(_));
                accepted.delivered = is_direct.then_some(published.nodes);
                let ok = ServerFrame::Ok(accepted).to_request(id.as_deref());
                if is_direct {
                    self.member.reply(&ok);
                } else {
                    self.reply_with_copy(&ok);
                }
            }
            Err(error) => {
                self.state.metrics.not_published();
                let refused = Refused::message(&topic);
                self.reject(&refused, &unavailable(&error).to_request(id.as_deref()));
            }
        }
    }

    /// Sends an `ok` together with the client's own copy of the message, if the hub has yet to
    /// deliver it: a write of its own would cost as much as everything else in this task.
    fn reply_with_copy(&self, ok: &ServerFrame<'_>) {
        if self.member.hold_reply(ok) {
            self.state.hub.flush_after_pending(self.member.clone());
        }
    }

    /// Answers a frame with an error. The client was charged for it as for any other frame.
    fn reject(&self, frame: &Refused<'_>, rejection: &Rejection) {
        self.state.metrics.rejected(rejection.code);
        self.log_refused(frame, rejection);
        self.member.reply(&ServerFrame::from(rejection));
    }

    /// How long the client may take to read its outbox before the next large answer.
    fn time_limit(&self) -> Duration {
        self.state.transport.message_timeout
    }

    /// Shares the budgets of the user with the user's other connections.
    fn share_budgets(&mut self) {
        self.limiter.set_factor(self.access.identity().map_or(1, |known| known.limit_factor));
        self.limiter.share_with(self.state.limits.user(&self.member.user.id));
    }
}

/// Waits for the broker's answer to the oldest publication, which stays in the queue; `None` if there is
/// none.
async fn answered(in_flight: &mut VecDeque<InFlight>) -> Option<Result<Published, BrokerError>> {
    let oldest = in_flight.front_mut()?;
    Some((&mut oldest.receipt).await)
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A task that panics outside of `run`, or is dropped with its runtime, does not get to the
        // end of `serve`.
        self.leave_all(false);
        self.state.sessions.remove(self.id);
    }
}
