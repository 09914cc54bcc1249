//! The permissions of a user.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{RoomId, UserId};
use crate::pattern::Pattern;

/// Something that a user may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// To join a room and receive its messages.
    Join = 1,
    /// To send messages and typing states to a room.
    Send = 2,
    /// To send direct messages to a user.
    Direct = 4,
    /// To read the history of a room.
    History = 8,
    /// To see who is in a room.
    Presence = 16,
    /// To kick and to ban users.
    Moderate = 32,
}

impl Capability {
    /// Every capability.
    pub const ALL: [Self; 6] =
        [Self::Join, Self::Send, Self::Direct, Self::History, Self::Presence, Self::Moderate];

    /// The name, as it is written in tokens.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Send => "send",
            Self::Direct => "direct",
            Self::History => "history",
            Self::Presence => "presence",
            Self::Moderate => "moderate",
        }
    }

    /// The capability with this name; `None` if there is none.
    ///
    /// ```
    /// assert_eq!(chat_core::Capability::parse("join"), Some(chat_core::Capability::Join));
    /// ```
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.as_str() == name)
    }
}

/// A set of capabilities.
///
/// ```
/// use chat_core::{Capabilities, Capability};
///
/// let read: Capabilities = [Capability::Join, Capability::History].into_iter().collect();
/// assert!(read.contains(Capability::Join) && !read.contains(Capability::Send));
/// assert!(!Capabilities::member().contains(Capability::Moderate));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u8);

impl Capabilities {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Capability::ALL.into_iter().collect()
    }

    /// The usual set of a member: all except [`Capability::Moderate`].
    #[must_use]
    pub fn member() -> Self {
        Capability::ALL.into_iter().filter(|one| *one != Capability::Moderate).collect()
    }

    /// Those about a room: all except [`Capability::Direct`], which is about a user.
    #[must_use]
    pub const fn in_room(self) -> Self {
        Self(self.0 & !(Capability::Direct as u8))
    }

    /// Whether `capability` is among them.
    #[must_use]
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & capability as u8 != 0
    }

    /// Each of them, in the order of [`Capability::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |one| self.contains(*one))
    }
}

/// As an array of names.
impl Serialize for Capabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Capability::as_str))
    }
}

/// Names of later versions are ignored.
impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<Cow<'_, str>>::deserialize(deserializer)?;
        Ok(names.iter().filter_map(|name| Capability::parse(name)).collect())
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self(capabilities.into_iter().fold(0, |set, one| set | one as u8))
    }
}

/// The capabilities of a user, by patterns of names. Rules only grant: none revokes what another
/// grants.
///
/// A rule is about rooms; one that begins with `@` is about users, to whom
/// [`Capability::Direct`] allows direct messages. `*` is about both.
///
/// ```
/// use chat_core::{Capabilities, Capability, Grants, RoomId, UserId};
///
/// let read = [Capability::Join, Capability::History].into_iter().collect();
/// let grants = Grants::new([
///     ("news".into(), read),
///     ("team-*".into(), Capabilities::member()),
///     ("@support-*".into(), Capabilities::all()),
/// ]);
/// let (news, team) = (RoomId::new("news")?, RoomId::new("team-7")?);
/// assert!(grants.allow(Capability::Join, &news) && !grants.allow(Capability::Send, &news));
/// assert!(grants.allow(Capability::Send, &team));
/// assert!(grants.allow_direct(&UserId::new("support-1")?));
/// assert!(!grants.allow_direct(&UserId::new("team-7")?));
/// # Ok::<(), chat_core::InvalidName>(())
/// ```
///
/// A clone shares the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants(Arc<[(Pattern, Capabilities)]>);

impl Grants {
    /// Grants by these rules.
    pub fn new(rules: impl IntoIterator<Item = (Pattern, Capabilities)>) -> Self {
        Self(rules.into_iter().collect())
    }

