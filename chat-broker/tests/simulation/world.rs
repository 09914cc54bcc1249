//! Carries out a script.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chat_broker::{BrokerError, Membership, Published};
use chat_core::Position;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until};

use crate::simulation::network::Network;
use crate::simulation::node::{self, Entry, Member, Node, PLAIN_ROOM};
use crate::simulation::redis::{Redis, Saved};
use crate::simulation::rng::Rng;
use crate::simulation::script::{Data, Fault, ROOMS, Script, Slot, Step, USERS};

/// How often a publication with a key is repeated.
const ATTEMPTS: usize = 4;

pub(crate) struct World {
    pub(crate) redis: Redis,
    rng: Rng,
    delay: Duration,
    event_queue: usize,
    has_followers: bool,
    holds_messages: bool,
    nodes: Vec<Option<Alive>>,
    /// When nodes that were killed begin again, and Redis.
    due: BTreeMap<Due, Instant>,
    /// A copy of the data, and what Redis gets when it begins again.
    saved: Saved,
    next_data: Option<Saved>,
    /// Networks of nodes that were killed, which may hold something.
    old_networks: Vec<Network>,
    calls: u64,
    /// Where the copies of users who are no longer members end, and since when.
    seen: BTreeMap<(usize, usize), (Position, Instant)>,
    pub(crate) published: Arc<Mutex<Vec<Publication>>>,
    pub(crate) listeners: Vec<Listener>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Node(usize),
    Network(usize),
    Redis,
}

struct Alive {
    node: Node,
    members: BTreeMap<Slot, Joining>,
    followers: Vec<Follower>,
    publishing: Vec<AbortHandle>,
}

type Joined = Result<(Membership<Member>, Member), BrokerError>;

enum Joining {
    /// Since when the member has to receive what is published; from its return if that is not
    /// known.
    UnderWay(JoinHandle<(Joined, Duration)>, Option<Instant>),
    Joined(Membership<Member>),
}

/// The user of followers, who is in no room.
const FOLLOWER: usize = USERS.len();

struct Follower {
    room: usize,
    task: AbortHandle,
    log: Arc<Mutex<Vec<Entry>>>,
    /// Since when it has to receive what is published; from its subscription if that is not known.
    since: Option<Instant>,
    is_listed: bool,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A publication, and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub(crate) room: usize,
    pub(crate) text: String,
    pub(crate) began: Instant,
    /// Of each attempt, and how long it took.
    pub(crate) outcomes: Vec<(Result<Published, BrokerError>, Duration)>,
}

impl Publication {
    /// The answer, if there was one.
    pub(crate) fn acknowledged(&self) -> Option<&Published> {
        self.outcomes.iter().find_map(|(outcome, _)| outcome.as_ref().ok())
    }
}

/// What one member or follower has received, from when it had joined.
pub(crate) struct Listener {
    pub(crate) slot: Slot,
    pub(crate) log: Arc<Mutex<Vec<Entry>>>,
    /// Since when it receives what is published, at once or as it joins.
    pub(crate) joined: Instant,
    pub(crate) is_member: bool,
}

impl Listener {
    /// Where its copy of the room ends.
    fn position(&self) -> Option<Position> {
        let log = self.log.lock().unwrap();
        log.iter().rev().find_map(|entry| match entry {
            Entry::Welcome(position, _) | Entry::Message(position, _) | Entry::Gap(position) => {
                *position
            }
            _ => None,
        })
    }
}

impl World {
    pub(crate) async fn start(seed: u64, script: &Script) -> Self {
        let redis = Redis::start();
        let saved = redis.save();
        let mut world = Self {
            redis,
            rng: Rng::new(!seed),
            delay: script.delay,
            event_queue: script.event_queue,
            has_followers: script.has_followers,
            holds_messages: script.holds_messages,
            nodes: (0..script.nodes).map(|_| None).collect(),
            due: BTreeMap::new(),
            saved,
            next_data: None,
            old_networks: Vec::new(),
            calls: 0,
            seen: BTreeMap::new(),
            published: Arc::default(),
            listeners: Vec::new(),
        };
        for nth in 0..script.nodes {
            world.start_node(nth).await;
        }
        world
    }

