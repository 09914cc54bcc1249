//! The `hello` frame: identity, token and resume secret of the client.

use std::borrow::Cow;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use chat_broker::Status;
use chat_core::wire::{RoomCapabilities, ServerFrame, Welcome};
use chat_core::{Capability, ErrorCode, Hello, Rejection, User, UserId};
use serde_json::value::RawValue;

use super::Connection;
use super::rooms::JoinKind;
use super::sanctions::EvictionReason;
use crate::auth::{self, Access, AuthError, Authenticator, Credentials, Identity};
use crate::error::unavailable;

impl Connection {
    pub(super) async fn hello(
        &mut self,
        id: Option<&RawValue>,
        hello: Hello<'_>,
    ) -> Result<(), Rejection> {
        match self.state.authenticator.clone() {
            Some(authenticator) => {
                Box::pin(self.authenticate(&*authenticator, hello.token.as_deref())).await?
            }
            None => self.identify(hello).await?,
        }
        self.send_welcome(id).await;
        Ok(())
    }

    /// Authenticates the client by its token. The latest token determines its permissions.
    async fn authenticate(
        &mut self,
        authenticator: &dyn Authenticator,
        token: Option<&str>,
    ) -> Result<(), Rejection> {
        let Some(token) = token else {
            let missing = || authentication_failed(&AuthError::Missing);
            return if self.access.is_pending() { Err(missing()) } else { Ok(()) };
        };
        let credentials = Credentials { token: Some(token), ..Credentials::default() };
        let authenticated =
            auth::authenticate(authenticator, &credentials, self.state.config.auth_timeout);
        let identity = authenticated.await.map_err(|error| {
            self.log_rejected(&error, error.user());
            self.state.metrics.limited("token");
            authentication_failed(&error)
        })?;
        self.on_authenticated(identity).await?;
        self.renewal = None;
        Ok(())
    }

    pub(super) async fn on_authenticated(&mut self, identity: Identity) -> Result<(), Rejection> {
        self.rename(User::new(identity.user.clone(), identity.name.clone()))?;
        self.access = Access::Granted(Arc::new(identity));
        self.enforce_server_ban();
        self.set_deadline();
        self.share_budgets();
        self.open_inbox();
        self.recheck_permissions().await;
        Ok(())
    }

    /// Enforces a ban of the user that the client has become. Earlier kicks of that user do not apply:
    /// they were for other connections.
    fn enforce_server_ban(&mut self) {
        if self.rooms.is_empty() {
            self.since = self.state.moderation.now();
        }
        if let Some(notice) = self.server_ban() {
            self.enforce(&notice);
        }
    }

    /// Leaves the rooms that the new token does not allow, except those that backends made the client
    /// join. Applies what the token allows in the others, and tells the client where that has changed.
    async fn recheck_permissions(&mut self) {
        let rooms = self.rooms.iter().map(|joined| (joined.room.clone(), joined.kind));
        for (room, kind) in rooms.collect::<Vec<_>>() {
            let can = self.capabilities(&room).await;
            if kind != JoinKind::ByBackend && !can.contains(Capability::Join) {
                self.evict_from(&room, &EvictionReason::Forbidden);
                continue;
            }
            let member = self.member.with_presence(can.contains(Capability::Presence));
            // `capabilities` has awaited: a sanction may have evicted the client from the room.
            let Some(joined) = self.rooms.iter_mut().find(|joined| joined.room == room) else {
                continue;
            };
            joined.membership.replace(member);
            if mem::replace(&mut joined.can, can) != can {
                let changed = RoomCapabilities::new(&room, can);
                self.member.reply(&ServerFrame::Capabilities(changed));
            }
        }
    }

    /// Sets the name, and the user of a resume secret, on a server without an authenticator.
    async fn identify(&mut self, hello: Hello<'_>) -> Result<(), Rejection> {
        let known = &self.member.user;
        let user_id = match &hello.resume {
            Some(resume) => self.resumed(resume).await?,
            None => known.id.clone(),
        };
        let is_other_user = user_id != known.id;
        let name = hello.name.or_else(|| (!is_other_user).then(|| known.name.clone()));
        self.rename(User::new(user_id, name))?;
        if is_other_user {
            self.share_budgets();
            self.enforce_server_ban();
        }
        Ok(())
    }

    fn rename(&mut self, user: User) -> Result<(), Rejection> {
        if user == *self.member.user {
            return Ok(());
        }
        // The name may differ in a renewed token of the same user, and the renewal must not fail.
        let is_renewal = self.access.identity().is_some() && user.id == self.member.user.id;
        if !self.rooms.is_empty() && !is_renewal {
            return Err(Rejection::new(
                ErrorCode::Forbidden,
                "The user cannot change while the client is in a room. Send hello before the first join.",
            ));
        }
        self.set_identity(Arc::new(user), self.member.dialect);
        self.open_inbox();
        Ok(())
    }

    async fn resumed(&self, resume: &str) -> Result<UserId, Rejection> {
        let broker = &**self.state.hub.broker();
        let proven = self.state.resume.verify(broker, resume).await;
        // An earlier version of the server may have issued a secret for the id of a backend.
        let proven = proven.map_err(|error| unavailable(&error))?;
        proven.filter(|user| !user.is_backend()).ok_or_else(|| {
            Rejection::new(ErrorCode::Unauthorized, "The resume secret is not valid.")
        })
    }

    /// Sends `welcome` once the inbox is subscribed: direct messages sent after it arrive. While the
    /// broker is unavailable the client is welcomed without an inbox and without a resume secret
    /// rather than kept waiting.
    async fn send_welcome(&self, id: Option<&RawValue>) {
        let (user, broker) = (&self.member.user, &**self.state.hub.broker());
        let mut resume = None;
        if broker.status() == Status::Ready && !self.access.is_pending() {
            if let Some(inbox) = &self.inbox
                && let Err(error) = inbox.subscribed().await
            {
                tracing::debug!(connection = self.name(), %error, "inbox not subscribed before welcome");
            }
            if self.state.authenticator.is_none() {
                resume = self.state.resume.issue(broker, &user.id).await.ok();
            }
        }
        let limits =
            self.state.config.announced_limits(self.limiter.config(), self.limiter.factor());
        let session = self.state.session_name(self.id);
        let mut welcome = Welcome::new(session, &**user, &*self.state.node, limits);
        welcome.resume = resume.map(Cow::Owned);
        welcome.expires_in_ms = self.access.expires_in().map(exact_millis);
        welcome.heartbeat_ms = self.state.heartbeat_ms();
        self.log_welcome();
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

/// Milliseconds, at most 2^53 - 1: JavaScript reads larger integers inexactly, and an authenticator
/// may return any expiry.
fn exact_millis(time: Duration) -> u64 {
    const LARGEST: u128 = (1 << 53) - 1;
    time.as_millis().min(LARGEST) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_exact_in_javascript() {
        assert_eq!(exact_millis(Duration::from_millis(1500)), 1500);
        assert_eq!(exact_millis(Duration::MAX), 9_007_199_254_740_991);
    }
}
