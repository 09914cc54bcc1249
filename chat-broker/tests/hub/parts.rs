//! A hub over a broker that leaves out presence.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::{Call, FaultyBroker};
use chat_broker::{
    Broker, BrokerError, HistoryRules, Hub, HubConfig, JoinOptions, MemoryBus, PublishOptions,
    Snapshot,
};
use chat_core::ConnectionId;
use tokio::time::timeout;

use crate::support::{Member, enter, member, occupant, room, said, say, user};

fn without_presence(bus: &MemoryBus, config: HubConfig) -> (Hub<Member>, Arc<FaultyBroker>) {
    let (broker, events) = bus.connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    broker.leave_out_presence();
    let (hub, driver) = Hub::new(Arc::clone(&broker) as Arc<dyn Broker>, events, config);
    tokio::spawn(driver.run());
    (hub, broker)
}

/// With a history, and without: then a room has nothing to read before it goes live.
#[tokio::test(start_paused = true)]
async fn rooms_work_without_presence() {
    for (rules, expected) in [(HistoryRules::default(), "1 x"), (HistoryRules::new(None), "x")] {
        let bus = MemoryBus::new();
        let config = HubConfig::default().history(rules.clone());
        let (hub, broker) = without_presence(&bus, config);
        let topic = room("r");
        let joining = timeout(Duration::from_secs(60), enter(&hub, &topic, 1, "ann"));
        let (ann, mut inbox) = joining.await.expect("the room goes live");
        let (bob, _) = enter(&hub, &topic, 2, "bob").await;
        ann.rename(occupant("ann"));
        bob.with_snapshot(|snapshot: Snapshot<'_, Member>| {
            assert!(snapshot.roster.is_none());
            assert_eq!(snapshot.members.len(), 2);
        });
        let options = PublishOptions::default().retention(rules.of(topic.as_room().unwrap()));
        let receipt = bus.connect().0.publish(&topic, said("x"), options).await.unwrap();
        assert_eq!(receipt.await.unwrap().nodes, 1);
        inbox.expect(&[expected]).await;

        bob.leave().await;
        hub.absent(&topic, &user("ann")).await;
        ann.disconnect();
        inbox.expect_silence().await;
        for call in [Call::Enter, Call::Leave, Call::Occupancy] {
            assert_eq!(broker.count(call), 0, "{call:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn maximum_of_users_needs_presence() {
    let (hub, _) = without_presence(&MemoryBus::new(), HubConfig::default());
    let options = JoinOptions::default().occupant(occupant("ann")).max_users(8);
    let joined = hub.join(&room("r"), ConnectionId::new(1), member(8).0, options).await;
    assert!(matches!(joined, Err(BrokerError::Unsupported("presence"))), "{:?}", joined.err());
}

/// A room is live again for the next first member, while it lingers and after.
#[tokio::test(start_paused = true)]
async fn room_without_history_and_presence_is_joined_again() {
    let bus = MemoryBus::new();
    let config = HubConfig::default().history(HistoryRules::new(None));
    let (hub, _) = without_presence(&bus, config);
    let (topic, publisher) = (room("r"), bus.connect().0);
    for pause in [Duration::ZERO, Duration::from_secs(10)] {
        let (handle, mut inbox) = member(8);
        let joining = hub.join(&topic, ConnectionId::new(1), handle, JoinOptions::default());
        let membership =
            timeout(Duration::from_secs(60), joining).await.expect("it is live").unwrap();
        say(&publisher, &topic, "x").await;
        assert!(inbox.next().await.ends_with('x'));
        drop(membership);
        tokio::time::sleep(pause).await;
    }
}
