//! Validated names: rooms, users and connections.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Longest room id, user id or user name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a string is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// The string has no bytes.
    #[error("is empty")]
    Empty,
    /// The string is longer than [`MAX_NAME_BYTES`].
    #[error("is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// The string holds a control character (a line break, a NUL, an escape).
    #[error("holds a control character")]
    ControlCharacter,
}

fn validate(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        Err(InvalidName::Empty)
    } else if name.len() > MAX_NAME_BYTES {
        Err(InvalidName::TooLong)
    } else if name.chars().any(char::is_control) {
        Err(InvalidName::ControlCharacter)
    } else {
        Ok(())
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to [`MAX_NAME_BYTES`] bytes of UTF-8 without control characters, compared
        /// byte by byte (no Unicode normalisation). A clone shares the text.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `name` and takes a copy of it.
            ///
            /// # Errors
            /// [`InvalidName`] says which rule is broken.
            pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
                let name = name.as_ref();
                validate(name)?;
                Ok(Self(name.into()))
            }

            /// Takes a name that is valid by the way it was made.
            #[allow(dead_code, reason = "not every kind of name is ever made up")]
            pub(crate) fn from_valid(name: &str) -> Self {
                debug_assert_eq!(validate(name), Ok(()));
                Self(name.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.as_str())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

name_type! {
    /// The id of a room.
    RoomId
}

name_type! {
    /// The id of a user: what a direct message is addressed to.
    UserId
}

name_type! {
    /// The name of a user, as people see it.
    UserName
}

/// One connection on one server. Never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_utf8_without_control_characters_is_a_name() {
        for name in ["general", "日本語", "a b", "{x}:*?[]", "..", "👩‍👩‍👧", &"x".repeat(128)]
        {
            assert_eq!(RoomId::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_is_not_a_name() {
        assert_eq!(RoomId::new(""), Err(InvalidName::Empty));
        assert_eq!(RoomId::new("x".repeat(129)), Err(InvalidName::TooLong));
        for name in ["a\nb", "\0", "\u{1b}[31m", "\u{85}"] {
            assert_eq!(RoomId::new(name), Err(InvalidName::ControlCharacter));
        }
    }

    #[test]
    fn lookalikes_stay_apart() {
        assert_ne!(RoomId::new("caf\u{e9}").unwrap(), RoomId::new("cafe\u{301}").unwrap());
    }
}
