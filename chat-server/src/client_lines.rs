//! Log lines that clients cause, at a rate that cannot fill a disk: lines beyond it are at `debug`, and
//! one line a minute has their number.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chat_core::{ErrorCode, Rejection, RoomId, UserId, printable};
use tokio::time::{MissedTickBehavior, interval};
use tracing::field::display;

use crate::api_lines::ApiLines;
use crate::auth::AuthError;
use crate::cause::Cause;
use crate::limits::network;
use crate::log_budget::{LogBudget, shown};
use crate::metrics::REFUSALS;
use crate::refusal::Refusal;
use crate::throttled::Throttled;

/// How often the numbers of suppressed lines are logged.
const MINUTE: Duration = Duration::from_secs(60);

/// Lines of ended connections in a minute, for each cause, and of removals from rooms: a flood of one
/// cause must not suppress the others, nor one of clients that nobody knows those of users.
const ENDED: u32 = 600;

/// Of these, lines of one user: a client that reconnects in a loop must not suppress the others.
const ENDED_OF_USER: u32 = 10;

/// Lines of kicks, bans and unbans in a minute, and of who imposes them: what a backend does at once to
/// a thousand users must not fill a disk, nor suppress what others do.
const SANCTIONS: u32 = 600;
const SANCTIONS_OF_ACTOR: u32 = 200;

/// Lines in a minute of rejected credentials, of refused handshakes for each cause and of refused joins
/// and sends for each code, and those of one user or address: a client that tries again in a loop must
/// not suppress the others.
const REJECTED: u32 = 60;
const REJECTED_OF_SOURCE: u32 = 10;

/// The budgets of a server.
#[derive(Debug)]
pub(crate) struct ClientLines {
    ended: [SourceBudget; Cause::ALL.len()],
    /// A user is known here if the token is genuine.
    tokens: SourceBudget,
    keys: LogBudget,
    /// By who imposes them.
    pub(crate) sanctions: LogBudget,
    /// Of clients that were removed from rooms, by user.
    pub(crate) removals: LogBudget,
    pub(crate) api: ApiLines,
    /// By cause. The last is of those that are not counted as refused handshakes, such as requests above
    /// the rate of an address.
    refused: [SourceBudget; REFUSALS.len() + 1],
    joins: ByCode,
    sends: ByCode,
    moderation: ByCode,
    pub(crate) throttled: Throttled,
}

/// Of refused frames, by their error code.
type ByCode = [SourceBudget; ErrorCode::ALL.len()];

/// The lines of users, by user, and beside them those of clients whose user is not known, by address: anyone
/// can have many addresses, and so must not use up the lines of users.
#[derive(Debug)]
struct SourceBudget {
    of_users: LogBudget,
    of_addresses: LogBudget,
}

impl SourceBudget {
    fn new(lines: u32, lines_of_source: u32) -> Self {
        let budget = || LogBudget::new(lines, lines_of_source);
        Self { of_users: budget(), of_addresses: budget() }
    }

    fn take(&self, user: Option<&UserId>, address: Option<IpAddr>) -> bool {
        match user {
            Some(user) => self.of_users.take(user),
            None => self.of_addresses.take(&address.map(network)),
        }
    }

    /// How many lines were not permitted since the last call, unless none.
    fn take_suppressed(&self) -> Option<u64> {
        let suppressed = [&self.of_users, &self.of_addresses].map(LogBudget::take_suppressed);
        suppressed.into_iter().flatten().reduce(|one, other| one + other)
    }
}

/// What a user notices if it is refused: each has lines at `info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Join,
    /// To a room or to a user.
    Send,
    /// A kick, a ban or the end of a ban.
    Moderate,
}

