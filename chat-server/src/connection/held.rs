//! Messages that the application is asked about, and those behind them.
//!
//! The hook is asked about each message as soon as its frame is read, in a task of its own unless it
//! decides at once. A message is published when the hook has decided on it and nothing is held before
//! it, so that the messages of a connection keep their order over all rooms and direct messages.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use chat_core::wire::{Accepted, ServerFrame};
use chat_core::{Content, ErrorCode, Rejection, RoomId, UserId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;

use super::Connection;
use super::refused::Refused;
use crate::auth::Action;
use crate::hooks::{Draft, JoinAttempt};
use crate::service::send::{self, Outgoing};
use crate::service::{hooks, rules};
use crate::state::Task;

/// What a connection has if the server has hooks.
#[derive(Default)]
pub(super) struct Held {
    /// Oldest first.
    messages: VecDeque<HeldMessage>,
}

/// A message that is not published yet.
pub(super) struct HeldMessage {
    id: Option<Box<RawValue>>,
    is_new_room: bool,
    to: Recipient,
    decision: Decision,
}

pub(super) enum Recipient {
    Room { room: RoomId, members_only: bool },
    User { to: UserId, frame: String },
}

impl Recipient {
    /// What the log has of a message to it that is refused.
    fn refused(&self) -> Refused<'_> {
        match self {
            Self::Room { room, .. } => Refused::in_room("send", room),
            Self::User { to, .. } => Refused::to_user(to),
        }
    }
}

enum Decision {
    /// The task ends with the connection.
    Pending(Task<Decided>),
    Made(Decided),
}

/// What is published, unless it is rejected.
type Decided = (Draft, Result<(), Rejection>);

impl Held {
    /// Waits until the hook has decided on the oldest message.
    ///
    /// # Cancel safety
    /// The question stays in the queue.
    pub(super) async fn decided(&mut self) {
        if let Some(HeldMessage { decision, .. }) = self.messages.front_mut()
            && let Decision::Pending(Task(asking)) = decision
        {
            *decision = match asking.await {
                Ok(decided) => Decision::Made(decided),
                // The task catches panics: only the end of the runtime aborts it, and this one as well.
                Err(_) => pending().await,
            };
        }
    }
}

impl Connection {
    /// Whether a message must be held: a hook applies to it, or messages before it are held.
    pub(super) fn must_hold(&self, action: Action<'_>) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| !held.messages.is_empty() || hooks::applies_to(&self.state, action))
    }

    /// Makes a message that is held, and asks the hook about it.
    pub(super) fn ask(
        &self,
        id: Option<&RawValue>,
        to: Recipient,
        content: Content<'_>,
    ) -> Result<Box<HeldMessage>, Rejection> {
        send::check_size(&self.state, &content)?;
        let mut draft = Draft::of(Arc::clone(&self.member.user), content);
        let state = Arc::clone(&self.state);
        let decision = match &to {
            Recipient::Room { room, .. } if hooks::applies_to(&state, Action::send(room)) => {
                let room = room.clone();
                let asking = async move {
                    let decision = hooks::before_send(&state, &room, &mut draft).await;
                    (draft, decision)
                };
                Decision::of(asking.boxed())
            }
            Recipient::User { to, .. } if hooks::applies_to(&state, Action::direct(to)) => {
                let to = to.clone();
                let asking = async move {
                    let decision = hooks::before_direct(&state, &to, &mut draft).await;
                    (draft, decision)
                };
                Decision::of(asking.boxed())
            }
            _ => Decision::Made((draft, Ok(()))),
        };
        let id = id.map(ToOwned::to_owned);
        Ok(Box::new(HeldMessage { id, is_new_room: false, to, decision }))
    }

    /// Adds a message behind those that are held.
    pub(super) fn hold(&mut self, is_new_room: bool, message: HeldMessage) {
        if let Some(held) = &mut self.held {
            held.messages.push_back(HeldMessage { is_new_room, ..message });
        }
    }

