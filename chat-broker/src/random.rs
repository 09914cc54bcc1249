//! Random bits that must differ, and random bytes that must not be guessed.
//!
//! Both come from a library that every crate may name: std's hash keys, which the operating system
//! seeds, and the `getrandom` crate. chat-core has no randomness, and chat-broker and
//! chat-transport do not know each other, so each crate calls the libraries itself instead of
//! sharing a wrapper.

use std::hash::{BuildHasher, RandomState};

use crate::error::BrokerError;

/// 64 random bits for ids and jitter, not for secrets. They cost no system call, of which each
/// publication would make two.
pub(crate) fn bits() -> u64 {
    #[cfg(feature = "testing")]
    if let Some(bits) = seeded::bits() {
        return bits;
    }
    RandomState::new().hash_one(())
}

/// 32 bytes from the operating system.
///
/// # Errors
/// The operating system has none.
pub(crate) fn secret() -> Result<[u8; 32], BrokerError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|cause| BrokerError::unavailable(NoRandomness(cause)))?;
    Ok(secret)
}

#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random bytes: {0}")]
struct NoRandomness(#[source] getrandom::Error);

#[cfg(feature = "testing")]
pub use seeded::seed;

#[cfg(feature = "testing")]
mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Makes what is random on this thread from now on follow from `seed`, but for secrets: names,
    /// ids and pauses.
    pub fn seed(seed: u64) {
        STATE.set(Some(seed));
    }

    /// By SplitMix64.
    pub(super) fn bits() -> Option<u64> {
        let state = STATE.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(Some(state));
        let bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(bits ^ (bits >> 31))
    }
}
