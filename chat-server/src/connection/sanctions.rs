//! Putting users out, and being put out.

use std::borrow::Cow;
use std::time::Duration;

use chat_broker::BrokerError;
use chat_core::wire::{Accepted, Goodbye, Left, ServerFrame};
use chat_core::{CloseReason, Deliver, ErrorCode, Rejection, RoomId, Sanction, UserId};
use serde_json::value::RawValue;

use super::rooms::Place;
use super::{Connection, unavailable};
use crate::moderation::{self, By, Kind, LONGEST_BAN, NO_TIME, Scope, Sentence};

impl Connection {
    pub(super) async fn kick(
        &self,
        id: Option<&RawValue>,
        sanction: &Sanction<'_>,
    ) -> Result<(), Rejection> {
        self.sentence(id, Kind::Kick, sanction, Duration::ZERO).await
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
        self.sentence(id, Kind::Ban, sanction, time).await
    }

    pub(super) async fn unban(
        &self,
        id: Option<&RawValue>,
        room: &RoomId,
        user: &UserId,
    ) -> Result<(), Rejection> {
        let (broker, by) = (&**self.state.hub.broker(), By::Moderator(&self.member.user.id));
        self.acknowledge(id, moderation::unban(broker, by, Scope::Room(room), user).await)
    }

    async fn sentence(
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
        let (by, reason) = (By::Moderator(&self.member.user.id), reason.as_deref());
        let done = moderation::put_out(broker, by, kind, scope, user, time, reason).await;
        if done.is_ok() {
            self.state.until_put_out(scope, user).await;
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
    pub(super) fn server_ban(&self) -> Option<Sentence> {
        self.state.moderation.ban(Scope::Server, &self.member.user.id)
    }

    /// Sanctions have changed that may concern the client.
    pub(super) fn look_around(&mut self) {
        if let Some(sentence) = self.server_sentence() {
            return self.put_out(&sentence);
        }
        let sentences: Vec<(RoomId, Sentence)> = self
            .places
            .iter()
            .filter_map(|place| Some((place.room.clone(), self.room_sentence(place)?)))
            .collect();
        for (room, sentence) in sentences {
            let message = sentence.reason.as_deref();
            self.put_out_of(&room, Departure::Sentenced(sentence.kind), message);
        }
    }

    /// The sanction that ends the connection.
    pub(super) fn server_sentence(&self) -> Option<Sentence> {
        self.state.moderation.judge(Scope::Server, &self.member.user.id, self.since)
    }

    /// The sanction that ends the membership of a room.
    pub(super) fn room_sentence(&self, place: &Place) -> Option<Sentence> {
        let scope = Scope::Room(&place.room);
        self.state.moderation.judge(scope, &self.member.user.id, place.since)
    }

    /// Ends the connection. Nobody waits for it to come back.
    pub(super) fn put_out(&mut self, sentence: &Sentence) {
        self.places.clear();
        let mut goodbye = Goodbye::new(sentence.kind.told(), false);
        goodbye.message = sentence.reason.as_deref().map(Cow::Borrowed);
        self.member.reply(&ServerFrame::Goodbye(goodbye));
        self.member.close(sentence.kind.close_reason());
    }

    /// Leaves a room for the client. Dialects that have no word for it lose the connection.
    pub(super) fn put_out_of(&mut self, room: &RoomId, why: Departure, message: Option<&str>) {
        // It is there, or has been left meanwhile.
        let _ = self.go(room);
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
pub(super) enum Departure {
    Sentenced(Kind),
    /// By a new token.
    Forbidden,
}

impl Departure {
    fn told(self) -> &'static str {
        match self {
            Self::Sentenced(kind) => kind.told(),
            Self::Forbidden => "forbidden",
        }
    }

    fn close_reason(self) -> CloseReason {
        match self {
            Self::Sentenced(kind) => kind.close_reason(),
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
