//! Randomness from a seed of the caller.

/// The generator xoshiro256++ 1.0 by David Blackman and Sebastiano Vigna (2018,
/// <https://prng.di.unimi.it/xoshiro256plusplus.c>, public domain).
///
/// It spreads pauses and makes message keys distinct, and protects no secret: an observer of
/// enough keys of a client can compute its next ones. Keys are compared within the messages of one user
/// in one room, so no other user gains by that.
#[derive(Debug)]
pub(super) struct Rng([u64; 4]);

impl Rng {
    /// Each word of the seed passes through the bijective step of SplitMix64, which the authors
    /// recommend for seeding: a seed of zeros gives no state of zeros, and no bit of it is lost.
    pub(super) fn new(seed: [u8; 32]) -> Self {
        let mut state = [0; 4];
        let mut gamma = 0_u64;
        for (word, bytes) in state.iter_mut().zip(seed.chunks_exact(8)) {
            gamma = gamma.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let bytes = bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            *word = mix(gamma.wrapping_add(bytes));
        }
        Self(state)
    }

    pub(super) fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let output = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        output
    }

    /// A key for a message: 128 random bits.
    pub(super) fn key(&mut self) -> String {
        format!("{:016x}{:016x}", self.next(), self.next())
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014; this form by Vigna, public domain).
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Computed with the authors' C code from the state 1, 2, 3, 4.
    #[test]
    fn sequence_is_that_of_the_reference_implementation() {
        let mut rng = Rng([1, 2, 3, 4]);
        let first: Vec<u64> = (0..8).map(|_| rng.next()).collect();
        let reference = [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
            9_228_616_714_210_784_205,
            9_973_669_472_204_895_162,
            14_011_001_112_246_962_877,
            12_406_186_145_184_390_807,
        ];
        assert_eq!(first, reference);
    }

    /// What the authors' SplitMix64 gives from the state 0, and with the seed added to its state.
    #[test]
    fn seed_is_mixed_as_in_the_reference_implementation() {
        let zeros = [
            0xe220_a839_7b1d_cdaf,
            0x6e78_9e6a_a1b9_65f4,
            0x06c4_5d18_8009_454f,
            0xf88b_b8a8_724c_81ec,
        ];
        assert_eq!(Rng::new([0; 32]).0, zeros);
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&0x9e37_79b9_7f4a_7c15_u64.to_le_bytes());
        assert_eq!(Rng::new(seed).0[0], zeros[1]);
    }

    #[test]
    fn keys_differ_within_a_client_and_between_seeds() {
        let keys: HashSet<String> = (0..10_u8)
            .flat_map(|seed| {
                let mut rng = Rng::new([seed; 32]);
                (0..100).map(move |_| rng.key())
            })
            .collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().all(|key| key.len() == 32));
    }
}
