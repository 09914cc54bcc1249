//! A broker of one's own: anything that can carry bytes between servers. This one is a
//! list of channels behind a lock; it then runs the suite that every broker must pass.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::testing::conformance;
use chat_broker::{
    Broker, BrokerError, BrokerEvents, Delivery, EventSender, Published, Receipt, Status, events,
};
use chat_core::{Epoch, Position, Topic};

/// What all nodes share.
#[derive(Debug, Default)]
struct Bus {
    positions: HashMap<Topic, Position>,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    topics: HashSet<Topic>,
    /// Taken away when the node is closed, which ends its events.
    events: Option<EventSender>,
}

/// One node's handle on the bus.
#[derive(Debug)]
struct ListBroker {
    bus: Arc<Mutex<Bus>>,
    index: usize,
}

impl ListBroker {
    fn connect(bus: &Arc<Mutex<Bus>>) -> (Self, BrokerEvents) {
        let (sender, receiver) = events::channel(8192);
        let mut nodes = bus.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.nodes.push(Node { topics: HashSet::new(), events: Some(sender) });
        (Self { bus: Arc::clone(bus), index: nodes.nodes.len() - 1 }, receiver)
    }

    /// The bus, unless this node was closed.
    fn open(&self) -> Result<MutexGuard<'_, Bus>, BrokerError> {
        let bus = self.bus.lock().unwrap_or_else(PoisonError::into_inner);
        if bus.nodes[self.index].events.is_some() { Ok(bus) } else { Err(BrokerError::Closed) }
    }
}

#[async_trait]
impl Broker for ListBroker {
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        delivery: Delivery,
    ) -> Result<Receipt, BrokerError> {
        // One lock around giving the offset and handing the message on: one order for all.
        let mut bus = self.open()?;
        let position = (delivery == Delivery::kept()).then(|| {
            let start = Position { epoch: Epoch::from_random(1), offset: 0 };
            let position = bus.positions.entry(topic.clone()).or_insert(start);
            position.offset += 1;
            *position
        });
        let mut nodes = 0;
        for node in bus.nodes.iter().filter(|node| node.topics.contains(topic)) {
            if let Some(events) = &node.events {
                // A node that reads too slowly is told what it missed by the queue itself.
                events.publication(topic.clone(), payload.clone(), position);
                nodes += 1;
            }
        }
        Ok(Receipt::ready(Ok(Published { position, nodes })))
    }

    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        self.open()?.nodes[self.index].topics.extend(topics.iter().cloned());
        Ok(())
    }

    async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        let mut bus = self.open()?;
        for topic in topics {
            bus.nodes[self.index].topics.remove(topic);
        }
        Ok(())
    }

    async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
        let bus = self.open()?;
        let position = |topic| bus.positions.get(topic).copied().unwrap_or_default();
        Ok(topics.iter().map(position).collect())
    }

    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        // A real one makes it once, at random, and keeps it where all nodes find it.
        self.open().map(|_| [7; 32])
    }

    fn status(&self) -> Status {
        self.open().map_or(Status::Closed, |_| Status::Ready)
    }

    async fn close(&self) {
        if let Ok(mut bus) = self.open() {
            let node = &mut bus.nodes[self.index];
            node.events = None;
            node.topics.clear();
        }
    }
}

#[tokio::main]
async fn main() {
    let bus = Arc::new(Mutex::new(Bus::default()));
    conformance::run(async || {
        let (broker, events) = ListBroker::connect(&bus);
        (Arc::new(broker) as Arc<dyn Broker>, events)
    })
    .await;
    println!("the broker keeps its promises");
}
