//! Faults of presence.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chat_broker::{BrokerError, Departure, MemoryBroker, OccupiedRooms, PresenceTracker};
use chat_core::{Occupancy, Occupant, RoomId, Topic, UserId};
use tokio::time::sleep;

use crate::Fault;
use crate::broker::{Broken, lock};

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
