//! A kick or a ban: what it is, who imposes it, and how it is stored.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use chat_broker::{Broker, BrokerError, Record, SetOptions, SharedTable};
use chat_core::{RoomId, UserId, printable};
use serde::{Deserialize, Serialize};
use tracing::field::display;

use crate::identity::random_id;
use crate::log_budget::LogBudget;

/// How long the record of a kick is kept for servers that have lost the broker.
const KICK_LIFETIME: Duration = Duration::from_secs(60);

/// The longest ban, and that of a ban without a time.
pub(crate) const LONGEST_BAN: Duration = Record::MAX_LIFETIME;

/// The answer to kicks and bans on a broker without a shared table.
pub(crate) const UNSUPPORTED: &str =
    "This server cannot kick or ban users: its broker has no shared table.";

/// What a user is kicked or banned from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SanctionScope<'a> {
    Server,
    Room(&'a RoomId),
}

/// Who imposes a sanction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Actor<'a> {
    /// The application.
    Backend,
    /// A backend, by the name of its key.
    Key {
        name: &'a str,
        address: Option<IpAddr>,
    },
    Moderator {
        user: &'a UserId,
        connection: &'a str,
        address: Option<IpAddr>,
    },
}

/// The kind of a sanction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SanctionKind {
    /// Removes a user, who may return.
    Kick,
    /// Removes a user, who may not return until the ban ends.
    Ban,
}

/// What the sanctioned user receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SanctionNotice {
    /// The id, for the log.
    pub(crate) id: Arc<str>,
    pub(crate) kind: SanctionKind,
    pub(crate) reason: Option<Arc<str>>,
    /// When the ban ends, in milliseconds since 1970; `None`: by an unban.
    pub(crate) until: Option<u64>,
}

/// The time after `expires_in`, in milliseconds since 1970.
pub(crate) fn ends_at(expires_in: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now + expires_in).as_millis() as u64
}

/// An active ban.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ban {
    /// The banned user.
    pub user: UserId,
    /// The room that the user is banned from; `None`: from all servers.
    pub room: Option<RoomId>,
    /// The reason, which the user receives.
    pub reason: Option<String>,
    /// The time until the ban ends.
    pub expires_in: Duration,
    /// Whether the ban has no end but an unban; then `expires_in` is the rest of ten years.
    pub is_permanent: bool,
    /// When the ban was imposed, in milliseconds since 1970; `None` if a server of an earlier version has
    /// stored it.
    pub at: Option<u64>,
    /// Who imposed the ban; `None` if a server of an earlier version has stored it.
    pub by: Option<BannedBy>,
}

/// Who imposed a ban.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BannedBy {
    /// The application that the server is a part of.
    Application,
    /// The key of the HTTP API with this name.
    Key(String),
    /// The user with this id, whose client has sent a `ban`.
    Moderator(UserId),
}

/// The value of a record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SanctionRecord {
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// Whether a ban ends only by an unban: its record expires after [`LONGEST_BAN`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_permanent: bool,
    /// When it was imposed, in milliseconds since 1970. Earlier versions store neither this nor what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<u64>,
    /// Who imposed it, in the words of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moderator: Option<String>,
}

impl SanctionRecord {
    /// Who imposed it. A later version may have stored others than this one knows.
    pub(super) fn by(&self) -> Option<BannedBy> {
        match self.by.as_deref()? {
            "application" => Some(BannedBy::Application),
            "key" => self.key.clone().map(BannedBy::Key),
            "moderator" => UserId::new(self.moderator.as_deref()?).ok().map(BannedBy::Moderator),
            _ => None,
        }
    }
}

/// Stores a sanction against `user`, a ban for `time`. Returns its id, and logs the actor, when it is
/// stored. The line is at `info` if the budget `lines` has one for the actor.
#[allow(clippy::too_many_arguments, reason = "each is a part of the sanction, but for two")]
pub(crate) async fn impose(
    broker: &dyn Broker,
    lines: &LogBudget,
    by: Actor<'_>,
    kind: SanctionKind,
    scope: SanctionScope<'_>,
    user: &UserId,
    time: Duration,
    reason: Option<&str>,
) -> Result<String, BrokerError> {
    let table = table_of(broker)?;
    let (id, reason) = (random_id(12), reason.map(str::to_owned));
    let stored = SanctionRecord {
        id,
        reason,
        is_permanent: time >= LONGEST_BAN,
        at: Some(ends_at(Duration::ZERO)),
        by: Some(by.name().to_owned()),
        key: by.key().map(str::to_owned),
        moderator: by.moderator().map(str::to_owned),
    };
    let value = serde_json::to_vec(&stored).map_err(BrokerError::config)?;
    let value = Bytes::from(value);
    let set = async |kind, time| {
        let options = SetOptions::default().expires_in(time);
        table.set(&key(kind, scope, user), value.clone(), options).await
    };
    let done = async {
        if kind == SanctionKind::Ban {
            set(SanctionKind::Ban, time.min(LONGEST_BAN)).await?;
        }
        if kind == SanctionKind::Kick || time < KICK_LIFETIME {
            // A short ban may end before a server that has lost the broker reads its record.
            set(SanctionKind::Kick, KICK_LIFETIME).await?;
        }
        Ok(())
    };
    let done = done.await;
    let seconds = (kind == SanctionKind::Ban).then(|| time.min(LONGEST_BAN).as_secs_f64());
    let reason = stored.reason.as_deref().map(printable);
    let reason = reason.as_deref();
    let (sanction, kind, ok) = (&*stored.id, kind.in_log(scope), done.is_ok());
    let (key, moderator, room, user) = (by.key(), by.moderator(), scope.room(), user.as_str());
    let (by_connection, by_address) = (by.connection(), by.address().map(display));
    let (by, scope) = (by.name(), scope.name());
    // A macro, since the level of a line is a constant.
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                by,
                key,
                moderator,
                kind,
                scope,
                room,
                user,
                seconds,
                reason,
                ok,
                sanction,
                by_connection,
                by_address,
                "user sanctioned"
            )
        };
    }
    if lines.take(&key.or(moderator)) {
        log!(info)
    } else {
        log!(debug)
    }
    done.map(|()| stored.id)
}

