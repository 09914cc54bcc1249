//! What operators learn of a connection: what it sends, when it opened, and why it ended.

use std::net::IpAddr;
use std::time::Instant;

use chat_core::{Rejection, RoomId, Sample, UserId, printable};
use chat_transport::{End, Session};

use super::Connection;
use super::refused::Refused;
use super::sanctions::EvictionReason;
use crate::auth::AuthError;
use crate::cause::{Cause, close_code};
use crate::client_lines::RefusedAttempt;
use crate::log_budget::shown;
use crate::sessions::Client;

/// What a frame weighs beside its bytes, in bytes.
const FRAME_WEIGHT: u64 = 256;

/// The numbers of frames of connections are so far apart: no connection has as many.
const FRAMES_APART: u64 = 1 << 40;

/// `seed` is secret: a client knows its id, and if it knew which of its frames are sampled, it could send
/// all its bytes in the others.
fn frame_number(seed: u64, connection: u64, nth: u64) -> u64 {
    seed.wrapping_add(connection.wrapping_mul(FRAMES_APART)).wrapping_add(nth)
}

impl Connection {
    /// The id of the connection, which the client receives in `welcome`.
    pub(super) fn name(&self) -> String {
        self.state.session_name(self.id)
    }

    pub(super) fn count_received(&mut self, bytes: usize) {
        self.state.metrics.received(bytes);
        let bytes = bytes as u64;
        self.received_frames += 1;
        self.received_bytes += bytes;
        // The number of the frame on this connection, from one on that differs by connection: a counter of
        // the server would be one more that all threads write.
        let number = frame_number(self.state.sample_seed, self.id.get(), self.received_frames);
        self.state.clients.sample(number, || self.sampled_frame(bytes));
    }

    /// Not inlined: one frame of 16 gets here.
    #[inline(never)]
    fn sampled_frame(&self, bytes: u64) -> Sample<Client, 2> {
        let (user, address) = (self.member.user.id.clone(), self.address());
        let key = Client { id: self.id, user, address };
        Sample { key, weight: bytes + FRAME_WEIGHT, amounts: [1, bytes], at: Instant::now() }
    }

