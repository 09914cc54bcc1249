//! Names of ours under which Redis holds something else: a key of another type, or a value that
//! makes no sense.
//!
//! Of a topic that is the topic's trouble alone. It is logged with the keys that an operator has to
//! look at, once a minute for each topic, and what was asked fails at once.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{RedisError, ServerError};
use tokio::time::Instant;

use crate::error::BrokerError;
use crate::redis::error::{answer_in_words, broker_error, in_words, is_damage, is_wrong_type};
use crate::redis::names::Address;

/// How often the same is logged.
const PAUSE: Duration = Duration::from_secs(60);

/// Lines in that time, at most.
const MAX_LOGGED: usize = 100;

/// The keys of a topic, as messages name them.
pub(crate) const SEQUENCE: &str = ", its :position or :k:*";
pub(crate) const PRESENCE: &str = ":members or :on:*";

/// The keys that were logged, and when.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    logged: Mutex<HashMap<String, Instant>>,
}

impl Damage {
    /// What a failed command on these keys of a topic means to its caller.
    pub(crate) fn explain(
        &self,
        address: &Address,
        keys: &'static str,
        error: RedisError,
    ) -> BrokerError {
        match address.topic().filter(|_| is_damage(&error)) {
            Some(topic) => {
                let keys = format!("{}{keys}", address.channel());
                let cause = in_words(&error);
                self.log(&keys, &cause);
                BrokerError::damaged(topic, format!("{keys}: {cause}"))
            }
            None => broker_error(error),
        }
    }

    /// As [`explain`](Self::explain), for keys that all topics share.
    pub(crate) fn explain_shared(&self, keys: &str, error: RedisError) -> BrokerError {
        if is_damage(&error) {
            let cause = in_words(&error);
            self.log(keys, &cause);
            BrokerError::refused(format!("{keys}: {cause}"))
        } else {
            broker_error(error)
        }
    }

    /// As [`explain_shared`](Self::explain_shared), for a command without a caller.
    pub(crate) fn note_shared(&self, keys: &str, error: &RedisError) {
        if is_damage(error) {
            self.log(keys, &in_words(error));
        }
    }

    /// As [`explain`](Self::explain), for an answer without a caller.
    pub(crate) fn note(&self, address: &Address, keys: &'static str, error: &ServerError) {
        if is_wrong_type(error) {
            self.log(&format!("{}{keys}", address.channel()), &answer_in_words(error));
        }
    }

    /// A topic has a position that makes no sense, and begins a new epoch with the next
    /// publication.
    pub(crate) fn note_position(&self, address: &Address) {
        let keys = format!("{} or its :position", address.channel());
        self.log(&keys, "its epoch and offset make no sense: a new epoch begins");
    }

    /// The secret is of another length than secrets have.
    pub(crate) fn note_secret(&self, key: &str) {
        self.log(
            key,
            "the secret is not 32 bytes: servers sign no resume secrets until it is deleted",
        );
    }

    fn log(&self, keys: &str, cause: &str) {
        if self.may_log(keys) {
            tracing::warn!(
                keys,
                cause,
                "redis keys of this server hold values of another type: see docs/redis.md, \"When keys are damaged\""
            );
        }
    }

    fn may_log(&self, keys: &str) -> bool {
        let mut logged = self.logged.lock();
        let now = Instant::now();
        logged.retain(|_, at| now - *at < PAUSE);
        let may_log = logged.len() < MAX_LOGGED && !logged.contains_key(keys);
        if may_log {
            logged.insert(keys.to_owned(), now);
        }
        may_log
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn same_keys_are_logged_once_a_minute() {
        let damage = Damage::default();
        assert!(damage.may_log("a") && damage.may_log("b"));
        assert!(!damage.may_log("a"));
        let logged = (1..200).filter(|n| damage.may_log(&n.to_string())).count();
        assert_eq!(logged, MAX_LOGGED - 2, "the log is bounded");
        advance(PAUSE).await;
        assert!(damage.may_log("a"));
    }
}
