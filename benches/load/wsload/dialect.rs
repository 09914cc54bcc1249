//! The frames of the clients of each server.

use chat_core::RoomId;
use chat_core::wire::{ClientFrame, ClientRequest};

use crate::args::{Dialect, Url};
use crate::plan::Client;

/// The reaction of a client to a frame without a mark.
pub enum Reaction {
    Nothing,
    Answer(&'static str),
    /// The server is ready for the join.
    Open,
}

impl Dialect {
    /// Whether only members may send to a room.
    pub fn members_publish(self) -> bool {
        self == Dialect::Native
    }

    /// Whether the join directly follows the handshake.
    pub fn opens_at_once(self) -> bool {
        self != Dialect::SocketIo
    }

    /// Whether a server may lose a join: Socket.IO may report that a client is connected before
    /// the server's handlers are in place.
    pub fn joins_may_be_lost(self) -> bool {
        self == Dialect::SocketIo
    }

    pub fn path(self, url: &Url, client: Client) -> String {
        match self {
            Dialect::Native | Dialect::Topics => url.path.clone(),
            Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket".into(),
            Dialect::Floor => match client {
                Client::Member { room, .. } => format!("/member/{room}"),
                Client::Publisher => "/publisher".into(),
            },
        }
    }

    pub fn join(self, room: usize) -> Option<String> {
        match self {
            Dialect::Native => {
                let join = ClientRequest::Join { room: room_id(room), since: None, history: None };
                Some(ClientFrame::new(join).encode())
            }
            Dialect::Topics => Some(format!(r#"{{"type":"SUBSCRIBE","room":"room{room}"}}"#)),
            Dialect::SocketIo => Some(format!(r#"42["join","room{room}"]"#)),
            Dialect::Floor => None,
        }
    }

    /// What precedes and follows the text of a message to this room.
    pub fn envelope(self, room: usize) -> (String, String) {
        const TEXT: &str = "~text~";
        let frame = match self {
            Dialect::Native => {
                let content = TEXT.into();
                ClientFrame::new(ClientRequest::Send { room: room_id(room), content }).encode()
            }
            Dialect::Topics => {
                format!(r#"{{"type":"sendMessage","roomId":"room{room}","message":"{TEXT}"}}"#)
            }
            Dialect::SocketIo => {
                format!(r#"42["msg",{{"room":"room{room}","message":"{TEXT}"}}]"#)
            }
            Dialect::Floor => format!("{room:06x}{TEXT}"),
        };
        let (before, after) = frame.split_once(TEXT).expect("the text is in the frame");
        (before.into(), after.into())
    }

    pub fn react(self, frame: &[u8]) -> Reaction {
        match (self, frame) {
            (Dialect::SocketIo, b"2") => Reaction::Answer("3"),
            (Dialect::SocketIo, [b'0', ..]) => Reaction::Answer("40"),
            (Dialect::SocketIo, [b'4', b'0', ..]) => Reaction::Open,
            _ => Reaction::Nothing,
        }
    }
}

fn room_id(room: usize) -> RoomId {
    RoomId::new(format!("room{room}")).expect("letters and digits are a name")
}
