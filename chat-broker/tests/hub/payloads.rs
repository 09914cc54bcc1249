//! Payloads that are no chat envelope.

use std::sync::Arc;

use bytes::Bytes;
use chat_broker::{Broker, Hub, HubConfig, JoinOptions, MemoryBus};
use chat_core::{Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, Item, Position};
use tokio::sync::mpsc;

use crate::support::{persistent, room};

/// Receives the payloads with their positions, and a gap as nothing at its position.
#[derive(Clone)]
struct Raw(mpsc::UnboundedSender<(Option<Bytes>, Option<Position>)>);

impl Deliver for Raw {
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        for item in batch.items() {
            let payload = match item {
                Item::Envelope(payload, _) => Some(payload.clone()),
                _ => None,
            };
            let _ = self.0.send((payload, item.position()));
        }
        let payloads = batch.items().iter().filter(|item| matches!(item, Item::Envelope(..)));
        assert_eq!(batch.payloads().count(), payloads.count());
        DeliveryOutcome::Queued
    }

    fn close(&self, _: CloseReason) {}
}

/// In live batches, in the snapshot and in pages, with and without a position.
#[tokio::test(start_paused = true)]
async fn payloads_of_ones_own_arrive_as_they_were_published() {
    const MISSED: u8 = 200;
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());
    let (publisher, topic) = (bus.connect().0, room("moves"));
    let publish = async |payload: &[u8], options| {
        let payload = Bytes::copy_from_slice(payload);
        publisher.publish(&topic, payload, options).await.unwrap().await.unwrap()
    };
    // More bytes than one page has. The first is what an envelope begins with.
    let large = |n: u8| vec![n; 4_000];
    let mut first = None;
    for n in 0..MISSED {
        first = first.or(publish(&large(n), persistent()).await.position);
    }
    let before = Position { offset: 0, ..first.unwrap() };

    let join = async |id, since: Option<Position>| {
        let (received, inbox) = mpsc::unbounded_channel();
        let options = JoinOptions::default().since(since);
        let joining = hub.join(&topic, ConnectionId::new(id), Raw(received), options);
        (joining.await.unwrap(), inbox)
    };
    let (_paged, mut paged) = join(1, Some(before)).await;
    let (_live, mut live) = join(2, None).await;
    publish(&[], persistent()).await;
    publish(&[0xff], chat_broker::PublishOptions::default()).await;
    let latest = Position { offset: u64::from(MISSED), ..before };
    let (_snapshot, mut snapshot) = join(3, Some(latest)).await;

    let at = |offset| Some(Position { offset, ..before });
    for n in 0..MISSED {
        let offset = u64::from(n) + 1;
        assert_eq!(paged.recv().await, Some((Some(large(n).into()), at(offset))));
    }
    let last = Some((Some(Bytes::new()), at(u64::from(MISSED) + 1)));
    for received in [&mut paged, &mut live, &mut snapshot] {
        assert_eq!(received.recv().await, last);
    }
    for received in [&mut paged, &mut live] {
        assert_eq!(received.recv().await, Some((Some(Bytes::from_static(&[0xff])), None)));
    }
    assert_eq!(hub.stats().gaps, 0);
}
