//! Whether Redis deletes what is kept, when it is full.

use std::sync::{Mutex, PoisonError};

/// Under which Redis refuses to write instead.
const NO_EVICTION: &str = "noeviction";

/// The policy by which Redis makes room, as it was last seen.
#[derive(Debug, Default)]
pub(super) struct Eviction {
    policy: Mutex<String>,
}

impl Eviction {
    /// Says in the log that there is a policy that deletes histories, once: all that is kept
    /// has a lifetime, so that those do which delete nothing else.
    pub(super) fn seen(&self, policy: &str) {
        let mut known = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != policy {
            policy.clone_into(&mut known);
            if policy != NO_EVICTION {
                tracing::warn!(
                    policy,
                    "redis may delete histories when it is full: set maxmemory-policy to noeviction"
                );
            }
        }
    }
}
