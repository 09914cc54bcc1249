//! What is random: names that must differ, and secrets that nobody may guess.

use std::hash::{BuildHasher, RandomState};

use crate::error::BrokerError;

/// 64 random bits, cheap and no secret: a keyed hash under a key that the operating system seeded and that no
/// other call shares.
pub(crate) fn bits() -> u64 {
    RandomState::new().hash_one(())
}

/// From the operating system.
pub(crate) fn secret() -> Result<[u8; 32], BrokerError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|_| BrokerError::unavailable("the operating system gives no random bytes"))?;
    Ok(secret)
}
