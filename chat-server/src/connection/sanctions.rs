//! Putting users out, and being put out.

use std::borrow::Cow;
use std::time::Duration;

use chat_broker::BrokerError;
use chat_core::wire::{Accepted, Goodbye, Left, ServerFrame};
use chat_core::{CloseReason, Deliver, ErrorCode, Rejection, RoomId, Sanction, UserId};
use serde_json::value::RawValue;

use super::rooms::JoinedRoom;
use super::{Connection, unavailable};
use crate::moderation::{self, Actor, Kind, LONGEST_BAN, NO_TIME, SanctionNotice, Scope};

impl Connection {
    pub(super) async fn kick(
        &self,
        id: Option<&RawValue>,
        sanction: &Sanction<'_>,
    ) -> Result<(), Rejection> {
        self.sanction(id, Kind::Kick, sanction, Duration::ZERO).await
    }

    pub(super) async fn ban(
        &self,
        id: Option<&RawValue>,
        sanction: &Sanction<'_>,
        seconds: Option<u64>,
    ) -> Result<(), Rejection> {
        if seconds == Some(0) {
            return Err(Rejection::new(ErrorCode::BadField, NO_TIME));
        }
        let time = seconds.map_or(LONGEST_BAN, Duration::from_secs);
        self.sanction(id, Kind::Ban, sanction, time).await
    }

    pub(super) async fn unban(
        &self,
        id: Option<&RawValue>,
        room: &RoomId,
        user: &UserId,
    ) -> Result<(), Rejection> {
        let (broker, by) = (&**self.state.hub.broker(), Actor::Moderator(&self.member.user.id));
        self.acknowledge(id, moderation::unban(broker, by, Scope::Room(room), user).await)
    }

    async fn sanction(
        &self,
        id: Option<&RawValue>,
        kind: Kind,
        sanction: &Sanction<'_>,
        time: Duration,
    ) -> Result<(), Rejection> {
        if self.state.moderation.is_crowded() {
            self.state.metrics.limited("sanctions");
            let message = "There are too many bans: some have to end first.";
            return Err(Rejection::new(ErrorCode::TooManyBans, message));
        }
        let Sanction { room, user, reason, .. } = sanction;
        let (broker, scope) = (&**self.state.hub.broker(), Scope::Room(room));
        let (by, reason) = (Actor::Moderator(&self.member.user.id), reason.as_deref());
        let done = moderation::impose(broker, by, kind, scope, user, time, reason).await;
        if done.is_ok() {
            self.state.until_evicted(scope, user).await;
        }
        self.acknowledge(id, done)
    }

    fn acknowledge(
        &self,
        id: Option<&RawValue>,
        done: Result<(), BrokerError>,
    ) -> Result<(), Rejection> {
        done.map_err(|error| unavailable(&error))?;
        self.member.reply(&ServerFrame::Ok(Accepted::new(None)).to_request(id));
        Ok(())
    }

    /// The ban that keeps the user from this server.
    pub(super) fn server_ban(&self) -> Option<SanctionNotice> {
        self.state.moderation.ban(Scope::Server, &self.member.user.id)
    }

    /// Sanctions have changed that may concern the client.
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
            let message = notice.reason.as_deref();
            self.evict_from(&room, EvictionReason::Sanctioned(notice.kind), message);
        }
    }

    /// The sanction that ends the connection.
    pub(super) fn server_sanction(&self) -> Option<SanctionNotice> {
        self.state.moderation.sanction_on(Scope::Server, &self.member.user.id, self.since)
    }

    /// The sanction that ends the membership of a room.
    pub(super) fn room_sanction(&self, joined: &JoinedRoom) -> Option<SanctionNotice> {
        let scope = Scope::Room(&joined.room);
        self.state.moderation.sanction_on(scope, &self.member.user.id, joined.since)
    }

    /// Ends the connection. Nobody waits for it to come back.
    pub(super) fn enforce(&mut self, notice: &SanctionNotice) {
        self.rooms.clear();
        let mut goodbye = Goodbye::new(notice.kind.told(), false);
        goodbye.message = notice.reason.as_deref().map(Cow::Borrowed);
        self.member.reply(&ServerFrame::Goodbye(goodbye));
        self.member.close(notice.kind.close_reason());
    }

    /// Leaves a room for the client. Dialects that have no word for it lose the connection.
    pub(super) fn evict_from(&mut self, room: &RoomId, why: EvictionReason, message: Option<&str>) {
        // It is there, or has been left meanwhile.
        let _ = self.take_room(room);
        if self.member.is_native() {
            let mut left = Left::new(room);
            left.reason = Some(why.told().into());
            left.message = message.map(Cow::Borrowed);
            self.member.reply(&ServerFrame::Left(left));
        } else {
            self.member.close(why.close_reason());
        }
    }
}

/// Why somebody is in a room no more who did not leave it.
#[derive(Debug, Clone, Copy)]
pub(super) enum EvictionReason {
    Sanctioned(Kind),
    /// Actor a new token.
    Forbidden,
}

impl EvictionReason {
    fn told(self) -> &'static str {
        match self {
            Self::Sanctioned(kind) => kind.told(),
            Self::Forbidden => "forbidden",
        }
    }

    fn close_reason(self) -> CloseReason {
        match self {
            Self::Sanctioned(kind) => kind.close_reason(),
            Self::Forbidden => CloseReason::PolicyViolation,
        }
    }
}

impl Kind {
    fn told(self) -> &'static str {
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
