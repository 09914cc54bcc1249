//! What a client is known by before it has said anything.

use chat_core::{Dialect, RoomId, User, UserId, UserName};

use crate::auth::Access;
use crate::secret::Secret;

/// What is known of a client before its first frame.
#[derive(Debug, Default)]
pub(crate) struct ConnectParams {
    /// It asked for [`Dialect::SUBPROTOCOL`]: no first frame can say otherwise.
    pub(crate) native: bool,
    /// `?userId=`.
    pub(crate) user_id: Option<UserId>,
    /// `?user=` or `?username=`.
    pub(crate) name: Option<UserName>,
    /// `/join-room/{roomId}`.
    pub(crate) room: Option<RoomId>,
    /// `?history=`.
    pub(crate) history: u32,
    /// `?token=`, until it has been looked at.
    pub(crate) token: Option<Secret>,
    /// How far it has been let in.
    pub(crate) access: Access,
}

impl ConnectParams {
    /// What the client speaks unless its first frame says otherwise.
    pub(super) fn dialect(&self) -> Option<Dialect> {
        if self.native {
            Some(Dialect::Native)
        } else if self.room.is_some() {
            Some(Dialect::Rooms)
        } else {
            self.user_id.as_ref().map(|_| Dialect::Direct)
        }
    }

    /// Who the client is: whoever it was found to be, or else says that it is.
    pub(super) fn user(&self, make_id: impl FnOnce() -> UserId) -> User {
        match (&self.access, &self.user_id) {
            (Access::Granted(identity), _) => {
                User::new(identity.user.clone(), identity.name.clone())
            }
            (Access::Open, Some(id)) => {
                // Whoever is called by an id goes by it.
                let name = self.name.clone().or_else(|| UserName::new(id.as_str()).ok());
                User::new(id.clone(), name)
            }
            (Access::Open, None) => User::new(make_id(), self.name.clone()),
            (Access::Pending, _) => User::new(make_id(), None),
        }
    }
}
