//! The bus alone: events between processes, without rooms, members or chat messages. A subscriber
//! stops, and after a restart it receives what it missed, from the position that it saved.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::{Broker, Follow, Followed, Follower, MemoryBus, PublishOptions};
use chat_core::{Position, Retention, RoomId, Topic};

/// Handles the next items of the stream; returns the position to save.
async fn handle(follow: &mut Follow, items: usize) -> Option<Position> {
    for _ in 0..items {
        match follow.recv().await? {
            Followed::Publication { payload, .. } => {
                println!("received: {}", String::from_utf8_lossy(&payload));
            }
            Followed::Gap { .. } => println!("some events are no longer in the history"),
            _ => {}
        }
    }
    follow.position()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In production: `RedisBroker::connect(RedisConfig::new(url)).await?`, once for each process.
    let bus = MemoryBus::new();
    let topic = Topic::Room(RoomId::new("orders")?);
    let (shop, _events) = bus.connect();
    let publish = async |n: u32| {
        // The key makes a retry safe: it is published once.
        let key = format!("shop {n}");
        let options = PublishOptions::default().retention(Retention::default()).key(key);
        shop.publish(&topic, format!("order {n} is paid").into(), options).await?.await
    };

    let (broker, events) = bus.connect();
    let mailer = Follower::new(Arc::new(broker), events);
    let mut follow = mailer.follow(&topic, Some(Position::default()));
    for n in [1, 2] {
        // With the same key: what was published before an error is not published again.
        while let Err(error) = publish(n).await {
            println!("order {n} is not published yet: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let saved = handle(&mut follow, 2).await;
    drop(follow);

    for n in [3, 4, 4] {
        let published = publish(n).await?;
        println!("published {n}, a repeat: {}", published.repeated);
    }
    let mut follow = mailer.follow(&topic, saved);
    publish(5).await?;
    handle(&mut follow, 3).await;
    Ok(())
}
