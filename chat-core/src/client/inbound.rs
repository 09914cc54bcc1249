//! What the server sends.

use std::time::Duration;

use crate::{ErrorCode, Step};

use super::error::{ClientError, RETRY_AFTER, Rejection};
use super::events::{Event, History, Joined, Members, Message};
use super::frames::{Body, Entry, GapFrame, GoodbyeFrame, HistoryFrame, Incoming, JoinedFrame};
use super::frames::{LeftFrame, MessageFrame, UndeliveredFrame, WelcomeFrame};
use super::output::Answer;
use super::requests::Request;
use super::rooms::Place;
use super::session::Session;
use super::track::Continuity;

/// What a frame, or the lack of one, means for the connection.
#[derive(Debug)]
pub(super) enum Signal {
    Welcome(WelcomeFrame),
    HelloRejected(Rejection),
    HelloUnanswered,
    /// The server has taken a new token.
    Renewed(WelcomeFrame),
    NotRenewed,
    Goodbye(GoodbyeFrame),
}

pub(super) fn handle(session: &mut Session, incoming: Incoming, now: Duration) -> Option<Signal> {
    let Incoming { id, entry, body } = incoming;
    let request = match body {
        // Its id is that of a request that may still be answered, perhaps of another connection
        // of this user.
        Body::Undelivered(_) => None,
        _ => id.and_then(|id| Some((id, session.outbox.requests.take(id)?))),
    };
    // Every frame with an offset is an entry of its room's sequence, whatever its type: a later
    // version can add kinds, and this one finds no hole where they are.
    if entry.is_some_and(|entry| !is_next(session, &entry, now)) {
        return None;
    }
    match body {
        Body::Welcome(frame) => match request {
            Some((_, Request::Hello)) => return Some(Signal::Welcome(frame)),
            Some((_, Request::Renew)) => return Some(Signal::Renewed(frame)),
            _ => {}
        },
        Body::Joined(frame) => joined(session, frame, request, now),
        Body::Message(frame) => message(session, frame, now),
        Body::Gap(frame) => gap(session, &frame),
        Body::Presence(frame) if is_in(session, &frame.room) => {
            if let Some(event) = frame.into_event() {
                session.events.push(event);
            }
        }
        Body::Typing(frame) if is_in(session, &frame.room) => {
            let (room, user, typing) = (frame.room, frame.user, frame.typing);
            session.events.push(Event::Typing { room, user, typing });
        }
        // Of a room that was left since.
        Body::Typing(_) | Body::Presence(_) => {}
        Body::Direct(frame) => {
            let (user, text, data, at) = (frame.user, frame.message, frame.data, frame.at);
            session.events.push(Event::Direct { user, text, data, at });
        }
        Body::Undelivered(frame) => undelivered(session, frame),
        Body::Goodbye(frame) => return Some(goodbye(session, frame)),
        Body::Error(rejection) => return rejected(session, rejection, request, now),
        Body::Left(frame) if id.is_none() => evicted(session, frame),
        Body::Ok(_) | Body::Left(_) | Body::Members(_) | Body::History(_) | Body::Other => {
            if let Some((id, request)) = request {
                return answered(session, id, request, body, now);
            }
        }
    }
    None
}

/// Whether a frame is the next entry of its room's sequence. If it is not the one after the copy
/// of the client, the room is joined again from there: entries behind a hole are in the answer.
fn is_next(session: &mut Session, entry: &Entry, now: Duration) -> bool {
    let Some(room) = session.rooms.get_mut(&entry.room).filter(|room| room.is_in()) else {
        // What is sent before `joined` is in it.
        return false;
    };
    match room.track.entry(entry.offset, entry.epoch()) {
        Step::Next => true,
        Step::Repeat => false,
        Step::Gap => {
            session.enter(&entry.room, now);
            false
        }
    }
}

// Rooms.

