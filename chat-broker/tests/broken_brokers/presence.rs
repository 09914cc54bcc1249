//! Faults of presence.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chat_broker::{
    BrokerError, Departure, EnterReceipt, MemoryBroker, OccupiedRooms, PresenceTracker,
};
use chat_core::{Occupancy, Occupant, RoomId, Topic, UserId};
use futures_util::FutureExt;
use tokio::time::sleep;

use crate::Fault;
use crate::broker::{Broken, Held, lock};

#[async_trait]
impl PresenceTracker for Broken {
    fn enter(&self, topic: &Topic, occupant: Occupant) {
        self.hold(topic, &occupant);
        match self.fault {
            Some(Fault::EntersAfterClose) if self.is_closed() => {
                let mut nodes = self.nodes().into_iter();
                let other = nodes.find(|node| !Arc::ptr_eq(node, &self.inner));
                other.expect("another node").enter(topic, occupant);
            }
            Some(Fault::EntersLate) => {
                let (inner, topic) = (Arc::clone(&self.inner), topic.clone());
                tokio::spawn(async move {
                    sleep(Duration::from_millis(1)).await;
                    inner.enter(&topic, occupant);
                });
            }
            _ => self.inner.enter(topic, occupant),
        }
    }

    fn enter_limited(&self, topic: &Topic, occupant: Occupant, max: u32) -> EnterReceipt {
        let is_refused = match self.fault {
            Some(Fault::CountsEachNode) => self.places(topic, |held| held.nodes.len()) >= max,
            Some(Fault::KeepsPlaces) => self.places(topic, |_| 1) >= max,
            _ => false,
        };
        if is_refused {
            return EnterReceipt::ready(Err(BrokerError::RoomFull { max }));
        }
        let limit = if self.has(Fault::AdmitsAll) { u32::MAX } else { max };
        // One in memory answers at once.
        let answer = self.inner.enter_limited(topic, occupant.clone(), limit).now_or_never();
        let answer = answer.expect("an answer");
        if answer.is_ok() {
            self.hold(topic, &occupant);
        }
        EnterReceipt::ready(answer)
    }

    fn leave(&self, topic: &Topic, user: &UserId) -> Departure {
        let departure = self.release(topic, user);
        if self.has(Fault::ForgetsDepartures) { Departure::ready(None) } else { departure }
    }

    async fn occupancy(
        &self,
        topics: &[Topic],
        limit: usize,
    ) -> Result<Vec<Occupancy>, BrokerError> {
        let limit = if self.has(Fault::ListsAllOccupants) { usize::MAX } else { limit };
        let mut occupancies = self.inner.occupancy(topics, limit).await?;
        match self.fault {
            Some(Fault::DropsOccupancy) => drop(occupancies.pop()),
            Some(Fault::RepeatsAnswer) => occupancies.extend(occupancies.last().cloned()),
            Some(Fault::AnswersNextVersion) => {
                occupancies.iter_mut().for_each(|occupancy| occupancy.version += 1);
            }
            _ => {}
        }
        Ok(occupancies)
    }

    async fn rooms(
        &self,
        prefix: &str,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<OccupiedRooms, BrokerError> {
        let prefix = if self.has(Fault::IgnoresPrefix) { "" } else { prefix };
        let mut page = self.inner.rooms(prefix, after, limit).await?;
        if self.has(Fault::ListsOnePage) {
            page.next = None;
        }
        Ok(page)
    }
}

impl Broken {
    fn hold(&self, topic: &Topic, occupant: &Occupant) {
        let mut held = lock(&self.shared.held);
        let held = held.entry((topic.clone(), occupant.user.clone())).or_default();
        held.occupant = Some(occupant.clone());
        held.nodes.insert(self.nth);
    }

    /// The places that are taken by all users who ever were in a topic.
    fn places(&self, topic: &Topic, of_user: impl Fn(&Held) -> usize) -> u32 {
        let held = lock(&self.shared.held);
        let users = held.iter().filter(|((held_topic, _), _)| held_topic == topic);
        u32::try_from(users.map(|(_, held)| of_user(held)).sum::<usize>()).unwrap()
    }

    fn release(&self, topic: &Topic, user: &UserId) -> Departure {
        let mut held = lock(&self.shared.held);
        let Some(held) = held.get_mut(&(topic.clone(), user.clone())) else {
            return self.inner.leave(topic, user);
        };
        held.nodes.remove(&self.nth);
        if !self.has(Fault::AnnouncesEachLeave) {
            return self.inner.leave(topic, user);
        }
        let nodes = self.nodes();
        let others: Vec<&Arc<MemoryBroker>> = held.nodes.iter().map(|nth| &nodes[*nth]).collect();
        for other in &others {
            drop(other.leave(topic, user));
        }
        let departure = self.inner.leave(topic, user);
        for other in others {
            other.enter(topic, held.occupant.clone().expect("it was set"));
        }
        departure
    }

    /// All users leave whom this node holds.
    pub(crate) fn leave_all(&self) {
        let held: Vec<_> = lock(&self.shared.held).keys().cloned().collect();
        for (topic, user) in held {
            drop(self.release(&topic, &user));
        }
    }
}