    /// The capabilities of a [member](Capabilities::member) in all rooms and to all users: no user
    /// may moderate.
    #[must_use]
    pub fn everywhere() -> Self {
        Self::new([("*".into(), Capabilities::member())])
    }

    /// Whether `capability` is granted in `room`.
    #[must_use]
    pub fn allow(&self, capability: Capability, room: &RoomId) -> bool {
        self.about(room).any(|capabilities| capabilities.contains(capability))
    }

    /// What is granted in `room`.
    ///
    /// ```
    /// use chat_core::{Capability, Grants, RoomId};
    ///
    /// let granted = Grants::everywhere().in_room(&RoomId::new("news")?);
    /// assert!(granted.contains(Capability::Send) && !granted.contains(Capability::Moderate));
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    #[must_use]
    pub fn in_room(&self, room: &RoomId) -> Capabilities {
        let granted = self.about(room).fold(0, |set, capabilities| set | capabilities.0);
        Capabilities(granted).in_room()
    }

    /// Whether direct messages to `user` are granted.
    #[must_use]
    pub fn allow_direct(&self, user: &UserId) -> bool {
        self.0.iter().any(|(pattern, capabilities)| {
            let is_of_all = pattern.as_str() == "*";
            capabilities.contains(Capability::Direct)
                && (is_of_all || pattern.matches_after('@', user.as_str()))
        })
    }

    /// The rules about `room`.
    fn about(&self, room: &RoomId) -> impl Iterator<Item = Capabilities> {
        self.0.iter().filter_map(|(pattern, capabilities)| {
            let is_of_users = pattern.as_str().starts_with('@');
            (!is_of_users && pattern.matches(room.as_str())).then_some(*capabilities)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_round_trips_by_name() {
        for capability in Capability::ALL {
            assert_eq!(Capability::parse(capability.as_str()), Some(capability));
            assert!(Capabilities::all().contains(capability));
        }
        assert_eq!(Capability::parse("fly"), None);
        assert!(!Capabilities::member().contains(Capability::Moderate));
        assert!(!Capabilities::default().contains(Capability::Join));
    }

    #[test]
    fn capabilities_are_written_as_names() {
        let member = Capabilities::member();
        let text = serde_json::to_string(&member.in_room()).unwrap();
        assert_eq!(text, r#"["join","send","history","presence"]"#);
        let later = r#"["join","fly","send","history","presence"]"#;
        assert_eq!(serde_json::from_str::<Capabilities>(later).unwrap(), member.in_room());
    }

    #[test]
    fn room_rules_and_user_rules_are_separate() {
        let grants =
            Grants::new([("@*".into(), Capabilities::all()), ("bob".into(), Capabilities::all())]);
        let room = |name| RoomId::new(name).unwrap();
        assert!(grants.allow(Capability::Join, &room("bob")));
        for closed in ["@", "@bob", "alice"] {
            assert!(!grants.allow(Capability::Join, &room(closed)), "{closed}");
        }
        assert!(grants.allow_direct(&UserId::new("bob").unwrap()));
        let rooms_alone = Grants::new([("bob".into(), Capabilities::all())]);
        assert!(!rooms_alone.allow_direct(&UserId::new("bob").unwrap()));
        assert!(Grants::everywhere().allow_direct(&UserId::new("@bob").unwrap()));
    }

    #[test]
    fn rules_add_up() {
        let one = |capability| [capability].into_iter().collect();
        let grants =
            Grants::new([("*".into(), one(Capability::Join)), ("r".into(), one(Capability::Send))]);
        let room = RoomId::new("r").unwrap();
        assert!(grants.allow(Capability::Join, &room) && grants.allow(Capability::Send, &room));
        assert!(!grants.allow(Capability::History, &room));
        let both = [Capability::Join, Capability::Send].into_iter().collect();
        assert_eq!(grants.in_room(&room), both);
        let twice: Capabilities = [Capability::Join, Capability::Join].into_iter().collect();
        assert!(twice.contains(Capability::Join));
    }
}
