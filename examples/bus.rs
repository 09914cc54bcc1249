//! The bus alone: events between processes, without rooms, members or chat messages. A subscriber
//! stops, and after a restart it reads what it missed, from the position that it saved.

use chat_broker::{
    Broker, BrokerError, BrokerEvent, BrokerEvents, HistoryRead, MemoryBroker, MemoryBus,
    PublishOptions,
};
use chat_core::{HistoryRange, Position, Retention, RoomId, Step, Topic};

/// Receives what is published to a topic, once and in order.
struct Subscriber {
    broker: MemoryBroker,
    events: BrokerEvents,
    topic: Topic,
    /// The position of the latest event that was handled: what to save.
    seen: Position,
}

impl Subscriber {
    /// Subscribes before it reads the history, so that no event falls between the two.
    async fn start(bus: &MemoryBus, topic: &Topic, seen: Position) -> Result<Self, BrokerError> {
        let (broker, events) = bus.connect();
        let mut this = Self { broker, events, topic: topic.clone(), seen };
        this.broker.subscribe(std::slice::from_ref(topic)).await?;
        this.catch_up().await?;
        Ok(this)
    }

    async fn catch_up(&mut self) -> Result<(), BrokerError> {
        loop {
            let read =
                HistoryRead::new(self.topic.clone(), HistoryRange::After(self.seen.offset), 100);
            let history = self.broker.history(&[read]).await?.remove(0);
            if !history.follows(self.seen) {
                println!("some events are no longer in the history");
            }
            let is_new_epoch = history.position.epoch != self.seen.epoch;
            if is_new_epoch && self.seen.offset > 0 {
                // The backend has lost the sequence, and offsets begin with 1 again.
                self.seen = Position { offset: 0, ..history.position };
                continue;
            }
            for entry in &history.entries {
                self.handle(Position { offset: entry.offset, ..history.position }, &entry.payload);
            }
            if self.seen.offset >= history.position.offset || history.entries.is_empty() {
                self.seen = history.position;
                return Ok(());
            }
        }
    }

    /// Handles events until the one with this offset.
    async fn follow(&mut self, last: u64) -> Result<(), BrokerError> {
        let mut batch = Vec::new();
        while self.seen.offset < last && self.events.recv(&mut batch).await {
            for event in batch.drain(..) {
                match event {
                    BrokerEvent::Publication { payload, position: Some(position), .. } => {
                        match self.seen.step_to(position) {
                            Step::Next => self.handle(position, &payload),
                            Step::Repeat => {}
                            Step::Gap => self.catch_up().await?,
                        }
                    }
                    BrokerEvent::Lagged(_) | BrokerEvent::Interrupted => self.catch_up().await?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn handle(&mut self, position: Position, payload: &[u8]) {
        println!("{}: {}", position.offset, String::from_utf8_lossy(payload));
        self.seen = position;
    }
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

    let mut mailer = Subscriber::start(&bus, &topic, Position::default()).await?;
    for n in [1, 2] {
        publish(n).await?;
    }
    mailer.follow(2).await?;
    let saved = mailer.seen;
    drop(mailer);

    for n in [3, 4, 4] {
        let published = publish(n).await?;
        println!("published {n}, a repeat: {}", published.repeated);
    }
    let mut mailer = Subscriber::start(&bus, &topic, saved).await?;
    publish(5).await?;
    mailer.follow(5).await?;
    Ok(())
}
