//! What a connection may do.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chat_core::{Capabilities, Capability, ErrorCode, Grants, Rejection, RoomId, UserId};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{Action, Authorizer, Identity};
use crate::log_budget::OncePerMinute;

/// How long an authorizer may take.
const AUTHORIZER_TIMEOUT: Duration = Duration::from_secs(5);

/// The access of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) enum Access {
    /// The server has no authenticator.
    #[default]
    Open,
    /// The client has yet to authenticate.
    Pending,
    /// The client has authenticated.
    Granted(Arc<Identity>),
}

/// The decision on an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Forbidden,
    Unauthorized,
}

impl Access {
    /// The decision of the grants. Without an authenticator there are no moderators.
    pub(crate) fn verdict(&self, action: Action<'_>) -> Verdict {
        let is_allowed = match (self, action) {
            (Self::Pending, _) => return Verdict::Unauthorized,
            (Self::Open, Action::InRoom(Capability::Moderate, _)) => false,
            (Self::Open, _) => true,
            (Self::Granted(identity), action) => allows(&identity.grants, action),
        };
        if is_allowed { Verdict::Allowed } else { Verdict::Forbidden }
    }

    /// The decision of the authorizer, or of the grants where there is none.
    pub(crate) async fn authorize(
        &self,
        authorizer: Option<&dyn Authorizer>,
        action: Action<'_>,
    ) -> Verdict {
        match (self, authorizer) {
            (Self::Granted(identity), Some(authorizer)) => {
                let decision =
                    timeout(AUTHORIZER_TIMEOUT, authorizer.allows(identity, action)).await;
                let is_allowed = decision.unwrap_or_else(|_| {
                    // Every frame of every client can trigger this line.
                    static WARNED: OncePerMinute = OncePerMinute::new();
                    if WARNED.is_due() {
                        let user = identity.user.as_str();
                        tracing::warn!(user, ?action, "authorizer timed out, action rejected");
                    }
                    false
                });
                if is_allowed { Verdict::Allowed } else { Verdict::Forbidden }
            }
            _ => self.verdict(action),
        }
    }

    /// What the user may do in a room. An authorizer is asked about all of it side by side.
    pub(crate) async fn capabilities(
        &self,
        authorizer: Option<&dyn Authorizer>,
        room: &RoomId,
    ) -> Capabilities {
        match self {
            Self::Pending => Capabilities::default(),
            Self::Open => Capabilities::member().in_room(),
            Self::Granted(identity) if authorizer.is_none() => identity.grants.in_room(room),
            Self::Granted(_) => {
                let questions = Capabilities::all().in_room().iter().map(async |capability| {
                    let action = Action::InRoom(capability, room);
                    let verdict = self.authorize(authorizer, action).await;
                    (verdict == Verdict::Allowed).then_some(capability)
                });
                // `join_all` keeps the questions on the heap: the future of each join has room for this.
                join_all(questions).await.into_iter().flatten().collect()
            }
        }
    }

    pub(crate) fn is_pending(&self) -> bool {
        matches!(self, Self::Pending)
    }

    /// The identity of a client that has authenticated.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Granted(identity) => Some(identity),
            Self::Open | Self::Pending => None,
        }
    }

    /// How long until the identity expires.
    pub(crate) fn expires_in(&self) -> Option<Duration> {
        let expires = self.identity()?.expires?;
        Some(expires.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// When the connection ends unless the client authenticates (again) before.
    pub(crate) fn deadline(&self, time_limit: Duration, grace: Duration) -> Option<Instant> {
        let time = match self {
            Self::Open => return None,
            Self::Pending => time_limit,
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

    pub(crate) fn send(room: &'a RoomId) -> Self {
        Self::InRoom(Capability::Send, room)
    }

    pub(crate) fn direct(user: &'a UserId) -> Self {
        Self::Direct(user)
    }
}

impl Verdict {
    /// The error is the same whether the room exists or not.
    pub(crate) fn check(self) -> Result<(), Rejection> {
        match self {
            Self::Allowed => Ok(()),
            Self::Forbidden => Err(forbidden()),
            Self::Unauthorized => Err(unauthorized()),
        }
    }
}

fn forbidden() -> Rejection {
    Rejection::new(ErrorCode::Forbidden, "You have no permission for this.")
}

pub(crate) fn unauthorized() -> Rejection {
    Rejection::new(
        ErrorCode::Unauthorized,
        "Authentication is required: send hello with a token first, or connect with credentials.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_depends_on_access_and_grants() {
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
    async fn deadline_is_the_expiry_and_grace() {
        let (time_limit, grace) = (Duration::from_secs(10), Duration::from_secs(30));
        let deadline = |access: &Access| access.deadline(time_limit, grace);
        assert_eq!(deadline(&Access::Open), None);
        assert!(deadline(&Access::Pending).unwrap() <= Instant::now() + time_limit);
        let identity = Identity::new(UserId::new("u").unwrap());
        assert_eq!(deadline(&Access::Granted(Arc::new(identity.clone()))), None);
        let expired = identity.expires(Some(SystemTime::UNIX_EPOCH));
        let access = Access::Granted(Arc::new(expired));
        assert_eq!(access.expires_in(), Some(Duration::ZERO));
        assert!(deadline(&access).unwrap() <= Instant::now() + grace);
    }
}
