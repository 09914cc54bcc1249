//! Looks at many bytes at once.

/// How many bytes match. The count of a chunk fits into a byte, so that the compiler compares and
/// adds many bytes at once: each message that is published and delivered is counted over.
pub(crate) fn count(bytes: &[u8], is_counted: impl Fn(u8) -> bool) -> usize {
    let in_chunk = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(is_counted(*byte))).sum::<u8>();
    bytes.chunks(u8::MAX.into()).map(|chunk| usize::from(in_chunk(chunk))).sum()
}

/// The index of the first quote or backslash. By 16 bytes, which the compiler compares at once:
/// most of what is forwarded is plain text.
pub(crate) fn find_special(bytes: &[u8]) -> Option<usize> {
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\');
    let (chunks, _) = bytes.as_chunks::<16>();
    let is_plain =
        |chunk: &&[u8; 16]| !chunk.iter().fold(false, |any, byte| any | is_special(byte));
    let plain = 16 * chunks.iter().take_while(is_plain).count();
    bytes[plain..].iter().position(is_special).map(|at| plain + at)
}
