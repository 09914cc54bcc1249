//! The roster of a snapshot and the changes after it are the roster of the room.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::{Call, FaultyBroker, LossNotice};
use chat_broker::{
    HistoryRules, Hub, HubConfig, JoinOptions, Membership, MemoryBroker, MemoryBus, PresenceTracker,
};
use chat_core::{ConnectionId, Position, Retention, Topic};
use futures_util::future::join_all;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use crate::roster_copy::{RosterCopy, is_copied};
use crate::support::{named, occupant, room, say_keeping, start_with, user};

/// A hub over a broker with faults, and another node.
struct World {
    hub: Hub<RosterCopy>,
    broker: Arc<FaultyBroker>,
    other: MemoryBroker,
    topic: Topic,
    /// So many that a batch is on its way for several turns of the driver.
    crowd: Vec<(Membership<RosterCopy>, RosterCopy)>,
}

impl World {
    /// With `ann` and `bob` in a room.
    async fn new() -> Self {
        let bus = MemoryBus::new();
        let history = HistoryRules::new(Some(LONG));
        let (hub, broker) = start_with(&bus, HubConfig::default().history(history));
        let (other, topic) = (bus.connect().0, room("r"));
        other.enter(&topic, occupant("ann"));
        other.enter(&topic, occupant("bob"));
        let mut crowd = Vec::new();
        for id in 100..500 {
            crowd.push(join(&hub, &topic, id, JoinOptions::default()).await);
        }
        Self { hub, broker, other, topic, crowd }
    }

    /// Changes the occupants while a batch is on its way: returns when the hub has the changes, and
    /// no batch has them.
    async fn change(&self) {
        self.say(&["on its way"]).await;
        let has = |(_, copy): &(_, RosterCopy)| copy.log().contains(&"on its way".to_owned());
        while !has(&self.crowd[0]) {
            yield_now().await;
        }
        self.say(&["pending"]).await;
        self.other.leave(&self.topic, &user("ann"));
        self.other.enter(&self.topic, named("bob", "Bobby"));
        self.other.enter(&self.topic, occupant("cid"));
        while !self.lists("cid") {
            yield_now().await;
        }
        assert!(!self.crowd.iter().all(has), "it is no longer on its way");
    }

    fn lists(&self, name: &str) -> bool {
        let mut lists = false;
        self.crowd[0].0.with_snapshot(|snapshot| {
            lists = snapshot.roster.unwrap().listed().unwrap().contains_key(&user(name));
        });
        lists
    }

    async fn join(&self, options: JoinOptions) -> (Membership<RosterCopy>, RosterCopy) {
        join(&self.hub, &self.topic, 1, options).await
    }

    /// Waits until all that has happened is delivered.
    async fn settle(&self) {
        sleep(Duration::from_secs(1)).await;
    }

    async fn assert_copied(&self, copy: &RosterCopy, log: &[&str]) {
        self.settle().await;
        assert_eq!(
            (copy.faults(), copy.log()),
            (vec![], log.iter().map(|s| s.to_string()).collect())
        );
        assert!(self.is_copied(copy), "{copy:?}");
    }

    fn is_copied(&self, copy: &RosterCopy) -> bool {
        is_copied(&self.crowd[0].0, copy)
    }

    async fn say(&self, texts: &[&str]) -> Position {
        let mut position = Position::default();
        for text in texts {
            position = say_keeping(&self.other, &self.topic, text, LONG).await;
        }
        position
    }
}

/// A room that keeps more than a hub holds.
const LONG: Retention = Retention::new(2000, 16 << 20, Duration::from_secs(3600));

async fn join(
    hub: &Hub<RosterCopy>,
    topic: &Topic,
    id: u64,
    options: JoinOptions,
) -> (Membership<RosterCopy>, RosterCopy) {
    let copy = RosterCopy::default();
    let joining = hub.join_with(topic, ConnectionId::new(id), copy.clone(), options, copy.joiner());
    (joining.await.unwrap(), copy)
}

#[tokio::test(start_paused = true)]
async fn batch_is_delivered_without_the_changes_in_the_roster_of_a_snapshot() {
    let world = World::new().await;
    world.change().await;
    let (_late, copy) = world.join(JoinOptions::default()).await;
    world.other.enter(&world.topic, occupant("dan"));
    world.other.leave(&world.topic, &user("cid"));
    world.assert_copied(&copy, &["pending", "+dan", "-cid"]).await;
}

