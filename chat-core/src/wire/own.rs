//! `into_owned` of the frames that borrow from a text.

use std::borrow::Cow;

use super::server::{
    Accepted, Direct, Gap, Goodbye, History, Joined, Left, Members, Message, PageFrame, Pong,
    Presence, PresenceEvent, Rejected, RoomCapabilities, ServerFrame, Typing, Undelivered, Unknown,
    User, Welcome,
};

/// A value that need not borrow.
trait Own {
    type Static;

    fn own(self) -> Self::Static;
}

impl<T: ?Sized + ToOwned + 'static> Own for Cow<'_, T> {
    type Static = Cow<'static, T>;

    fn own(self) -> Self::Static {
        Cow::Owned(self.into_owned())
    }
}

impl<T: Own> Own for Option<T> {
    type Static = Option<T::Static>;

    fn own(self) -> Self::Static {
        self.map(T::own)
    }
}

impl<T: Own> Own for Vec<T> {
    type Static = Vec<T::Static>;

    fn own(self) -> Self::Static {
        self.into_iter().map(T::own).collect()
    }
}

/// For a struct: the fields that borrow, then those that do not. For an enum: its variants.
macro_rules! own {
    (struct $name:ident [$($borrowed:ident),*] $($plain:ident),*) => {
        impl Own for $name<'_> {
            type Static = $name<'static>;

            fn own(self) -> Self::Static {
                $name { $($borrowed: self.$borrowed.own(),)* $($plain: self.$plain),* }
            }
        }

        own!($name);
    };
    (enum $name:ident [$($variant:ident),*]) => {
        impl Own for $name<'_> {
            type Static = $name<'static>;

            fn own(self) -> Self::Static {
                match self {
                    $(Self::$variant(frame) => $name::$variant(frame.own()),)*
                }
            }
        }

        own!($name);
    };
    ($name:ident) => {
        impl $name<'_> {
            /// The same, with texts and values of its own.
            #[must_use]
            pub fn into_owned(self) -> $name<'static> {
                self.own()
            }
        }
    };
}

own!(enum ServerFrame [
    Welcome, Joined, Left, Ok, Error, Members, History, Pong, Goodbye, Message, Presence, Typing,
    Direct, Undelivered, Gap, Capabilities, Unknown
]);
own!(enum PageFrame [Message, Unknown]);
own!(struct Welcome [id, session, resume, user, node] protocol, expires_in_ms, heartbeat_ms, limits);
own!(struct User [id, name, color]);
own!(struct Joined [id, room, members, messages] epoch, offset, recovered, count, can, more);
own!(struct Left [id, room, reason, message] until);
own!(struct Accepted [id] epoch, offset, delivered);
own!(struct Rejected [id, code, message, reason] retry_after_ms, until);
own!(struct Members [id, room, members] count);
own!(struct History [id, room, messages] epoch, offset, more);
own!(struct Pong [id]);
own!(struct Goodbye [reason, message] reconnect, after_ms, until);
own!(struct Message [room, user, text, data, key] offset, epoch, at);
own!(struct Presence [room, event]);
own!(struct Typing [room, user] typing);
own!(struct Direct [user, text, data] at);
own!(struct Undelivered [session, id, to]);
own!(struct Gap [room] epoch, offset);
own!(struct RoomCapabilities [room] can);
own!(struct Unknown [kind, id, room] epoch, offset);

impl Own for PresenceEvent<'_> {
    type Static = PresenceEvent<'static>;

    fn own(self) -> Self::Static {
        match self {
            Self::Changed(change, user) => PresenceEvent::Changed(change, user.own()),
            Self::Count(count) => PresenceEvent::Count(count),
            Self::Unknown(event) => PresenceEvent::Unknown(event.own()),
        }
    }
}
