//! The frames of the server.

use std::borrow::Cow;
use std::time::Duration;

use crate::backoff::at_least;
use crate::wire::{self, PageFrame, PresenceEvent, ServerFrame};
use crate::{Epoch, Step};

use super::error::{ClientError, RETRY_AFTER, Rejection};
use super::events::{Event, History, Joined, Members, Message};
use super::output::Answer;
use super::requests::Request;
use super::rooms::RoomStatus;
use super::session::Session;
use super::track::Continuity;

/// What a frame, or the lack of one, means for the connection.
#[derive(Debug)]
pub(super) enum Signal<'a> {
    Welcome(wire::Welcome<'a>),
    HelloRejected(Rejection),
    HelloUnanswered,
    /// The server has taken a new token.
    Renewed(wire::Welcome<'a>),
    NotRenewed,
    Goodbye(wire::Goodbye<'a>),
}

pub(super) fn handle<'a>(
    session: &mut Session,
    frame: ServerFrame<'a>,
    now: Duration,
) -> Option<Signal<'a>> {
    if let Some(id) = frame.id() {
        // The ids of the client are numbers.
        let id = id.get().parse().ok();
        let request = id.and_then(|id| Some((id, session.outbox.requests.take(id)?)));
        // A late answer, or a second one, is ignored: its request has failed already.
        return request.and_then(|(id, request)| answered(session, id, request, frame, now));
    }
    match frame {
        ServerFrame::Message(frame) => message(session, frame, now),
        ServerFrame::Gap(frame) => gap(session, &frame),
        ServerFrame::Presence(frame) => presence(session, frame),
        ServerFrame::Typing(frame) => typing(session, frame),
        ServerFrame::Direct(frame) => {
            let (user, text) = (frame.user.into(), frame.text.into_owned());
            let data = frame.data.map(Cow::into_owned);
            session.events.push(Event::Direct { user, text, data, at: frame.at });
        }
        ServerFrame::Undelivered(frame) => undelivered(session, &frame),
        ServerFrame::Left(frame) => evicted(session, frame),
        ServerFrame::Capabilities(frame) => capabilities(session, frame),
        ServerFrame::Error(frame) => session.events.push(Event::Error(frame.into())),
        ServerFrame::Goodbye(frame) => return Some(goodbye(session, frame)),
        // A later version can add entries to a room's sequence: they are no hole for this one.
        ServerFrame::Unknown(wire::Unknown { room: Some(room), epoch, offset, .. }) => {
            is_next(session, &room, offset, epoch);
        }
        _ => {}
    }
    None
}

// Rooms.

/// Whether a frame is the next entry of its room's sequence. If entries are missing before it, the
/// room is joined again from where the copy of the client ends: the answer has all of them.
fn is_next(session: &mut Session, room: &str, offset: Option<u64>, epoch: Option<Epoch>) -> bool {
    let Some(joined) = session.rooms.get_mut(room).filter(|room| room.is_in()) else {
        // A message that arrives before `joined` is part of `joined`.
        return false;
    };
    match offset.map_or(Step::Next, |offset| joined.track.entry(offset, epoch)) {
        Step::Next => true,
        Step::Repeat => false,
        Step::Gap => {
            session.schedule_join(room);
            false
        }
    }
}

fn message(session: &mut Session, frame: wire::Message<'_>, now: Duration) {
    if is_next(session, &frame.room, frame.offset, frame.epoch) {
        let room = session.rooms.get_mut(&frame.room);
        let position = room.and_then(|room| room.track.position());
        deliver(session, frame, position.map(|position| position.epoch), now);
    }
}

fn deliver(session: &mut Session, frame: wire::Message<'_>, epoch: Option<Epoch>, now: Duration) {
    let message = Message::new(frame, epoch, session.user_id());
    if let Some(key) = &message.key
        && message.is_own
    {
        let Session { sends, answers, .. } = session;
        sends.settle_by_echo(&message.room, key, message.position, now, answers);
    }
    session.events.push(Event::Message(message));
}

