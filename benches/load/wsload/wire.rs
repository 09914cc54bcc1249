//! Frames of RFC 6455, and the mark that each message's text carries.

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The handshake's key is that of the RFC, so its answer is known too.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// One frame at the front of a buffer.
pub struct Frame<'a> {
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    pub payload: &'a [u8],
    /// Bytes of the whole frame.
    pub size: usize,
}

/// Takes a frame off the front, if it is complete.
pub fn read(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (mut header, length) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?),
        length => (2, usize::from(length)),
    };
    let mut mask = None;
    if second & 0x80 != 0 {
        mask = Some(*bytes.get(header..)?.first_chunk()?);
        header += 4;
    }
    let size = header.checked_add(length)?;
    Some(Frame { opcode: first & 0x0f, mask, payload: bytes.get(header..size)?, size })
}

/// Appends a frame; clients' frames have a mask.
pub fn write(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match payload.len() {
        length @ ..126 => out.push(masked | length as u8),
        length @ ..0x1_0000 => {
            out.push(masked | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(masked | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    let Some(mask) = mask else { return out.extend(payload) };
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// The start of a message's text: `~#`, the kind, the route, the number in it, and when
/// it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub kind: Kind,
    pub route: usize,
    pub number: u32,
    pub sent_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Shows that a member is reached; not counted.
    Greeting,
    Load,
}

impl Mark {
    const START: &[u8; 2] = b"~#";
    /// Bytes of a mark.
    pub const SIZE: usize = 2 + 1 + 6 + 8 + 16;

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(Mark::START);
        out.push(if self.kind == Kind::Load { b'L' } else { b'G' });
        put_hex(out, self.route as u64, 6);
        put_hex(out, self.number.into(), 8);
        put_hex(out, self.sent_ns, 16);
    }

    /// The index of the mark in a frame; `guess` is tried first.
    pub fn find(payload: &[u8], guess: usize) -> Option<usize> {
        let here = |at: usize| payload.get(at..at + 2) == Some(Mark::START);
        let at = if here(guess) { guess } else { (0..payload.len()).find(|&at| here(at))? };
        (payload.len() >= at + Mark::SIZE).then_some(at)
    }

    /// The mark at this index, which [`find`](Mark::find) returned.
    pub fn read(payload: &[u8], at: usize) -> Mark {
        let hex = |from: usize, digits: usize| get_hex(&payload[at + from..][..digits]);
        Mark {
            kind: if payload[at + 2] == b'L' { Kind::Load } else { Kind::Greeting },
            route: hex(3, 6) as usize,
            number: hex(9, 8) as u32,
            sent_ns: hex(17, 16),
        }
    }
}

pub fn put_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    let nibbles = (0..digits).rev().map(|digit| (value >> (digit * 4)) as usize & 15);
    out.extend(nibbles.map(|nibble| b"0123456789abcdef"[nibble]));
}

/// The number of hexadecimal digits in ASCII, `a` to `f` in lower case.
pub fn get_hex(digits: &[u8]) -> u64 {
    let value = |digit: u8| u64::from(if digit > b'9' { digit - b'a' + 10 } else { digit & 15 });
    digits.iter().fold(0, |sum, &digit| sum << 4 | value(digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_frames_are_read() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let payload = vec![b'x'; length];
                let mut bytes = Vec::new();
                write(&mut bytes, TEXT, &payload, mask);
                assert!(read(&bytes[..bytes.len() - 1]).is_none());
                bytes.push(0);
                let frame = read(&bytes).unwrap();
                assert_eq!((frame.opcode, frame.mask, frame.size), (TEXT, mask, bytes.len() - 1));
                let mask = mask.unwrap_or_default();
                let unmasked = frame.payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b);
                assert!(unmasked.eq(payload));
            }
        }
    }

    #[test]
    fn mark_is_found_in_an_envelope() {
        let mark = Mark { kind: Kind::Load, route: 0xabc, number: 7, sent_ns: 1 << 40 };
        let mut text = b"{\"message\":\"".to_vec();
        let at = text.len();
        mark.write(&mut text);
        assert_eq!(text.len(), at + Mark::SIZE);
        assert_eq!([0, 3, at, 999].map(|guess| Mark::find(&text, guess)), [Some(at); 4]);
        assert_eq!(Mark::find(&text[..text.len() - 1], at), None);
        assert_eq!(Mark::read(&text, at), mark);
    }
}
