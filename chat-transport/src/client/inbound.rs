//! What the server says.

use std::time::Duration;

use chat_core::{Epoch, ErrorCode, Step};
use tokio::time::Instant;

use super::backoff::jittered;
use super::error::{ClientError, RETRY_AFTER, Rejection};
use super::events::{Event, History, Joined, Loss, Message, Welcome};
use super::frames::WelcomeFrame;
use super::frames::{Body, GapFrame, GoodbyeFrame, HistoryFrame, Incoming, JoinedFrame};
use super::frames::{LeftFrame, MessageFrame, OkFrame, UndeliveredFrame};
use super::requests::Request;
use super::rooms::Place;
use super::task::Task;
use super::token::Renewal;

impl Task {
    pub(super) fn hear(&mut self, text: &str) {
        let Incoming { id, body } = match Incoming::parse(text) {
            Ok(incoming) => incoming,
            Err(error) => {
                // If it was a message, the next one shows the hole.
                tracing::debug!(%error, "a frame that is not of the protocol");
                return;
            }
        };
        let request = match body {
            // Its id is that of a request that may still be answered, perhaps of another
            // connection of this user.
            Body::Undelivered(_) => None,
            _ => id.and_then(|id| Some((id, self.requests.take(id)?))),
        };
        match body {
            Body::Welcome(frame) => match request {
                Some((_, Request::Hello)) => self.welcome(frame),
                Some((_, Request::Renew)) => self.known_as(frame),
                _ => {}
            },
            Body::Joined(frame) => self.joined(frame, request),
            Body::Message(frame) => self.message(frame),
            Body::Gap(frame) => self.gap(&frame),
            Body::Presence(frame) if self.is_in(&frame.room) => {
                if let Some(event) = frame.into_event() {
                    self.events.push(event);
                }
            }
            Body::Typing(frame) if self.is_in(&frame.room) => {
                let (room, user, typing) = (frame.room, frame.user, frame.typing);
                self.events.push(Event::Typing { room, user, typing });
            }
            // Of a room that was left meanwhile.
            Body::Typing(_) | Body::Presence(_) => {}
            Body::Direct(frame) => {
                let (user, text, data, at) = (frame.user, frame.message, frame.data, frame.at);
                self.events.push(Event::Direct { user, text, data, at });
            }
            Body::Undelivered(frame) => self.undelivered(frame),
            Body::Goodbye(frame) => self.goodbye(frame),
            Body::Error(rejection) => self.rejected(rejection, request),
            Body::Left(frame) if id.is_none() => self.put_out(frame),
            Body::Ok(_) | Body::Left(_) | Body::Members(_) | Body::History(_) | Body::Other => {
                if let Some((id, request)) = request {
                    self.answered(id, request, body);
                }
            }
        }
    }

    fn welcome(&mut self, frame: WelcomeFrame) {
        self.begin_pace(frame.limits.rates);
        self.known_as(frame);
        self.online();
        for room in self.rooms.names() {
            self.enter(&room);
        }
    }

    /// The server says who the client is, and for how long.
    fn known_as(&mut self, frame: WelcomeFrame) {
        self.limits = frame.limits;
        let mut welcome = Welcome::from(frame);
        // While the message bus is away there is no new one.
        welcome.resume = welcome.resume.or(self.resume.take());
        self.resume.clone_from(&welcome.resume);
        let before = self.shared.borrow().welcome.as_ref().map(|before| before.user.id.clone());
        if before.is_some_and(|before| before != welcome.user.id) {
            self.sends.user_changed();
        }
        self.renewal = Renewal::before(welcome.expires_in, self.config.token.as_ref());
        self.shared.send_modify(|shared| shared.welcome = Some(welcome));
    }

    // Rooms.

