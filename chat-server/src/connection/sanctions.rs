//! Kicks and bans: those that a moderator requests, and those that end this connection or one of its
//! memberships.

use std::borrow::Cow;
use std::time::Duration;

use chat_core::wire::{Accepted, Goodbye, Left, ServerFrame};
use chat_core::{CloseReason, Deliver, Rejection, RoomId, Sanction, UserId};
use serde_json::value::RawValue;

use super::Connection;
use super::rooms::JoinedRoom;
use crate::cause::Cause;
use crate::error::Error;
use crate::moderation::{Actor, LONGEST_BAN, SanctionKind, SanctionNotice, SanctionScope};
use crate::service::sanctions;

impl Connection {
    pub(super) async fn kick(
        &self,
        id: Option<&RawValue>,
        sanction: &Sanction<'_>,
    ) -> Result<(), Rejection> {
        let Sanction { room, user, reason, .. } = sanction;
        let (connection, scope) = (self.name(), SanctionScope::Room(room));
        let by = self.as_moderator(&connection);
        let done = sanctions::kick(&self.state, by, scope, user, reason.as_deref()).await;
        self.acknowledge(id, done)
    }

    pub(super) async fn ban(
        &self,
        id: Option<&RawValue>,
        sanction: &Sanction<'_>,
        seconds: Option<u64>,
    ) -> Result<(), Rejection> {
        let Sanction { room, user, reason, .. } = sanction;
        let (connection, scope) = (self.name(), SanctionScope::Room(room));
        let by = self.as_moderator(&connection);
        let time = seconds.map_or(LONGEST_BAN, Duration::from_secs);
        let done = sanctions::ban(&self.state, by, scope, user, time, reason.as_deref()).await;
        self.acknowledge(id, done)
    }

    pub(super) async fn unban(
        &self,
        id: Option<&RawValue>,
        room: &RoomId,
        user: &UserId,
    ) -> Result<(), Rejection> {
        let (connection, scope) = (self.name(), SanctionScope::Room(room));
        let by = self.as_moderator(&connection);
        let done = sanctions::unban(&self.state, by, scope, user).await;
        self.acknowledge(id, done)
    }

    fn as_moderator<'a>(&'a self, connection: &'a str) -> Actor<'a> {
        Actor::Moderator { user: &self.member.user.id, connection, address: self.address() }
    }

    fn acknowledge(&self, id: Option<&RawValue>, done: Result<(), Error>) -> Result<(), Rejection> {
        done?;
        self.member.reply(&ServerFrame::Ok(Accepted::new(None)).to_request(id));
        Ok(())
    }

    /// The ban of the user from the server.
    pub(super) fn server_ban(&self) -> Option<SanctionNotice> {
        self.state.moderation.ban(SanctionScope::Server, &self.member.user.id)
    }

    /// Enforces new sanctions against the user.
    pub(super) fn check_sanctions(&mut self) {
        if let Some(notice) = self.server_sanction() {
            return self.enforce(&notice);
        }
        let notices: Vec<(RoomId, SanctionNotice)> = self
            .rooms
            .iter()
            .filter_map(|joined| Some((joined.room.clone(), self.room_sanction(joined)?)))
            .collect();
        for (room, notice) in notices {
            self.evict_from(&room, &EvictionReason::Sanctioned(notice));
        }
    }

    /// The ban, or the kick since the connection opened, from the server.
    pub(super) fn server_sanction(&self) -> Option<SanctionNotice> {
        self.state.moderation.sanction_on(SanctionScope::Server, &self.member.user.id, self.since)
    }

    /// The ban, or the kick since the client joined, from a room.
    pub(super) fn room_sanction(&self, joined: &JoinedRoom) -> Option<SanctionNotice> {
        let scope = SanctionScope::Room(&joined.room);
        self.state.moderation.sanction_on(scope, &self.member.user.id, joined.since)
    }

    /// Ends the connection, without a grace period in its rooms.
    pub(super) fn enforce(&mut self, notice: &SanctionNotice) {
        self.rooms.clear();
        self.is_disconnected = notice.kind == SanctionKind::Kick;
        let reason = match notice.kind {
            // Moderators kick from rooms: it is the application that ends connections.
            SanctionKind::Kick => Cause::Disconnected.as_str(),
            SanctionKind::Ban => SanctionKind::Ban.wire_name(),
        };
        let mut goodbye = Goodbye::new(reason, false);
        goodbye.message = notice.reason.as_deref().map(Cow::Borrowed);
        goodbye.until = notice.until;
        self.member.reply(&ServerFrame::Goodbye(goodbye));
        self.member.close(notice.kind.close_reason());
    }

    /// Removes the client from a room. In dialects without a frame for it the connection is closed.
    pub(super) fn evict_from(&mut self, room: &RoomId, reason: &EvictionReason) {
        // Fails if the client has left the room in between.
        if self.take_room(room).is_ok() {
            self.log_removed(room, reason);
        }
        if self.member.is_native() {
            let mut left = Left::new(room);
            left.reason = Some(reason.wire_name().into());
            if let EvictionReason::Sanctioned(notice) = reason {
                left.message = notice.reason.as_deref().map(Cow::Borrowed);
                left.until = notice.until;
            }
            self.member.reply(&ServerFrame::Left(left));
        } else {
            self.member.close(reason.close_reason());
        }
    }
}

/// Why the server removed a client from a room.
#[derive(Debug)]
pub(super) enum EvictionReason {
    Sanctioned(SanctionNotice),
    /// A new token does not allow the room.
    Forbidden,
}

impl EvictionReason {
    pub(super) fn wire_name(&self) -> &'static str {
        match self {
            Self::Sanctioned(notice) => notice.kind.wire_name(),
            Self::Forbidden => "forbidden",
        }
    }

    /// The id of the sanction, for the log.
    pub(super) fn sanction(&self) -> Option<&str> {
        match self {
            Self::Sanctioned(notice) => Some(&notice.id),
            Self::Forbidden => None,
        }
    }

    fn close_reason(&self) -> CloseReason {
        match self {
            Self::Sanctioned(notice) => notice.kind.close_reason(),
            Self::Forbidden => CloseReason::PolicyViolation,
        }
    }
}

impl SanctionKind {
    fn wire_name(self) -> &'static str {
        match self {
            Self::Kick => "kicked",
            Self::Ban => "banned",
        }
    }

    fn close_reason(self) -> CloseReason {
        match self {
            Self::Kick => CloseReason::Kicked,
            Self::Ban => CloseReason::Banned,
        }
    }
}
