//! The payloads in our channels.
//!
//! | first byte | then | |
//! |---|---|---|
//! | 0 | payload | ephemeral |
//! | 1 | offset, 8 bytes, big endian; epoch, 8 letters or digits; payload | sequenced |
//!
//! `publish.lua` writes the second form.

use bytes::{Buf, Bytes};
use chat_core::{Epoch, Position};

const EPHEMERAL: u8 = 0;
const SEQUENCED: u8 = 1;
const SEQUENCED_HEADER: usize = 1 + 8 + Epoch::LEN;

/// The greatest offset: Lua counts in doubles.
const MAX_OFFSET: u64 = 1 << 53;

pub(super) fn ephemeral(payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 + payload.len());
    message.push(EPHEMERAL);
    message.extend_from_slice(payload);
    message
}

/// Takes the header off, without a copy; `None` for what is not ours.
pub(super) fn decode(mut message: Bytes) -> Option<(Option<Position>, Bytes)> {
    match *message.first()? {
        EPHEMERAL => {
            message.advance(1);
            Some((None, message))
        }
        SEQUENCED => {
            let header: &[u8; SEQUENCED_HEADER] = message.first_chunk()?;
            let (offset, epoch) = header[1..].split_first_chunk()?;
            let position =
                Position { epoch: Epoch::parse(epoch)?, offset: u64::from_be_bytes(*offset) };
            let plausible = (1..=MAX_OFFSET).contains(&position.offset);
            message.advance(SEQUENCED_HEADER);
            plausible.then_some((Some(position), message))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEVENTH: &[u8] = b"\x01\0\0\0\0\0\0\0\x07abcdEF12hello";

    #[test]
    fn both_forms() {
        let seventh = Position { epoch: Epoch::parse(b"abcdEF12").unwrap(), offset: 7 };
        let hello = Bytes::from("hello");
        assert_eq!(decode(Bytes::from_static(SEVENTH)), Some((Some(seventh), hello.clone())));
        assert_eq!(decode(ephemeral(b"hello").into()), Some((None, hello)));
        assert_eq!(decode(ephemeral(b"").into()), Some((None, Bytes::new())));
    }

    #[test]
    fn what_is_not_ours() {
        let mut wrong_epoch = SEVENTH.to_vec();
        wrong_epoch[9] = b' ';
        let mut offset_zero = SEVENTH.to_vec();
        offset_zero[8] = 0;
        let mut offset_huge = SEVENTH.to_vec();
        offset_huge[1] = 1;
        let cases = [
            vec![],
            vec![2],
            b"hello".to_vec(),
            SEVENTH[..16].to_vec(),
            wrong_epoch,
            offset_zero,
            offset_huge,
        ];
        for message in cases {
            assert_eq!(decode(message.clone().into()), None, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(message in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some((_, payload)) = decode(message.clone().into()) {
                prop_assert!(message.ends_with(&payload));
            }
        }
    }
}
