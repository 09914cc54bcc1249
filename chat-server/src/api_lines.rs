//! The lines of calls to `/api` in the log, and their budgets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use tracing::field::display;

use crate::log_budget::{LogBudget, shown};

/// Lines of one API call in a minute, and those of one key.
const CALLS: u32 = 300;
const CALLS_OF_KEY: u32 = 60;

/// Different reads by the API that are distinguished from repeated ones in a minute.
const READS: u32 = 10_000;

/// Where the log has calls to `/api`, so that an operator can choose their level.
const API: &str = "chat_server::api";

/// What the log has of calls to `/api`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ApiLine {
    Change,
    /// Of what is personal.
    Read,
    Forbidden,
}

impl ApiLine {
    fn as_str(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Read => "read",
            Self::Forbidden => "forbidden",
        }
    }
}

/// A call to `/api` that the log has, without contents and secrets.
#[derive(Debug)]
pub(crate) struct ApiCall<'a> {
    /// The name of the key.
    pub(crate) key: &'a str,
    /// The name of the call.
    pub(crate) call: &'static str,
    /// The HTTP status of the answer.
    pub(crate) status: u16,
    /// The client's address.
    pub(crate) address: Option<IpAddr>,
    /// The user whom the call is about.
    pub(crate) user: Option<&'a str>,
    /// The sender that the key has named.
    pub(crate) as_user: Option<&'a str>,
    pub(crate) room: Option<&'a str>,
    /// How many users, or rooms, the call is about.
    pub(crate) users: Option<usize>,
    pub(crate) rooms: Option<usize>,
    /// The text by which users are searched.
    pub(crate) search: Option<&'a str>,
    /// A hash of the users that the call is about: other users of the same number are no repetition.
    pub(crate) users_hash: u64,
    /// The lifetime of the token that was issued, or the time of a rebalance.
    pub(crate) seconds: Option<u64>,
    /// Of a rebalance: so many of 100 clients, and how many they are.
    pub(crate) percent: Option<u8>,
    pub(crate) connections: Option<usize>,
}

/// The budgets of a server.
#[derive(Debug)]
pub(crate) struct ApiLines {
    /// Of each call: messages of backends must not suppress the line of a token that is issued.
    calls: Mutex<BTreeMap<(ApiLine, &'static str), LogBudget>>,
    /// By key, call and subject: a backend that polls has one line a minute.
    reads: LogBudget,
}

impl Default for ApiLines {
    fn default() -> Self {
        Self { calls: Mutex::default(), reads: LogBudget::new(READS, 1) }
    }
}

impl ApiLines {
    /// Logs a call to `/api` that changes something, or reads what is personal: at `debug` if it
    /// `is_minor`.
    pub(crate) fn call(&self, kind: ApiLine, call: &ApiCall<'_>, is_minor: bool) {
        let ApiCall { users, rooms, search, users_hash, .. } = *call;
        let ApiCall { seconds, percent, connections, .. } = *call;
        let ApiCall { key, call, status, address, user, as_user, room, .. } = *call;
        let subject = (user, room, users, users_hash, search);
        let is_repeated =
            || kind == ApiLine::Read && !self.reads.take(&(key, call, subject, address));
        let is_permitted = !is_minor && !is_repeated() && self.may_log(kind, call, key);
        let (address, search) = (address.map(display), search.map(shown));
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    target: API,
                    key,
                    call,
                    as_user,
                    user,
                    room,
                    users,
                    rooms,
                    search,
                    seconds,
                    percent,
                    connections,
                    status,
                    address,
                    "API call"
                )
            };
        }
        if is_permitted { log!(info) } else { log!(debug) }
    }

    /// Logs a call to `/api` that its key may not make. `path` has no query.
    pub(crate) fn forbidden(
        &self,
        key: &str,
        call: &'static str,
        path: &str,
        address: Option<IpAddr>,
    ) {
        let is_permitted = self.may_log(ApiLine::Forbidden, call, key);
        let (path, address) = (&*shown(path), address.map(display));
        if is_permitted {
            tracing::info!(target: API, key, call, path, address, "API call forbidden");
        } else {
            tracing::debug!(target: API, key, call, path, address, "API call forbidden");
        }
    }

    fn may_log(&self, kind: ApiLine, call: &'static str, key: &str) -> bool {
        let mut calls = self.calls.lock();
        let new = || LogBudget::new(CALLS, CALLS_OF_KEY);
        calls.entry((kind, call)).or_insert_with(new).take(key)
    }

    /// Logs the numbers of lines that were suppressed since the last call.
    pub(crate) fn log_suppressed(&self) {
        for ((kind, call), budget) in &*self.calls.lock() {
            if let Some(lines) = budget.take_suppressed() {
                let kind = kind.as_str();
                tracing::info!(kind, call, lines, "suppressed log lines of API calls");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_backend_do_not_use_up_the_lines_of_other_calls() {
        let lines = ApiLines::default();
        let may_log = |call, key: u32| lines.may_log(ApiLine::Change, call, &key.to_string());
        let sends = (0..3 * CALLS).filter(|key| may_log("send", *key)).count() as u32;
        // A minute may end in between.
        assert!((CALLS..=2 * CALLS).contains(&sends), "{sends}");
        assert!(may_log("issue_token", 0));
    }
}
