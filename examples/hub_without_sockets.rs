//! The hub alone: rooms over a broker, for members that are anything at all. Here they are
//! channels; there is no socket and no server.

use std::sync::Arc;

use chat_broker::{Delivery, Hub, HubConfig, MemoryBroker};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, Delivery as Delivered, Event, Message, RoomId,
    Topic, User, UserId, envelope,
};
use tokio::sync::mpsc;

/// A member hears who said what.
#[derive(Clone)]
struct Member(mpsc::Sender<String>);

impl Deliver for Member {
    fn deliver(&self, batch: &Batch) -> Delivered {
        for (event, _position) in batch.events() {
            if let Event::Message(message) = event {
                let line = format!("{}: {}", message.user.name, message.text);
                if self.0.try_send(line).is_err() {
                    return Delivered::Full;
                }
            }
        }
        Delivered::Queued
    }

    fn close(&self, _: CloseReason) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (broker, events) = MemoryBroker::connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());

    let lobby = Topic::Room(RoomId::new("lobby")?);
    let (sender, mut heard) = mpsc::channel(16);
    let place = hub.join(&lobby, ConnectionId(1), Member(sender), None, |_| {}).await?;

    let ann = User::new(UserId::new("ann")?, None);
    for text in ["hello", "is anybody here?"] {
        let message = Message { user: ann.as_sender(), text, data: None, key: None, at: 0 };
        let payload = envelope::encode(&Event::Message(message));
        let receipt = hub.broker().publish(&lobby, payload, Delivery::kept()).await?;
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