    /// The IP address of the client, if the listener provides it. The table of sessions has it: the task
    /// of each connection would else reserve space for it.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.state.sessions.address(self.id)
    }

    pub(super) fn log_open(&self) {
        let user = self.known_user().map(UserId::as_str);
        let address = self.address().map(tracing::field::display);
        tracing::debug!(connection = self.name(), user, address, "connection opened");
    }

    /// From this line on an open connection is found by its user.
    pub(super) fn log_welcome(&self) {
        let user = self.known_user().map(UserId::as_str);
        tracing::debug!(connection = self.name(), user, "client welcomed");
    }

    /// The user, unless the client has yet to authenticate: then the id is made from that of the
    /// connection.
    pub(super) fn known_user(&self) -> Option<&UserId> {
        (!self.access.is_pending()).then_some(&self.member.user.id)
    }

    /// `user` is whom the credentials prove.
    pub(super) fn log_rejected(&self, error: &AuthError, user: Option<&UserId>) {
        let lines = &self.state.client_lines;
        lines.credentials_rejected(error, user, self.address(), Some(&self.name()));
    }

    /// Logs a frame that was refused: at `debug`, and at `info` as well if it is one that users notice.
    pub(super) fn log_refused(&self, frame: &Refused<'_>, rejection: &Rejection) {
        let Refused { kind, to, about, by_backend, .. } = frame;
        let room = match &frame.room {
            None if frame.is_to_current_room() => self.current().map(RoomId::as_str),
            room => room.as_deref(),
        };
        let (connection, user, address) = (self.name(), self.known_user(), self.address());
        if let Some(attempt) = frame.attempt() {
            self.state.client_lines.attempt_refused(&RefusedAttempt {
                attempt,
                rejection,
                user,
                room,
                to: to.as_deref(),
                kind: kind.as_deref(),
                about: about.as_deref(),
                connection: &connection,
                address,
                by_backend: *by_backend,
            });
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            let kind = kind.as_deref().map(shown);
            let room = room.map(shown);
            tracing::debug!(
                connection,
                user = user.map(UserId::as_str),
                room = room.as_deref(),
                "type" = kind.as_deref(),
                code = rejection.code.as_str(),
                detail = &*shown(&rejection.message),
                "frame refused"
            );
        }
    }

    /// Logs that the server has removed the client from a room.
    pub(super) fn log_removed(&self, room: &RoomId, reason: &EvictionReason) {
        let (user, address) = (&self.member.user.id, self.address());
        let is_permitted = self.state.client_lines.removals.take(user);
        let (room, user) = (room.as_str(), user.as_str());
        let (cause, sanction) = (reason.wire_name(), reason.sanction());
        let (connection, address) = (self.name(), address.map(tracing::field::display));
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    connection,
                    user,
                    address,
                    cause,
                    sanction,
                    room,
                    "client removed from a room"
                )
            };
        }
        if is_permitted { log!(info) } else { log!(debug) }
    }

    /// Counts and logs the end of the connection.
    pub(super) fn on_end<S>(&self, session: &Session<S>, end: &End, has_panicked: bool) {
        let cause = match Cause::of(end, session.violation(), self.access.is_pending()) {
            _ if has_panicked => Cause::Panic,
            Cause::Kicked if self.is_disconnected => Cause::Disconnected,
            cause => cause,
        };
        self.state.metrics.closed(end, cause);
        let user = self.known_user();
        let (code, address) = (close_code(end), self.address().map(tracing::field::display));
        let milliseconds = self.state.sessions.milliseconds() - self.opened;
        let detail = detail(session, end);
        // Of a kick from the room of a client that is in one, the line of the removal has it.
        let sanction = match cause {
            Cause::Disconnected | Cause::Banned => self.server_sanction(),
            _ => None,
        };
        let sanction = sanction.as_ref().map(|notice| &*notice.id);
        // A macro, since the level of a line is a constant.
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    connection = self.name(),
                    user = user.map(UserId::as_str),
                    address,
                    cause = cause.as_str(),
                    code,
                    sanction,
                    detail,
                    milliseconds,
                    frames_in = self.received_frames,
                    bytes_in = self.received_bytes,
                    frames_out = session.outbox().accepted_frames(),
                    bytes_out = session.outbox().accepted_bytes(),
                    "connection ended"
                )
            };
        }
        let may_log = self.state.client_lines.may_log_end(cause, user, self.address());
        if may_log { log!(info) } else { log!(debug) }
    }
}

/// What the close code does not say. The peer may have chosen the words, and formats of the log escape
/// neither directions of text nor, in JSON, all control characters.
fn detail<S>(session: &Session<S>, end: &End) -> Option<String> {
    let detail = match end {
        End::ByPeer { phrase, .. } | End::Custom { phrase, .. } => phrase.to_string(),
        End::Lost(Some(error)) => error.to_string(),
        _ => session.violation_detail()?.to_owned(),
    };
    (!detail.is_empty()).then(|| printable(&detail).into_owned())
}

#[cfg(test)]
mod tests {
    use chat_core::HeavyHitters;

    use super::*;

    #[test]
    fn client_cannot_know_which_frames_are_sampled() {
        let sketch = HeavyHitters::<u64, 1>::new(Instant::now());
        let is_sampled = |number| {
            let mut is_sampled = false;
            sketch.sample(number, || {
                is_sampled = true;
                Sample { key: number, weight: 1, amounts: [1], at: Instant::now() }
            });
            is_sampled
        };
        let by_id = |nth: &u64| is_sampled(frame_number(0, 7, *nth));
        let quiet: Vec<_> = (0..1000).filter(|nth| !by_id(nth)).collect();
        let seeds = (0..100_u64).map(|seed| seed.wrapping_mul(0x0123_4567_89AB_CDEF));
        let seen =
            seeds.filter(|seed| quiet.iter().any(|nth| is_sampled(frame_number(*seed, 7, *nth))));
        assert!(
            seen.count() > 90,
            "the frames that its id makes quiet are sampled with other seeds"
        );
    }
}