    fn joined(&mut self, mut frame: JoinedFrame, request: Option<(u64, Request)>) {
        let position = frame.position();
        let (id, name) = match request {
            Some((_, Request::JoinAgain(reply))) => {
                let members = frame.into_members();
                let _ = reply.send(Ok(Joined { position, members }));
                return;
            }
            Some((id, Request::Join(name))) => (id, name),
            _ => return,
        };
        // A room that was left meanwhile, and perhaps joined again, waits for another answer.
        let Some(room) = self.rooms.get_mut(&name).filter(|room| room.place == Place::Asked(id))
        else {
            return;
        };
        let messages = std::mem::take(&mut frame.messages);
        let offsets: Vec<u64> = messages.iter().filter_map(|message| message.offset).collect();
        let rejoined = room.track.has_begun();
        let entered = room.track.joined(position, frame.recovered, &offsets);
        let members = frame.into_members();
        room.place = Place::In;
        room.answer(&Ok(Joined { position, members: members.clone() }));

        let recovered = rejoined && entered.gap.is_none();
        self.events.push(Event::Joined { room: name.clone(), rejoined, recovered, members });
        if let Some(position) = entered.gap {
            self.events.push(Event::Gap { room: name, position });
        }
        let epoch = position.map(|position| position.epoch);
        for message in messages.into_iter().skip(entered.known) {
            self.deliver(message, epoch);
        }
    }

    fn message(&mut self, frame: MessageFrame) {
        let Some(room) = self.rooms.get_mut(&frame.room).filter(|room| room.is_in()) else {
            // What comes before `joined` is in it.
            return;
        };
        match room.track.message(frame.offset, frame.epoch()) {
            Step::Next => {
                let epoch = room.track.position().map(|position| position.epoch);
                self.deliver(frame, epoch);
            }
            Step::Repeat => {}
            Step::Gap => {
                tracing::debug!(room = frame.room, offset = frame.offset, "messages are missing");
                self.enter(&frame.room);
            }
        }
    }

    fn deliver(&mut self, frame: MessageFrame, epoch: Option<Epoch>) {
        let message = frame.within(epoch);
        if let Some(key) = &message.key
            && self.is_own(&message)
        {
            self.sends.came_back(&message.room, key, message.position);
        }
        self.events.push(Event::Message(message));
    }

    fn undelivered(&mut self, frame: UndeliveredFrame) {
        let UndeliveredFrame { session, to } = frame;
        let welcome = &self.shared.borrow().welcome;
        if welcome.as_ref().is_some_and(|welcome| welcome.session == session) {
            self.events.push(Event::Undelivered { to });
        }
    }

    fn is_own(&self, message: &Message) -> bool {
        let shared = self.shared.borrow();
        shared.welcome.as_ref().is_some_and(|welcome| welcome.user.id == message.user.id)
    }

    fn gap(&mut self, frame: &GapFrame) {
        if let Some(room) = self.rooms.get_mut(&frame.room).filter(|room| room.is_in()) {
            let position = frame.position();
            room.track.gap(position);
            self.events.push(Event::Gap { room: frame.room.clone(), position });
        }
    }

    /// The server has put the client out of a room.
    fn put_out(&mut self, frame: LeftFrame) {
        let LeftFrame { room: name, reason, message } = frame;
        // One that is only now asked for was not meant.
        if !self.rooms.get_mut(&name).is_some_and(|room| room.track.has_begun()) {
            return;
        }
        if let Some(Place::Asked(_)) = self.forget(&name, &ClientError::NotInRoom) {
            // The answer may be that the client is in it again.
            self.step_out(&name);
        }
        let reason = reason.unwrap_or_default();
        self.events.push(Event::Left { room: name, reason, message });
    }

    fn is_in(&mut self, room: &str) -> bool {
        self.rooms.get_mut(room).is_some_and(|room| room.is_in())
    }

    // Answers.

    fn answered(&mut self, id: u64, request: Request, body: Body) {
        match (request, body) {
            (Request::Send(room), Body::Ok(frame)) => {
                self.sends.succeed(&room, id, OkFrame::position(&frame));
            }
            (Request::Direct(reply), Body::Ok(frame)) => {
                let _ = reply.send(Ok(frame.delivered.unwrap_or(0)));
            }
            (Request::Leave(reply), Body::Left(_)) => {
                let _ = reply.send(Ok(()));
            }
            (Request::Members(reply), Body::Members(members)) => {
                let _ = reply.send(Ok(members));
            }
            (Request::History(reply), Body::History(frame)) => {
                let _ = reply.send(Ok(page(frame)));
            }
            (request, body) => {
                tracing::debug!(?request, ?body, "an answer of another kind");
                self.unanswered(id, request);
            }
        }
    }

