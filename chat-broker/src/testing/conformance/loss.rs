//! A node that reads too slowly.

use chat_core::{HistoryRange, Retention, Topic};
use futures_util::future::join_all;

use super::Bus;
use super::node::{Node, room};
use crate::events::BrokerEvent;
use crate::publish::PublishOptions;

/// More than the queue of a node is expected to hold: a longer one is not overrun, and then there
/// is nothing to report.
const FLOOD: u32 = 12_000;

/// So many are under way at the same time: a broker that makes publishers wait for a full queue
/// makes them wait together.
const BURST: u32 = 4_000;

/// A node that reads too slowly receives each publication once, in order, or
/// [`Lagged`](BrokerEvent::Lagged) with the topic, or [`Interrupted`](BrokerEvent::Interrupted),
/// before anything that was published after the lost one; and it can read the lost ones from the
/// history.
///
/// Calls `publish`, `subscribe` and `history`.
pub async fn lost_publications_are_reported(bus: &impl Bus) {
    let (publisher, mut node) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("slow");
    node.subscribe(std::slice::from_ref(&topic)).await;
    flood(&publisher, &topic).await;
    // In a broker with one connection for publications and confirmations, this is confirmed after
    // the flood was queued or dropped.
    node.subscribe(&[room("behind the flood")]).await;

    // Taking the first event empties the queue: there is room for what was published afterwards.
    let mut event = node.event().await;
    let after = publisher.deliver(&topic, "after", delivery()).await.position;
    let after = after.expect("a position").offset;
    assert_eq!(after, u64::from(FLOOD) + 1);
    let (mut last, mut is_reported) = (0, false);
    loop {
        match event {
            BrokerEvent::Publication { position, .. } => {
                let offset = position.expect("a position").offset;
                assert!(offset > last, "{offset} after {last}");
                assert!(
                    offset == last + 1 || is_reported,
                    "{offset} after {last}, and what was lost in between was not reported"
                );
                (last, is_reported) = (offset, false);
            }
            BrokerEvent::Lagged(topics) => is_reported |= topics.contains(&topic),
            BrokerEvent::Interrupted => is_reported = true,
            other => panic!("expected a publication or the report of a loss, got {other:?}"),
        }
        if last == after {
            break;
        }
        event = node.event().await;
    }
    let history = node.history(&topic, HistoryRange::After(0), FLOOD).await;
    let offsets = history.entries.iter().map(|entry| entry.offset);
    assert!(offsets.eq(1..=u64::from(FLOOD)), "what was lost is in the history");
}

/// The whole flood is kept.
fn delivery() -> PublishOptions {
    let retention = Retention::default().messages(2 * FLOOD).bytes(usize::MAX);
    PublishOptions::default().retention(retention)
}

async fn flood(publisher: &Node, topic: &Topic) {
    for _ in 0..FLOOD / BURST {
        let calls = (0..BURST).map(|_| publisher.deliver(topic, "x", delivery()));
        join_all(calls).await;
    }
}
