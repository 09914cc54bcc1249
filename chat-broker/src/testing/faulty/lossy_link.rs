//! A link between a broker and its node that loses or holds events.

use std::sync::Arc;

use chat_core::Topic;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::events::{self, BrokerEvent, BrokerEvents, EventSender};

/// Events that the link holds before it stops reading from the broker.
const CAPACITY: usize = 8192;

/// What the node receives instead of a lost event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LossNotice {
    /// Nothing: a loss that no broker may have, but that its bugs may.
    #[default]
    Nothing,
    /// [`BrokerEvent::Lagged`], with the topic.
    Lagged,
    /// [`BrokerEvent::Interrupted`].
    Interrupted,
}

/// The way of events from a broker to its node.
#[derive(Debug)]
pub(super) struct LossyLink {
    losses: Arc<Losses>,
    is_held: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Losses {
    publications: LossCount,
    presence: LossCount,
}

/// The number of events still to be lost, and the notice of each.
#[derive(Debug, Default)]
struct LossCount(Mutex<(usize, LossNotice)>);

impl LossyLink {
    pub(super) fn new(from: BrokerEvents) -> (Self, BrokerEvents) {
        let (to, events) = events::channel(CAPACITY);
        let lossy_link = Self { losses: Arc::default(), is_held: watch::Sender::default() };
        tokio::spawn(carry(
            from,
            to,
            Arc::clone(&lossy_link.losses),
            lossy_link.is_held.subscribe(),
        ));
        (lossy_link, events)
    }

    pub(super) fn lose_publications(&self, n: usize, notice: LossNotice) {
        *self.losses.publications.lock() = (n, notice);
    }

    pub(super) fn lose_presence(&self, n: usize, notice: LossNotice) {
        *self.losses.presence.lock() = (n, notice);
    }

    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.send_replace(is_held);
    }
}

async fn carry(
    mut from: BrokerEvents,
    to: EventSender,
    losses: Arc<Losses>,
    mut is_held: watch::Receiver<bool>,
) {
    let mut batch = Vec::new();
    while from.recv(&mut batch).await {
        for event in batch.drain(..) {
            to.not_full().await;
            // An error means that the broker was dropped: then nothing is held.
            let _ = is_held.wait_for(|is_held| !is_held).await;
            losses.pass(event, &to);
        }
    }
}

impl Losses {
    fn pass(&self, event: BrokerEvent, to: &EventSender) {
        match event {
            BrokerEvent::Publication { topic, payload, position } => {
                match self.publications.take() {
                    Some(notice) => notice.report(topic, to),
                    None => drop(to.publication(topic, payload, position)),
                }
            }
            BrokerEvent::Presence { topic, change, occupant, version, count } => {
                match self.presence.take() {
                    Some(notice) => notice.report(topic, to),
                    None => drop(to.presence(topic, change, occupant, version, count)),
                }
            }
            BrokerEvent::Lagged(topics) => to.lagged(topics),
            BrokerEvent::Interrupted => to.interrupted(),
            BrokerEvent::RecordsChanged => to.records_changed(),
        }
    }
}

impl LossCount {
    fn lock(&self) -> MutexGuard<'_, (usize, LossNotice)> {
        self.0.lock()
    }

    /// The notice of this event, if it is lost.
    fn take(&self) -> Option<LossNotice> {
        let mut loss = self.lock();
        let (left, notice) = *loss;
        *loss = (left.checked_sub(1)?, notice);
        Some(notice)
    }
}

impl LossNotice {
    fn report(self, topic: Topic, to: &EventSender) {
        match self {
            Self::Nothing => {}
            Self::Lagged => to.lagged(vec![topic]),
            Self::Interrupted => to.interrupted(),
        }
    }
}
