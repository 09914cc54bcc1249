//! The topics behind one lock: everything that happens in a topic happens under it, so it
//! has one order for all.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chat_core::{History, Occupancy, Occupant, Position, RoomId, Topic, UserId};
use tokio::time::Instant;

use super::history::Budget;
use super::keys::Keys;
use super::topic::TopicState;
use crate::events::EventSender;
use crate::history::HistoryRead;
use crate::publish::{PublishOptions, Published};
use crate::random;

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) topics: HashMap<Topic, TopicState>,
    keys: Keys,
    budget: Arc<Budget>,
    /// Topics kept at most, beside those that a node holds.
    capacity: usize,
    /// The highest version of the occupants of a forgotten topic: if it is used again, its
    /// numbers go on from here.
    version: u64,
}

impl Shard {
    pub(super) fn new(capacity: usize, keys: usize, budget: Arc<Budget>) -> Self {
        // Starts at any number, so that no reader can rely on 1.
        let version = random::bits() >> 32;
        Self { topics: HashMap::new(), keys: Keys::new(keys), budget, capacity, version }
    }

    pub(super) fn publish(
        &mut self,
        topic: &Topic,
        payload: Bytes,
        PublishOptions { retention, key }: PublishOptions,
    ) -> Published {
        let Some(retention) = retention else { return self.hand_on(topic, payload, None) };
        let now = Instant::now();
        let named = key.map(|key| (topic.clone(), key));
        if let Some(known) = named.as_ref().and_then(|named| self.keys.find(named, now)) {
            return Published::repeated(known);
        }
        if !self.topics.contains_key(topic) {
            self.make_room();
        }
        let budget = Arc::clone(&self.budget);
        let position = self.state(topic).keep(payload.clone(), retention, &budget, now);
        if let Some(named) = named {
            self.keys.remember(named, position, now);
        }
        self.hand_on(topic, payload, Some(position))
    }

    pub(super) fn subscribers(&self, topic: &Topic) -> u32 {
        let subscribers = self.topics.get(topic).map_or(0, |state| state.subscribers.len());
        u32::try_from(subscribers).unwrap_or(u32::MAX)
    }

    fn hand_on(&self, topic: &Topic, payload: Bytes, position: Option<Position>) -> Published {
        let subscribers = self.topics.get(topic).map_or(&[][..], |state| &state.subscribers);
        for (_, events) in subscribers {
            events.publication(topic.clone(), payload.clone(), position);
        }
        Published::new(position, self.subscribers(topic))
    }

    /// A subscriber whose queue is full, if there is one.
    pub(super) fn full_subscriber(&self, topic: &Topic) -> Option<Arc<EventSender>> {
        let subscribers = &self.topics.get(topic)?.subscribers;
        subscribers.iter().map(|(_, events)| events).find(|events| events.is_full()).cloned()
    }

    pub(super) fn position(&self, topic: &Topic) -> Position {
        self.topics.get(topic).map(|state| state.position).unwrap_or_default()
    }

    pub(super) fn read(&mut self, read: &HistoryRead) -> History {
        let state = self.topics.get_mut(&read.topic);
        state.map(|state| state.read(read, Instant::now())).unwrap_or_default()
    }

    #[cfg(feature = "testing")]
    pub(super) fn lose(&mut self, topic: &Topic) {
        if let Some(state) = self.topics.get_mut(topic) {
            state.lose();
            self.forget_if_void(topic);
        }
    }

    pub(super) fn subscribe(&mut self, topic: &Topic, node: u64, events: &Arc<EventSender>) {
        self.state(topic).subscribe(node, events);
    }

    pub(super) fn unsubscribe(&mut self, topic: &Topic, node: u64) {
        if let Some(state) = self.topics.get_mut(topic) {
            state.unsubscribe(node);
            self.forget_if_void(topic);
        }
    }

    pub(super) fn enter(&mut self, topic: &Topic, node: u64, occupant: Occupant) {
        self.state(topic).enter(topic, node, occupant);
    }

    pub(super) fn leave(&mut self, topic: &Topic, node: u64, user: &UserId) -> Option<u64> {
        let version = self.topics.get_mut(topic)?.leave(topic, node, user);
        self.forget_if_void(topic);
        version
    }

    pub(super) fn occupancy(&self, topic: &Topic, limit: usize) -> Occupancy {
        self.topics.get(topic).map(|state| state.occupancy(limit)).unwrap_or_default()
    }

    /// The rooms with occupants, and how many each has.
    pub(super) fn occupied(&self) -> impl Iterator<Item = (&RoomId, u32)> {
        self.topics.iter().filter_map(|(topic, state)| {
            let count = state.occupants.count();
            topic.as_room().filter(|_| count > 0).map(|room| (room, count))
        })
    }

    pub(super) fn remove_node(&mut self, node: u64) {
        for (topic, state) in &mut self.topics {
            state.remove_node(topic, node);
        }
        self.retain(|state| !state.is_void());
    }

    /// When each history was last added to, and its size.
    pub(super) fn histories(&self) -> impl Iterator<Item = (u64, usize)> {
        let size = |state: &TopicState| Some((state.used, state.log.as_ref()?.bytes()));
        self.topics.values().filter_map(size)
    }

    /// Drops the histories that were last added to at `used` or before.
    pub(super) fn drop_histories(&mut self, used: u64) {
        for state in self.topics.values_mut().filter(|state| state.used <= used) {
            state.log = None;
        }
    }

    fn state(&mut self, topic: &Topic) -> &mut TopicState {
        let version = self.version;
        let state = || TopicState { version, ..TopicState::default() };
        self.topics.entry(topic.clone()).or_insert_with(state)
    }

    /// Drops the older half of the topics that no node holds when there are too many: one
    /// sweep for half a shard of new topics.
    fn make_room(&mut self) {
        if self.topics.len() < self.capacity {
            return;
        }
        let idle = self.topics.values().filter(|state| !state.is_held());
        let mut used: Vec<u64> = idle.map(|state| state.used).collect();
        if used.is_empty() {
            return;
        }
        let middle = used.len() / 2;
        let (_, &mut median, _) = used.select_nth_unstable(middle);
        self.retain(|state| state.is_held() || state.used > median);
    }

    fn forget_if_void(&mut self, topic: &Topic) {
        if let Some(state) = self.topics.get(topic)
            && state.is_void()
        {
            self.version = self.version.max(state.version);
            self.topics.remove(topic);
        }
    }

    fn retain(&mut self, is_kept: impl Fn(&TopicState) -> bool) {
        let version = &mut self.version;
        self.topics.retain(|_, state| {
            let is_kept = is_kept(state);
            if !is_kept {
                *version = (*version).max(state.version);
            }
            is_kept
        });
    }
}
