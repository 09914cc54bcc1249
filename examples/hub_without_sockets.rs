//! The hub alone: rooms over a broker, for members that are anything at all. Here they are
//! channels; there is no socket and no server.

use std::sync::Arc;

use chat_broker::{Hub, HubConfig, MemoryBroker};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, Delivery, Event, RoomId, Topic, User, UserId,
};
use tokio::sync::mpsc;

/// A member hears who said what.
#[derive(Clone)]
struct Member(mpsc::Sender<String>);

impl Deliver for Member {
    fn deliver(&self, batch: &Batch) -> Delivery {
        for (event, _position) in batch.events() {
            if let Event::Message(message) = event {
                let line = format!("{}: {}", message.user.name, message.text);
                if self.0.try_send(line).is_err() {
                    return Delivery::Full;
                }
            }
        }
        Delivery::Queued
    }

    fn close(&self, _: CloseReason) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (broker, events) = MemoryBroker::connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());

    let room = RoomId::new("lobby")?;
    let lobby = Topic::Room(room.clone());
    let (sender, mut heard) = mpsc::channel(16);
    let place = hub.join(&lobby, ConnectionId(1), Member(sender), None, |_| {}).await?;

    let ann = User::new(UserId::new("ann")?, None);
    for text in ["hello", "is anybody here?"] {
        let receipt = hub.publish(&room, ann.as_sender(), text).await?;
        let offset = receipt.await?.position.map_or(0, |position| position.offset);
        println!("message {offset} is taken");
    }
    for _ in 0..2 {
        println!("{}", heard.recv().await.unwrap_or_default());
    }

    // Dropping the place leaves the room.
    drop(place);
    println!("members now: {}", hub.members(&lobby).len());
    Ok(())
}
