//! The client of the native protocol, in a terminal: it sends each typed line to the room `lobby`,
//! and prints the events of the room.
//!
//! `cargo run -p examples --example client [ws://127.0.0.1:8080/ws]`
//!
//! Without an address it starts a server of its own. Stop a server and start it again while the
//! client runs: it reconnects as the same user, to the same room and its position there.

use chat_server::Server;
use chat_transport::client::{Client, ClientConfig, Event, Events};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;

const ROOM: &str = "lobby";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = match std::env::args().nth(1) {
        Some(url) => url,
        None => serve().await?,
    };
    let (client, events) = Client::connect([url], ClientConfig::default().name("Ann"))?;
    let printing = tokio::spawn(print(events));
    client.join(ROOM, 20).await?;

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match client.send(ROOM, &line).await {
            Ok(sent) => {
                let offset = sent.position.map_or(0, |position| position.offset);
                println!("* that was message {offset}");
            }
            Err(error) => println!("* not sent: {error}"),
        }
    }
    client.close().await;
    printing.await?;
    Ok(())
}

async fn print(mut events: Events) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Message(message) => println!("{}: {}", message.user.name, message.text),
            Event::Joined { room, members, .. } => {
                println!("* in {room}, {} there", members.count);
            }
            Event::Presence { change, user, .. } => println!("* {}: {change:?}", user.name),
            Event::Gap { .. } => println!("* some messages are lost"),
            Event::State(state) => println!("* {state:?}"),
            other => println!("* {other:?}"),
        }
    }
}

/// A server in this process; returns where it listens.
async fn serve() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("ws://{}/ws", listener.local_addr()?);
    let server = Server::builder().start();
    tokio::spawn(async move { server.serve(vec![listener], std::future::pending()).await });
    Ok(url)
}
