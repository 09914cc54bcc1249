//! What is decided on somebody, by whom, and how it is stored.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chat_broker::{Broker, BrokerError, Record, SetOptions, SharedTable};
use chat_core::{RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::identity::random_id;

/// How long a kick stands for servers that could not hear of it.
const KICK_STANDS: Duration = Duration::from_secs(60);

/// Longest ban; one for good is as long.
pub(crate) const LONGEST_BAN: Duration = Record::MAX_LIFETIME;

/// What is said to a ban of no time.
pub(crate) const NO_TIME: &str = "A ban lasts a second at least.";

/// The answer to kicks and bans on a broker without a shared table.
pub(crate) const UNSUPPORTED: &str =
    "This server cannot kick or ban: its message bus has no table that servers share.";

/// Where somebody is put out of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scope<'a> {
    Server,
    Room(&'a RoomId),
}

/// Who puts somebody out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Actor<'a> {
    Backend,
    Moderator(&'a UserId),
}

/// What is done to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Put out once.
    Kick,
    /// Put out, and kept out.
    Ban,
}

/// What somebody who is put out is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SanctionNotice {
    pub(crate) kind: Kind,
    pub(crate) reason: Option<Arc<str>>,
}

/// What stands in a record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// Puts `user` out, for `time` if it is a ban. Returns when that is stored; the log tells of
/// it then, and of who did it.
pub(crate) async fn impose(
    broker: &dyn Broker,
    by: Actor<'_>,
    kind: Kind,
    scope: Scope<'_>,
    user: &UserId,
    time: Duration,
    reason: Option<&str>,
) -> Result<(), BrokerError> {
    let table = table_of(broker)?;
    let stored = Stored { id: random_id(12), reason: reason.map(str::to_owned) };
    let value = serde_json::to_vec(&stored).map_err(BrokerError::config)?;
    let value = Bytes::from(value);
    let set = async |kind, time| {
        let options = SetOptions::default().expires_in(time);
        table.set(&key(kind, scope, user), value.clone(), options).await
    };
    let done = async {
        if kind == Kind::Ban {
            set(Kind::Ban, time.min(LONGEST_BAN)).await?;
        }
        if kind == Kind::Kick || time < KICK_STANDS {
            // A ban may be over before the last server hears of it.
            set(Kind::Kick, KICK_STANDS).await?;
        }
        Ok(())
    };
    let done = done.await;
    let user = user.escaped();
    tracing::info!(%by, ?kind, %scope, %user, ok = done.is_ok(), "user sanctioned");
    done
}

/// Ends a ban. Returns when that is stored; the log tells of it then.
pub(crate) async fn unban(
    broker: &dyn Broker,
    by: Actor<'_>,
    scope: Scope<'_>,
    user: &UserId,
) -> Result<(), BrokerError> {
    let done = table_of(broker)?.remove(&key(Kind::Ban, scope, user)).await;
    let user = user.escaped();
    tracing::info!(%by, %scope, %user, ok = done.is_ok(), "ban lifted");
    done
}

fn table_of(broker: &dyn Broker) -> Result<&dyn SharedTable, BrokerError> {
    broker.table().ok_or(BrokerError::Unsupported("shared table"))
}

/// Names hold no line breaks.
pub(super) fn key(kind: Kind, scope: Scope<'_>, user: &UserId) -> String {
    let kind = match kind {
        Kind::Kick => "kick",
        Kind::Ban => "ban",
    };
    match scope {
        Scope::Server => format!("{kind}\n{user}"),
        Scope::Room(room) => format!("{kind}\n{user}\n{room}"),
    }
}

/// The user whom a record concerns, and the room, unless it is about all servers.
pub(super) fn target_of(key: &str) -> Option<(UserId, Option<RoomId>)> {
    let mut parts = key.split('\n').skip(1);
    let user = UserId::new(parts.next()?).ok()?;
    let room = parts.next().map(RoomId::new).transpose().ok()?;
    Some((user, room))
}

impl fmt::Display for Actor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend => f.write_str("a backend"),
            Self::Moderator(user) => write!(f, "moderator {}", user.escaped()),
        }
    }
}

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("all servers"),
            Self::Room(room) => write!(f, "room {}", room.escaped()),
        }
    }
}
