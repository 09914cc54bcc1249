//! Members that join with a position, and get what they missed.

mod copies;
mod joins;
mod rejoins;

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::{Call, FaultyBroker};
use chat_broker::{
    BrokerError, HistoryRules, Hub, HubConfig, JoinOptions, Membership, MemoryBroker, MemoryBus,
};
use chat_core::{ConnectionId, Epoch, Position, Retention, Topic};

use crate::support::{Ear, Member, room, say_keeping, start_with};

/// A room that keeps more than a hub holds.
const LONG: Retention = Retention::new(2000, 16 << 20, Duration::from_secs(3600));

/// A hub over a broker with faults, one room, and another node that publishes in it.
struct World {
    hub: Hub<Member>,
    broker: Arc<FaultyBroker>,
    bus: MemoryBus,
    publisher: MemoryBroker,
    topic: Topic,
    retention: Retention,
}

impl World {
    fn new(retention: Retention) -> Self {
        Self::with(HubConfig::default(), retention)
    }

    fn with(config: HubConfig, retention: Retention) -> Self {
        let config = config.history(HistoryRules::new(Some(retention)));
        let bus = MemoryBus::new();
        let (hub, broker) = start_with(&bus, config);
        let publisher = bus.connect().0;
        Self { hub, broker, bus, publisher, topic: room("r"), retention }
    }

    /// Publishes these numbers; returns the position of the last.
    async fn say(&self, numbers: std::ops::RangeInclusive<u64>) -> Position {
        let mut position = Position::default();
        for n in numbers {
            let text = n.to_string();
            position = say_keeping(&self.publisher, &self.topic, &text, self.retention).await;
        }
        position
    }

    async fn join(&self, member: Member, since: Position) -> Joined {
        let options = JoinOptions::default().since(since);
        self.hub.join(&self.topic, ConnectionId::new(1), member, options).await
    }

    fn reads(&self) -> usize {
        self.broker.count(Call::History)
    }
}

type Joined = Result<Membership<Member>, BrokerError>;

impl Ear {
    /// Expects these numbers, each at its offset.
    async fn expect_numbers(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        for n in numbers {
            assert_eq!(self.hear().await, format!("{n} {n}"));
        }
    }
}

/// A position of a sequence that the room never had.
fn elsewhere() -> Position {
    Position { epoch: Epoch::from_random(7), offset: 1 }
}
