//! Validated names of rooms and users, and the ids of connections.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json;
use crate::visibility::{has_bidi_control, is_bidi_control, is_invisible};

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
    /// The string holds nothing that can be seen: blanks, characters without width.
    #[error("holds no visible character")]
    Invisible,
    /// The string holds a character that reorders the text around it, as U+202E.
    #[error("holds a character that changes the direction of text")]
    BidiControl,
}

/// The rules that all names keep.
fn validate(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        Err(InvalidName::Empty)
    } else if name.len() > MAX_NAME_BYTES {
        Err(InvalidName::TooLong)
    } else if name.chars().any(char::is_control) {
        Err(InvalidName::ControlCharacter)
    } else if is_invisible(name) {
        Err(InvalidName::Invisible)
    } else if has_bidi_control(name) {
        Err(InvalidName::BidiControl)
    } else {
        Ok(())
    }
}

/// An id is taken as it is: two ids must not become one.
fn as_it_is(id: &str) -> Cow<'_, str> {
    Cow::Borrowed(id)
}

/// A name of a user loses the characters that reorder the text around it: address books and identity
/// providers wrap names in them, and a refusal would lock these users out.
fn without_bidi_controls(name: &str) -> Cow<'_, str> {
    if has_bidi_control(name) {
        name.replace(is_bidi_control, "").into()
    } else {
        Cow::Borrowed(name)
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $clean:ident) => {
        $(#[$doc])*
        ///
        /// 1 to [`MAX_NAME_BYTES`] bytes of UTF-8 without control characters, of which at least
        /// one can be seen, compared byte by byte (no Unicode normalisation). A clone shares the
        /// text.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `name` and copies it.
            ///
            /// ```
            #[doc = concat!("use chat_core::{InvalidName, ", stringify!($name), "};")]
            ///
            #[doc = concat!("let name = ", stringify!($name), "::new(\"Ann\")?;")]
            /// assert_eq!(name.as_str(), "Ann");
            #[doc = concat!("assert_eq!(", stringify!($name), "::try_from(\"\"), Err(InvalidName::Empty));")]
            /// # Ok::<(), InvalidName>(())
            /// ```
            ///
            /// # Errors
            /// [`InvalidName`] says which rule is broken.
            pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
                let name = $clean(name.as_ref());
                validate(&name)?;
                Ok(Self(name.into()))
            }

            /// A name that is valid by construction.
            #[allow(dead_code, reason = "only some kinds of names are generated")]
            pub(crate) fn from_valid(name: &str) -> Self {
                debug_assert_eq!(validate(name), Ok(()));
                Self(name.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text for a line of a log: what a terminal would not print as it is, is escaped
            /// (`\u{200b}`), and so are quotes and backslashes.
            #[must_use]
            pub fn escaped(&self) -> impl fmt::Display + '_ {
                self.0.escape_debug()
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

        impl<'a> From<&'a $name> for Cow<'a, str> {
            fn from(name: &'a $name) -> Self {
                Cow::Borrowed(name.as_str())
            }
        }

        /// Compared and hashed as its text: a map by names is searched by texts.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        json::try_from_text!($name, InvalidName);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                json::from_text(deserializer)
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
    /// The id of a room. One that holds a bidirectional control is refused.
    RoomId, as_it_is
}

name_type! {
    /// The id of a user: what a direct message is addressed to. One that holds a bidirectional
    /// control is refused.
    UserId, as_it_is
}

name_type! {
    /// The name of a user, as people see it. Bidirectional controls are removed from it.
    UserName, without_bidi_controls
}

impl UserId {
    /// Whether the id begins with `@`: it names a part of the application, such as a bot or a shop,
    /// and no client. A server authenticates no client as such a user.
    ///
    /// ```
    /// # use chat_core::UserId;
    /// assert!(UserId::new("@shop")?.is_backend() && !UserId::new("ann@shop")?.is_backend());
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    #[must_use]
    pub fn is_backend(&self) -> bool {
        self.as_str().starts_with('@')
    }
}

/// The id of a connection, unique within the process.
///
/// ```
/// let id = chat_core::ConnectionId::new(7);
/// assert_eq!((id.get(), id.to_string().as_str()), (7, "7"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The connection with this number, which the caller uses for no other.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

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
    fn invalid_names() {
        assert_eq!(RoomId::new(""), Err(InvalidName::Empty));
        assert_eq!(RoomId::new("x".repeat(129)), Err(InvalidName::TooLong));
        for name in ["a\nb", "\0", "\u{1b}[31m", "\u{85}"] {
            assert_eq!(RoomId::new(name), Err(InvalidName::ControlCharacter));
        }
        for name in [" ", "\u{a0}\u{3000}", "\u{200b}", "\u{2800}", "\u{3164}", "\u{202e}"] {
            assert_eq!(RoomId::new(name), Err(InvalidName::Invisible), "{name:?}");
            assert_eq!(UserId::new(name), Err(InvalidName::Invisible), "{name:?}");
            assert!(UserName::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn bidi_controls_are_refused_in_ids_and_removed_from_names() {
        for id in ["\u{202e}nimda", "a\u{2066}b", "\u{200f}א", "a\u{61c}"] {
            assert_eq!(RoomId::new(id), Err(InvalidName::BidiControl), "{id:?}");
            assert_eq!(UserId::new(id), Err(InvalidName::BidiControl), "{id:?}");
        }
        for (name, kept) in [
            ("\u{202e}nimda", "nimda"),
            ("\u{2068}Ann\u{2069}", "Ann"),
            ("אבי\u{200f}", "אבי"),
            ("می\u{200c}خواهم", "می\u{200c}خواهم"),
            ("👩\u{200d}👩\u{200d}👧", "👩\u{200d}👩\u{200d}👧"),
        ] {
            assert_eq!(UserName::new(name).unwrap().as_str(), kept);
        }
        let long = "\u{202a}".to_owned() + &"x".repeat(MAX_NAME_BYTES) + "\u{202c}";
        assert_eq!(UserName::new(long).unwrap().as_str(), "x".repeat(MAX_NAME_BYTES));
    }

    #[test]
    fn unprintable_characters_are_escaped() {
        let name = RoomId::new("a\u{200b}é\u{e0041}\"").unwrap();
        assert_eq!(name.escaped().to_string(), r#"a\u{200b}é\u{e0041}\""#);
        // The log quotes this one, and escapes its quotes.
        assert_eq!(crate::Topic::Room(name).to_string(), r#"room a\u{200b}é\u{e0041}""#);
    }

    #[test]
    fn lookalikes_are_distinct() {
        assert_ne!(RoomId::new("caf\u{e9}").unwrap(), RoomId::new("cafe\u{301}").unwrap());
    }
}
