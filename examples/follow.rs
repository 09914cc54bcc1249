//! A durable subscription between two processes: one publishes orders, the other processes each of
//! them, also those that were published while it was stopped. It saves its position in a file.
//!
//! ```text
//! follow                        processes orders until it is stopped
//! follow publish ID TEXT        publishes one order, once for each ID
//! ```
//!
//! Over the Redis at `REDIS_URL`, by default the local one. The file is `POSITION_FILE`, by default
//! `orders.position`.

use std::sync::Arc;
use std::{env, fs, io};

use chat_broker::{Broker, Followed, Follower, PublishOptions, RedisBroker, RedisConfig};
use chat_core::{Position, Retention, RoomId, Topic};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

async fn process(url: &str, orders: &Topic, file: &str) -> Result<()> {
    let (broker, events) = RedisBroker::connect(RedisConfig::new(url)).await?;
    let follower = Follower::new(Arc::new(broker), events);
    let saved = match fs::read_to_string(file) {
        Ok(text) => text.parse()?,
        // All that the history has.
        Err(_) => Position::default(),
    };
    let mut follow = follower.follow(orders, Some(saved));
    while let Some(item) = follow.recv().await {
        match &item {
            Followed::Publication { payload, .. } => {
                println!("processed: {}", String::from_utf8_lossy(payload));
            }
            Followed::Gap { .. } => println!("some orders are no longer in the history"),
            _ => {}
        }
        // After the work: an order whose processing was interrupted is processed again.
        if let Some(position) = item.position() {
            save(file, position)?;
        }
    }
    Ok(())
}

/// A write to the file itself empties it first: a process killed in between would leave no position.
/// The rename replaces the file in one step.
fn save(file: &str, position: Position) -> io::Result<()> {
    let new = format!("{file}.new");
    fs::write(&new, position.to_string())?;
    fs::rename(new, file)
}

async fn publish(url: &str, orders: &Topic, id: &str, text: String) -> Result<()> {
    let (broker, _events) = RedisBroker::connect(RedisConfig::new(url)).await?;
    let options = PublishOptions::default().retention(Retention::default()).key(id);
    broker.publish(orders, text.into(), options).await?.await?;
    broker.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let variable = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let url = variable("REDIS_URL", "redis://127.0.0.1/");
    let orders = Topic::Room(RoomId::new("orders")?);
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => process(&url, &orders, &variable("POSITION_FILE", "orders.position")).await,
        [command, id, text @ ..] if command == "publish" => {
            publish(&url, &orders, id, text.join(" ")).await
        }
        _ => Err("usage: follow [publish ID TEXT]".into()),
    }
}
