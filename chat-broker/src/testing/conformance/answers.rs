//! Reads of many topics at once.

use std::fmt;
use std::sync::Arc;

use chat_core::{History, Occupancy, Position, Range, Topic};

use crate::broker::Broker;
use crate::events::BrokerEvents;
use crate::history::HistoryRead;
use crate::testing::node::{Node, occupant, room, step};

/// Reads of several topics give one answer for each, in the order asked, also for a topic that was
/// asked for twice, and for one of which nothing is known; and no answer to no question.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn each_topic_is_answered_in_the_order_asked<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let node = Node::new(connect().await);
    let topics: Vec<Topic> = (0..4).map(|n| room(&format!("answers {n}"))).collect();
    // So many messages and occupants as its number says.
    for (n, topic) in topics.iter().enumerate() {
        node.subscribe(std::slice::from_ref(topic)).await;
        for nth in 0..n {
            node.publish(topic, "x").await;
            if let Some(presence) = node.broker.presence() {
                presence.enter(topic, occupant(&format!("user {nth}")));
            }
        }
    }
    while let Some(presence) = node.broker.presence() {
        let found = step("occupancy", presence.occupancy(&topics, 10)).await;
        assert_eq!(found.len(), topics.len(), "occupancy: one answer for each topic");
        if found.iter().map(|found| found.count).sum::<u32>() == 6 {
            break;
        }
        tokio::task::yield_now().await;
    }
    for order in [&[0, 1, 2, 3][..], &[3, 1, 2, 0, 3], &[2], &[]] {
        let asked: Vec<Topic> = order.iter().map(|n| topics[*n].clone()).collect();
        let positions: Vec<Position> = step("positions", node.broker.positions(&asked)).await;
        assert_numbers("positions", positions.iter().map(|found| found.offset), order);

        let read = |topic: &Topic| HistoryRead::new(topic.clone(), Range::Latest, 10);
        let reads: Vec<_> = asked.iter().map(read).collect();
        let histories: Vec<History> = step("history", node.broker.history(&reads)).await;
        assert_numbers("history", histories.iter().map(|found| found.entries.len()), order);
        for (read, history) in reads.iter().zip(&histories) {
            read.check(history).expect("an answer to what was asked");
        }

        if let Some(presence) = node.broker.presence() {
            let occupancies: Vec<Occupancy> =
                step("occupancy", presence.occupancy(&asked, 10)).await;
            assert_numbers("occupancy", occupancies.iter().map(|found| found.count), order);
        }
    }
}

fn assert_numbers<N>(what: &str, found: impl Iterator<Item = N>, order: &[usize])
where
    N: TryInto<usize, Error: fmt::Debug>,
{
    let found: Vec<usize> = found.map(|n| n.try_into().expect("a small number")).collect();
    assert_eq!(found, order, "{what}: one answer for each topic, in the order asked");
}
