//! Whether a command is permitted: by the token of the client, and by active bans.

use chat_broker::BrokerError;
use chat_core::{
    Capabilities, Capability, Command, ErrorCode, Rejection, Request, RoomId, UserId, UserName,
};

use super::Connection;
use crate::auth::{Action, unauthorized};
use crate::error::unavailable;
use crate::moderation::SanctionScope;
use crate::service::rules::{check_name, check_nesting};

/// What a client needs to send a command.
enum Requirement<'a> {
    /// Nothing: `hello` and `ping` precede authentication.
    Nothing,
    /// Authentication, where the server asks for it.
    Identity,
    /// Permission for an action.
    Capability(Action<'a>),
}

impl Connection {
    /// Decodes a frame, and checks its nesting and its names.
    pub(super) fn decode<'a>(&self, text: &'a str) -> Result<Request<'a>, Rejection> {
        let limits = self.limiter.config();
        let nesting = check_nesting(text, limits.json_depth);
        // In any case, for the id of the request: `data` is not parsed, and serde bounds the nesting of
        // the rest.
        let request = match self.member.dialect.decode(text) {
            Ok(request) => request,
            Err(rejection) if rejection.id.is_some() => return Err(rejection),
            Err(rejection) => return Err(nesting.err().unwrap_or(rejection)),
        };
        let of_request = |rejection: Rejection| rejection.to_request(request.id);
        nesting.map_err(of_request)?;
        for (code, name) in names(&request.command) {
            check_name(code, name, limits.name_bytes).map_err(of_request)?;
        }
        Ok(request)
    }

    /// Whether a command is permitted; `None` if the authorizer decides.
    pub(super) fn permit(&self, command: &Command<'_>) -> Option<Result<(), Rejection>> {
        match requirement(command, self.current()) {
            Requirement::Nothing => Some(Ok(())),
            Requirement::Identity if self.access.is_pending() => Some(Err(unauthorized())),
            Requirement::Identity => Some(Ok(())),
            Requirement::Capability(_)
                if self.state.authorizer.is_some() && self.access.identity().is_some() =>
            {
                None
            }
            Requirement::Capability(action) => {
                Some(self.access.verdict(action).check().and_then(|()| self.not_banned(action)))
            }
        }
    }

    /// As [`permit`](Self::permit), by the authorizer.
    pub(super) async fn permit_by_authorizer(
        &self,
        command: &Command<'_>,
    ) -> Result<(), Rejection> {
        let Requirement::Capability(action) = requirement(command, self.current()) else {
            return Ok(());
        };
        self.access.authorize(self.state.authorizer.as_deref(), action).await.check()?;
        self.not_banned(action)
    }

    /// What the client may do in a room, apart from bans.
    pub(super) async fn capabilities(&self, room: &RoomId) -> Capabilities {
        self.access.capabilities(self.state.authorizer.as_deref(), room).await
    }

    pub(super) fn not_banned(&self, action: Action<'_>) -> Result<(), Rejection> {
        self.not_banned_as(&self.member.user.id, action)
    }

    pub(super) fn not_banned_as(&self, user: &UserId, action: Action<'_>) -> Result<(), Rejection> {
        let Action::InRoom(capability @ (Capability::Join | Capability::Send), room) = action
        else {
            return Ok(());
        };
        let moderation = &self.state.moderation;
        match moderation.ban(SanctionScope::Room(room), user) {
            // A join has waited for the bans (`until_bans_are_loaded`); a send must not wait.
            None if capability == Capability::Send && !moderation.is_loaded() => {
                Err(unavailable(&BrokerError::unavailable("the bans are not loaded yet")))
            }
            None => Ok(()),
            Some(notice) => {
                let why = notice.reason.as_deref().unwrap_or("no reason was given");
                let message = format!("You are banned from this room: {why}");
                let mut rejection = Rejection::new(ErrorCode::Banned, message);
                (rejection.until, rejection.reason) = (notice.until, notice.reason);
                Err(rejection)
            }
        }
    }
}

fn requirement<'a>(command: &'a Command<'_>, current: Option<&'a RoomId>) -> Requirement<'a> {
    use Capability::{History, Join, Moderate, Presence, Send};
    let capability = match command {
        Command::Hello(_) | Command::Ping => return Requirement::Nothing,
        Command::Direct { to, .. } => return Requirement::Capability(Action::direct(to)),
        Command::Join(_) => Join,
        Command::Send { .. } | Command::Typing { .. } => Send,
        Command::History { .. } => History,
        Command::Members { .. } => Presence,
        Command::Kick(_) | Command::Ban { .. } | Command::Unban { .. } => Moderate,
        _ => return Requirement::Identity,
    };
    match command.room().or(current) {
        Some(room) => Requirement::Capability(Action::InRoom(capability, room)),
        None => Requirement::Identity,
    }
}

/// The names in a command, each with the error code if it is too long.
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