fn joined(session: &mut Session, id: u64, name: &str, mut frame: wire::Joined<'_>, now: Duration) {
    // A room that was left during the request, and perhaps joined again, waits for another answer.
    let Some(room) =
        session.rooms.get_mut(name).filter(|room| room.status == RoomStatus::Asked(id))
    else {
        return;
    };
    let answer = Joined::new(&mut frame);
    let Joined { position, can, more, .. } = answer;
    let mut entries = frame.messages;
    if position.is_some() {
        // A later version may add entries without an offset: they are not part of the sequence.
        entries.retain(|entry| offset(entry).is_some());
    }
    let offsets: Vec<u64> = entries.iter().filter_map(offset).collect();
    let rejoined = room.track.has_joined();
    let entered = room.track.joined(position, frame.recovered, &offsets);
    room.status = RoomStatus::In;
    let members = answer.members.clone();
    room.answer(&Ok(answer), &mut session.answers);

    let (room, recovered) = (name.to_owned(), entered.continuity == Continuity::Whole);
    session.events.push(Event::Joined { room, rejoined, recovered, members, can, more });
    if let Continuity::Gap(position) = entered.continuity {
        session.events.push(Event::Gap { room: name.to_owned(), position });
    }
    let epoch = position.map(|position| position.epoch);
    for entry in entries.into_iter().skip(entered.known) {
        if let PageFrame::Message(message) = entry {
            deliver(session, message, epoch, now);
        }
    }
}

fn gap(session: &mut Session, frame: &wire::Gap<'_>) {
    if let Some(room) = session.rooms.get_mut(&frame.room).filter(|room| room.is_in()) {
        let position = frame.position();
        room.track.gap(position);
        session.events.push(Event::Gap { room: frame.room.clone().into_owned(), position });
    }
}

fn presence(session: &mut Session, frame: wire::Presence<'_>) {
    if !is_in(session, &frame.room) {
        return;
    }
    let room = frame.room.into_owned();
    match frame.event {
        PresenceEvent::Changed(change, user) => {
            session.events.push(Event::Presence { room, change, user: user.into() });
        }
        PresenceEvent::Count(count) => session.events.push(Event::Count { room, count }),
        _ => {}
    }
}

fn typing(session: &mut Session, frame: wire::Typing<'_>) {
    if is_in(session, &frame.room) {
        let (room, user) = (frame.room.into_owned(), frame.user.into());
        session.events.push(Event::Typing { room, user, typing: frame.typing });
    }
}

fn capabilities(session: &mut Session, frame: wire::RoomCapabilities<'_>) {
    // The answer to a join under way has them.
    if is_in(session, &frame.room) {
        let (room, can) = (frame.room.into_owned(), frame.can);
        session.events.push(Event::Capabilities { room, can });
    }
}

fn undelivered(session: &mut Session, frame: &wire::Undelivered<'_>) {
    if session.welcome.as_ref().is_some_and(|welcome| welcome.session == frame.session) {
        session.events.push(Event::Undelivered { to: frame.to.clone().into_owned() });
    }
}

/// The server has removed the client from a room.
fn evicted(session: &mut Session, frame: wire::Left<'_>) {
    // The frame is about an earlier membership: the room was left and is joined for the first time.
    if !session.rooms.get_mut(&frame.room).is_some_and(|room| room.track.has_joined()) {
        return;
    }
    let room = frame.room.into_owned();
    if let Some((name, RoomStatus::Asked(_))) = session.forget(&room, &ClientError::NotInRoom) {
        // The rejoin was sent before the eviction arrived, and may succeed: the client leaves again.
        session.leave_on_server(name, None);
    }
    let reason = frame.reason.unwrap_or_default().into_owned();
    let message = frame.message.map(Cow::into_owned);
    session.events.push(Event::Left { room, reason, message, until: frame.until });
}

fn is_in(session: &mut Session, room: &str) -> bool {
    session.rooms.get_mut(room).is_some_and(|room| room.is_in())
}

fn goodbye<'a>(session: &mut Session, frame: wire::Goodbye<'a>) -> Signal<'a> {
    session.events.push(Event::Goodbye {
        reason: frame.reason.clone().into_owned(),
        reconnect: frame.reconnect,
        after: Duration::from_millis(frame.after_ms),
        message: frame.message.clone().map(Cow::into_owned),
        until: frame.until,
    });
    Signal::Goodbye(frame)
}

// Answers.