/// Ends a ban. Returns and logs when that is stored.
pub(crate) async fn unban(
    broker: &dyn Broker,
    lines: &LogBudget,
    by: Actor<'_>,
    scope: SanctionScope<'_>,
    user: &UserId,
) -> Result<(), BrokerError> {
    let done = table_of(broker)?.remove(&key(SanctionKind::Ban, scope, user)).await;
    let ok = done.is_ok();
    let (key, moderator, room, user) = (by.key(), by.moderator(), scope.room(), user.as_str());
    let (by_connection, by_address) = (by.connection(), by.address().map(display));
    let (by, scope) = (by.name(), scope.name());
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                by,
                key,
                moderator,
                scope,
                room,
                user,
                ok,
                by_connection,
                by_address,
                "ban lifted"
            )
        };
    }
    if lines.take(&key.or(moderator)) {
        log!(info)
    } else {
        log!(debug)
    }
    done
}

fn table_of(broker: &dyn Broker) -> Result<&dyn SharedTable, BrokerError> {
    broker.table().ok_or(BrokerError::Unsupported("shared table"))
}

/// The key of a record. Names have no line breaks.
pub(super) fn key(kind: SanctionKind, scope: SanctionScope<'_>, user: &UserId) -> String {
    let kind = kind.name();
    match scope {
        SanctionScope::Server => format!("{kind}\n{user}"),
        SanctionScope::Room(room) => format!("{kind}\n{user}\n{room}"),
    }
}

/// The target of a record that is a ban.
pub(super) fn banned(key: &str) -> Option<(UserId, Option<RoomId>)> {
    key.strip_prefix("ban\n").and_then(|_| target_of(key))
}

/// The user of a record, and the room; `None` for the server.
pub(super) fn target_of(key: &str) -> Option<(UserId, Option<RoomId>)> {
    let mut parts = key.split('\n').skip(1);
    let user = UserId::new(parts.next()?).ok()?;
    let room = parts.next().map(RoomId::new).transpose().ok()?;
    Some((user, room))
}

impl SanctionKind {
    /// The name in keys of records.
    fn name(self) -> &'static str {
        match self {
            Self::Kick => "kick",
            Self::Ban => "ban",
        }
    }

    /// The name in the log. To kick is to remove from a room: a user who is removed from all servers is
    /// disconnected, as the call of the API is named.
    fn in_log(self, scope: SanctionScope<'_>) -> &'static str {
        match (self, scope) {
            (Self::Kick, SanctionScope::Server) => "disconnect",
            _ => self.name(),
        }
    }
}

/// The words of the log, and of stored sanctions.
impl<'a> Actor<'a> {
    fn name(self) -> &'static str {
        match self {
            Self::Backend => "application",
            Self::Key { .. } => "key",
            Self::Moderator { .. } => "moderator",
        }
    }

    fn key(self) -> Option<&'a str> {
        match self {
            Self::Key { name, .. } => Some(name),
            _ => None,
        }
    }

    fn moderator(self) -> Option<&'a str> {
        match self {
            Self::Moderator { user, .. } => Some(user.as_str()),
            _ => None,
        }
    }

    fn connection(self) -> Option<&'a str> {
        match self {
            Self::Moderator { connection, .. } => Some(connection),
            _ => None,
        }
    }

    fn address(self) -> Option<IpAddr> {
        match self {
            Self::Key { address, .. } | Self::Moderator { address, .. } => address,
            Self::Backend => None,
        }
    }
}

/// The words of the log.
impl<'a> SanctionScope<'a> {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Room(_) => "room",
        }
    }

    fn room(self) -> Option<&'a str> {
        match self {
            Self::Server => None,
            Self::Room(room) => Some(room.as_str()),
        }
    }
}
