//! The hub alone: rooms over a broker, for members of any kind. Here they are channels; there is no
//! socket and no server.

use std::sync::Arc;

use chat_broker::{Hub, HubConfig, JoinOptions, MemoryBroker};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, Event, Position, RoomId, Topic,
    User, UserId,
};
use tokio::sync::mpsc;

/// A member receives who said what, and where it did not receive all.
#[derive(Clone)]
struct Member(mpsc::Sender<String>);

impl Deliver for Member {
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        for (event, _position) in batch.events() {
            let line = match event {
                Event::Message(message) => format!("{}: {}", message.user.name, message.text),
                Event::Gap(_) => "(some messages are lost)".to_owned(),
                _ => continue,
            };
            if self.0.try_send(line).is_err() {
                return DeliveryOutcome::Full;
            }
        }
        DeliveryOutcome::Queued
    }

    // The hub drops its handle on a member that it closes. The channel ends with the last one.
    fn close(&self, _: CloseReason) {}

    async fn drained(&self) {
        // There is room for a page, or the receiver was dropped.
        let _ = self.0.reserve_many(self.0.max_capacity().min(256)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (broker, events) = MemoryBroker::connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());

    let room = RoomId::new("lobby")?;
    let lobby = Topic::Room(room.clone());
    let (sender, mut received) = mpsc::channel(300);
    let member = Member(sender);
    let membership =
        hub.join(&lobby, ConnectionId::new(1), member.clone(), JoinOptions::default()).await?;

    let ann = User::new(UserId::new("ann")?, None);
    let mut position = Position::default();
    for text in ["hello", "is anybody here?"] {
        let receipt = hub.publish(&room, ann.as_sender(), text).await?;
        position = receipt.await?.position.unwrap_or_default();
        println!("message {} is taken", position.offset);
        println!("{}", received.recv().await.unwrap_or_default());
    }

    // Dropping the membership leaves the room.
    drop(membership);
    println!("members now: {}", hub.members(&lobby).len());

    // A message that is published now is delivered when the member is back.
    hub.publish(&room, ann.as_sender(), "you missed this").await?.await?;
    let options = JoinOptions::default().since(position);
    let _membership = hub.join(&lobby, ConnectionId::new(1), member, options).await?;
    println!("{}", received.recv().await.unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use chat_broker::{HistoryRules, MemoryBus};
    use chat_core::Retention;

    use super::*;

    /// Another server publishes, in a room that keeps 1,000 messages.
    #[tokio::test]
    async fn member_that_was_away_gets_exactly_what_it_missed() {
        let retention = Retention::default().messages(1_000);
        let config = HubConfig::default().history(HistoryRules::new(Some(retention)));
        let bus = MemoryBus::new();
        let start = || {
            let (broker, events) = bus.connect();
            let (hub, driver) = Hub::<Member>::new(Arc::new(broker), events, config.clone());
            tokio::spawn(driver.run());
            hub
        };
        let (hub, elsewhere) = (start(), start());
        let room = RoomId::new("lobby").unwrap();
        let lobby = Topic::Room(room.clone());
        let ann = User::new(UserId::new("ann").unwrap(), None);
        let publish = async |n: u64| {
            let receipt = elsewhere.publish(&room, ann.as_sender(), &*n.to_string()).await.unwrap();
            receipt.await.unwrap().position.unwrap()
        };
        let position = publish(1).await;
        for n in 2..=301 {
            publish(n).await;
        }

        // 300 messages are more than a page: they are delivered as fast as they are received.
        let (sender, mut received) = mpsc::channel(256);
        let options = JoinOptions::default().since(position);
        let joining = hub.join(&lobby, ConnectionId::new(1), Member(sender), options);
        let receiving = async {
            for n in 2..=301 {
                assert!(received.recv().await.unwrap().ends_with(&format!(": {n}")));
            }
        };
        let (membership, ()) = tokio::join!(joining, receiving);
        publish(302).await;
        assert!(received.recv().await.unwrap().ends_with(": 302"), "and then what is live");
        drop(membership.unwrap());

        // Offline for longer than the room keeps its history.
        for n in 303..=2_000 {
            publish(n).await;
        }
        let (sender, mut received) = mpsc::channel(256);
        let options = JoinOptions::default().since(position).history(2);
        let _membership =
            hub.join(&lobby, ConnectionId::new(1), Member(sender), options).await.unwrap();
        assert_eq!(received.recv().await.unwrap(), "(some messages are lost)");
        for n in [1_999, 2_000] {
            assert!(received.recv().await.unwrap().ends_with(&format!(": {n}")));
        }
    }
}
