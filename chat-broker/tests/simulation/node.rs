//! A node: a hub over the Redis broker, with a network of its own, and members that keep what they
//! receive. Every call of the crate's API by the simulation is here.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::{
    Broker, BrokerError, Followed, HistoryRules, Hub, HubConfig, JoinOptions, Membership,
    PresenceTracker, PublishOptions, Published, RedisBroker, RedisConfig, Snapshot, Status,
};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome as Delivered, Event, Message,
    Occupant, Position, Presence, PresenceChange, Retention, RoomId, Sender, Topic, UserId,
    envelope,
};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::simulation::network::Network;

/// The deadline of the broker: the default.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// The room that keeps few messages: what a node has missed for long is trimmed.
pub(crate) const SHORT_ROOM: &str = "short";

/// The room that keeps no history.
pub(crate) const PLAIN_ROOM: &str = "plain";

pub(crate) struct Node {
    pub(crate) network: Network,
    broker: Arc<RedisBroker>,
    hub: Hub<Member>,
    driver: AbortHandle,
}

impl Node {
    pub(crate) async fn start(network: Network, event_queue: usize, holds_messages: bool) -> Self {
        let config = RedisConfig::new("redis://simulated").dial(network.dial()).deadline(DEADLINE);
        let config = config.event_queue(event_queue);
        let (broker, events) = RedisBroker::connect(config).await.unwrap();
        let broker = Arc::new(broker);
        let few = Retention::default().messages(8);
        let history = HistoryRules::default().class(SHORT_ROOM, Some(few)).class(PLAIN_ROOM, None);
        let shared = Arc::clone(&broker) as Arc<dyn Broker>;
        let mut config = HubConfig::default().history(history);
        if !holds_messages {
            config = config.recent_bytes(0);
        }
        let (hub, driver) = Hub::new(shared, events, config);
        let driver = tokio::spawn(driver.run()).abort_handle();
        Self { network, broker, hub, driver }
    }

    /// A call that joins, with what follows on `since` if that is given; see [`Member::log`] for
    /// what comes of it.
    pub(crate) fn join(
        &self,
        room: &str,
        id: u64,
        user: &str,
        since: Option<Position>,
    ) -> impl Future<Output = Result<(Membership<Member>, Member), BrokerError>> + Send + 'static
    {
        let (hub, topic, occupant) = (self.hub.clone(), topic(room), occupant(user, user));
        async move {
            let member = Member::default();
            let first = member.clone();
            let on_snapshot = move |snapshot: &Snapshot<'_, Member>| {
                let position = since.or(snapshot.position);
                first.log.lock().unwrap().push(Entry::Welcome(position, listed(snapshot)));
                if let Some(batch) = snapshot.batch() {
                    first.deliver(&batch);
                }
            };
            let options = JoinOptions::default().occupant(occupant).since(since);
            let joining =
                hub.join_with(&topic, ConnectionId::new(id), member.clone(), options, on_snapshot);
            Ok((joining.await?, member))
        }
    }

    /// Follows a room, and keeps what follows on `since` in the log; the log is empty until the room
    /// is subscribed.
    pub(crate) fn follow(
        &self,
        room: &str,
        since: Option<Position>,
        log: Arc<Mutex<Vec<Entry>>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut follow = self.hub.follow(&topic(room), since);
        async move {
            if follow.subscribed().await.is_err() {
                return;
            }
            let position = since.or(follow.position());
            log.lock().unwrap().push(Entry::Welcome(position, Vec::new()));
            while let Some(item) = follow.recv().await {
                log.lock().unwrap().push(match item {
                    Followed::Publication { payload, position, .. } => {
                        match envelope::decode(&payload) {
                            Ok(Event::Message(message)) => {
                                Entry::Message(position, message.text.to_owned())
                            }
                            other => panic!("nothing else is published: {other:?}"),
                        }
                    }
                    Followed::Gap { to, .. } => Entry::Gap(to),
                    other => panic!("{other:?}"),
                });
                // Some are slower than the room.
                sleep(Duration::from_millis(3)).await;
            }
        }
    }

    /// A call that publishes; resolves with the receipt.
    pub(crate) fn publish(
        &self,
        room: &str,
        text: &str,
        key: Option<&str>,
    ) -> impl Future<Output = Result<Published, BrokerError>> + Send + 'static {
        let (broker, topic, payload) = (Arc::clone(&self.broker), topic(room), message(text));
        let mut options = PublishOptions::default();
        if let Some(retention) = self.hub.retention(&RoomId::new(room).unwrap()) {
            options = options.retention(retention);
        }
        if let Some(key) = key {
            options = options.key(key);
        }
        async move { broker.publish(&topic, payload, options).await?.await }
    }

    /// Who is in a room according to Redis, under which names.
    pub(crate) async fn occupants(&self, room: &str) -> Result<Vec<String>, BrokerError> {
        let occupancies = self.broker.occupancy(&[topic(room)], 1000).await?;
        let names = occupancies[0].occupants.iter().map(|one| name_of(&one.info));
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(names)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.broker.status() == Status::Ready
    }

    /// Ends as a process that is killed: what was not sent is lost.
    pub(crate) fn kill(self) {
        self.driver.abort();
    }

    pub(crate) async fn close(self) {
        self.broker.close().await;
    }
}

