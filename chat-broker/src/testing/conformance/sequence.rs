//! Order, offsets and positions.

use bytes::Bytes;
use chat_core::{Position, Topic};
use futures_util::FutureExt;

use super::node::{Node, ephemeral, persistent, room, step};
use super::{Bus, ORDERS, assert_contiguous, positions_of};

/// Offsets are 1, 2, 3 … in one epoch, and every subscribed node, the publisher included,
/// receives each publication once.
///
/// Calls `publish` and `subscribe`.
pub async fn offsets_are_contiguous_and_equal_on_all_nodes(bus: &impl Bus) {
    let (mut a, mut b) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("offsets");
    for node in [&a, &b] {
        node.subscribe(std::slice::from_ref(&topic)).await;
    }
    let mut receipts = Vec::new();
    for n in 0..50u8 {
        let publisher = if n % 2 == 0 { &a } else { &b };
        receipts.push(publisher.publish(&topic, vec![n]).await);
    }
    assert_contiguous(&receipts);
    let at_a = a.take(50).await;
    assert_eq!(positions_of(&at_a), receipts, "receipts have the positions that arrived");
    assert_eq!(at_a, b.take(50).await, "both nodes got the same");
}

/// Two nodes publish at the same time: all nodes receive one order, in which the messages of
/// each publisher keep the order in which it sent them.
///
/// Calls `publish` and `subscribe`.
pub async fn two_publishers_share_one_order(bus: &impl Bus) {
    const EACH: u8 = 200;
    let (mut a, mut b) = (Node::connect(bus).await, Node::connect(bus).await);
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

/// A task publishes many messages before it awaits the first receipt: they keep their order.
///
/// Calls `publish` and `subscribe`.
pub async fn pipelined_publications_keep_their_order(bus: &impl Bus) {
    const COUNT: u16 = 500;
    let mut node = Node::connect(bus).await;
    let topic = room("pipeline");
    node.subscribe(std::slice::from_ref(&topic)).await;
    let mut receipts = Vec::new();
    for n in 0..COUNT {
        let payload = Bytes::copy_from_slice(&n.to_be_bytes());
        let publish = node.broker.publish(&topic, payload, persistent());
        receipts.push(step("room in the queue", publish).await);
    }
    let mut positions = Vec::new();
    for receipt in receipts {
        positions.extend(step("the receipt", receipt).await.position);
    }
    assert_eq!(positions.len(), usize::from(COUNT), "sequenced publications have positions");
    assert_contiguous(&positions);
    let arrived = node.take(positions.len()).await;
    assert_eq!(positions_of(&arrived), positions);
    for (n, message) in (0..COUNT).zip(&arrived) {
        assert_eq!(message.payload[..], n.to_be_bytes(), "in the order of the calls");
    }
}

/// A `publish` that is dropped before it returns has published nothing; every other is
/// acknowledged and arrives.
///
/// Calls `publish`, `subscribe` and `positions`.
pub async fn dropped_publish_publishes_nothing(bus: &impl Bus) {
    const BURSTS: usize = 10;
    const CALLS: usize = 200;
    let mut node = Node::connect(bus).await;
    let topic = room("dropped calls");
    node.subscribe(std::slice::from_ref(&topic)).await;
    let mut accepted = 0;
    for _ in 0..BURSTS {
        // Polled once each: with a full queue they wait, and are dropped.
        let call = || node.broker.publish(&topic, "x".into(), persistent()).now_or_never();
        let receipts: Vec<_> = std::iter::repeat_with(call).take(CALLS).flatten().collect();
        for receipt in receipts {
            step("the receipt", receipt.expect("a place in the queue")).await;
            accepted += 1;
        }
    }
    let last = node.publish(&topic, "last").await;
    assert_eq!(last.offset, accepted + 1, "only the calls that returned have published");
    assert_eq!(node.arrived().await.len() as u64, last.offset);
}

/// Dropping a receipt does not take the message back.
///
/// Calls `publish` and `subscribe`.
pub async fn dropped_receipt_does_not_take_the_message_back(bus: &impl Bus) {
    const COUNT: u64 = 20;
    let mut node = Node::connect(bus).await;
    let topic = room("dropped receipts");
    node.subscribe(std::slice::from_ref(&topic)).await;
    for _ in 0..COUNT {
        drop(step("publish", node.broker.publish(&topic, "x".into(), persistent())).await);
    }
    let last = node.publish(&topic, "last").await;
    assert_eq!(last.offset, COUNT + 1);
    let arrived = positions_of(&node.arrived().await);
    assert_eq!(arrived.len() as u64, last.offset);
    assert_contiguous(&arrived);
}

/// An ephemeral publication has no position, moves no offset, and keeps its order among the
/// kept ones of the same task.
///
/// Calls `publish`, `subscribe` and `positions`.
pub async fn ephemeral_publications_take_no_offset(bus: &impl Bus) {
    let mut node = Node::connect(bus).await;
    let topic = room("ephemeral");
    node.subscribe(std::slice::from_ref(&topic)).await;
    let first = node.publish(&topic, "1").await;
    let typing = node.deliver(&topic, "typing", ephemeral()).await;
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

/// The position of a topic is the default before the first publication and that of the latest
/// afterwards, at every node; reading it creates nothing.
///
/// Calls `publish` and `positions`.
pub async fn positions_create_nothing(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let (used, untouched) = (room("used"), room("untouched"));
    assert_eq!(a.position(&used).await, Position::default());
    assert_eq!(a.position(&used).await, Position::default(), "asking creates nothing");
    let first = a.publish(&used, "1").await;
    assert_eq!(first.offset, 1, "asking creates nothing");
    let last = a.publish(&used, "2").await;
    assert_eq!(b.position(&used).await, last);
    assert_eq!(b.position(&untouched).await, Position::default());
}

/// `positions` gives one position for each topic, in the order asked, also for a topic that was
/// asked for twice and for one without publications; and none for no topic.
///
/// Calls `publish` and `positions`.
pub async fn positions_are_answered_in_the_order_asked(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let topics: [Topic; 4] = std::array::from_fn(|n| room(&format!("positions {n}")));
    // As many publications as its number says.
    for (n, topic) in topics.iter().enumerate() {
        for _ in 0..n {
            node.publish(topic, "x").await;
        }
    }
    for order in ORDERS {
        let asked: Vec<Topic> = order.iter().map(|n| topics[*n].clone()).collect();
        let positions = step("positions", node.broker.positions(&asked)).await;
        let offsets: Vec<usize> = positions.iter().map(|found| found.offset as usize).collect();
        assert_eq!(offsets, order, "one position for each topic, in the order asked");
    }
}

/// The position that a node knows without asking covers each receipt that it has resolved.
///
/// Calls `publish`, `subscribe` and `known_position`.
pub async fn known_position_covers_receipts(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let topic = room("known");
    node.subscribe(std::slice::from_ref(&topic)).await;
    for _ in 0..100 {
        let position = node.publish(&topic, "x").await;
        let known = node.broker.known_position(&topic);
        assert!(known.is_none_or(|known| known == position), "{known:?} after {position:?}");
    }
}
