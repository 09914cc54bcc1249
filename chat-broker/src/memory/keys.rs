//! The idempotency keys of recent publications.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chat_core::{Position, Topic};
use tokio::time::Instant;

/// How long the key of a publication is known.
const KNOWN_FOR: Duration = Duration::from_secs(5 * 60);

/// A key, and the topic in which it names a publication.
pub(super) type Named = (Topic, Arc<str>);

/// The answers to the latest publications with a key: beyond `capacity` of them, and after
/// five minutes, the oldest are forgotten.
#[derive(Debug)]
pub(super) struct Keys {
    answers: HashMap<Named, Position>,
    /// Oldest first.
    order: VecDeque<(Instant, Named)>,
    capacity: usize,
}

impl Keys {
    pub(super) fn new(capacity: usize) -> Self {
        Self { answers: HashMap::new(), order: VecDeque::new(), capacity }
    }

    /// The position of the publication with this key, if there was one.
    pub(super) fn find(&mut self, named: &Named, now: Instant) -> Option<Position> {
        while self.order.front().is_some_and(|(at, _)| *at + KNOWN_FOR <= now) {
            self.forget_oldest();
        }
        self.answers.get(named).copied()
    }

    /// Records the position of a publication whose key was not found.
    pub(super) fn remember(&mut self, named: Named, position: Position, now: Instant) {
        if self.order.len() >= self.capacity {
            self.forget_oldest();
        }
        self.answers.insert(named.clone(), position);
        self.order.push_back((now, named));
    }

    fn forget_oldest(&mut self) {
        if let Some((_, named)) = self.order.pop_front() {
            self.answers.remove(&named);
        }
    }
}

#[cfg(test)]
mod tests {
    use chat_core::{Epoch, RoomId};

    use super::*;

    fn named(topic: &str, key: u64) -> Named {
        (Topic::Room(RoomId::new(topic).unwrap()), key.to_string().into())
    }

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::from_random(1), offset }
    }

    fn remember(keys: &mut Keys, topic: &str, key: u64) {
        let now = Instant::now();
        assert_eq!(keys.find(&named(topic, key), now), None);
        keys.remember(named(topic, key), at(key), now);
    }

    fn find(keys: &mut Keys, topic: &str, key: u64) -> Option<Position> {
        keys.find(&named(topic, key), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn idempotency_key_is_known_for_five_minutes() {
        let mut keys = Keys::new(100);
        remember(&mut keys, "a", 1);
        tokio::time::advance(KNOWN_FOR / 2).await;
        remember(&mut keys, "b", 1);
        remember(&mut keys, "a", 2);
        tokio::time::advance(KNOWN_FOR / 2 - Duration::from_millis(1)).await;
        assert_eq!(find(&mut keys, "a", 1), Some(at(1)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(find(&mut keys, "a", 1), None);
        assert_eq!(find(&mut keys, "b", 1), Some(at(1)));
        remember(&mut keys, "a", 1);
        tokio::time::advance(KNOWN_FOR - Duration::from_millis(1)).await;
        assert_eq!(find(&mut keys, "a", 1), Some(at(1)), "the second time starts again");
        assert_eq!(find(&mut keys, "a", 2), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(find(&mut keys, "a", 1), None);
        assert!(keys.answers.is_empty() && keys.order.is_empty());
    }

    #[tokio::test]
    async fn oldest_keys_are_forgotten_first() {
        let mut keys = Keys::new(100);
        for key in 0..1000 {
            remember(&mut keys, "a", key);
        }
        assert!((0..900).all(|key| find(&mut keys, "a", key).is_none()));
        assert!((900..1000).all(|key| find(&mut keys, "a", key) == Some(at(key))));
        assert_eq!((keys.answers.len(), keys.order.len()), (100, 100));
    }
}