fn joined(
    session: &mut Session,
    frame: JoinedFrame,
    request: Option<(u64, Request)>,
    now: Duration,
) {
    let position = frame.position();
    let (id, name) = match request {
        Some((_, Request::JoinAgain(request))) => {
            let members = frame.into_members();
            session.answers.succeed(request, Answer::Joined(Joined { position, members }));
            return;
        }
        Some((id, Request::Join(name))) => (id, name),
        _ => return,
    };
    // A room that was left since, and perhaps joined again, waits for another answer.
    let Some(room) = session.rooms.get_mut(&name).filter(|room| room.place == Place::Asked(id))
    else {
        return;
    };
    let JoinedFrame { recovered, members, count, messages: entries, .. } = frame;
    let members = Members { users: members, count };
    let offsets: Vec<u64> = entries.iter().filter_map(|entry| entry.offset).collect();
    let entered = room.track.joined(position, recovered, &offsets);
    room.place = Place::In;
    room.answer(&Ok(Joined { position, members: members.clone() }), &mut session.answers);

    let (rejoined, recovered) = match entered.continuity {
        Continuity::First => (false, false),
        Continuity::Whole => (true, true),
        Continuity::Gap(_) => (true, false),
    };
    session.events.push(Event::Joined { room: name.clone(), rejoined, recovered, members });
    if let Continuity::Gap(position) = entered.continuity {
        session.events.push(Event::Gap { room: name, position });
    }
    let epoch = position.map(|position| position.epoch);
    for entry in entries.into_iter().skip(entered.known) {
        if let Some(message) = entry.message {
            deliver(session, message.within(epoch), now);
        }
    }
}

fn message(session: &mut Session, frame: MessageFrame, now: Duration) {
    if let Some(room) = session.rooms.get_mut(&frame.room).filter(|room| room.is_in()) {
        let epoch = room.track.position().map(|position| position.epoch);
        deliver(session, frame.within(epoch), now);
    }
}

fn deliver(session: &mut Session, message: Message, now: Duration) {
    let user = session.welcome.as_ref().map(|welcome| &welcome.user.id);
    if let Some(key) = &message.key
        && user.is_some_and(|user| *user == message.user.id)
    {
        let Session { sends, answers, .. } = session;
        sends.echoed(&message.room, key, message.position, now, answers);
    }
    session.events.push(Event::Message(message));
}

fn undelivered(session: &mut Session, frame: UndeliveredFrame) {
    let UndeliveredFrame { session: name, to } = frame;
    if session.welcome.as_ref().is_some_and(|welcome| welcome.session == name) {
        session.events.push(Event::Undelivered { to });
    }
}

fn gap(session: &mut Session, frame: &GapFrame) {
    if let Some(room) = session.rooms.get_mut(&frame.room).filter(|room| room.is_in()) {
        let position = frame.position();
        room.track.gap(position);
        session.events.push(Event::Gap { room: frame.room.clone(), position });
    }
}

/// The server has removed the client from a room.
fn evicted(session: &mut Session, frame: LeftFrame) {
    let LeftFrame { room: name, reason, message } = frame;
    // A room that is only now being joined was not meant.
    if !session.rooms.get_mut(&name).is_some_and(|room| room.track.has_begun()) {
        return;
    }
    if let Some(Place::Asked(_)) = session.forget(&name, &ClientError::NotInRoom) {
        // The answer may be that the client is in the room again.
        session.leave_on_server(&name);
    }
    let reason = reason.unwrap_or_default();
    session.events.push(Event::Left { room: name, reason, message });
}

fn is_in(session: &mut Session, room: &str) -> bool {
    session.rooms.get_mut(room).is_some_and(|room| room.is_in())
}

fn goodbye(session: &mut Session, frame: GoodbyeFrame) -> Signal {
    let GoodbyeFrame { reason, reconnect, after_ms, message } = frame.clone();
    let after = Duration::from_millis(after_ms);
    session.events.push(Event::Goodbye { reason, reconnect, after, message });
    Signal::Goodbye(frame)
}

// Answers.

fn answered(
    session: &mut Session,
    id: u64,
    request: Request,
    body: Body,
    now: Duration,
) -> Option<Signal> {
    let Session { sends, answers, .. } = session;
    match (request, body) {
        (Request::Send(room), Body::Ok(frame)) => {
            sends.succeed(&room, id, frame.position(), now, answers);
        }
        (Request::Direct(request), Body::Ok(frame)) => {
            answers.succeed(request, Answer::Direct(frame.delivered.unwrap_or(0)));
        }
        (Request::Leave(request), Body::Left(_)) => {
            if let Some(request) = request {
                answers.succeed(request, Answer::Left);
            }
        }
        (Request::Members(request), Body::Members(members)) => {
            answers.succeed(request, Answer::Members(members));
        }
        (Request::History(request), Body::History(frame)) => {
            answers.succeed(request, Answer::History(page(frame)));
        }
        (request, _) => return unanswered(session, id, request, now),
    }
    None
}