    pub(crate) async fn run(&mut self, script: &Script) {
        for (pause, step) in &script.steps {
            self.wait(*pause).await;
            self.take(*step);
        }
    }

    /// Ends all faults, and waits until all has had the time to agree.
    pub(crate) async fn heal(&mut self, lasts: Duration) {
        let now = Instant::now();
        self.due.values_mut().for_each(|due| *due = now);
        self.old_networks.iter().for_each(Network::heal);
        self.wait(lasts).await;
    }

    /// Waits, and does what is due in that time.
    pub(crate) async fn wait(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        while let Some((due, at)) =
            self.due.iter().map(|(due, at)| (*due, *at)).min_by_key(|(due, at)| (*at, *due))
            && at <= until
        {
            sleep_until(at).await;
            self.due.remove(&due);
            match due {
                Due::Node(nth) => self.start_node(nth).await,
                Due::Network(nth) => self.heal_network(nth),
                Due::Redis => match self.next_data.take() {
                    Some(data) => self.redis.restart(Some(data)),
                    None => self.redis.resume(),
                },
            }
        }
        sleep_until(until).await;
        self.note_joined().await;
    }

    /// The nodes that are alive.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten().map(|alive| &alive.node)
    }

    /// The memberships of a room.
    pub(crate) fn members(&self, room: usize) -> impl Iterator<Item = (Slot, &Membership<Member>)> {
        let members = self.nodes.iter().flatten().flat_map(|alive| &alive.members);
        members.filter(move |(slot, _)| slot.2 == room).filter_map(|(slot, member)| match member {
            Joining::Joined(membership) => Some((*slot, membership)),
            Joining::UnderWay(..) => None,
        })
    }

    /// The nodes with members or followers of a room.
    pub(crate) fn listening(&self, room: usize) -> impl Iterator<Item = usize> {
        let is_of_it = move |listener: &&Listener| listener.is_member && listener.slot.2 == room;
        self.listeners.iter().filter(is_of_it).map(|listener| listener.slot.0)
    }

    /// Calls that have not returned.
    pub(crate) fn under_way(&self) -> usize {
        let is_open = |alive: &Alive| {
            let members = alive.members.values();
            members.filter(|member| matches!(member, Joining::UnderWay(..))).count()
                + alive.publishing.iter().filter(|call| !call.is_finished()).count()
        };
        self.nodes.iter().flatten().map(is_open).sum()
    }

    /// Publishes through a node, if it is alive.
    pub(crate) fn publish(&mut self, nth: usize, room: usize, with_key: bool) {
        self.calls += 1;
        let text = format!("message {}", self.calls);
        let Some(alive) = &mut self.nodes[nth] else { return };
        // Only what is kept is known by its key, and may be repeated.
        let key = (with_key && ROOMS[room] != PLAIN_ROOM).then(|| format!("key {}", self.calls));
        let attempts = if key.is_some() { ATTEMPTS } else { 1 };
        let attempt = |_| alive.node.publish(ROOMS[room], &text, key.as_deref());
        let attempts: Vec<_> = (0..attempts).map(attempt).collect();
        let published = Arc::clone(&self.published);
        let index = {
            let mut published = published.lock().unwrap();
            let (began, outcomes) = (Instant::now(), Vec::new());
            published.push(Publication { room, text, began, outcomes });
            published.len() - 1
        };
        let call = tokio::spawn(async move {
            for attempt in attempts {
                let began = Instant::now();
                let outcome = attempt.await;
                let is_over = outcome.is_ok();
                let outcomes = &mut published.lock().unwrap()[index].outcomes;
                outcomes.push((outcome, began.elapsed()));
                if is_over {
                    return;
                }
            }
        });
        alive.publishing.push(call.abort_handle());
    }

    /// Everybody leaves.
    pub(crate) fn leave_all(&mut self) {
        for alive in self.nodes.iter_mut().flatten() {
            alive.members.clear();
            alive.followers.clear();
        }
        self.listeners.iter_mut().for_each(|listener| listener.is_member = false);
    }

    /// What the members have received, and how publications have ended.
    pub(crate) fn trace(&self) -> Vec<String> {
        let received =
            |listener: &Listener| format!("{:?} {:?}", listener.slot, listener.log.lock().unwrap());
        let published = self.published.lock().unwrap();
        let ended = published.iter().map(|one| {
            // Without the number of nodes, which no member sees.
            let position = one.acknowledged().map(|published| published.position);
            format!("{} {position:?}", one.text)
        });
        self.listeners.iter().map(received).chain(ended).collect()
    }

    pub(crate) async fn close(self) {
        for alive in self.nodes.into_iter().flatten() {
            alive.node.close().await;
        }
    }

    async fn start_node(&mut self, nth: usize) {
        let network = Network::new(&self.redis, Rng::new(self.rng.bits()));
        network.set_delay(self.delay);
        let node = Node::start(network, self.event_queue, self.holds_messages).await;
        let rooms = if self.has_followers { 0..ROOMS.len() } else { 0..0 };
        let followers = rooms.map(|room| self.follow(&node, room)).collect();
        let (members, publishing) = (BTreeMap::new(), Vec::new());
        self.nodes[nth] = Some(Alive { node, members, followers, publishing });
    }

    /// Follows a room from where a follower ended that was killed.
    fn follow(&self, node: &Node, room: usize) -> Follower {
        let seen = self.seen.get(&(FOLLOWER, room));
        let log = Arc::default();
        let following = node.follow(ROOMS[room], seen.map(|seen| seen.0), Arc::clone(&log));
        let (task, since) = (tokio::spawn(following).abort_handle(), seen.map(|seen| seen.1));
        Follower { room, task, log, since, is_listed: false }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Join(slot) => self.join(slot),
            Step::Leave(slot) => drop(self.take_member(slot)),
            Step::Lose(slot) => {
                if let Some(Joining::Joined(membership)) = self.take_member(slot) {
                    membership.disconnect();
                }
            }
            Step::Rename(slot) => self.rename(slot),
            Step::Publish { node, room, with_keys, count } => {
                (0..count).for_each(|_| self.publish(node, room, with_keys));
            }
            Step::Network(node, fault, lasts) => self.disturb(node, fault, lasts),
            Step::Kill { node, is_silent, down } => self.kill(node, is_silent, down),
            Step::StopRedis(lasts) => {
                if self.next_data.is_none() {
                    self.redis.pause();
                    self.is_due(Due::Redis, lasts);
                }
            }
            Step::RestartRedis { data, down } => self.restart_redis(data, down),
            Step::KillConnections => self.redis.kill_connections(),
            Step::Clock { forward, by } => self.redis.shift_clock(forward, by),
        }
        if self.rng.chance(10) {
            self.saved = self.redis.save();
        }
    }

    fn is_due(&mut self, due: Due, after: Duration) {
        self.due.insert(due, Instant::now() + after);
    }

    fn join(&mut self, slot: Slot) {
        self.calls += 1;
        let Some(alive) = &mut self.nodes[slot.0] else { return };
        if alive.members.contains_key(&slot) {
            return;
        }
        // Some have kept what they received before, and want what they missed.
        let seen = self.rng.chance(60).then(|| self.seen.get(&(slot.1, slot.2))).flatten();
        let since = seen.map(|(position, _)| *position);
        let joining = alive.node.join(ROOMS[slot.2], self.calls, USERS[slot.1], since);
        let began = Instant::now();
        let call = tokio::spawn(async move { (joining.await, began.elapsed()) });
        alive.members.insert(slot, Joining::UnderWay(call, seen.map(|(_, since)| *since)));
    }

    /// The membership of a slot; a call that is under way is dropped.
    fn take_member(&mut self, slot: Slot) -> Option<Joining> {
        let member = self.nodes[slot.0].as_mut()?.members.remove(&slot)?;
        match &member {
            Joining::UnderWay(call, _) => call.abort(),
            Joining::Joined(_) => self.is_gone(|listener| listener.slot == slot),
        }
        Some(member)
    }

    fn is_gone(&mut self, who: impl Fn(&Listener) -> bool) {
        let is_gone = |listener: &&mut Listener| listener.is_member && who(listener);
        for listener in self.listeners.iter_mut().filter(is_gone) {
            listener.is_member = false;
            if let Some(position) = listener.position() {
                let (_, user, room) = listener.slot;
                self.seen.insert((user, room), (position, Instant::now()));
            }
        }
    }

    fn rename(&mut self, slot: Slot) {
        self.calls += 1;
        let member = self.nodes[slot.0].as_ref().and_then(|alive| alive.members.get(&slot));
        if let Some(Joining::Joined(membership)) = member {
            node::rename(membership, USERS[slot.1], &format!("name {}", self.calls));
        }
    }

    fn disturb(&mut self, nth: usize, fault: Fault, lasts: Duration) {
        let Some(alive) = &self.nodes[nth] else { return };
        let network = &alive.node.network;
        match fault {
            Fault::Reset => network.reset(),
            Fault::HalfOpen => network.reset_from_redis(),
            Fault::Refuse => network.refuse(),
            Fault::Partition => network.partition(),
            Fault::Hold(direction) => network.hold(direction),
            Fault::HoldPresent => network.hold_present(),
            Fault::Slow(delay) => network.set_delay(delay),
        }
        self.is_due(Due::Network(nth), lasts);
    }

    fn heal_network(&mut self, nth: usize) {
        if let Some(alive) = &self.nodes[nth] {
            alive.node.network.heal();
            alive.node.network.set_delay(self.delay);
        }
    }

    fn kill(&mut self, nth: usize, is_silent: bool, down: Duration) {
        let Some(alive) = self.nodes[nth].take() else { return };
        self.is_gone(|listener| listener.slot.0 == nth);
        self.is_due(Due::Node(nth), down);
        let network = alive.node.network.clone();
        if is_silent {
            network.partition();
        } else {
            network.refuse();
            network.reset();
        }
        self.old_networks.push(network);
        alive.publishing.iter().for_each(AbortHandle::abort);
        for member in alive.members.values() {
            if let Joining::UnderWay(call, _) = member {
                call.abort();
            }
        }
        alive.node.kill();
    }

    fn restart_redis(&mut self, data: Data, down: Duration) {
        self.redis.kill();
        self.next_data = Some(match data {
            Data::All => self.redis.save(),
            Data::Nothing => Redis::nothing(),
            Data::Old => std::mem::replace(&mut self.saved, self.redis.save()),
        });
        self.is_due(Due::Redis, down);
    }

    /// Takes note of calls that have joined, and of followers that have begun.
    async fn note_joined(&mut self) {
        for (nth, alive) in self.nodes.iter_mut().enumerate() {
            let Some(alive) = alive else { continue };
            for follower in alive.followers.iter_mut().filter(|follower| !follower.is_listed) {
                if follower.log.lock().unwrap().is_empty() {
                    continue;
                }
                follower.is_listed = true;
                let (slot, log) = ((nth, FOLLOWER, follower.room), Arc::clone(&follower.log));
                let joined = follower.since.unwrap_or_else(Instant::now);
                self.listeners.push(Listener { slot, log, joined, is_member: true });
            }
            let slots: Vec<Slot> = alive.members.keys().copied().collect();
            for slot in slots {
                let Some(Joining::UnderWay(call, since)) = alive.members.get_mut(&slot) else {
                    continue;
                };
                let since = *since;
                if !call.is_finished() {
                    continue;
                }
                let (joined, took) = call.await.unwrap();
                assert!(took <= JOIN_LIMIT, "{slot:?} took {took:?} to join: {joined:?}");
                alive.members.remove(&slot);
                // A member that could not read its pages was closed.
                if let Ok((membership, member)) = joined
                    && !membership.is_detached()
                {
                    let (log, joined) = (member.log, since.unwrap_or_else(Instant::now));
                    self.listeners.push(Listener { slot, log, joined, is_member: true });
                    alive.members.insert(slot, Joining::Joined(membership));
                }
            }
        }
    }
}

/// How long a call that joins may take: it subscribes and reads, each within the deadline, and may
/// wait for calls of others that do.
const JOIN_LIMIT: Duration = Duration::from_secs(20);
