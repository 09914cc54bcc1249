//! Who the client says it is, and what proves it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use chat_broker::Status;
use chat_core::wire::{ServerFrame, Welcome};
use chat_core::{Capability, ErrorCode, Hello, Rejection, RoomId, User, UserId};
use serde_json::value::RawValue;

use super::sanctions::EvictionReason;
use super::{Connection, unavailable};
use crate::auth::{self, Access, AuthError, Authenticator, Credentials, Identity};

impl Connection {
    pub(super) async fn hello(
        &mut self,
        id: Option<&RawValue>,
        hello: Hello<'_>,
    ) -> Result<(), Rejection> {
        match self.state.authenticator.clone() {
            Some(authenticator) => self.show_token(&*authenticator, hello.token.as_deref()).await?,
            None => self.identify(hello).await?,
        }
        self.welcome(id).await;
        Ok(())
    }

    /// The client is who its token says; what it may do is what the newest token says.
    async fn show_token(
        &mut self,
        authenticator: &dyn Authenticator,
        token: Option<&str>,
    ) -> Result<(), Rejection> {
        let Some(token) = token else {
            let missing = || authentication_failed(&AuthError::Missing);
            return if self.access.is_pending() { Err(missing()) } else { Ok(()) };
        };
        let credentials = Credentials { token: Some(token), ..Credentials::default() };
        let asked = auth::authenticate(authenticator, &credentials, self.state.config.auth_timeout);
        let identity = asked.await.map_err(|error| {
            self.state.metrics.limited("token");
            authentication_failed(&error)
        })?;
        self.authenticated(identity).await
    }

    async fn authenticated(&mut self, identity: Identity) -> Result<(), Rejection> {
        self.rename(User::new(identity.user.clone(), identity.name.clone()))?;
        self.access = Access::Granted(Arc::new(identity));
        self.start_as_user();
        self.set_deadline();
        self.share_with_others();
        self.open_inbox();
        self.recheck_permissions().await;
        Ok(())
    }

    /// What was done to the user before does not concern this connection, but for bans: those
    /// that come from now on find it.
    fn start_as_user(&mut self) {
        if self.rooms.is_empty() {
            self.since = self.state.moderation.now();
        }
        if let Some(notice) = self.server_ban() {
            self.enforce(&notice);
        }
    }

    /// Leaves rooms that a new token does not allow any more, and sees in the others what it
    /// allows to see.
    async fn recheck_permissions(&mut self) {
        let rooms: Vec<RoomId> = self.rooms.iter().map(|place| place.room.clone()).collect();
        for room in rooms {
            if !self.may(Capability::Join, &room).await {
                self.evict_from(&room, EvictionReason::Forbidden, None);
                continue;
            }
            let sees_presence = self.may(Capability::Presence, &room).await;
            let member = self.member.seeing(sees_presence);
            if let Some(place) = self.rooms.iter_mut().find(|place| place.room == room) {
                place.sees_presence = sees_presence;
                place.membership.replace(member);
            }
        }
    }

    /// Nobody asks for more than a name.
    async fn identify(&mut self, hello: Hello<'_>) -> Result<(), Rejection> {
        let known = &self.member.user;
        let user_id = match &hello.resume {
            Some(resume) => self.resumed(resume).await?,
            None => known.id.clone(),
        };
        let name = hello.name.or_else(|| (user_id == known.id).then(|| known.name.clone()));
        let is_another = user_id != known.id;
        self.rename(User::new(user_id, name))?;
        if is_another {
            self.share_with_others();
            self.start_as_user();
        }
        Ok(())
    }

    fn rename(&mut self, user: User) -> Result<(), Rejection> {
        if user == *self.member.user {
            return Ok(());
        }
        // The name in a token may change, and a renewal must not fail for that.
        let is_renewal = self.access.identity().is_some() && user.id == self.member.user.id;
        if !self.rooms.is_empty() && !is_renewal {
            return Err(Rejection::new(
                ErrorCode::Forbidden,
                "Say who you are before you join a room; in one you stay who you are.",
            ));
        }
        self.become_member(Arc::new(user), self.member.dialect);
        self.open_inbox();
        Ok(())
    }

    async fn resumed(&self, resume: &str) -> Result<UserId, Rejection> {
        let broker = &**self.state.hub.broker();
        let proven = self.state.resume.verify(broker, resume).await;
        proven.map_err(|error| unavailable(&error))?.ok_or_else(|| {
            Rejection::new(ErrorCode::Unauthorized, "The resume secret proves nothing here.")
        })
    }

    /// Whoever has been welcomed can be written to, unless the broker is away: then both
    /// that and the resume secret have to wait, and the client need not.
    async fn welcome(&self, id: Option<&RawValue>) {
        let (user, broker) = (&self.member.user, &**self.state.hub.broker());
        let mut resume = None;
        if broker.status() == Status::Ready && !self.access.is_pending() {
            if let Some(inbox) = &self.inbox
                && let Err(error) = inbox.subscribed().await
            {
                tracing::debug!(%error, "welcomed without an inbox");
            }
            if self.state.authenticator.is_none() {
                resume = self.state.resume.issue(broker, &user.id).await.ok();
            }
        }
        let limits = self.state.config.told_limits(self.limiter.factor());
        let session = self.state.session_name(self.id);
        let mut welcome = Welcome::new(session, &**user, &*self.state.node, limits);
        welcome.resume = resume.map(Cow::Owned);
        welcome.expires_in_ms = self.access.expires_in().map(exact_millis);
        welcome.heartbeat_ms = self.state.heartbeat_ms();
        self.member.reply(&ServerFrame::Welcome(welcome).to_request(id));
    }
}

fn authentication_failed(error: &AuthError) -> Rejection {
    let code = match error {
        AuthError::Unavailable(_) => ErrorCode::BrokerUnavailable,
        _ => ErrorCode::Unauthorized,
    };
    Rejection::new(code, format!("Authentication failed: {error}."))
}

/// Milliseconds that every client can read: an application may have users whose identity ends with
/// the last time that there is, and numbers of JavaScript are exact up to 2^53 - 1.
fn exact_millis(time: Duration) -> u64 {
    const LARGEST: u128 = (1 << 53) - 1;
    time.as_millis().min(LARGEST) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_beyond_what_clients_can_read() {
        assert_eq!(exact_millis(Duration::from_millis(1500)), 1500);
        assert_eq!(exact_millis(Duration::MAX), 9_007_199_254_740_991);
    }
}
