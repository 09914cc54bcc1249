//! A room, as the application uses it.

use std::sync::Arc;

use chat_broker::Published;
use chat_core::wire::{self, PageFrame};
use chat_core::{ErrorCode, HistoryRange, Position, RoomId, Topic, User, UserId};

use super::ban::BanOptions;
use super::follow::RoomFollow;
use super::message::OutgoingMessage;
use crate::error::Error;
use crate::moderation::{Actor, Ban, SanctionScope};
use crate::service::send::{self, Outgoing};
use crate::service::{history, members, rules, sanctions};
use crate::state::State;

/// A room on all servers of the broker: [`Server::room`](crate::Server::room).
///
/// The application needs no connection and is no member of the room. No limit of rates and no ban
/// applies to it; the limits on sizes do. A clone is another handle on the same room.
///
/// In a handler of axum:
///
/// ```
/// use axum::extract::{Path, State};
/// use chat_core::RoomId;
/// use chat_server::{Error, Server};
///
/// async fn paid(State(chat): State<Server>, Path(order): Path<RoomId>) -> Result<(), Error> {
///     chat.room(&order).send("Your order is paid.").await?;
///     Ok(())
/// }
/// # let _: axum::Router<Server> =
/// #     axum::Router::new().route("/orders/{order}/paid", axum::routing::post(paid));
/// ```
#[derive(Debug, Clone)]
pub struct RoomHandle {
    state: Arc<State>,
    room: RoomId,
}

/// A part of a room's history.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HistoryPage {
    /// The position of the room when the page was read, after its latest message.
    pub position: Position,
    /// The messages, oldest first, as clients receive them: each has an offset.
    pub messages: Vec<wire::Message<'static>>,
    /// Whether the history has further messages in the direction of reading.
    pub more: bool,
}

/// The users in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomMembers {
    /// The users; empty if there are more than
    /// [`max_listed_members`](crate::ServerConfig::max_listed_members).
    pub users: Vec<User>,
    /// The number of all users in the room.
    pub count: u32,
}

impl RoomHandle {
    pub(crate) fn new(state: Arc<State>, room: RoomId) -> Self {
        Self { state, room }
    }

    /// The room.
    #[must_use]
    pub fn id(&self) -> &RoomId {
        &self.room
    }

    /// Sends a message, and returns when the broker has it. All members on all servers receive it.
    ///
    /// ```
    /// use chat_core::RoomId;
    /// use chat_server::{OutgoingMessage, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder().start();
    /// let orders = server.room(&RoomId::new("orders")?);
    /// orders.send("The shop is open.").await?;
    ///
    /// let paid = OutgoingMessage::new("Paid.").data([42]).key("paid-42");
    /// let first = orders.send(paid.clone()).await?;
    /// let again = orders.send(paid).await?;
    /// assert!(again.repeated && again.position == first.position);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorCode::MessageTooLong`] if text or data exceed
    /// [`max_message_bytes`](crate::ServerConfig::max_message_bytes);
    /// [`ErrorCode::RoomNameInvalid`] if the name of the room exceeds
    /// [`name_bytes`](crate::LimitsConfig::name_bytes); [`ErrorCode::BadField`] and
    /// [`ErrorCode::BadJson`] for what clients could not read; [`Error::Broker`].
    ///
    /// # Cancel safety
    /// After a dropped call the message may have been published. With a
    /// [key](OutgoingMessage::key) it can be sent again.
    pub async fn send(&self, message: impl Into<OutgoingMessage>) -> Result<Published, Error> {
        let (message, limits) = (message.into(), self.state.limits.config());
        rules::check_name(ErrorCode::RoomNameInvalid, self.room.as_str(), limits.name_bytes)?;
        let content = message.content(limits.json_depth)?;
        let user = message.sender().unwrap_or(&self.state.backend).as_sender();
        let mut outgoing = Outgoing::to_room(&self.state, self.room.clone(), user, &content)?;
        if let Some((publisher, key)) = message.publisher_and_key() {
            outgoing = outgoing.keyed_by(publisher, key);
        }
        Ok(send::publish_and_wait(&self.state, outgoing).await?)
    }

    /// Reads a part of the room's history: at most `limit` messages, from 1 to 256.
    ///
    /// ```
    /// # async fn example(room: chat_server::RoomHandle) -> Result<(), chat_server::Error> {
    /// use chat_core::HistoryRange;
    ///
    /// for message in room.history(HistoryRange::Latest, 20).await?.messages {
    ///     println!("{}: {}", message.user.name, message.text);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorCode::HistoryDisabled`] if the room keeps no history; [`Error::Broker`].
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn history(&self, range: HistoryRange, limit: u32) -> Result<HistoryPage, Error> {
        let page = history::page(&self.state, &self.room, range, limit).await?;
        let frames = PageFrame::page(&self.room, page.position.epoch, &page.entries);
        let messages = frames.into_iter().filter_map(|frame| match frame {
            PageFrame::Message(message) => Some(message.into_owned()),
            _ => None,
        });
        let messages = messages.collect();
        Ok(HistoryPage { position: page.position, messages, more: page.more })
    }

