//! Bytes that are ready for a socket.

use bytes::{BufMut, Bytes, BytesMut};

/// Largest header of a server's frame: RFC 6455 section 5.2 without a mask.
const MAX_HEADER: usize = 10;

/// One or more WebSocket text frames, complete with their headers and in order.
///
/// A server's frames are unmasked, so the same bytes serve every member of a room: build
/// once, clone (a reference count) for each. The layout is that of RFC 6455 section 5.2.
///
/// For a socket that adds the headers itself, there are [`Frames::texts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    bytes: Bytes,
    count: u32,
}

impl Frames {
    /// One frame that holds `text`.
    ///
    /// ```
    /// let frames = chat_core::Frames::text("hi");
    /// assert_eq!(&frames.bytes()[..], b"\x81\x02hi");
    /// assert_eq!(frames.texts().collect::<Vec<_>>(), ["hi"]);
    /// ```
    #[must_use]
    pub fn text(text: &str) -> Self {
        let mut builder = FramesBuilder::with_capacity(text.len() + MAX_HEADER);
        builder.push(text.as_bytes());
        Self { count: builder.count, bytes: builder.bytes.freeze() }
    }

    /// The bytes for the socket.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many frames there are; at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The texts in the frames, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let mut rest: &[u8] = &self.bytes;
        std::iter::from_fn(move || {
            let (payload, after) = split_frame(rest)?;
            rest = after;
            std::str::from_utf8(payload).ok()
        })
    }
}

/// Collects texts into [`Frames`].
#[derive(Debug, Default)]
pub(crate) struct FramesBuilder {
    bytes: BytesMut,
    count: u32,
}

impl FramesBuilder {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(bytes), count: 0 }
    }

    /// Appends a frame whose payload is `text`, which must be UTF-8.
    pub(crate) fn push(&mut self, text: &[u8]) {
        self.bytes.reserve(text.len() + MAX_HEADER);
        put_header(&mut self.bytes, text.len());
        self.bytes.put_slice(text);
        self.count += 1;
    }

    /// The frames, unless there are none.
    pub(crate) fn finish(self) -> Option<Frames> {
        (self.count > 0).then(|| Frames { bytes: self.bytes.freeze(), count: self.count })
    }
}

const FINAL_TEXT: u8 = 0x81;

fn put_header(out: &mut BytesMut, len: usize) {
    out.put_u8(FINAL_TEXT);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..=125), _) => out.put_u8(len),
        (_, Ok(len)) => {
            out.put_u8(126);
            out.put_u16(len);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_, short], rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = match short {
        126 => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        127 => {
            let (len, rest) = rest.split_first_chunk::<8>()?;
            (usize::try_from(u64::from_be_bytes(*len)).ok()?, rest)
        }
        short => (usize::from(short), rest),
    };
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_of_all_three_lengths() {
        assert_eq!(&Frames::text("hi").bytes()[..], b"\x81\x02hi");
        assert_eq!(&Frames::text(&"x".repeat(126)).bytes()[..4], b"\x81\x7e\x00\x7e");
        assert_eq!(&Frames::text(&"x".repeat(65_535)).bytes()[..4], b"\x81\x7e\xff\xff");
        assert_eq!(
            &Frames::text(&"x".repeat(65_536)).bytes()[..10],
            b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"
        );
    }

    #[test]
    fn no_texts_no_frames() {
        assert_eq!(FramesBuilder::default().finish(), None);
    }

    proptest! {
        #[test]
        fn texts_round_trip_in_order(texts in prop::collection::vec(".{0,300}", 1..8)) {
            let mut builder = FramesBuilder::default();
            for text in &texts {
                builder.push(text.as_bytes());
            }
            let frames = builder.finish().unwrap();
            prop_assert_eq!(frames.count() as usize, texts.len());
            prop_assert_eq!(frames.texts().collect::<Vec<_>>(), texts);
        }
    }
}