/// A join, a message or an act of a moderator that is refused.
#[derive(Debug)]
pub(crate) struct RefusedAttempt<'a> {
    pub(crate) attempt: Attempt,
    pub(crate) rejection: &'a Rejection,
    pub(crate) user: Option<&'a UserId>,
    /// As the client has sent it.
    pub(crate) room: Option<&'a str>,
    /// The recipient of a direct message, as the client has sent it.
    pub(crate) to: Option<&'a str>,
    /// The type of the frame, and whom a moderator meant, as the client has sent it.
    pub(crate) kind: Option<&'a str>,
    pub(crate) about: Option<&'a str>,
    /// The id of the connection.
    pub(crate) connection: &'a str,
    pub(crate) address: Option<IpAddr>,
    /// Whether a backend made the client join.
    pub(crate) by_backend: bool,
}

impl Default for ClientLines {
    fn default() -> Self {
        let rejected = || SourceBudget::new(REJECTED, REJECTED_OF_SOURCE);
        Self {
            ended: std::array::from_fn(|_| SourceBudget::new(ENDED, ENDED_OF_USER)),
            tokens: rejected(),
            keys: LogBudget::new(REJECTED, REJECTED_OF_SOURCE),
            sanctions: LogBudget::new(SANCTIONS, SANCTIONS_OF_ACTOR),
            removals: LogBudget::new(ENDED, ENDED_OF_USER),
            api: ApiLines::default(),
            refused: std::array::from_fn(|_| rejected()),
            joins: std::array::from_fn(|_| rejected()),
            sends: std::array::from_fn(|_| rejected()),
            moderation: std::array::from_fn(|_| rejected()),
            throttled: Throttled::default(),
        }
    }
}

