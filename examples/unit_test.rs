//! An application that sends to rooms, and its unit test on the in-memory broker: no
//! Redis, no socket, no sleep. Run the test with `cargo test -p examples broken_build`.

use std::sync::Arc;

use chat_broker::{Broker, BrokerError, HistoryRules, MemoryBroker};
use chat_core::{InvalidName, RoomId, Topic, User, UserId, UserName};

/// Part of an application: reports the result of a build to a team's room.
struct BuildBot {
    broker: Arc<dyn Broker>,
    /// Those of the servers: how long each room keeps its messages.
    history: HistoryRules,
    user: User,
}

impl BuildBot {
    fn new(broker: Arc<dyn Broker>) -> Result<Self, InvalidName> {
        let user = User::new(UserId::new("build-bot")?, Some(UserName::new("Build Bot")?));
        Ok(Self { broker, history: HistoryRules::default(), user })
    }

    async fn report(&self, team: &RoomId, passed: bool) -> Result<(), BrokerError> {
        let text = if passed { "the build passed" } else { "the build is broken" };
        let (payload, options) = self.history.prepare(team, self.user.as_sender(), &text.into());
        let topic = Topic::Room(team.clone());
        self.broker.publish(&topic, payload, options).await?.await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In production: `RedisBroker::connect(RedisConfig::new(url)).await?`
    let (broker, _events) = MemoryBroker::connect();
    BuildBot::new(Arc::new(broker))?.report(&RoomId::new("team")?, true).await?;
    println!("reported");
    Ok(())
}

#[cfg(test)]
mod tests {
    use chat_broker::{BrokerEvent, MemoryBus};
    use chat_core::{Event, envelope};

    use super::*;

    #[tokio::test]
    async fn broken_build_is_reported_to_the_team() {
        let bus = MemoryBus::new();
        let (bot, _) = bus.connect();
        let (observer, mut events) = bus.connect();
        let team = RoomId::new("team").unwrap();
        observer.subscribe(&[Topic::Room(team.clone())]).await.unwrap();

        BuildBot::new(Arc::new(bot)).unwrap().report(&team, false).await.unwrap();

        let mut received = Vec::new();
        assert!(events.recv(&mut received).await);
        let BrokerEvent::Publication { payload, .. } = &received[0] else { panic!() };
        let Ok(Event::Message(message)) = envelope::decode(payload) else { panic!() };
        assert_eq!(message.text, "the build is broken");
        assert_eq!(message.user.name, "Build Bot");
    }
}