    /// The users in the room, on all servers.
    ///
    /// ```
    /// # async fn example(room: chat_server::RoomHandle) -> Result<(), chat_server::Error> {
    /// let members = room.members().await?;
    /// let names: Vec<_> = members.users.iter().map(|user| user.name.as_str()).collect();
    /// println!("{} users: {}", members.count, names.join(", "));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] if the broker has no [presence](chat_broker::Broker::presence);
    /// [`Error::Broker`].
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn members(&self) -> Result<RoomMembers, Error> {
        let max = self.state.config.max_listed_members;
        let (users, count) = members::members(&self.state, &self.room, max).await?;
        Ok(RoomMembers { users, count })
    }

    /// Follows the messages of the room: those after `since`, or from now on if that is `None`. For
    /// an archive, a search index or a bot, which saves the [position](crate::RoomItem::position) of each
    /// item and continues from it after a restart. [`Position::default`] is before the first message.
    /// The follow is no member.
    ///
    /// ```
    /// # async fn example(room: chat_server::RoomHandle, saved: Option<chat_core::Position>) {
    /// use chat_server::RoomItem;
    ///
    /// let mut follow = room.follow(saved);
    /// while let Some(item) = follow.recv().await {
    ///     match &item {
    ///         RoomItem::Message { message, .. } => println!("{}: {}", message.user.name, message.text),
    ///         RoomItem::Gap { .. } => println!("some messages are lost"),
    ///         _ => {}
    ///     }
    ///     println!("continue from {:?}", item.position());
    /// }
    /// # }
    /// ```
    #[must_use = "dropping it unsubscribes"]
    pub fn follow(&self, since: Option<Position>) -> RoomFollow {
        let topic = Topic::Room(self.room.clone());
        RoomFollow::new(self.room.clone(), self.state.hub.follow(&topic, since))
    }

    /// Removes `user` from the room, on all servers. The user receives the reason and may join again.
    /// Returns when the kick is stored and, within 1 s, the room's members on this server do not
    /// include the user.
    ///
    /// ```
    /// # async fn example(room: chat_server::RoomHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// room.kick(&"eve".parse()?, Some("the order is closed")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorCode::BadField`] for a reason of more than 512 bytes;
    /// [`ErrorCode::Unsupported`] if the broker has no [table](chat_broker::Broker::table);
    /// [`Error::Broker`].
    ///
    /// # Cancel safety
    /// After a dropped call the user may have been kicked.
    pub async fn kick(&self, user: &UserId, reason: Option<&str>) -> Result<(), Error> {
        sanctions::kick(&self.state, Actor::Backend, self.scope(), user, reason).await
    }

    /// Removes `user` from the room, on all servers, and rejects joins and messages of the user there
    /// until the ban ends. Returns as [`kick`](Self::kick) does. A later ban replaces an earlier one.
    ///
    /// ```
    /// # async fn example(room: chat_server::RoomHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use chat_server::BanOptions;
    ///
    /// let hour = BanOptions::default().reason("spam").expires_in(Duration::from_secs(3600));
    /// room.ban(&"eve".parse()?, hour).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`kick`](Self::kick); [`ErrorCode::BadField`] for a ban of no time, too.
    ///
    /// # Cancel safety
    /// After a dropped call the user may have been banned.
    pub async fn ban(&self, user: &UserId, options: BanOptions) -> Result<(), Error> {
        let BanOptions { reason, expires_in } = options;
        let (by, reason) = (Actor::Backend, reason.as_deref());
        sanctions::ban(&self.state, by, self.scope(), user, expires_in, reason).await
    }

    /// Ends the ban of `user` from the room. That there is none is no error.
    ///
    /// ```
    /// # async fn example(room: chat_server::RoomHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// for ban in room.bans() {
    ///     room.unban(&ban.user).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] if the broker has no [table](chat_broker::Broker::table);
    /// [`Error::Broker`].
    ///
    /// # Cancel safety
    /// After a dropped call the ban may have ended.
    pub async fn unban(&self, user: &UserId) -> Result<(), Error> {
        sanctions::unban(&self.state, Actor::Backend, self.scope(), user).await
    }

    /// The active bans from the room as this server knows them, in the order of their users: see
    /// [`Server::bans`](crate::Server::bans).
    #[must_use]
    pub fn bans(&self) -> Vec<Ban> {
        self.state.moderation.bans(|_, room| room == Some(&self.room))
    }

    fn scope(&self) -> SanctionScope<'_> {
        SanctionScope::Room(&self.room)
    }
}