fn answered<'a>(
    session: &mut Session,
    id: u64,
    request: Request,
    frame: ServerFrame<'a>,
    now: Duration,
) -> Option<Signal<'a>> {
    let Session { sends, answers, .. } = session;
    match (request, frame) {
        (request, ServerFrame::Error(frame)) => {
            return rejected(session, id, request, frame.into(), now);
        }
        (Request::Hello, ServerFrame::Welcome(frame)) => return Some(Signal::Welcome(frame)),
        (Request::Renew, ServerFrame::Welcome(frame)) => return Some(Signal::Renewed(frame)),
        (Request::Join(room), ServerFrame::Joined(frame)) => {
            joined(session, id, room.as_str(), frame, now);
        }
        (Request::JoinAgain(request), ServerFrame::Joined(mut frame)) => {
            answers.succeed(request, Answer::Joined(Joined::new(&mut frame)));
        }
        (Request::Send(room), ServerFrame::Ok(frame)) => {
            sends.succeed(room.as_str(), id, frame.position(), now, answers);
        }
        (Request::Direct(request), ServerFrame::Ok(frame)) => {
            answers.succeed(request, Answer::Direct(frame.delivered.unwrap_or(0)));
        }
        (Request::Leave(request), ServerFrame::Left(_)) => {
            if let Some(request) = request {
                answers.succeed(request, Answer::Left);
            }
        }
        (Request::Members(request), ServerFrame::Members(frame)) => {
            answers.succeed(request, Answer::Members(Members::new(frame.members, frame.count)));
        }
        (Request::History(request), ServerFrame::History(frame)) => {
            let page = page(frame, session.user_id());
            session.answers.succeed(request, Answer::History(page));
        }
        (request, _) => return unanswered(session, id, request, now),
    }
    None
}

fn page(frame: wire::History<'_>, own: Option<&str>) -> History {
    let position = frame.position();
    let epoch = position.map(|position| position.epoch);
    let messages = frame.messages.into_iter().filter_map(|entry| match entry {
        PageFrame::Message(message) => Some(Message::new(message, epoch, own)),
        _ => None,
    });
    History { position, messages: messages.collect(), more: frame.more }
}

/// The offset of an entry of a page.
fn offset(entry: &PageFrame<'_>) -> Option<u64> {
    match entry {
        PageFrame::Message(message) => message.offset,
        PageFrame::Unknown(entry) => entry.offset,
    }
}

fn rejected(
    session: &mut Session,
    id: u64,
    request: Request,
    rejection: Rejection,
    now: Duration,
) -> Option<Signal<'static>> {
    let retry = rejection.retry();
    if retry.is_some() && matches!(request, Request::Join(_) | Request::Send(_)) {
        session.refusal = Some(rejection.clone());
    }
    match request {
        Request::Hello => return Some(Signal::HelloRejected(rejection)),
        Request::Renew => return Some(Signal::NotRenewed),
        Request::Join(room) => match retry {
            Some(pause) => join_later(session, room.as_str(), id, pause, now),
            None => refused(session, room.as_str(), id, rejection.into()),
        },
        Request::Send(room) => match retry {
            Some(pause) => {
                let uncertain = !rejection.is_certain();
                let until = now.saturating_add(at_least(pause, session.rng.next()));
                session.sends.pause(room.as_str(), id, until, uncertain);
            }
            None => {
                let Session { sends, answers, .. } = session;
                sends.reject(room.as_str(), id, rejection.into(), now, answers);
            }
        },
        request => request.fail(rejection.into(), &mut session.answers),
    }
    None
}

/// A request got no answer, or none of its kind.
fn unanswered(
    session: &mut Session,
    id: u64,
    request: Request,
    now: Duration,
) -> Option<Signal<'static>> {
    match request {
        Request::Hello => return Some(Signal::HelloUnanswered),
        Request::Renew => return Some(Signal::NotRenewed),
        Request::Join(room) => join_later(session, room.as_str(), id, RETRY_AFTER, now),
        // The key makes a second attempt safe.
        Request::Send(room) => session.sends.pause(room.as_str(), id, now, true),
        request => request.fail(ClientError::Timeout, &mut session.answers),
    }
    None
}

fn join_later(session: &mut Session, name: &str, id: u64, pause: Duration, now: Duration) {
    let until = now.saturating_add(at_least(pause, session.rng.next()));
    if let Some(room) =
        session.rooms.get_mut(name).filter(|room| room.status == RoomStatus::Asked(id))
    {
        room.status = RoomStatus::Paused(until);
    }
}

/// The server refuses a room.
fn refused(session: &mut Session, name: &str, id: u64, error: ClientError) {
    let room = session.rooms.get_mut(name).filter(|room| room.status == RoomStatus::Asked(id));
    let Some(was_in) = room.map(|room| room.track.has_joined()) else { return };
    session.forget(name, &error);
    if was_in {
        session.events.push(Event::Refused { room: name.to_owned(), error });
    }
}

/// Fails what has timed out.
pub(super) fn expire(session: &mut Session, now: Duration) -> Option<Signal<'static>> {
    let mut signal = None;
    while let Some((id, request)) = session.outbox.requests.take_expired(now) {
        signal = signal.or(unanswered(session, id, request, now));
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
        Request::Send(room) => sends.reject(room.as_str(), id, error, now, answers),
        request => request.fail(error, answers),
    }
}
