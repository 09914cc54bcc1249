//! Whether Redis deletes what is kept, when it is full.

use std::sync::{Mutex, PoisonError};

/// Under which Redis refuses to write instead.
const NO_EVICTION: &str = "noeviction";

/// What those policies delete that spare keys without a lifetime, and those that do not.
const VOLATILE: &str = "histories, positions and keys of messages";
const ALL: &str = "histories, positions, keys of messages, who is in which room, leases of servers, \
                   bans and the resume secret";

/// The policy by which Redis makes room, as it was last seen.
#[derive(Debug, Default)]
pub(super) struct Eviction {
    policy: Mutex<String>,
}

impl Eviction {
    /// Says in the log what a policy deletes, once. Histories and keys of messages have a lifetime,
    /// and so are deleted by the policies that delete nothing else, too.
    pub(super) fn seen(&self, policy: &str) {
        let mut known = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != policy {
            policy.clone_into(&mut known);
            if policy != NO_EVICTION {
                let may_delete = if policy.starts_with("allkeys") { ALL } else { VOLATILE };
                tracing::warn!(
                    policy,
                    "redis may delete {may_delete} when it is full: set maxmemory-policy to noeviction"
                );
            }
        }
    }
}
