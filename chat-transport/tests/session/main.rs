//! Sessions on in-memory streams and on real sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod accepting;
mod clocks;
mod closing;
mod delivery;
mod messages;
mod resetting;

use std::sync::Arc;

use bytes::Bytes;
use chat_core::Frames;
use chat_transport::testing::raw_handshake;
use chat_transport::{Incoming, Session, SharedTcp, TransportConfig, accept_tcp};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

/// A client's end, and the session of the other: `buffer` bytes fit in each direction.
fn in_memory(buffer: usize, config: TransportConfig) -> (DuplexStream, Session<DuplexStream>) {
    let (client, server) = duplex(buffer);
    (client, Session::new(server, Bytes::new(), Arc::new(config)))
}

/// A client's socket after the handshake, and the session of the other end.
async fn on_tcp(config: TransportConfig) -> (TcpStream, Session<SharedTcp>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = Arc::new(config);
    let (client, session) = tokio::join!(raw_handshake(&address, "/"), async {
        let (stream, _) = listener.accept().await.unwrap();
        accept_tcp(stream, &[], &config).await.unwrap().session
    });
    (client, session)
}

/// The URL of a server that sends everything back and, at the end, says why it ended.
async fn echo_server(config: TransportConfig) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let config = Arc::new(config);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let config = Arc::clone(&config);
            tokio::spawn(async move {
                let accepted = accept_tcp(stream, &["echo"], &config).await;
                let Ok(accepted) = accepted else { return };
                echo(accepted.session).await;
            });
        }
    });
    url
}

async fn echo(mut session: Session<SharedTcp>) {
    while let Some(incoming) = session.recv().await {
        match incoming {
            Incoming::Text(text) => session.send(&Frames::text(&text)).await,
            Incoming::Binary(bytes) => session.send(&Frames::binary(&bytes)).await,
            other => panic!("{other:?}"),
        };
    }
    session.finish().await;
}

/// All bytes until the end of the stream.
async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// A server's close frame.
fn close_frame(code: u16, phrase: &str) -> Vec<u8> {
    let mut frame = vec![0x88, 2 + u8::try_from(phrase.len()).unwrap()];
    frame.extend(code.to_be_bytes());
    frame.extend(phrase.as_bytes());
    frame
}

fn text(incoming: Option<Incoming>) -> String {
    match incoming {
        Some(Incoming::Text(text)) => text.to_string(),
        other => panic!("wanted a text, got {other:?}"),
    }
}
