//! The addresses of a broker.

use std::fmt::{self, Write as _};

use crate::id::{RoomId, UserId};

/// An address on the broker: a room, or a user on whichever servers the user is connected to.
///
/// Not `#[non_exhaustive]`: a broker has to carry each, and its compiler has to report a new one.
///
/// ```
/// use chat_core::{RoomId, Topic};
///
/// let topic = Topic::from(RoomId::new("general")?);
/// assert_eq!((topic.name(), topic.to_string().as_str()), ("general", "room general"));
/// # Ok::<(), chat_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// All members of a room.
    Room(RoomId),
    /// Every connection of a user, on any server.
    User(UserId),
}

impl Topic {
    /// The room, if it is one.
    #[must_use]
    pub fn as_room(&self) -> Option<&RoomId> {
        match self {
            Self::Room(room) => Some(room),
            Self::User(_) => None,
        }
    }

    /// The name of the room or user.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Room(room) => room.as_str(),
            Self::User(user) => user.as_str(),
        }
    }
}

impl From<RoomId> for Topic {
    fn from(room: RoomId) -> Self {
        Self::Room(room)
    }
}

impl From<UserId> for Topic {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

/// For logs and errors: characters that a terminal would not print are escaped. Quotes and backslashes are
/// not: a log escapes those of a value that it quotes.
impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(_) => f.write_str("room ")?,
            Self::User(_) => f.write_str("user ")?,
        }
        for c in self.name().chars() {
            match c {
                '"' | '\'' | '\\' => f.write_char(c)?,
                c => write!(f, "{}", c.escape_debug())?,
            }
        }
        Ok(())
    }
}
