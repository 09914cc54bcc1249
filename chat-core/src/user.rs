//! Users, and the colours of their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event::Sender;
use crate::id::{UserId, UserName};
use crate::json;

/// A user, as other users see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct User {
    /// The id of the user, the same on every server.
    pub id: UserId,
    /// The name that people read.
    pub name: UserName,
    /// The colour of the name; see [`Color::of`].
    pub color: Color,
}

impl User {
    /// A user whose colour, and whose name if there is none, follow from the id: every server
    /// computes the same.
    ///
    /// ```
    /// use chat_core::{User, UserId, UserName};
    ///
    /// let id = UserId::new("u1")?;
    /// let user = User::new(id.clone(), Some(UserName::new("Ann")?));
    /// assert_eq!(user.as_sender().name, "Ann");
    /// assert_eq!(User::new(id.clone(), None), User::new(id, None));
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    #[must_use]
    pub fn new(id: UserId, name: Option<UserName>) -> Self {
        let color = Color::of(&id);
        let name = name.unwrap_or_else(|| made_up_name(&id));
        Self { id, name, color }
    }

    /// The user as events name one.
    #[must_use]
    pub fn as_sender(&self) -> Sender<'_> {
        Sender { id: self.id.as_str(), name: self.name.as_str(), color: self.color.as_str() }
    }
}

const QUALITIES: [&str; 16] = [
    "Amber", "Brave", "Calm", "Clever", "Coral", "Gentle", "Golden", "Happy", "Keen", "Lucky",
    "Mellow", "Noble", "Quiet", "Silver", "Sunny", "Swift",
];
const ANIMALS: [&str; 16] = [
    "Badger", "Bear", "Crane", "Falcon", "Fox", "Hare", "Heron", "Lynx", "Marten", "Otter", "Owl",
    "Panda", "Raven", "Seal", "Tiger", "Wolf",
];

fn made_up_name(id: &UserId) -> UserName {
    let hash = hash(id);
    let pick = |words: [&'static str; 16], shift: u32| words[(hash >> shift) as usize % 16];
    let name = format!("{} {} {}", pick(QUALITIES, 16), pick(ANIMALS, 24), hash % 90 + 10);
    UserName::from_valid(&name)
}

/// An RGB colour, written `#RRGGBB`.
///
/// ```
/// let color: chat_core::Color = "#FF6B6B".parse()?;
/// assert_eq!(color.to_string(), "#FF6B6B");
/// # Ok::<(), chat_core::InvalidColor>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Color([u8; 7]);

/// Twelve hues of similar lightness, distinguishable on white and on black.
const PALETTE: [Color; 12] = [
    Color(*b"#FF6B6B"),
    Color(*b"#F28C38"),
    Color(*b"#D4A017"),
    Color(*b"#8FB339"),
    Color(*b"#3DBB6E"),
    Color(*b"#2BB8A3"),
    Color(*b"#35A7D8"),
    Color(*b"#5B8DEF"),
    Color(*b"#8C7AE6"),
    Color(*b"#B56AD9"),
    Color(*b"#E05FB0"),
    Color(*b"#E85D86"),
];

impl Color {
    /// The colour of a user: a function of the id alone, so that every server gives the
    /// same one without asking another.
    #[must_use]
    pub fn of(id: &UserId) -> Self {
        PALETTE[(hash(id) % PALETTE.len() as u64) as usize]
    }

    /// The colour as it is written in frames.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A text that is not a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a colour: write it as #FF6B6B")]
pub struct InvalidColor;

impl FromStr for Color {
    type Err = InvalidColor;

    fn from_str(text: &str) -> Result<Self, InvalidColor> {
        let bytes: [u8; 7] = text.as_bytes().try_into().map_err(|_| InvalidColor)?;
        let [first, digits @ ..] = &bytes;
        let is_color = *first == b'#' && digits.iter().all(u8::is_ascii_hexdigit);
        if is_color { Ok(Self(bytes)) } else { Err(InvalidColor) }
    }
}

json::try_from_text!(Color, InvalidColor);

impl fmt::Debug for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Color({self})")
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Color {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Color {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::from_text(deserializer)
    }
}

/// FNV-1a, 64 bits: the same on every server and in every version.
fn hash(id: &UserId) -> u64 {
    id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_colour_follow_from_the_id() {
        let id = |n: u32| UserId::new(format!("user-{n}")).unwrap();
        assert_eq!(User::new(id(1), None), User::new(id(1), None));
        let users: Vec<_> = (0..100).map(|n| User::new(id(n), None)).collect();
        assert!(users.iter().any(|user| user.name != users[0].name));
        assert!(users.iter().any(|user| user.color != users[0].color));
        assert!(users.iter().all(|user| UserName::new(user.name.as_str()).is_ok()));
    }
}
