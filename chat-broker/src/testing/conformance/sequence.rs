//! Order, offsets and positions.

use std::sync::Arc;

use bytes::Bytes;
use chat_core::Position;

use super::{assert_contiguous, positions_of};
use crate::broker::Broker;
use crate::events::BrokerEvents;
use crate::publish::PublishOptions;
use crate::testing::node::{Node, persistent, room, step};

/// Offsets run 1, 2, 3 … in one epoch, and every subscribed node, the publisher included,
/// gets the same.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn offsets_are_contiguous_and_equal_on_all_nodes<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (mut a, mut b) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("offsets");
    for node in [&a, &b] {
        node.subscribe(std::slice::from_ref(&topic)).await;
    }
    let mut told = Vec::new();
    for n in 0..50u8 {
        let publisher = if n % 2 == 0 { &a } else { &b };
        told.push(publisher.publish(&topic, vec![n]).await);
    }
    assert_contiguous(&told);
    let at_a = a.take(50).await;
    assert_eq!(positions_of(&at_a), told, "the publishers were told what arrived");
    assert_eq!(at_a, b.take(50).await, "both nodes got the same");
}

/// Two nodes publish at once: all nodes see one order, in which each publisher's own
/// messages stand as it sent them.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn two_publishers_share_one_order<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    const EACH: u8 = 200;
    let (mut a, mut b) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("order");
    for node in [&a, &b] {
        node.subscribe(std::slice::from_ref(&topic)).await;
    }
    let publish = async |node: &Node, who: u8| {
        for n in 0..EACH {
            node.publish(&topic, vec![who, n]).await;
        }
    };
    tokio::join!(publish(&a, b'a'), publish(&b, b'b'));

    let all = usize::from(EACH) * 2;
    let at_a = a.take(all).await;
    assert_eq!(at_a, b.take(all).await, "both nodes see one order");
    assert_contiguous(&positions_of(&at_a));
    for who in *b"ab" {
        let own = at_a.iter().filter(|message| message.payload[0] == who);
        assert!(own.map(|message| message.payload[1]).eq(0..EACH), "the order of one publisher");
    }
}

/// One task hands over many messages before it asks for the first receipt.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn pipelined_publications_keep_their_order<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    const COUNT: u16 = 500;
    let mut node = Node::new(connect().await);
    let topic = room("pipeline");
    node.subscribe(std::slice::from_ref(&topic)).await;
    let mut receipts = Vec::new();
    for n in 0..COUNT {
        let payload = Bytes::copy_from_slice(&n.to_be_bytes());
        let place = node.broker.publish(&topic, payload, persistent());
        receipts.push(step("a place in the queue", place).await);
    }
    let mut told = Vec::new();
    for receipt in receipts {
        told.extend(step("the receipt", receipt).await.position);
    }
    assert_eq!(told.len(), usize::from(COUNT), "sequenced publications have positions");
    assert_contiguous(&told);
    let arrived = node.take(told.len()).await;
    assert_eq!(positions_of(&arrived), told);
    for (n, message) in (0..COUNT).zip(&arrived) {
        assert_eq!(message.payload[..], n.to_be_bytes(), "in the order of the calls");
    }
}

/// An ephemeral publication has no position, moves no offset, and keeps its place among
/// the sequenced ones of the same task.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn ephemeral_publications_take_no_offset<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let mut node = Node::new(connect().await);
    let topic = room("ephemeral");
    node.subscribe(std::slice::from_ref(&topic)).await;
    let first = node.publish(&topic, "1").await;
    let typing = node.deliver(&topic, "typing", PublishOptions::default()).await;
    assert_eq!(typing.position, None, "an ephemeral publication has no position");
    assert_eq!(node.position(&topic).await, first, "it does not move the offset");
    let second = node.publish(&topic, "2").await;
    assert_contiguous(&[first, second]);

    let arrived = node.take(3).await;
    let expected = [("1", Some(first)), ("typing", None), ("2", Some(second))];
    for (message, (payload, position)) in arrived.iter().zip(expected) {
        assert_eq!((&message.payload[..], message.position), (payload.as_bytes(), position));
    }
}

/// Positions are the default before the first publication, the last one's after it, come
/// in the order asked, and asking makes nothing.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn positions_create_nothing<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, b) = (Node::new(connect().await), Node::new(connect().await));
    let (used, untouched) = (room("used"), room("untouched"));
    assert_eq!(a.position(&used).await, Position::default());
    assert_eq!(a.position(&used).await, Position::default(), "asking creates nothing");
    let first = a.publish(&used, "1").await;
    assert_eq!(first.offset, 1, "asking creates nothing");
    let last = a.publish(&used, "2").await;
    let topics = [untouched.clone(), used.clone(), untouched, used];
    let positions = step("positions", b.broker.positions(&topics)).await;
    assert_eq!(positions, [Position::default(), last, Position::default(), last]);
    assert_eq!(step("positions", b.broker.positions(&[])).await, []);
}

/// The position that a node knows covers the receipts that it has resolved.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn known_position_covers_receipts<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let node = Node::new(connect().await);
    let topic = room("known");
    node.subscribe(std::slice::from_ref(&topic)).await;
    for _ in 0..100 {
        let position = node.publish(&topic, "x").await;
        let known = node.broker.known_position(&topic);
        assert!(known.is_none_or(|known| known == position), "{known:?} after {position:?}");
    }
}