/// Names the user of a membership differently.
pub(crate) fn rename(membership: &Membership<Member>, user: &str, name: &str) {
    membership.rename(occupant(user, name));
}

/// Who is on the roster of a member's hub.
pub(crate) fn roster(membership: &Membership<Member>) -> Vec<String> {
    let mut names = Vec::new();
    membership.with_snapshot(|snapshot| names = listed(&snapshot));
    names
}

/// What a member has received, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The beginning: where the member's copy of the room ends, and who was in it.
    Welcome(Option<Position>, Vec<String>),
    Message(Option<Position>, String),
    Gap(Option<Position>),
    Joined(String),
    Renamed(String),
    Left(String),
    Closed,
}

/// A member that keeps what it receives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) log: Arc<Mutex<Vec<Entry>>>,
}

impl Deliver for Member {
    fn deliver(&self, batch: &Batch) -> Delivered {
        let mut log = self.log.lock().unwrap();
        for (event, position) in batch.events() {
            log.push(match event {
                Event::Message(message) => Entry::Message(position, message.text.to_owned()),
                Event::Gap(position) => Entry::Gap(position),
                Event::Presence(Presence { user, change, .. }) => match change {
                    PresenceChange::Joined => Entry::Joined(named(&user)),
                    PresenceChange::Renamed => Entry::Renamed(named(&user)),
                    PresenceChange::Left => Entry::Left(named(&user)),
                    other => panic!("no other change is sent: {other:?}"),
                },
                other => panic!("nothing else is sent: {other:?}"),
            });
        }
        Delivered::Queued
    }

    fn close(&self, _: CloseReason) {
        self.log.lock().unwrap().push(Entry::Closed);
    }
}

fn listed(snapshot: &Snapshot<'_, Member>) -> Vec<String> {
    let listed = snapshot.roster.and_then(|roster| roster.listed());
    let mut names: Vec<_> = listed.into_iter().flatten().map(|(_, info)| name_of(info)).collect();
    names.sort();
    names
}

pub(crate) fn topic(room: &str) -> Topic {
    Topic::Room(RoomId::new(room).unwrap())
}

fn message(text: &str) -> Bytes {
    let user = Sender::new("u", "U", "#FFFFFF");
    envelope::encode(&Event::Message(Message::new(user, text, 0)))
}

fn occupant(id: &str, name: &str) -> Occupant {
    let user = Sender::new(id, name, "#FFFFFF");
    let presence = Presence::new(user, PresenceChange::Joined, true);
    let info = envelope::encode(&Event::Presence(presence));
    Occupant::new(UserId::new(id).unwrap(), info)
}

fn name_of(info: &Bytes) -> String {
    match envelope::decode(info) {
        Ok(Event::Presence(presence)) => named(&presence.user),
        other => panic!("the info of an occupant is a presence: {other:?}"),
    }
}

/// The id and the name of a user: `ann=Ann`.
fn named(user: &Sender<'_>) -> String {
    format!("{}={}", user.id, user.name)
}
