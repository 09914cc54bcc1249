//! The promises of [`Broker`], as tests that any implementation can be put to.
//!
//! [`run`] takes a way to connect one more node to a shared bus and goes through every
//! case; each case can also be run alone. [`a_lost_sequence_begins_a_new_epoch`] also takes a
//! way to lose something.
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
//! than a minute. [`run`] prints the name of the case, too.

mod answers;
mod content;
mod departure;
mod epoch;
mod follow;
mod history;
mod interest;
mod keys;
mod model;
mod presence;
mod records;
mod sequence;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chat_core::{Position, PresenceChange, Topic};
use tokio::time::timeout;

use super::node::{Change, Message, occupant};
use crate::broker::Broker;
use crate::events::BrokerEvents;

pub use answers::each_topic_is_answered_in_the_order_asked;
pub use content::{
    closing_is_final, names_do_not_mix, payloads_pass_unchanged, the_secret_is_shared,
};
pub use departure::{
    a_user_at_two_nodes_goes_with_the_last, users_of_a_closed_node_leave_once,
    users_of_a_dead_node_leave_once,
};
pub use epoch::a_lost_sequence_begins_a_new_epoch;
pub use follow::{joining_in_a_flood_misses_nothing, what_was_missed_is_read_from_the_history};
pub use history::{
    a_page_has_a_bounded_size, history_goes_when_its_time_is_over, history_is_kept_by_bytes,
    history_is_kept_by_count, history_is_read_in_pages_both_ways, many_histories_in_one_call,
    reads_create_nothing,
};
pub use interest::{
    churn_loses_nothing_after_the_last_subscribe, many_topics_in_one_call, nodes_are_counted,
    only_subscribed_topics_arrive, subscribing_twice_and_unsubscribing_strangers_are_fine,
};
pub use keys::{a_key_is_published_once, a_key_is_published_once_by_all_at_once, keys_do_not_mix};
pub use model::any_mix_of_calls_does_as_a_model;
pub use presence::{
    a_snapshot_and_what_follows_have_no_hole, latest_name_of_a_user_counts,
    occupants_are_listed_up_to_a_limit, presence_is_numbered_upwards,
    presence_keeps_its_place_among_publications, presence_passes_unchanged, users_come_and_go_once,
};
pub use records::{
    a_record_that_expired_is_no_more, any_mix_of_records_is_read_by_all,
    every_node_is_told_of_records, records_have_bounds, records_pass_unchanged,
    the_latest_of_each_record_is_read_in_order, what_cannot_be_told_is_read_whole,
};
pub use sequence::{
    ephemeral_publications_take_no_offset, known_position_covers_receipts,
    offsets_are_contiguous_and_equal_on_all_nodes, pipelined_publications_keep_their_order,
    positions_create_nothing, two_publishers_share_one_order,
};

/// How long a case may take.
const CASE_DEADLINE: Duration = Duration::from_secs(60);

/// Runs every case, one after the other; those of presence and of the shared table for a broker
/// that has these parts.
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
    let (broker, _events) = connect().await;
    let (has_presence, has_table) = (broker.presence().is_some(), broker.table().is_some());
    broker.close().await;
    cases!(
        offsets_are_contiguous_and_equal_on_all_nodes,
        two_publishers_share_one_order,
        pipelined_publications_keep_their_order,
        ephemeral_publications_take_no_offset,
        positions_create_nothing,
        known_position_covers_receipts,
        only_subscribed_topics_arrive,
        subscribing_twice_and_unsubscribing_strangers_are_fine,
        churn_loses_nothing_after_the_last_subscribe,
        nodes_are_counted,
        payloads_pass_unchanged,
        names_do_not_mix,
        closing_is_final,
        many_topics_in_one_call,
        each_topic_is_answered_in_the_order_asked,
        history_is_read_in_pages_both_ways,
        a_page_has_a_bounded_size,
        history_is_kept_by_count,
        history_is_kept_by_bytes,
        reads_create_nothing,
        history_goes_when_its_time_is_over,
        many_histories_in_one_call,
        a_key_is_published_once,
        keys_do_not_mix,
        a_key_is_published_once_by_all_at_once,
        any_mix_of_calls_does_as_a_model,
        joining_in_a_flood_misses_nothing,
        what_was_missed_is_read_from_the_history,
    );
    if has_table {
        cases!(
            the_secret_is_shared,
            records_pass_unchanged,
            the_latest_of_each_record_is_read_in_order,
            every_node_is_told_of_records,
            a_record_that_expired_is_no_more,
            what_cannot_be_told_is_read_whole,
            records_have_bounds,
            any_mix_of_records_is_read_by_all,
        );
    }
    if has_presence {
        cases!(
            users_come_and_go_once,
            latest_name_of_a_user_counts,
            presence_is_numbered_upwards,
            occupants_are_listed_up_to_a_limit,
            presence_keeps_its_place_among_publications,
            presence_passes_unchanged,
            a_snapshot_and_what_follows_have_no_hole,
            users_of_a_dead_node_leave_once,
            users_of_a_closed_node_leave_once,
            a_user_at_two_nodes_goes_with_the_last,
        );
    }
}

/// Says which case it was that failed: the panic may come from a step that all share.
struct Case(&'static str);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the case that failed: {}", self.0);
        }
    }
}

async fn within(case: &'static str, work: impl Future<Output = ()>) {
    let _named = Case(case);
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

fn assert_joined(change: &Change, topic: &Topic, name: &str, count: u32) {
    assert_change(change, PresenceChange::Joined, topic, name, count);
}

fn assert_left(change: &Change, topic: &Topic, name: &str, count: u32) {
    assert_change(change, PresenceChange::Left, topic, name, count);
}

fn assert_change(actual: &Change, change: PresenceChange, topic: &Topic, name: &str, count: u32) {
    let version = actual.version;
    let expected =
        Change { topic: topic.clone(), change, occupant: occupant(name), version, count };
    assert_eq!(*actual, expected);
}