    /// Messages that are held.
    pub(super) fn held_messages(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.messages.len())
    }

    /// Whether the oldest message that is held can be published, or rejected.
    pub(super) fn has_decided(&self) -> bool {
        self.held_decision().is_some_and(|decision| matches!(decision, Decision::Made(_)))
    }

    /// Whether the hook has yet to decide on the oldest message that is held.
    pub(super) fn has_undecided(&self) -> bool {
        self.held_decision().is_some_and(|decision| matches!(decision, Decision::Pending(_)))
    }

    fn held_decision(&self) -> Option<&Decision> {
        self.held.as_ref()?.messages.front().map(|message| &message.decision)
    }

    /// Publishes or rejects the oldest messages, up to the first one that is undecided. Must not be
    /// dropped: it holds the message that it publishes.
    pub(super) async fn publish_decided(&mut self) {
        while let Some(HeldMessage { id, is_new_room, to, decision }) = self.next_decided() {
            let Decision::Made((draft, decision)) = decision else { return };
            let id = id.as_deref();
            match decision {
                Ok(()) => match self.encode(id, &to, &draft) {
                    Ok(message) => self.publish(id, message, is_new_room).await,
                    Err(rejection) => {
                        self.reject(&to.refused(), &rejection.to_request(id));
                    }
                },
                Err(rejection) => self.deny(id, &to, &draft, rejection).await,
            }
        }
    }

    /// Answers a message that the hook has not allowed. One that was published before under its key, and
    /// whose first answer was lost, gets that answer: it would be rejected and in the room otherwise.
    async fn deny(
        &mut self,
        id: Option<&RawValue>,
        to: &Recipient,
        draft: &Draft,
        rejection: Rejection,
    ) {
        let published = match (to, draft.key()) {
            // After the other codes the client sends the message again.
            (Recipient::Room { room, .. }, Some(key)) if rejection.code == ErrorCode::Rejected => {
                self.find_published(room, &draft.user().id, key).await
            }
            _ => Ok(None),
        };
        match published {
            Ok(None) => self.reject(&to.refused(), &rejection.to_request(id)),
            Ok(position) => {
                self.member.reply(&ServerFrame::Ok(Accepted::new(position)).to_request(id));
            }
            Err(unknown) => self.reject(&to.refused(), &unknown.to_request(id)),
        }
    }

    fn next_decided(&mut self) -> Option<HeldMessage> {
        if self.member.is_closed() {
            // A user who was banned from the server must not publish what the hook allows after that.
            self.held.as_mut()?.messages.clear();
        }
        if !self.has_decided() {
            return None;
        }
        self.held.as_mut()?.messages.pop_front()
    }

    /// Encodes what the hook has allowed, unless the sender has left the room or was banned since.
    fn encode(
        &self,
        id: Option<&RawValue>,
        to: &Recipient,
        draft: &Draft,
    ) -> Result<Outgoing, Rejection> {
        let content = draft.content();
        if draft.is_changed() {
            rules::check_content(&content, self.limiter.config().json_depth)?;
        }
        match to {
            Recipient::Room { room, members_only } => {
                if *members_only {
                    self.must_be_in(room)?;
                }
                // `hello` may have made the client another user.
                self.not_banned_as(&draft.user().id, Action::send(room))?;
                Outgoing::to_room(&self.state, room.clone(), draft.user().as_sender(), &content)
            }
            Recipient::User { to, frame } => {
                let changed = draft.is_changed().then(|| send::direct_frame(to, &content));
                let frame = changed.as_ref().unwrap_or(frame);
                self.direct(id, to.clone(), draft.user().as_sender(), &content, frame)
            }
        }
    }

    /// Asks whether the client may join a room. The connection answers earlier requests until the hook
    /// has decided.
    pub(super) async fn ask_before_join(&mut self, room: &RoomId) -> Result<(), Rejection> {
        if !hooks::applies_to(&self.state, Action::join(room)) {
            return Ok(());
        }
        let (state, user) = (Arc::clone(&self.state), Arc::clone(&self.member.user));
        let mut join = JoinAttempt::new(room, &user);
        join.address = self.address();
        // `None`: the connection is closed, which the caller checks.
        self.wait_for(hooks::before_join(&state, join)).await.unwrap_or(Ok(()))?;
        self.not_banned(Action::join(room))
    }
}

impl Decision {
    /// Polled once before it becomes a task: a hook that needs no I/O decides at once.
    fn of(mut asking: BoxFuture<'static, Decided>) -> Self {
        match (&mut asking).now_or_never() {
            Some(decided) => Self::Made(decided),
            None => Self::Pending(Task(tokio::spawn(asking))),
        }
    }
}