fn page(frame: HistoryFrame) -> History {
    let position = frame.position();
    let epoch = position.map(|position| position.epoch);
    let messages = frame.messages.into_iter().filter_map(|entry| entry.message);
    let messages = messages.map(|message| message.within(epoch)).collect();
    History { position, messages, more: frame.more }
}

fn rejected(
    session: &mut Session,
    rejection: Rejection,
    request: Option<(u64, Request)>,
    now: Duration,
) -> Option<Signal> {
    let retry = rejection.retry();
    match request {
        None => session.events.push(Event::Error(rejection)),
        Some((_, Request::Hello)) => return Some(Signal::HelloRejected(rejection)),
        Some((_, Request::Renew)) => return Some(Signal::NotRenewed),
        Some((id, Request::Join(room))) => match retry {
            Some(pause) => join_later(session, &room, id, pause, now),
            None if is_asked(session, &room, id) => refused(session, &room, rejection.into()),
            None => {}
        },
        Some((id, Request::Send(room))) => match retry {
            Some(pause) => {
                let uncertain = !rejection.is(ErrorCode::RateLimited);
                let until = now.saturating_add(session.rng.jittered(pause));
                session.sends.pause(&room, id, until, uncertain);
            }
            None => session.sends.reject(&room, id, rejection.into(), now, &mut session.answers),
        },
        Some((_, request)) => request.fail(rejection.into(), &mut session.answers),
    }
    None
}

/// A request got no answer, or none of its kind.
fn unanswered(session: &mut Session, id: u64, request: Request, now: Duration) -> Option<Signal> {
    match request {
        Request::Hello => return Some(Signal::HelloUnanswered),
        Request::Renew => return Some(Signal::NotRenewed),
        Request::Join(room) => join_later(session, &room, id, RETRY_AFTER, now),
        // The key makes it safe.
        Request::Send(room) => session.sends.pause(&room, id, now, true),
        request => request.fail(ClientError::Timeout, &mut session.answers),
    }
    None
}

fn is_asked(session: &mut Session, room: &str, id: u64) -> bool {
    session.rooms.get_mut(room).is_some_and(|room| room.place == Place::Asked(id))
}

fn join_later(session: &mut Session, name: &str, id: u64, pause: Duration, now: Duration) {
    let until = now.saturating_add(session.rng.jittered(pause));
    if let Some(room) = session.rooms.get_mut(name).filter(|room| room.place == Place::Asked(id)) {
        room.place = Place::Paused(until);
    }
}

/// The server refuses a room.
fn refused(session: &mut Session, name: &str, error: ClientError) {
    let was_in = session.rooms.get_mut(name).is_some_and(|room| room.track.has_begun());
    session.forget(name, &error);
    if was_in {
        session.events.push(Event::Refused { room: name.to_owned(), error });
    }
}

/// Fails what has run out of time.
pub(super) fn expire(session: &mut Session, now: Duration) -> Option<Signal> {
    let mut signal = None;
    while let Some((id, request)) = session.outbox.requests.take_expired(now) {
        signal = signal.or(unanswered(session, id, request, now));
    }
    for room in session.rooms.expire(now, &mut session.answers) {
        session.abandon(&room);
    }
    session.sends.expire(now, &mut session.answers);
    signal
}

/// The server closed the connection with 1009, which does not name the frame that was too large.
/// Only the largest message fails; the other sends are sent again under their keys. Each such end
/// fails one message, so the same end does not repeat without limit.
pub(super) fn fail_largest_message(session: &mut Session, now: Duration) {
    let Session { sends, outbox, answers, .. } = session;
    let Some((id, request, bytes)) = outbox.requests.take_largest_message() else { return };
    let error = ClientError::TooLarge { bytes };
    match request {
        Request::Send(room) => sends.reject(&room, id, error, now, answers),
        request => request.fail(error, answers),
    }
}
