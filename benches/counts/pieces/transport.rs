//! Reading from a socket, and writing to one.

use std::hint::black_box;
use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;

use bytes::Bytes;
use chat_core::{Batch, DeliveryOutcome, Dialect, Item};
use chat_transport::{Incoming, Session, TransportConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use super::{Piece, TEXT, at_once, payload, room};
use crate::callgrind::turns;

pub(super) const PIECES: &[Piece] =
    &[("send to a socket that takes it", send), ("receive a text", receive)];

/// The frames are those of one message; the peer has read everything before.
fn send() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let stream = runtime.block_on(async {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.writable().await.expect("a socket that takes something");
        stream
    });
    let (mut peer, _) = listener.accept().expect("a peer");
    let config = Arc::new(TransportConfig::default());
    let session = runtime.block_on(async { Session::on_tcp(stream, Bytes::new(), config) });
    let batch = Batch::new(room(), vec![Item::Envelope(payload(), None)]);
    let frames = batch.frames(Dialect::Native).expect("frames");
    let mut read = vec![0; frames.bytes().len()];
    let mut sent = false;
    let read_the_last = || {
        if std::mem::replace(&mut sent, true) {
            peer.read_exact(&mut read).expect("what was sent");
        }
    };
    turns(read_the_last, |()| {
        assert_eq!(session.outbox().send(black_box(frames)), DeliveryOutcome::Queued);
    });
    assert_eq!(session.outbox().usage().bytes, 0, "all was written at once");
}

fn receive() {
    let (mut client, server) = tokio::io::duplex(4096);
    let mut session = Session::new(server, Bytes::new(), Arc::new(TransportConfig::default()));
    let frame = masked(TEXT.as_bytes());
    let write = || at_once(client.write_all(&frame)).expect("room for a frame");
    turns(write, |()| {
        let received = at_once(session.recv());
        assert!(matches!(black_box(received), Some(Incoming::Text(_))));
    });
}

/// A frame of a client, with a payload of 126 to 65,535 bytes.
fn masked(payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let length = u16::try_from(payload.len()).expect("a short payload");
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend(length.to_be_bytes());
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
