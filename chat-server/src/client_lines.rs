//! Log lines that clients cause, at a rate that cannot fill a disk: lines beyond it are at `debug`, and
//! one line a minute has their number.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chat_core::{RoomId, UserId, printable};
use tokio::time::{MissedTickBehavior, interval};
use tracing::field::display;

use crate::auth::AuthError;
use crate::cause::Cause;
use crate::limits::network;
use crate::log_budget::LogBudget;
use crate::metrics::REFUSALS;
use crate::refusal::Refusal;

/// How often the numbers of suppressed lines are logged.
const MINUTE: Duration = Duration::from_secs(60);

/// Lines of ended connections in a minute, for each cause: a flood of one cause must not suppress the
/// others.
const ENDED: u32 = 600;

/// Of these, lines of one user: a client that reconnects in a loop must not suppress the others.
const ENDED_OF_USER: u32 = 10;

/// Lines of kicks, bans and unbans in a minute, and of who imposes them: what a backend does at once to
/// a thousand users must not fill a disk, nor suppress what others do.
const SANCTIONS: u32 = 600;
const SANCTIONS_OF_ACTOR: u32 = 200;

/// Lines of one kind of API call in a minute, and of one key.
const CALLS: u32 = 120;
const CALLS_OF_KEY: u32 = 60;

/// The longest text of a line that a client may have written, in characters.
const LONGEST_TEXT: usize = 200;

/// Lines of rejected credentials in a minute, of refused handshakes for each cause, and of one address.
const REJECTED: u32 = 60;
const REJECTED_OF_ADDRESS: u32 = 10;

/// The budgets of a server.
#[derive(Debug)]
pub(crate) struct ClientLines {
    ended: [LogBudget; Cause::ALL.len()],
    tokens: LogBudget,
    keys: LogBudget,
    /// By who imposes them.
    pub(crate) sanctions: LogBudget,
    /// By the kind of a call.
    calls: [LogBudget; ApiLine::ALL.len()],
    /// By cause. The last is of those that are not counted as refused handshakes, such as requests above
    /// the rate of an address.
    refused: [LogBudget; REFUSALS.len() + 1],
}

/// What the log has of calls to `/api`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiLine {
    IssuedToken,
    /// A message whose sender is not the key.
    SentAsUser,
    Export,
    Forbidden,
}

impl ApiLine {
    const ALL: [Self; 4] = [Self::IssuedToken, Self::SentAsUser, Self::Export, Self::Forbidden];

    fn as_str(self) -> &'static str {
        match self {
            Self::IssuedToken => "issue_token",
            Self::SentAsUser => "send_as_user",
            Self::Export => "export",
            Self::Forbidden => "forbidden",
        }
    }
}

/// A call to `/api` that the log has, without contents and secrets.
#[derive(Debug, Default)]
pub(crate) struct ApiCall<'a> {
    /// The name of the key.
    pub(crate) key: &'a str,
    /// The name of the call.
    pub(crate) call: &'static str,
    /// The client's address.
    pub(crate) address: Option<IpAddr>,
    /// The user whom the call is about.
    pub(crate) user: Option<&'a UserId>,
    /// The sender that the key has named.
    pub(crate) as_user: Option<&'a UserId>,
    pub(crate) room: Option<&'a RoomId>,
    /// How many rooms the call is about.
    pub(crate) rooms: Option<usize>,
    /// The lifetime of the token that was issued.
    pub(crate) seconds: Option<u64>,
}

impl Default for ClientLines {
    fn default() -> Self {
        Self {
            ended: std::array::from_fn(|_| LogBudget::new(ENDED, ENDED_OF_USER)),
            tokens: LogBudget::new(REJECTED, REJECTED_OF_ADDRESS),
            keys: LogBudget::new(REJECTED, REJECTED_OF_ADDRESS),
            sanctions: LogBudget::new(SANCTIONS, SANCTIONS_OF_ACTOR),
            calls: std::array::from_fn(|_| LogBudget::new(CALLS, CALLS_OF_KEY)),
            refused: std::array::from_fn(|_| LogBudget::new(REJECTED, REJECTED_OF_ADDRESS)),
        }
    }
}