/// The answer of the broker arrives while changes are pending.
#[tokio::test(start_paused = true)]
async fn roster_of_a_limited_join_is_followed_by_later_changes_alone() {
    let world = World::new().await;
    world.broker.hold_next(Call::EnterLimited, 1);
    let options = JoinOptions::default().occupant(occupant("eve")).max_users(9);
    let joining = world.join(options);
    let changing = async {
        while world.broker.count(Call::EnterLimited) == 0 {
            yield_now().await;
        }
        world.change().await;
        world.broker.release(Call::EnterLimited);
    };
    let ((_late, copy), ()) = tokio::join!(joining, changing);
    world.assert_copied(&copy, &["pending"]).await;
}

#[tokio::test(start_paused = true)]
async fn roster_of_a_rejoin_is_followed_by_later_changes_alone() {
    let world = World::new().await;
    let here = world.say(&["1"]).await;
    let (mut membership, former) = world.join(JoinOptions::default()).await;
    world.settle().await;
    world.change().await;
    let copy = RosterCopy::default();
    let options = JoinOptions::default().since(here);
    membership.rejoin_with(copy.clone(), options, copy.joiner()).await.unwrap();
    world.other.enter(&world.topic, occupant("dan"));
    world.assert_copied(&copy, &["pending", "+dan"]).await;
    assert!(!former.log().contains(&"+dan".to_owned()));
}

/// Changes before the first page, between two pages, and before the member is live.
#[tokio::test(start_paused = true)]
async fn member_that_reads_pages_receives_the_changes_after_its_roster() {
    let world = World::new().await;
    let texts: Vec<_> = (1..=600).map(|n| n.to_string()).collect();
    world.say(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world.settle().await;
    world.broker.delay(Call::History, Duration::from_millis(10));
    let options = JoinOptions::default().since(Position::default());
    let changing = async {
        world.change().await;
        sleep(Duration::from_millis(15)).await;
        world.other.enter(&world.topic, occupant("dan"));
        sleep(Duration::from_millis(10)).await;
        world.other.enter(&world.topic, occupant("eve"));
        world.other.leave(&world.topic, &user("dan"));
    };
    let ((_late, copy), ()) = tokio::join!(world.join(options), changing);
    world.other.leave(&world.topic, &user("eve"));
    world.settle().await;
    let changes: Vec<_> =
        copy.log().into_iter().filter(|entry| entry.starts_with(['+', '-', '~'])).collect();
    assert_eq!(changes, ["+dan", "+eve", "-dan", "-eve"]);
    assert!(world.is_copied(&copy) && copy.faults().is_empty(), "{copy:?}");
}

/// No page takes the changes while the server is behind the member. The client has read all that it was
/// sent.
#[tokio::test(start_paused = true)]
async fn member_that_lacks_too_many_changes_of_a_wait_is_no_slow_consumer() {
    let world = World::new().await;
    let here = world.say(&["1"]).await;
    let ahead = Position { offset: 2, ..here };
    world.settle().await;
    world.broker.lose_publications(1, LossNotice::Nothing);
    world.say(&["2"]).await;
    let changing = async {
        for _ in 0..600 {
            world.other.enter(&world.topic, occupant("dan"));
            sleep(Duration::from_millis(1)).await;
            world.other.leave(&world.topic, &user("dan"));
            sleep(Duration::from_millis(1)).await;
        }
        world.say(&["3"]).await;
    };
    let options = JoinOptions::default().since(ahead);
    let ((membership, copy), ()) = tokio::join!(world.join(options), changing);
    assert_eq!(copy.faults(), ["InternalError"]);
    assert!(copy.log().is_empty());
    assert!(membership.is_detached());
    assert_eq!(world.hub.stats().slow_consumers, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_joins_all_have_the_roster_of_the_room() {
    const MEMBERS: u64 = 400;
    let (hub, _) = start_with(&MemoryBus::new(), HubConfig::default().presence_limit(1000));
    let joins = (0..MEMBERS).map(|id| {
        let hub = hub.clone();
        tokio::spawn(async move {
            let options = JoinOptions::default().occupant(occupant(&id.to_string()));
            join(&hub, &room("r"), id, options).await
        })
    });
    let joined: Vec<_> = join_all(joins).await.into_iter().map(Result::unwrap).collect();
    let all_agree = async {
        while !joined.iter().all(|(membership, copy)| is_copied(membership, copy)) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), all_agree).await.expect("copies of the roster");
    for (_, copy) in &joined {
        assert!(copy.faults().is_empty(), "{:?} of {:?}", copy.faults(), copy.log());
    }
}
