//! The promises of [`Broker`], as tests that any implementation can be put to.
//!
//! [`run`] takes a way to connect one more node to a shared bus and goes through every
//! case; each case can also be run alone.
//!
//! ```
//! use std::sync::Arc;
//!
//! use chat_broker::testing::conformance;
//! use chat_broker::{Broker, MemoryBus};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let bus = MemoryBus::new();
//! conformance::run(async || {
//!     let (broker, events) = bus.connect();
//!     (Arc::new(broker) as Arc<dyn Broker>, events)
//! })
//! .await;
//! # }
//! ```
//!
//! The backend must be up. Every case uses names of its own, so the bus may be one that
//! remembers. What happens in an outage is for each backend's own tests.
//!
//! # Panics
//! A promise that is not kept is a panic that names it, and so is a case that takes longer
//! than a minute.

mod content;
mod interest;
mod sequence;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chat_core::Position;
use tokio::time::timeout;

use super::node::Message;
use crate::broker::Broker;
use crate::events::BrokerEvents;

pub use content::{
    closing_is_final, names_do_not_mix, payloads_pass_unchanged, the_secret_is_shared,
};
pub use interest::{
    churn_loses_nothing_after_the_last_subscribe, many_topics_in_one_call, nodes_are_counted,
    only_subscribed_topics_arrive, subscribing_twice_and_unsubscribing_strangers_are_fine,
};
pub use sequence::{
    ephemeral_publications_take_no_offset, offsets_are_contiguous_and_equal_on_all_nodes,
    pipelined_publications_keep_their_order, positions_create_nothing,
    two_publishers_share_one_order,
};

/// How long a case may take.
const CASE_DEADLINE: Duration = Duration::from_secs(60);

/// Runs every case, one after the other.
///
/// # Cancel safety
/// A run that is dropped leaves its nodes to be dropped with it.
pub async fn run<F>(connect: F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            within(stringify!($case), $case(&connect)).await;
        )*};
    }
    cases!(
        offsets_are_contiguous_and_equal_on_all_nodes,
        two_publishers_share_one_order,
        pipelined_publications_keep_their_order,
        ephemeral_publications_take_no_offset,
        positions_create_nothing,
        only_subscribed_topics_arrive,
        subscribing_twice_and_unsubscribing_strangers_are_fine,
        churn_loses_nothing_after_the_last_subscribe,
        nodes_are_counted,
        payloads_pass_unchanged,
        names_do_not_mix,
        the_secret_is_shared,
        closing_is_final,
        many_topics_in_one_call,
    );
}

async fn within(case: &str, work: impl Future<Output = ()>) {
    if timeout(CASE_DEADLINE, work).await.is_err() {
        panic!("{case} took longer than {CASE_DEADLINE:?}");
    }
}

fn positions_of(messages: &[Message]) -> Vec<Position> {
    messages.iter().filter_map(|message| message.position).collect()
}

fn assert_contiguous(positions: &[Position]) {
    assert_contiguous_from(positions, 1);
}

fn assert_contiguous_from(positions: &[Position], first: u64) {
    let Some(Position { epoch, .. }) = positions.first().copied() else { return };
    for (offset, position) in (first..).zip(positions) {
        assert_eq!(*position, Position { epoch, offset }, "the offsets have no hole");
    }
}
