//! Publishing, and the path from the broker to the members.

use std::hint::black_box;

use chat_broker::{Broker, MemoryBroker, PublishOptions};
use chat_core::Retention;
use tokio::runtime::Builder;

use super::{Piece, at_once, payload, room};
use crate::callgrind::turns;
use crate::crowd::Crowd;

pub(super) const PIECES: &[Piece] = &[
    ("publish in memory, ephemeral", || publish(PublishOptions::default)),
    ("publish in memory, kept", || publish(persistent)),
    ("a publication to 1,000 members", fan_out),
];

fn persistent() -> PublishOptions {
    PublishOptions::default().retention(Retention::default())
}

/// To one node, which has taken everything before.
fn publish(options: fn() -> PublishOptions) {
    let (broker, mut events) = MemoryBroker::connect();
    let topic = room();
    at_once(broker.subscribe(std::slice::from_ref(&topic))).expect("subscribed");
    let mut taken = Vec::new();
    let prepare = || {
        events.try_recv(&mut taken);
        taken.clear();
        payload()
    };
    turns(prepare, |payload| {
        let receipt = at_once(broker.publish(&topic, payload, options()));
        black_box(at_once(receipt.expect("a place")).expect("an answer"));
    });
}

/// Events of the broker, the room, its queue, and the members: all in one thread.
fn fan_out() {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let crowd = runtime.block_on(Crowd::gather(1_000));
    let publish = || at_once(crowd.publish(payload()));
    turns(publish, |wanted| runtime.block_on(crowd.until_delivered(wanted)));
}
