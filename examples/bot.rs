//! A bot: it sends each message of the room `lobby` back. Stop the server and start it again while
//! the bot runs: it connects again, and answers what it missed.
//!
//! `cargo run -p examples --example bot [ws://127.0.0.1:8080/ws]`

use chat_transport::client::{Client, ClientConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or("ws://127.0.0.1:8080/ws".to_owned());
    let (client, mut events) = Client::connect([url], ClientConfig::default().name("Echo"))?;
    client.join("lobby", 0).await?;
    while let Some(message) = events.message().await {
        if !message.is_own
            && let Err(error) = client.send(&message.room, &message.text).await
        {
            eprintln!("not sent: {error}");
        }
    }
    Ok(())
}
