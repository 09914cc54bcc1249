//! The transport alone: a WebSocket server that sends everything back.
//!
//! `PORT=9001 cargo run --release -p examples --example echo_session`
//!
//! It waits for room in the outbox instead of dropping, and its limits are those of the
//! Autobahn test suite, whose largest message has 16 MiB; `MAX_MESSAGE_BYTES=65536` gives it that
//! of a server.

#![allow(clippy::print_stdout, reason = "it says where it listens")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use chat_core::Frames;
use chat_transport::{Incoming, TransportConfig, accept_tcp};
use tokio::net::{TcpListener, TcpStream};

const LARGEST: usize = 16 * 1024 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::var("PORT").map_or(Ok(9001), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on ws://{}", listener.local_addr()?);

    let bytes = std::env::var("MAX_MESSAGE_BYTES").map_or(Ok(LARGEST), |bytes| bytes.parse())?;
    let config = TransportConfig::default().max_message_bytes(bytes).max_fragments(100_000);
    let config = Arc::new(config);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo(stream, Arc::clone(&config)));
    }
}

async fn echo(stream: TcpStream, config: Arc<TransportConfig>) {
    let mut session = match accept_tcp(stream, &[], &config).await {
        Ok(accepted) => accepted.session,
        Err(_) => return,
    };
    while let Some(incoming) = session.recv().await {
        match incoming {
            Incoming::Text(text) => session.send(&Frames::text(&text)).await,
            Incoming::Binary(bytes) => session.send(&Frames::binary(&bytes)).await,
            _ => continue,
        };
    }
    session.finish().await;
}
