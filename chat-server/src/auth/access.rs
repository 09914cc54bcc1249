//! What one connection may do.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chat_core::{Capability, ErrorCode, Grants, Rejection, RoomId, UserId};
use tokio::time::{Instant, timeout};

use super::{Action, Authorizer, Identity};
use crate::log_budget::OncePerMinute;

/// How long an authorizer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far a connection has been let in.
#[derive(Debug, Clone, Default)]
pub(crate) enum Access {
    /// Nobody is asked who they are.
    #[default]
    Open,
    /// It has yet to say who it is.
    Pending,
    /// It is who it says.
    Granted(Arc<Identity>),
}

/// What is to be said to a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Forbidden,
    Unauthorized,
}

impl Access {
    /// What the grants say. Nobody is a moderator where nobody is known.
    pub(crate) fn verdict(&self, action: Action<'_>) -> Verdict {
        let is_allowed = match (self, action) {
            (Self::Pending, _) => return Verdict::Unauthorized,
            (Self::Open, Action::InRoom(Capability::Moderate, _)) => false,
            (Self::Open, _) => true,
            (Self::Granted(identity), action) => allows(&identity.grants, action),
        };
        if is_allowed { Verdict::Allowed } else { Verdict::Forbidden }
    }

    /// What the grants say, or the application.
    pub(crate) async fn ask(
        &self,
        authorizer: Option<&dyn Authorizer>,
        action: Action<'_>,
    ) -> Verdict {
        match (self, authorizer) {
            (Self::Granted(identity), Some(authorizer)) => {
                let asked = timeout(PATIENCE, authorizer.allows(identity, action)).await;
                let is_allowed = asked.unwrap_or_else(|_| {
                    // Every frame of every client can trigger this line.
                    static WARNED: OncePerMinute = OncePerMinute::new();
                    if WARNED.is_due() {
                        tracing::warn!(?action, "the authorizer gave no answer in time");
                    }
                    false
                });
                if is_allowed { Verdict::Allowed } else { Verdict::Forbidden }
            }
            _ => self.verdict(action),
        }
    }

    pub(crate) fn is_pending(&self) -> bool {
        matches!(self, Self::Pending)
    }

    /// What the user may be named by nothing else than.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Granted(identity) => Some(identity),
            Self::Open | Self::Pending => None,
        }
    }

    /// How long the identity holds from now on.
    pub(crate) fn expires_in(&self) -> Option<Duration> {
        let expires = self.identity()?.expires?;
        Some(expires.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// When the connection ends unless it says who it is, or says so anew.
    pub(crate) fn deadline(&self, patience: Duration, grace: Duration) -> Option<Instant> {
        let time = match self {
            Self::Open => return None,
            Self::Pending => patience,
            Self::Granted(_) => self.expires_in()?.saturating_add(grace),
        };
        Instant::now().checked_add(time)
    }
}

fn allows(grants: &Grants, action: Action<'_>) -> bool {
    match action {
        Action::InRoom(capability, room) => grants.allow(capability, room),
        Action::Direct(user) => grants.allow_direct(user),
    }
}

impl<'a> Action<'a> {
    pub(crate) fn join(room: &'a RoomId) -> Self {
        Self::InRoom(Capability::Join, room)
    }

    pub(crate) fn direct(user: &'a UserId) -> Self {
        Self::Direct(user)
    }
}

impl Verdict {
    /// The same answer whether there is such a room or not.
    pub(crate) fn check(self) -> Result<(), Rejection> {
        match self {
            Self::Allowed => Ok(()),
            Self::Forbidden => Err(forbidden()),
            Self::Unauthorized => Err(unauthorized()),
        }
    }
}

fn forbidden() -> Rejection {
    Rejection::new(ErrorCode::Forbidden, "You may not do that there.")
}

pub(crate) fn unauthorized() -> Rejection {
    Rejection::new(ErrorCode::Unauthorized, "Say hello with a token first.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_in_how_far() {
        let room = RoomId::new("r").unwrap();
        let (join, moderate) = (Action::join(&room), Action::InRoom(Capability::Moderate, &room));
        let user = UserId::new("u").unwrap();
        assert_eq!(Access::Open.verdict(join), Verdict::Allowed);
        assert_eq!(Access::Open.verdict(Action::direct(&user)), Verdict::Allowed);
        assert_eq!(Access::Open.verdict(moderate), Verdict::Forbidden);
        assert_eq!(Access::Pending.verdict(join), Verdict::Unauthorized);
        let granted = Access::Granted(Arc::new(Identity::new(user.clone())));
        assert_eq!(granted.verdict(join), Verdict::Allowed);
        assert_eq!(granted.verdict(moderate), Verdict::Forbidden);
        let nothing = Identity::new(user).grants(Grants::new([]));
        assert_eq!(Access::Granted(Arc::new(nothing)).verdict(join), Verdict::Forbidden);
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_identity_and_some_grace() {
        let (patience, grace) = (Duration::from_secs(10), Duration::from_secs(30));
        let deadline = |access: &Access| access.deadline(patience, grace);
        assert_eq!(deadline(&Access::Open), None);
        assert!(deadline(&Access::Pending).unwrap() <= Instant::now() + patience);
        let identity = Identity::new(UserId::new("u").unwrap());
        assert_eq!(deadline(&Access::Granted(Arc::new(identity.clone()))), None);
        let long_gone = identity.expires(Some(SystemTime::UNIX_EPOCH));
        let access = Access::Granted(Arc::new(long_gone));
        assert_eq!(access.expires_in(), Some(Duration::ZERO));
        assert!(deadline(&access).unwrap() <= Instant::now() + grace);
    }
}
