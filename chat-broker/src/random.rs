//! Random bits from the standard library.

use std::hash::{BuildHasher, RandomState};

/// 64 random bits: a keyed hash under a key that the operating system seeded and that no
/// other call shares.
pub(crate) fn bits() -> u64 {
    RandomState::new().hash_one(())
}