    fn rejected(&mut self, rejection: Rejection, request: Option<(u64, Request)>) {
        let retry = rejection.retry();
        match request {
            None => self.events.push(Event::Error(rejection)),
            Some((_, Request::Hello)) => self.unwelcome(&rejection),
            Some((_, Request::Renew)) => self.renew_again(&rejection),
            Some((id, Request::Join(room))) => match retry {
                Some(pause) => self.enter_later(&room, id, pause),
                None if self.asked(&room, id) => self.refused(&room, rejection.into()),
                None => {}
            },
            Some((id, Request::Send(room))) => match retry {
                Some(pause) => {
                    let uncertain = !rejection.is(ErrorCode::RateLimited);
                    self.sends.pause(&room, id, jittered(pause), uncertain);
                }
                None => self.sends.reject(&room, id, rejection.into()),
            },
            Some((_, request)) => request.fail(rejection.into()),
        }
    }

    /// The server closed the connection with 1009, which does not name the frame that was too
    /// large. Only the largest message fails; the other sends go out again under their keys.
    /// Each such end fails one message, so the same end does not repeat without limit.
    pub(super) fn fail_largest_message(&mut self) {
        let Some((id, request, bytes)) = self.requests.take_largest_message() else { return };
        let error = ClientError::TooLarge { bytes };
        match request {
            Request::Send(room) => self.sends.reject(&room, id, error),
            request => request.fail(error),
        }
    }

    /// A request got no answer, or none that it can use.
    pub(super) fn unanswered(&mut self, id: u64, request: Request) {
        match request {
            Request::Hello => self.lost(Loss::new("no welcome")),
            Request::Renew => self.renew_again(&"no answer"),
            Request::Join(room) => self.enter_later(&room, id, RETRY_AFTER),
            // The key makes it safe.
            Request::Send(room) => self.sends.pause(&room, id, Instant::now(), true),
            request => request.fail(ClientError::Timeout),
        }
    }

    fn unwelcome(&mut self, rejection: &Rejection) {
        if rejection.is(ErrorCode::Unauthorized) && self.resume.take().is_some() {
            // The servers' secret is another one by now: be a new user.
            self.hello();
        } else if rejection.retry().is_some() {
            self.lost(Loss::new(rejection.to_string()));
        } else {
            self.end(Loss::new(rejection.to_string()));
        }
    }

    fn asked(&mut self, room: &str, id: u64) -> bool {
        self.rooms.get_mut(room).is_some_and(|room| room.place == Place::Asked(id))
    }

    fn enter_later(&mut self, name: &str, id: u64, pause: Duration) {
        if self.asked(name, id)
            && let Some(room) = self.rooms.get_mut(name)
        {
            room.place = Place::Paused(jittered(pause));
        }
    }

    /// A room cannot be joined.
    fn refused(&mut self, name: &str, error: ClientError) {
        let was_in = self.rooms.get_mut(name).is_some_and(|room| room.track.has_begun());
        self.forget(name, &error);
        if was_in {
            self.events.push(Event::Refused { room: name.to_owned(), error });
        }
    }

    fn goodbye(&mut self, frame: GoodbyeFrame) {
        let GoodbyeFrame { reason, reconnect, after_ms, message } = frame.clone();
        self.goodbye = Some(frame);
        let after = Duration::from_millis(after_ms);
        self.events.push(Event::Goodbye { reason, reconnect, after, message });
    }
}

fn page(frame: HistoryFrame) -> History {
    let position = frame.position();
    let epoch = position.map(|position| position.epoch);
    let messages = frame.messages.into_iter().map(|message| message.within(epoch)).collect();
    History { position, messages, more: frame.more }
}
