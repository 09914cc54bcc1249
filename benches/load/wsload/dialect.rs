//! The frames of the clients of each server.

use chat_core::RoomId;
use chat_core::wire::{ClientFrame, ClientRequest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::args::{Dialect, Url};
use crate::plan::Client;

/// The reaction of a client to the end of the handshake, or to a text without a mark.
pub enum Reaction {
    Nothing,
    Answer(&'static str),
    /// The server is ready for the join.
    Open,
    /// The server has rejected a command.
    Close,
}

impl Dialect {
    /// Whether only members may send to a room.
    pub fn members_publish(self) -> bool {
        self == Dialect::Native
    }

    /// Whether a server may lose a join: Socket.IO may report that a client is connected before
    /// the server's handlers are in place.
    pub fn joins_may_be_lost(self) -> bool {
        self == Dialect::SocketIo
    }

    /// Whether a frame may hold several texts, one per line.
    pub fn packs_lines(self) -> bool {
        self == Dialect::Centrifugo
    }

    pub fn path(self, url: &Url, client: Client) -> String {
        match self {
            Dialect::Native | Dialect::Topics | Dialect::Centrifugo => url.path.clone(),
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
            Dialect::Centrifugo => {
                Some(format!(r#"{{"id":2,"subscribe":{{"channel":"room{room}"}}}}"#))
            }
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
            Dialect::Centrifugo => {
                format!(r#"{{"id":3,"publish":{{"channel":"room{room}","data":"{TEXT}"}}}}"#)
            }
            Dialect::Floor => format!("{room:06x}{TEXT}"),
        };
        let (before, after) = frame.split_once(TEXT).expect("the text is in the frame");
        (before.into(), after.into())
    }

    /// What follows the handshake.
    pub fn upgraded(self) -> Reaction {
        match self {
            Dialect::Native | Dialect::Topics | Dialect::Floor => Reaction::Open,
            Dialect::SocketIo => Reaction::Nothing,
            Dialect::Centrifugo => Reaction::Answer(r#"{"id":1,"connect":{}}"#),
        }
    }

    pub fn react(self, text: &[u8]) -> Reaction {
        match (self, text) {
            (Dialect::SocketIo, b"2") => Reaction::Answer("3"),
            (Dialect::SocketIo, [b'0', ..]) => Reaction::Answer("40"),
            (Dialect::SocketIo, [b'4', b'0', ..]) => Reaction::Open,
            // A ping, and its answer.
            (Dialect::Centrifugo, b"{}") => Reaction::Answer("{}"),
            (Dialect::Centrifugo, reply) => match serde_json::from_slice(reply) {
                Ok(CentrifugoReply { error: Some(_), .. }) => Reaction::Close,
                Ok(CentrifugoReply { connect: Some(_), .. }) => Reaction::Open,
                _ => Reaction::Nothing,
            },
            _ => Reaction::Nothing,
        }
    }
}

/// The parts of a reply to a command of Centrifugo's that a client reacts to.
#[derive(Deserialize)]
struct CentrifugoReply {
    error: Option<IgnoredAny>,
    connect: Option<IgnoredAny>,
}

fn room_id(room: usize) -> RoomId {
    RoomId::new(format!("room{room}")).expect("letters and digits are a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centrifugo_replies() {
        let react = |text: &str| Dialect::Centrifugo.react(text.as_bytes());
        assert!(matches!(react(r#"{"id":1,"connect":{"client":"x","ping":25}}"#), Reaction::Open));
        assert!(matches!(react(r#"{"id":2,"error":{"code":103}}"#), Reaction::Close));
        assert!(matches!(react(r#"{"id":3,"publish":{}}"#), Reaction::Nothing));
        assert!(matches!(react("{}"), Reaction::Answer("{}")));
    }
}