impl ClientLines {
    /// Logs what is logged once a minute, until the future is dropped.
    pub(crate) async fn report(self: Arc<Self>) {
        let mut minutes = interval(MINUTE);
        minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            minutes.tick().await;
            self.log_suppressed();
        }
    }

    /// Logs who was throttled, and the numbers of lines that were suppressed, since the last call.
    pub(crate) fn log_suppressed(&self) {
        self.throttled.log();
        for (cause, budget) in Cause::ALL.into_iter().zip(&self.ended) {
            if let Some(lines) = budget.take_suppressed() {
                let cause = cause.as_str();
                tracing::info!(cause, lines, "suppressed log lines of ended connections");
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
        if let Some(lines) = self.removals.take_suppressed() {
            tracing::info!(lines, "suppressed log lines of removals from rooms");
        }
        self.api.log_suppressed();
        let causes = REFUSALS.iter().map(|(_, reason)| *reason).chain(["other"]);
        for (cause, budget) in causes.zip(&self.refused) {
            if let Some(lines) = budget.take_suppressed() {
                tracing::info!(cause, lines, "suppressed log lines of refused handshakes");
            }
        }
        for (code, lines) in suppressed_by_code(&self.joins) {
            tracing::info!(code, lines, "suppressed log lines of refused joins");
        }
        for (code, lines) in suppressed_by_code(&self.sends) {
            tracing::info!(code, lines, "suppressed log lines of refused sends");
        }
        for (code, lines) in suppressed_by_code(&self.moderation) {
            tracing::info!(code, lines, "suppressed log lines of refused moderation");
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
        self.ended[cause as usize].take(user, address)
    }

    /// Logs why a client could not join a room, send a message, or moderate.
    pub(crate) fn attempt_refused(&self, refused: &RefusedAttempt<'_>) {
        let RefusedAttempt { attempt, rejection, user, connection, address, .. } = *refused;
        let budgets = match attempt {
            Attempt::Join => &self.joins,
            Attempt::Send => &self.sends,
            Attempt::Moderate => &self.moderation,
        };
        let place = ErrorCode::ALL.iter().position(|known| *known == rejection.code);
        let budget = place.and_then(|place| budgets.get(place));
        let is_permitted = budget.is_some_and(|budget| budget.take(user, address));
        let (code, user) = (rejection.code.as_str(), user.map(UserId::as_str));
        let is_moderation = attempt == Attempt::Moderate;
        let about = refused.about.filter(|_| is_moderation);
        let [room, to, about] = [refused.room, refused.to, about].map(|text| text.map(shown));
        let (room, to, about) = (room.as_deref(), to.as_deref(), about.as_deref());
        let (detail, address) = (&*shown(&rejection.message), address.map(display));
        let by = refused.by_backend.then_some("backend");
        // The text of the other lines says it.
        let kind = refused.kind.filter(|_| is_moderation);
        macro_rules! log {
            ($level:ident, $what:literal) => {
                tracing::$level!(
                    code, kind, user, room, to, about, by, connection, address, detail, $what
                )
            };
        }
        match (attempt, is_permitted) {
            (Attempt::Join, true) => log!(info, "join refused"),
            (Attempt::Join, false) => log!(debug, "join refused"),
            (Attempt::Send, true) => log!(info, "send refused"),
            (Attempt::Send, false) => log!(debug, "send refused"),
            (Attempt::Moderate, true) => log!(info, "moderation refused"),
            (Attempt::Moderate, false) => log!(debug, "moderation refused"),
        }
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
        // A page that is not allowed has many users, and one line says what all of theirs would.
        let is_permitted = match &refusal.foreign {
            Some(foreign) => budget.of_addresses.take(foreign),
            None => budget.take(user, address),
        };
        let (user, room) = (user.map(UserId::as_str), room.map(RoomId::as_str));
        let (address, code) = (address.map(display), refusal.code());
        let origin = refusal.foreign.as_ref().and_then(|foreign| foreign.origin.as_deref());
        let host = refusal.foreign.as_ref().and_then(|foreign| foreign.host.as_deref());
        // The text may hold what the client has sent.
        let detail = &*shown(refusal.message());
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    cause,
                    status,
                    code,
                    user,
                    room,
                    origin,
                    host,
                    address,
                    detail,
                    "handshake refused"
                )
            };
        }
        match (is_permitted, &refusal.foreign) {
            (false, _) => log!(debug),
            (true, None) => log!(info),
            // It may be the operator's own page, and a setting that is missing.
            (true, Some(_)) => log!(warn),
        }
    }

    /// Logs why a client was rejected, but not its credentials, which are secret. `user` is whom they
    /// prove. `connection` is the client's id, unless it was rejected at the handshake.
    pub(crate) fn credentials_rejected(
        &self,
        error: &AuthError,
        user: Option<&UserId>,
        address: Option<IpAddr>,
        connection: Option<&str>,
    ) {
        // A client without credentials may still send them.
        if *error == AuthError::Missing {
            return;
        }
        let is_permitted = self.tokens.take(user, address);
        let user = user.map(UserId::as_str);
        // The text may hold what the client has sent.
        let (reason, address) = (error.to_string(), address.map(display));
        let reason = &*printable(&reason);
        if is_permitted {
            tracing::warn!(reason, user, address, connection, "credentials rejected");
        } else {
            tracing::debug!(reason, user, address, connection, "credentials rejected");
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

fn suppressed_by_code(budgets: &ByCode) -> impl Iterator<Item = (&'static str, u64)> {
    let budgets = ErrorCode::ALL.iter().zip(budgets);
    budgets.filter_map(|(code, budget)| Some((code.as_str(), budget.take_suppressed()?)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Anyone has many connections without a token, and some many addresses.
    #[test]
    fn unauthenticated_clients_do_not_use_up_the_lines_of_users() {
        let lines = ClientLines::default();
        let user = UserId::new("ann").unwrap();
        let of_addresses = (0..2 * ENDED)
            .filter(|n| lines.may_log_end(Cause::Lost, None, Some(Ipv4Addr::from_bits(*n).into())));
        // A minute may end in between.
        assert!((ENDED..=2 * ENDED).contains(&(of_addresses.count() as u32)));
        for _ in 0..ENDED_OF_USER {
            assert!(lines.may_log_end(Cause::Lost, Some(&user), None));
        }
    }
}
