//! Whether the client may do what it asks for: by its token, and the bans that stand.

use chat_broker::BrokerError;
use chat_core::{
    Capability, Command, ErrorCode, Rejection, Request, RoomId, UserId, UserName, json,
};

use super::{Connection, unavailable};
use crate::auth::{Action, unauthorized};
use crate::moderation::Scope;

/// What a command needs.
enum Need<'a> {
    /// Nothing: it is how a client says who it is, and that it lives.
    Nothing,
    /// To have said who it is.
    Identity,
    Capability(Action<'a>),
}

impl Connection {
    /// Reads a frame, within the limits for what is in it.
    pub(super) fn decode<'a>(&self, text: &'a str) -> Result<Request<'a>, Rejection> {
        let limits = self.state.limits.config();
        if json::is_nested_deeper(text, limits.json_depth) {
            let message = format!("A frame is at most {} deep.", limits.json_depth);
            return Err(Rejection::new(ErrorCode::BadJson, message));
        }
        let request = self.member.dialect.decode(text)?;
        let (max, id) = (limits.name_bytes, request.id);
        let too_long = names(&request.command).find(|(_, name)| name.len() > max);
        match too_long.map(|(code, name)| (code, name.len())) {
            None => Ok(request),
            Some((code, length)) => {
                let message = format!("A name has at most {max} bytes, not {length}.");
                Err(Rejection::new(code, message).to_request(id))
            }
        }
    }

    /// Whether the client may do that; `None` if the application is to be asked.
    pub(super) fn permit(&self, command: &Command<'_>) -> Option<Result<(), Rejection>> {
        match need(command, self.current.as_ref()) {
            Need::Nothing => Some(Ok(())),
            Need::Identity if self.access.is_pending() => Some(Err(unauthorized())),
            Need::Identity => Some(Ok(())),
            Need::Capability(_)
                if self.state.authorizer.is_some() && self.access.identity().is_some() =>
            {
                None
            }
            Need::Capability(action) => {
                Some(self.access.verdict(action).check().and_then(|()| self.not_banned(action)))
            }
        }
    }

    /// As [`permit`](Self::permit), by what the application says.
    pub(super) async fn ask_to_permit(&self, command: &Command<'_>) -> Result<(), Rejection> {
        let Need::Capability(action) = need(command, self.current.as_ref()) else { return Ok(()) };
        self.access.ask(self.state.authorizer.as_deref(), action).await.check()?;
        self.not_banned(action)
    }

    /// Whether the client may do that in the room besides what it asked for.
    pub(super) async fn may(&self, capability: Capability, room: &RoomId) -> bool {
        let action = Action::InRoom(capability, room);
        self.access.ask(self.state.authorizer.as_deref(), action).await.check().is_ok()
    }

    pub(super) fn not_banned(&self, action: Action<'_>) -> Result<(), Rejection> {
        let Action::InRoom(capability @ (Capability::Join | Capability::Send), room) = action
        else {
            return Ok(());
        };
        let moderation = &self.state.moderation;
        match moderation.ban(Scope::Room(room), &self.member.user.id) {
            // A join waits for the bans to be known.
            None if capability == Capability::Send && !moderation.is_known() => {
                Err(unavailable(&BrokerError::unavailable("the bans are not known yet")))
            }
            None => Ok(()),
            Some(notice) => {
                let why = notice.reason.as_deref().unwrap_or("no reason was given");
                let message = format!("You are banned from this room: {why}");
                Err(Rejection::new(ErrorCode::Forbidden, message))
            }
        }
    }
}

fn need<'a>(command: &'a Command<'_>, current: Option<&'a RoomId>) -> Need<'a> {
    use Capability::{History, Join, Moderate, Presence, Send};
    let capability = match command {
        Command::Hello(_) | Command::Ping => return Need::Nothing,
        Command::Direct { to, .. } => return Need::Capability(Action::direct(to)),
        Command::Join(_) => Join,
        Command::Send { .. } | Command::Typing { .. } => Send,
        Command::History { .. } => History,
        Command::Members { .. } => Presence,
        Command::Kick(_) | Command::Ban { .. } | Command::Unban { .. } => Moderate,
        _ => return Need::Identity,
    };
    match command.room().or(current) {
        Some(room) => Need::Capability(Action::InRoom(capability, room)),
        None => Need::Identity,
    }
}

/// The names that a command brings in, and what is said of one that is too long.
fn names<'a>(command: &'a Command<'_>) -> impl Iterator<Item = (ErrorCode, &'a str)> {
    let user = match command {
        Command::Direct { to, .. } => Some(to),
        Command::Kick(sanction) | Command::Ban { sanction, .. } => Some(&sanction.user),
        Command::Unban { user, .. } => Some(user),
        _ => None,
    };
    let name = match command {
        Command::Hello(hello) => hello.name.as_ref(),
        Command::Join(join) => join.name.as_ref(),
        _ => None,
    };
    let users = user.map(UserId::as_str).into_iter().chain(name.map(UserName::as_str));
    let rooms = command.room().map(RoomId::as_str).into_iter();
    let rooms = rooms.map(|name| (ErrorCode::RoomNameInvalid, name));
    rooms.chain(users.map(|name| (ErrorCode::BadField, name)))
}
