//! Log lines that clients cause, at a rate that cannot fill a disk: lines beyond it are at `debug`, and
//! one line a minute has their number.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chat_core::{UserId, printable};
use tokio::time::{MissedTickBehavior, interval};
use tracing::field::display;

use crate::auth::AuthError;
use crate::cause::Cause;
use crate::limits::network;
use crate::log_budget::LogBudget;

/// How often the numbers of suppressed lines are logged.
const MINUTE: Duration = Duration::from_secs(60);

/// Lines of ended connections in a minute, for each cause: a flood of one cause must not suppress the
/// others.
const ENDED: u32 = 600;

/// Of these, lines of one user: a client that reconnects in a loop must not suppress the others.
const ENDED_OF_USER: u32 = 10;

/// Lines of rejected credentials in a minute, and of one address.
const REJECTED: u32 = 60;
const REJECTED_OF_ADDRESS: u32 = 10;

/// The budgets of a server.
#[derive(Debug)]
pub(crate) struct ClientLines {
    ended: [LogBudget; Cause::ALL.len()],
    tokens: LogBudget,
    keys: LogBudget,
}

impl Default for ClientLines {
    fn default() -> Self {
        Self {
            ended: std::array::from_fn(|_| LogBudget::new(ENDED, ENDED_OF_USER)),
            tokens: LogBudget::new(REJECTED, REJECTED_OF_ADDRESS),
            keys: LogBudget::new(REJECTED, REJECTED_OF_ADDRESS),
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
    }

    /// Whether the line of a connection of `user` that ended for `cause` is at `info`.
    pub(crate) fn may_log_end(&self, cause: Cause, user: &UserId) -> bool {
        self.ended[cause as usize].take(user)
    }

    /// Logs why a client was rejected, but not its credentials, which are secret. `connection` is its
    /// id, unless it was rejected at the handshake.
    pub(crate) fn credentials_rejected(
        &self,
        error: &AuthError,
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
            tracing::warn!(reason, address, connection, "credentials rejected");
        } else {
            tracing::debug!(reason, address, connection, "credentials rejected");
        }
    }

    /// Logs the source of a key of the API that is not valid, and the name of a key that has ended.
    pub(crate) fn key_rejected(&self, ended: Option<&str>, address: Option<IpAddr>) {
        let is_permitted = self.keys.take(&address.map(network));
        let address = address.map(display);
        if is_permitted {
            tracing::warn!(ended, address, "API key rejected");
        } else {
            tracing::debug!(ended, address, "API key rejected");
        }
    }
}
