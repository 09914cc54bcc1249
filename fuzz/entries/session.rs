//! The bytes of a WebSocket after its handshake.

use std::sync::Arc;

use bytes::Bytes;
use chat_core::Frames;
use chat_transport::{Incoming, Session, TransportConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::block_on;

/// Small, so that input of a few hundred bytes reaches them.
const LIMIT: usize = 200;

/// At most: each costs a turn of all who are concerned.
const PIECES: usize = 64;

/// Whatever a client sends, in pieces of any size: what is made of it keeps the limits, and what
/// it is answered is well formed.
pub fn session(input: &[u8]) {
    let Some((piece, input)) = input.split_first() else { return };
    let piece = usize::from(*piece).max(input.len() / PIECES).max(1);
    let config = TransportConfig::default().max_message_bytes(LIMIT).max_fragments(8);
    let answers = block_on(async {
        let (client, server) = duplex(1024);
        let session = Session::new(server, Bytes::new(), Arc::new(config));
        let (mut read, mut write) = tokio::io::split(client);
        let mut answers = Vec::new();
        let send = async {
            for piece in input.chunks(piece) {
                if write.write_all(piece).await.is_err() {
                    return;
                }
            }
            let _ = write.shutdown().await;
        };
        let _ = tokio::join!(echo(session), send, read.read_to_end(&mut answers));
        answers
    });
    are_frames(&answers);
}

async fn echo(mut session: Session<tokio::io::DuplexStream>) {
    while let Some(incoming) = session.recv().await {
        match incoming {
            Incoming::Text(text) => {
                assert!(text.len() <= LIMIT, "a text of {} bytes", text.len());
                session.send(&Frames::text(&text)).await;
            }
            Incoming::Binary(bytes) => {
                assert!(bytes.len() <= LIMIT, "{} bytes", bytes.len());
                session.send(&Frames::binary(&bytes)).await;
            }
            _ => {}
        }
    }
    session.finish().await;
}

/// What a server may send (RFC 6455, sections 5 and 7.4): whole frames, no mask, nothing after
/// a close frame, and in that a code that may be sent.
fn are_frames(mut bytes: &[u8]) {
    while let [head, length, rest @ ..] = bytes {
        let (length, rest) = match length {
            0..=125 => (usize::from(*length), rest),
            126 => {
                let (length, rest) = rest.split_first_chunk().expect("a length");
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            _ => panic!("masked, or longer than anything that was sent"),
        };
        assert!(rest.len() >= length, "a frame is cut");
        let (payload, rest) = rest.split_at(length);
        match head {
            0x81 => assert!(std::str::from_utf8(payload).is_ok(), "not UTF-8"),
            0x82 | 0x89 | 0x8a => {}
            0x88 => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let may_be_sent = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
                assert!(code.is_none_or(may_be_sent), "close code {code:?}");
                assert!(rest.is_empty(), "something after the close frame");
            }
            head => panic!("a frame that begins with {head:#x}"),
        }
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a header");
}
