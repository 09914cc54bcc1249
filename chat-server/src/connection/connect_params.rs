//! The parameters of a client in its handshake.

use chat_core::{Dialect, RoomId, User, UserId, UserName};

use crate::auth::{Access, Handshake};
use crate::secret::Secret;

/// The parameters of a connection, known before its first frame.
#[derive(Debug, Default)]
pub(crate) struct ConnectParams {
    /// Whether the client asked for [`Dialect::SUBPROTOCOL`]. Then its first frame does not determine
    /// the dialect.
    pub(crate) native: bool,
    /// `?userId=`.
    pub(crate) user_id: Option<UserId>,
    /// `?user=` or `?username=`.
    pub(crate) name: Option<UserName>,
    /// `/join-room/{roomId}`.
    pub(crate) room: Option<RoomId>,
    /// `?history=`: how many messages of the room the client receives.
    pub(crate) history: u32,
    /// `?token=`, until it is verified.
    pub(crate) token: Option<Secret>,
    /// What the client may do.
    pub(crate) access: Access,
    /// What renews that when it expires, if the client has no token.
    pub(crate) handshake: Option<Box<Handshake>>,
}

impl ConnectParams {
    /// The dialect of the client; `None` if its first frame determines it.
    pub(super) fn dialect(&self) -> Option<Dialect> {
        if self.native {
            Some(Dialect::Native)
        } else if self.room.is_some() {
            Some(Dialect::Rooms)
        } else {
            self.user_id.as_ref().map(|_| Dialect::Direct)
        }
    }

    /// The user of the client: of its identity, or else by the parameters.
    pub(super) fn user(&self, make_id: impl FnOnce() -> UserId) -> User {
        match (&self.access, &self.user_id) {
            (Access::Granted(identity), _) => {
                User::new(identity.user.clone(), identity.name.clone())
            }
            (Access::Open, Some(id)) => {
                // A user without a name is shown by its id.
                let name = self.name.clone().or_else(|| UserName::new(id.as_str()).ok());
                User::new(id.clone(), name)
            }
            (Access::Open, None) => User::new(make_id(), self.name.clone()),
            (Access::Pending, _) => User::new(make_id(), None),
        }
    }
}
