//! Random bits that must differ, and random bytes that nobody may guess.
//!
//! Both come from a library that every crate may name: std's hash keys, which the operating system
//! seeds, and the `getrandom` crate. chat-core has no randomness, and chat-broker and chat-transport
//! do not know each other, so each crate calls the libraries itself instead of sharing a wrapper.

use std::hash::{BuildHasher, RandomState};

use crate::error::BrokerError;

/// 64 random bits for ids and jitter, not for secrets. They cost no system call, of which each
/// publication would make two.
pub(crate) fn bits() -> u64 {
    RandomState::new().hash_one(())
}

/// 32 bytes from the operating system.
///
/// # Errors
/// The operating system has none.
pub(crate) fn secret() -> Result<[u8; 32], BrokerError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|_| BrokerError::unavailable("the operating system gives no random bytes"))?;
    Ok(secret)
}
