//! Settings of rooms: history and presence.

use std::time::Duration;

use chat_broker::{HistoryRules, HubConfig};
use chat_core::Retention;
use clap::{Args, Parser};

use super::value::{HOUR, MAX_BYTES, MAX_COUNT, SECOND, YEAR, number, text, time};

/// The most messages that a room may keep: a history is a cache, not an archive.
const MAX_HISTORY: u32 = 100_000;

#[derive(Debug, Args)]
#[command(next_help_heading = "Rooms")]
pub(super) struct Rooms {
    /// Messages that a room keeps, at most; 0: none, the cheapest way
    #[arg(long, value_name = "MESSAGES", default_value = "256", value_parser = number(0..=MAX_HISTORY))]
    history: u32,

    /// Payload of these messages, in bytes, at most; the newest is kept in any case. Each counts as
    /// an equal share at least
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = number(1..=MAX_BYTES))]
    history_bytes: usize,

    /// How long after the latest message a room keeps them
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time(SECOND..=YEAR))]
    history_ttl: Duration,

    /// Users in a room above which its members receive the number of users, once a second, instead
    /// of each join and leave
    #[arg(long, value_name = "USERS", default_value = "200", value_parser = number(0..=MAX_COUNT))]
    presence_limit: usize,

    /// How long a user whose connection was lost stays in a room, in case the user reconnects
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time(Duration::ZERO..=HOUR))]
    presence_grace: Duration,

    #[arg(skip)]
    pub(super) classes: Vec<RoomClass>,
}

/// Rooms that differ in what they keep: a table `[[rooms]]` of the file, and in no other source.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub(super) struct RoomClass {
    /// Pattern of the names of rooms, in which * stands for any text; the first table that
    /// matches counts
    #[arg(long, value_name = "PATTERN", value_parser = text)]
    name: String,

    /// As --history
    #[arg(long, value_name = "MESSAGES", value_parser = number(0..=MAX_HISTORY))]
    history: Option<u32>,

    /// As --history-bytes
    #[arg(long, value_name = "BYTES", value_parser = number(1..=MAX_BYTES))]
    history_bytes: Option<usize>,

    /// As --history-ttl
    #[arg(long, value_name = "TIME", value_parser = time(SECOND..=YEAR))]
    history_ttl: Option<Duration>,
}

impl RoomClass {
    /// The keys that a table must have, each with a value that can be read.
    pub(super) const REQUIRED: &'static [(&'static str, &'static str)] = &[("name", "*")];
}

impl Rooms {
    /// The payload of a room's history; `None` if none is kept.
    pub(super) fn kept_bytes(&self) -> Option<usize> {
        (self.history > 0).then_some(self.history_bytes)
    }

    pub(super) fn hub(&self) -> HubConfig {
        let all = Retention::default()
            .messages(self.history)
            .bytes(self.history_bytes)
            .ttl(self.history_ttl);
        let mut rules = HistoryRules::new(if_any(all));
        for class in &self.classes {
            let retention = Retention::default()
                .messages(class.history.unwrap_or(all.messages))
                .bytes(class.history_bytes.unwrap_or(all.bytes))
                .ttl(class.history_ttl.unwrap_or(all.ttl));
            rules = rules.class(&class.name, if_any(retention));
        }
        let mut hub = HubConfig::default().history(rules);
        hub.presence_limit = self.presence_limit;
        hub.grace = self.presence_grace;
        hub
    }
}

/// `None` if nothing is kept.
fn if_any(retention: Retention) -> Option<Retention> {
    (retention.messages > 0).then_some(retention)
}