impl ClientLines {
    /// Logs the numbers of suppressed lines, until the future is dropped.
    pub(crate) async fn report(self: Arc<Self>) {
        let mut minutes = interval(MINUTE);
        minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            minutes.tick().await;
            self.log_suppressed();
        }
    }

    /// Logs the numbers of lines that were suppressed since the last call.
    pub(crate) fn log_suppressed(&self) {
        for (cause, budget) in Cause::ALL.into_iter().zip(&self.ended) {
            if let Some(lines) = budget.take_suppressed() {
                tracing::info!(%cause, lines, "suppressed log lines of ended connections");
            }
        }
        if let Some(lines) = self.tokens.take_suppressed() {
            tracing::warn!(lines, "suppressed log lines of rejected credentials");
        }
        if let Some(lines) = self.keys.take_suppressed() {
            tracing::warn!(lines, "suppressed log lines of rejected API keys");
        }
        if let Some(lines) = self.sanctions.take_suppressed() {
            tracing::info!(lines, "suppressed log lines of sanctions");
        }
        for (kind, budget) in ApiLine::ALL.into_iter().zip(&self.calls) {
            if let Some(lines) = budget.take_suppressed() {
                tracing::info!(kind = kind.as_str(), lines, "suppressed log lines of API calls");
            }
        }
        let causes = REFUSALS.iter().map(|(_, reason)| *reason).chain(["other"]);
        for (cause, budget) in causes.zip(&self.refused) {
            if let Some(lines) = budget.take_suppressed() {
                tracing::info!(cause, lines, "suppressed log lines of refused handshakes");
            }
        }
    }

    /// Whether the line of a connection that ended for `cause` is at `info`. The lines of one user are
    /// limited; before the user is known, those of the address.
    pub(crate) fn may_log_end(
        &self,
        cause: Cause,
        user: Option<&UserId>,
        address: Option<IpAddr>,
    ) -> bool {
        let stranger = if user.is_none() { address.map(network) } else { None };
        self.ended[cause as usize].take(&(user, stranger))
    }

    /// Logs why a handshake was refused, unless the log has it already.
    pub(crate) fn handshake_refused(
        &self,
        refusal: &Refusal,
        user: Option<&UserId>,
        room: Option<&RoomId>,
        address: Option<IpAddr>,
    ) {
        if refusal.is_logged {
            return;
        }
        let (status, cause) = (refusal.status.as_u16(), refusal.reason);
        let place = REFUSALS.iter().position(|known| *known == (status, cause));
        let budget = &self.refused[place.unwrap_or(REFUSALS.len())];
        let is_permitted = budget.take(&address.map(network));
        let (user, room) = (user.map(UserId::as_str), room.map(RoomId::as_str));
        let (address, code) = (address.map(display), refusal.code());
        // The text may hold what the client has sent.
        let detail = clipped(refusal.message());
        let detail = &*printable(&detail);
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    cause,
                    status,
                    code,
                    user,
                    room,
                    address,
                    detail,
                    "handshake refused"
                )
            };
        }
        if is_permitted { log!(info) } else { log!(debug) }
    }

    /// Logs a call to `/api` that acts for users, or takes much out of the server.
    pub(crate) fn api_call(&self, kind: ApiLine, call: &ApiCall<'_>) {
        let ApiCall { key, call, address, user, as_user, room, rooms, seconds } = *call;
        let is_permitted = self.calls[kind as usize].take(key);
        let (user, as_user) = (user.map(UserId::as_str), as_user.map(UserId::as_str));
        let (room, address) = (room.map(RoomId::as_str), address.map(display));
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    key, call, as_user, user, room, rooms, seconds, address, "API call"
                )
            };
        }
        if is_permitted { log!(info) } else { log!(debug) }
    }

    /// Logs a call to `/api` that its key may not make. `path` has no query.
    pub(crate) fn api_call_forbidden(
        &self,
        key: &str,
        call: &'static str,
        path: &str,
        address: Option<IpAddr>,
    ) {
        let is_permitted = self.calls[ApiLine::Forbidden as usize].take(key);
        let path = clipped(path);
        let (path, address) = (&*printable(&path), address.map(display));
        if is_permitted {
            tracing::info!(key, call, path, address, "API call forbidden");
        } else {
            tracing::debug!(key, call, path, address, "API call forbidden");
        }
    }

    /// Logs why a client was rejected, but not its credentials, which are secret. `user` is whom they
    /// name, if they are genuine; it is asked only for lines that are logged, since a signature is
    /// verified for it. `connection` is the client's id, unless it was rejected at the handshake.
    pub(crate) fn credentials_rejected(
        &self,
        error: &AuthError,
        user: impl FnOnce() -> Option<UserId>,
        address: Option<IpAddr>,
        connection: Option<&str>,
    ) {
        // A client without credentials may still send them.
        if *error == AuthError::Missing {
            return;
        }
        let is_permitted = self.tokens.take(&address.map(network));
        // The text may hold what the client has sent.
        let (reason, address) = (error.to_string(), address.map(display));
        let reason = &*printable(&reason);
        if is_permitted {
            let user = user();
            let user = user.as_ref().map(UserId::as_str);
            tracing::warn!(reason, user, address, connection, "credentials rejected");
        } else {
            tracing::debug!(reason, address, connection, "credentials rejected");
        }
    }

    /// Logs the source of a key of the API that is not valid, and the name of the key, if it has one.
    pub(crate) fn key_rejected(
        &self,
        reason: &'static str,
        key: Option<&str>,
        address: Option<IpAddr>,
    ) {
        let is_permitted = self.keys.take(&address.map(network));
        let address = address.map(display);
        if is_permitted {
            tracing::warn!(reason, key, address, "API key rejected");
        } else {
            tracing::debug!(reason, key, address, "API key rejected");
        }
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}
