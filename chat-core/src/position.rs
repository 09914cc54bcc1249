//! Positions in a room's sequence of messages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json;

/// The sequence that an offset counts in: eight ASCII letters or digits, or an empty text for a
/// room in which nothing was ever sent.
///
/// A new epoch means a new sequence: the counter was lost with its storage and restarted.
///
/// ```
/// use chat_core::Epoch;
///
/// let epoch: Epoch = "JLITNcWY".parse()?;
/// assert_eq!(epoch.to_string(), "JLITNcWY");
/// assert_eq!(Epoch::try_from("")?, Epoch::NONE);
/// # Ok::<(), chat_core::InvalidEpoch>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch([u8; Epoch::LEN]);

impl Epoch {
    /// Length of an epoch that is not [`Epoch::NONE`], in bytes.
    pub const LEN: usize = 8;

    /// The epoch of a room in which nothing was ever sent.
    pub const NONE: Self = Self([0; Self::LEN]);

    /// An epoch that no room ever has: it stands for a client's text of another form.
    pub const UNKNOWN: Self = Self([b'?'; Self::LEN]);

    /// Reads an epoch as it is written in frames and in storage; `None` for any other text.
    ///
    /// ```
    /// assert_eq!(chat_core::Epoch::parse(b"JLITNcWY").unwrap().as_str(), "JLITNcWY");
    /// assert_eq!(chat_core::Epoch::parse(b"too long for one"), None);
    /// ```
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::NONE);
        }
        let bytes: [u8; Self::LEN] = text.try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Self(bytes))
    }

    /// An epoch of random bits.
    ///
    /// ```
    /// assert_ne!(chat_core::Epoch::from_random(1), chat_core::Epoch::from_random(2));
    /// ```
    #[must_use]
    pub fn from_random(mut bits: u64) -> Self {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        Self(std::array::from_fn(|_| {
            let digit = DIGITS[(bits % 62) as usize];
            bits /= 62;
            digit
        }))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        if *self == Self::NONE { "" } else { std::str::from_utf8(&self.0).unwrap_or_default() }
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({:?})", self.as_str())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A text that is not an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an epoch: eight ASCII letters or digits, or an empty text")]
pub struct InvalidEpoch;

impl FromStr for Epoch {
    type Err = InvalidEpoch;

    fn from_str(text: &str) -> Result<Self, InvalidEpoch> {
        Self::parse(text.as_bytes()).ok_or(InvalidEpoch)
    }
}

json::try_from_text!(Epoch, InvalidEpoch);

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::from_text(deserializer)
    }
}

/// A position in a room's sequence: after the message number `offset` of `epoch`. As a text it is
/// `EPOCH.OFFSET`.
///
/// The default is the position before the first message of a room in which nothing was ever sent.
///
/// Not `#[non_exhaustive]`: an epoch and an offset are all that a position ever is.
///
/// ```
/// use chat_core::Position;
///
/// let position = Position { epoch: "JLITNcWY".parse()?, offset: 41 };
/// assert_eq!(position.to_string(), "JLITNcWY.41");
/// assert_eq!("JLITNcWY.41".parse(), Ok(position));
/// # Ok::<(), chat_core::InvalidEpoch>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// The sequence.
    pub epoch: Epoch,
    /// How many messages of the sequence are before this position; at most 2^53 - 1.
    pub offset: u64,
}

impl Position {
    /// The greatest offset, 2^53 - 1: integers of JavaScript are exact up to it.
    pub const MAX_OFFSET: u64 = (1 << 53) - 1;

    /// What a message at `next` is to a reader at this position.
    ///
    /// ```
    /// use chat_core::{Epoch, Position, Step};
    ///
    /// let epoch = Epoch::from_random(1);
    /// let here = Position { epoch, offset: 5 };
    /// assert_eq!(here.step_to(Position { epoch, offset: 6 }), Step::Next);
    /// assert_eq!(here.step_to(Position { epoch, offset: 8 }), Step::Gap);
    /// ```
    #[must_use]
    pub fn step_to(self, next: Position) -> Step {
        let same_sequence = self.epoch == next.epoch || self == Self::default();
        if !same_sequence {
            Step::Gap
        } else if next.offset <= self.offset {
            Step::Repeat
        } else if next.offset == self.offset + 1 {
            Step::Next
        } else {
            Step::Gap
        }
    }
}

/// What is not the text of a [`Position`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a position: EPOCH.OFFSET, with an offset of at most 2^53 - 1")]
pub struct InvalidPosition;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (epoch, offset) = text.split_once('.').ok_or(InvalidPosition)?;
        let epoch = epoch.parse().map_err(|_| InvalidPosition)?;
        let offset = offset.parse().ok().filter(|offset| *offset <= Self::MAX_OFFSET);
        Ok(Self { epoch, offset: offset.ok_or(InvalidPosition)? })
    }
}

json::try_from_text!(Position, InvalidPosition);

/// The answer of [`Position::step_to`]. Not `#[non_exhaustive]`: a reader has to handle each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The message follows directly.
    Next,
    /// The message was seen before.
    Repeat,
    /// Messages before it were missed, or it is of another sequence.
    Gap,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: &str, offset: u64) -> Position {
        Position { epoch: Epoch::parse(epoch.as_bytes()).unwrap(), offset }
    }

    #[test]
    fn steps() {
        let here = at("abcdefgh", 5);
        assert_eq!(here.step_to(at("abcdefgh", 6)), Step::Next);
        assert_eq!(here.step_to(at("abcdefgh", 5)), Step::Repeat);
        assert_eq!(here.step_to(at("abcdefgh", 7)), Step::Gap);
        assert_eq!(here.step_to(at("ABCDEFGH", 6)), Step::Gap);
        assert_eq!(Position::default().step_to(at("abcdefgh", 1)), Step::Next);
        assert_eq!(Position::default().step_to(at("abcdefgh", 2)), Step::Gap);
    }

    #[test]
    fn greatest_offset_is_the_greatest_integer_that_javascript_has_exactly() {
        assert_eq!(Position::MAX_OFFSET, 9_007_199_254_740_991, "Number.MAX_SAFE_INTEGER");
    }

    #[test]
    fn texts_of_positions_round_trip() {
        for position in [Position::default(), at("abcdefgh", Position::MAX_OFFSET)] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in
            ["", ".", "abcdefgh", "abc.1", "abcdefgh.", "abcdefgh.-1", "abcdefgh.9007199254740992"]
        {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
    }

    #[test]
    fn debug_shows_the_text_of_an_epoch() {
        assert_eq!(format!("{:?}", at("abcdefgh", 5).epoch), r#"Epoch("abcdefgh")"#);
    }

    #[test]
    fn epochs_are_eight_alphanumerics_or_nothing() {
        assert_eq!(Epoch::parse(b""), Some(Epoch::NONE));
        assert_eq!(Epoch::parse(b"abc"), None);
        assert_eq!(Epoch::parse(b"abcdefg\n"), None);
        let epoch = Epoch::from_random(u64::MAX);
        assert_eq!(Epoch::parse(epoch.as_str().as_bytes()), Some(epoch));
        assert_ne!(Epoch::from_random(0), Epoch::NONE);
        assert_ne!(Epoch::from_random(1), Epoch::from_random(1 + 62), "all of the bits count");
        assert_eq!(Epoch::parse(Epoch::UNKNOWN.as_str().as_bytes()), None);
    }
}
