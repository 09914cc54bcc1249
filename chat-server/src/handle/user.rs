//! A user, as the application uses one.

use std::sync::Arc;

use chat_broker::Published;
use chat_core::{ErrorCode, UserId};

use super::ban::BanOptions;
use super::message::OutgoingMessage;
use crate::error::Error;
use crate::moderation::{Actor, SanctionScope};
use crate::service::send::{self, Outgoing};
use crate::service::{members, rules, sanctions};
use crate::state::State;

/// A user on all servers of the broker: [`Server::user`](crate::Server::user). A clone is another
/// handle on the same user.
///
/// ```
/// # async fn example(server: chat_server::Server) -> Result<(), Box<dyn std::error::Error>> {
/// let ann = server.user(&"ann".parse()?);
/// ann.send("Your parcel is on its way.").await?;
/// println!("{} connections to this server", ann.connections());
/// ann.disconnect(Some("logged out")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct UserHandle {
    state: Arc<State>,
    user: UserId,
}

impl UserHandle {
    pub(crate) fn new(state: Arc<State>, user: UserId) -> Self {
        Self { state, user }
    }

    /// The user.
    #[must_use]
    pub fn id(&self) -> &UserId {
        &self.user
    }

    /// Sends a direct message to all connections of the user that receive them, and returns when the
    /// broker has handed it on. [`Published::nodes`] is the number of servers that it reached: 0 if
    /// the user is not connected. It is not stored.
    ///
    /// ```
    /// use chat_server::Server;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder().start();
    /// let sent = server.user(&"ann".parse()?).send("Your parcel is on its way.").await?;
    /// assert_eq!(sent.nodes, 0, "ann is not connected");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`RoomHandle::send`](crate::RoomHandle::send); [`ErrorCode::BadField`] if the id of the
    /// user exceeds [`name_bytes`](crate::LimitsConfig::name_bytes).
    ///
    /// # Cancel safety
    /// After a dropped call the message may have been published.
    pub async fn send(&self, message: impl Into<OutgoingMessage>) -> Result<Published, Error> {
        let (message, limits) = (message.into(), self.state.limits.config());
        rules::check_name(ErrorCode::BadField, self.user.as_str(), limits.name_bytes)?;
        let content = message.content(limits.json_depth)?;
        let frame = send::direct_frame(&self.user, &content);
        let sender = message.sender().unwrap_or(&self.state.backend).as_sender();
        let to = self.user.clone();
        let outgoing = Outgoing::to_user(&self.state, to, sender, &content, &frame, None)?;
        Ok(send::publish_and_wait(&self.state, outgoing).await?)
    }

    /// Closes all connections of the user, on all servers, with code 4002. The user may connect again:
    /// after a logout, end the session of the user first, so that the authenticator rejects it.
    /// Returns when the kick is stored and, within 1 s, no room on this server includes the user.
    ///
    /// # Errors
    /// As for [`RoomHandle::kick`](crate::RoomHandle::kick).
    ///
    /// # Cancel safety
    /// After a dropped call the user may have been disconnected.
    pub async fn disconnect(&self, reason: Option<&str>) -> Result<(), Error> {
        let (by, scope) = (Actor::Backend, SanctionScope::Server);
        sanctions::kick(&self.state, by, scope, &self.user, reason).await
    }

    /// Closes all connections of the user, on all servers, with code 4003, and rejects others until
    /// the ban ends. Returns as [`disconnect`](Self::disconnect) does.
    ///
    /// ```
    /// # async fn example(eve: chat_server::UserHandle) -> Result<(), chat_server::Error> {
    /// use std::time::Duration;
    /// use chat_server::BanOptions;
    ///
    /// eve.ban(BanOptions::default().reason("spam").expires_in(Duration::from_secs(600))).await?;
    /// eve.unban().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`RoomHandle::ban`](crate::RoomHandle::ban).
    ///
    /// # Cancel safety
    /// After a dropped call the user may have been banned.
    pub async fn ban(&self, options: BanOptions) -> Result<(), Error> {
        let BanOptions { reason, expires_in } = options;
        let (by, scope, reason) = (Actor::Backend, SanctionScope::Server, reason.as_deref());
        sanctions::ban(&self.state, by, scope, &self.user, expires_in, reason).await
    }

    /// Ends the ban of the user from all servers. That there is none is no error; bans from rooms
    /// stay.
    ///
    /// # Errors
    /// As for [`RoomHandle::unban`](crate::RoomHandle::unban).
    ///
    /// # Cancel safety
    /// After a dropped call the ban may have ended.
    pub async fn unban(&self) -> Result<(), Error> {
        sanctions::unban(&self.state, Actor::Backend, SanctionScope::Server, &self.user).await
    }

    /// Whether the user has a connection that receives direct messages, to any server. Its client speaks
    /// the native protocol or the dialect `direct`. The id of a backend, which begins with `@`, is not
    /// online.
    ///
    /// ```
    /// use chat_server::Server;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder().start();
    /// assert!(!server.user(&"ann".parse()?).is_online().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Broker`]: the broker did not answer in time, or cannot count subscribers
    /// ([`BrokerError::Unsupported`](chat_broker::BrokerError::Unsupported)).
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn is_online(&self) -> Result<bool, Error> {
        let online = members::online(&self.state, std::slice::from_ref(&self.user)).await?;
        Ok(online == [true])
    }

    /// The number of connections of the user to this server. Takes time for all connections of the
    /// server.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.sessions.of_user(&self.user)
    }
}
