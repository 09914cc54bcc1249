//! The promises of [`Broker`] as tests that any implementation can be put to.
//!
//! [`conformance_tests!`](crate::conformance_tests) makes a `#[test]` of each case, in a module for
//! each part: `cargo test` lists the promises by name, and continues after one that is broken.
//!
//! ```
//! mod conformance {
//!     use chat_broker::{BrokerEvents, MemoryBroker, MemoryBus};
//!
//!     /// The bus of one test: each call connects one more node to it.
//!     async fn bus() -> impl AsyncFn() -> (MemoryBroker, BrokerEvents) {
//!         let bus = MemoryBus::new();
//!         async move || bus.connect()
//!     }
//!
//!     chat_broker::conformance_tests!(bus);
//! }
//! # fn main() {}
//! ```
//!
//! Each case is also a function, which takes the [`Bus`]; its documentation says which methods it
//! calls. [`Case::all`] lists them for another harness than that of `cargo test`.
//!
//! The queue of each node ([`events::channel`](crate::events::channel)) must hold 4,096 publications
//! at least: some cases publish 2,000 before they read, and a node that lags behind fails them.
//!
//! The backend must be reachable. Each case uses names of its own, but expects that no other case
//! changes the table of records at the same time.
//!
//! # Panics
//! A case panics if its promise is not kept, or if a call or an event takes longer than 10 seconds.
//!
//! # The contract, sentence by sentence
//! [`Broker`], parts `pubsub`, `history` and `keys`:
//!
//! | promise | cases |
//! |---|---|
//! | **Order.** All nodes see the publications of a topic in one order | [`two_publishers_share_one_order`] |
//! | What one task publishes to a topic keeps its order | [`pipelined_publications_keep_their_order`] |
//! | **Positions.** A persistent publication gets the next offset, one above the last | [`offsets_are_contiguous_and_equal_on_all_nodes`] |
//! | The epoch changes only when the counter was lost; no offset of an epoch means two publications | [`lost_sequence_starts_a_new_epoch`], which needs a way to lose something |
//! | Assigning the offset, storing the publication and handing it on is one atomic step | [`publication_is_in_the_history_when_it_arrives`], [`joining_in_a_flood_misses_nothing`] |
//! | **History.** A persistent publication that was acknowledged can be read, by any node | [`history_is_read_in_pages_both_ways`], [`missed_publications_are_in_the_history`] |
//! | … as long as its [`Retention`](chat_core::Retention) says | [`history_is_kept_by_count`], [`history_is_kept_by_bytes`], [`history_expires_as_a_whole`] |
//! | **Keys.** A repeated publication is answered as the first was, and neither stored nor handed on | [`key_is_published_once`], [`concurrent_uses_of_a_key_publish_once`] |
//! | … in the same topic | [`keys_do_not_mix`] |
//! | … for five minutes | not checked: it would take as long |
//! | **At most once.** A publication reaches a node once or not at all | [`offsets_are_contiguous_and_equal_on_all_nodes`], [`lost_publications_are_reported`] |
//! | A node that may have missed some receives `Lagged` or `Interrupted` | [`lost_publications_are_reported`]; after a lost connection not checked, see *Outages* |
//! | **Interest.** A node receives nothing of a topic that it is not subscribed to | [`only_subscribed_topics_arrive`], [`names_do_not_mix`] |
//! | … nor what was acknowledged before `subscribe` was called | [`publications_before_subscribe_do_not_arrive`] |
//! | After `subscribe` has returned, everything published later arrives | [`publications_after_subscribe_arrive`], [`churn_loses_nothing_after_the_last_subscribe`] |
//! | After `unsubscribe` has returned, nothing does | [`publications_after_unsubscribe_do_not_arrive`] |
//! | **Answers.** One for each topic, in the order asked | [`positions_are_answered_in_the_order_asked`], [`histories_are_answered_in_the_order_asked`], [`many_topics_in_one_call`], [`many_histories_in_one_call`] |
//! | **Outages.** All of it | not checked: how a backend fails and recovers is for its own tests |
//! | **Memory.** Every queue is bounded | not checked: a bound does not show from outside; [`lost_publications_are_reported`] shows what happens at one |
//! | `publish`: dropped before it returns, it has published nothing | [`dropped_publish_publishes_nothing`] |
//! | `publish`: dropping the receipt does not take the message back | [`dropped_receipt_does_not_take_the_message_back`] |
//! | `publish`: the payload arrives unchanged | [`payloads_pass_unchanged`] |
//! | `publish`: an ephemeral one has no position | [`ephemeral_publications_take_no_offset`] |
//! | `publish`: [`Published::nodes`](crate::Published::nodes) | [`nodes_are_counted`] |
//! | `subscribe`, `unsubscribe`: again, or for an unknown topic, they are no error | [`subscribe_and_unsubscribe_are_idempotent`] |
//! | `subscribe`, `unsubscribe`: dropped, they leave open what is subscribed | nothing to check |
//! | `positions`: that of the latest persistent publication, or the default; creates nothing | [`positions_create_nothing`] |
//! | `known_position`: covers each resolved receipt | [`known_position_covers_receipts`] |
//! | `subscribers`: the nodes of each topic, in the order asked, unless they cannot be counted | [`subscribers_are_counted`] |
//! | `history`: as it stood at one moment | [`history_is_of_one_moment`] |
//! | `history`: the range, up to the limit and a size | [`history_is_read_in_pages_both_ways`], [`page_has_a_bounded_size`], [`any_mix_of_calls_matches_the_model`] |
//! | `history`: creates nothing | [`reads_create_nothing`] |
//! | `status`: ready, and closed | [`closing_is_final`] |
//! | `status`: unavailable, and ready though it is full | not checked, see *Outages* |
//! | `close`: what was accepted is sent; later calls fail; the events end; twice is no error | [`closing_is_final`] |
//!
//! [`PresenceTracker`](crate::PresenceTracker), part `presence`:
//!
//! | promise | cases |
//! |---|---|
//! | **State.** A user is in a topic while at least one node holds the user there | [`user_joins_and_leaves_once`], [`user_at_two_nodes_leaves_with_the_last`] |
//! | … with the information that any node gave last | [`latest_name_of_a_user_counts`], [`presence_passes_unchanged`] |
//! | … whatever becomes of connections and of the backend's data | not checked, see *Outages* |
//! | **Events.** Each join, leave and change is an event to the subscribed nodes, numbered without a hole | [`user_joins_and_leaves_once`], [`snapshot_and_events_have_no_hole`] |
//! | … and a topic's numbers never decrease | [`presence_versions_rise`] |
//! | **Order.** A join precedes, and a leave follows, what its node publishes | [`presence_keeps_its_order_among_publications`] |
//! | **Failure.** When a node ends without leaving, its users leave within 15 seconds | [`users_of_a_dead_node_leave_once`] |
//! | **The end.** After `close`, they leave within ten seconds, but for those whom another node holds | [`users_of_a_closed_node_leave_once`], [`user_at_two_nodes_leaves_with_the_last`], [`presence_ends_with_close`] |
//! | `enter`: repeated, it changes nothing | [`user_joins_and_leaves_once`] |
//! | `leave`: resolves with the version of its event | [`leave_resolves_with_the_version_of_its_event`] |
//! | `occupancy`: one answer for each topic, in the order asked; creates nothing | [`occupancies_are_answered_in_the_order_asked`] |
//! | `occupancy`: of a topic with more than `limit` only the count | [`occupants_are_listed_up_to_a_limit`] |
//! | `rooms`: each that has occupants once, in one order, unless they cannot be listed | [`occupied_rooms_are_listed_in_pages`] |
//!
//! [`SharedTable`](crate::SharedTable), part `table`:
//!
//! | promise | cases |
//! |---|---|
//! | **Order.** A change is stored before `RecordsChanged` reaches any node | [`record_is_readable_when_it_is_announced`] |
//! | … at a version of the one order that all nodes see | [`latest_of_each_record_is_read_in_order`], [`all_nodes_read_the_same_table`] |
//! | **Events.** Every node receives that event | [`every_node_is_notified_of_records`] |
//! | A node that may have missed one receives `Interrupted` | not checked, see *Outages* |
//! | **Durability.** A backend that has lost a record is given it back | not checked, see *Outages* |
//! | `set`: replaces the record of the same key | [`latest_of_each_record_is_read_in_order`], [`records_pass_unchanged`] |
//! | `set`: expires, without an event | [`expired_record_is_gone`] |
//! | `set`: for a millisecond at least, and ten years at most | [`record_lasts_a_millisecond_at_least`], [`records_pass_unchanged`] |
//! | `set`: refuses wrong keys and values | [`records_have_bounds`] |
//! | `set`: refuses one more than [`Records::MAX`](crate::Records::MAX) | not checked: 100,000 records take too long with some backends |
//! | `remove`: the record is gone | [`removed_record_stays_removed`] |
//! | `remove`: of nothing is no error and no event | [`every_node_is_notified_of_records`] |
//! | `changes_since`: the latest of each key, in order, or the whole table | [`latest_of_each_record_is_read_in_order`], [`unknown_version_gets_the_whole_table`] |
//! | `changes_since`: remembers removals for ten minutes | not checked: it would take as long |
//! | `secret`: all nodes share it, and it stays the same | [`secret_is_shared`] |
//! | `secret`: it stays secret | not checked: it does not show |
//! | `close`: later calls fail | [`table_ends_with_close`] |

mod content;
mod departure;
mod epoch;
mod follow;
mod history;
mod interest;
mod keys;
mod loss;
mod model;
mod node;
mod presence;
mod records;
mod sequence;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chat_core::{Position, PresenceChange, Topic};
use tokio::runtime;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::events::BrokerEvents;
use node::{Change, Message, occupant};

pub use content::{closing_is_final, names_do_not_mix, payloads_pass_unchanged, secret_is_shared};
pub use departure::{
    user_at_two_nodes_leaves_with_the_last, users_of_a_closed_node_leave_once,
    users_of_a_dead_node_leave_once,
};
pub use epoch::lost_sequence_starts_a_new_epoch;
pub use follow::{joining_in_a_flood_misses_nothing, missed_publications_are_in_the_history};
pub use history::{
    histories_are_answered_in_the_order_asked, history_expires_as_a_whole,
    history_is_kept_by_bytes, history_is_kept_by_count, history_is_of_one_moment,
    history_is_read_in_pages_both_ways, many_histories_in_one_call, page_has_a_bounded_size,
    publication_is_in_the_history_when_it_arrives, reads_create_nothing,
};
pub use interest::{
    churn_loses_nothing_after_the_last_subscribe, many_topics_in_one_call, nodes_are_counted,
    only_subscribed_topics_arrive, publications_after_subscribe_arrive,
    publications_after_unsubscribe_do_not_arrive, publications_before_subscribe_do_not_arrive,
    subscribe_and_unsubscribe_are_idempotent, subscribers_are_counted,
};
pub use keys::{concurrent_uses_of_a_key_publish_once, key_is_published_once, keys_do_not_mix};
pub use loss::lost_publications_are_reported;
pub use model::any_mix_of_calls_matches_the_model;
pub use presence::{
    latest_name_of_a_user_counts, leave_resolves_with_the_version_of_its_event,
    occupancies_are_answered_in_the_order_asked, occupants_are_listed_up_to_a_limit,
    occupied_rooms_are_listed_in_pages, presence_ends_with_close,
    presence_keeps_its_order_among_publications, presence_passes_unchanged, presence_versions_rise,
    snapshot_and_events_have_no_hole, user_joins_and_leaves_once,
};
pub use records::{
    all_nodes_read_the_same_table, every_node_is_notified_of_records, expired_record_is_gone,
    latest_of_each_record_is_read_in_order, record_is_readable_when_it_is_announced,
    record_lasts_a_millisecond_at_least, records_have_bounds, records_pass_unchanged,
    removed_record_stays_removed, table_ends_with_close, unknown_version_gets_the_whole_table,
};
pub use sequence::{
    dropped_publish_publishes_nothing, dropped_receipt_does_not_take_the_message_back,
    ephemeral_publications_take_no_offset, known_position_covers_receipts,
    offsets_are_contiguous_and_equal_on_all_nodes, pipelined_publications_keep_their_order,
    positions_are_answered_in_the_order_asked, positions_create_nothing,
    two_publishers_share_one_order,
};

/// How long a case may take.
const CASE_DEADLINE: Duration = Duration::from_secs(60);

/// The topics that reads of several ask for, by their numbers: in order, in another order and
/// repeated, one, and none.
const ORDERS: [&[usize]; 4] = [&[0, 1, 2, 3], &[3, 1, 2, 0, 3], &[2], &[]];

/// What nodes are connected to. An async closure without arguments that returns a broker and its
/// events is one: each call connects one more node to the same bus.
pub trait Bus {
    /// Connects one more node.
    ///
    /// # Panics
    /// If it cannot: what is tested is a broker that is connected.
    fn connect(&self) -> impl Future<Output = (Arc<dyn Broker>, BrokerEvents)>;
}

impl<F, B> Bus for F
where
    F: AsyncFn() -> (B, BrokerEvents),
    B: Broker,
{
    async fn connect(&self) -> (Arc<dyn Broker>, BrokerEvents) {
        let (broker, events) = self().await;
        (Arc::new(broker), events)
    }
}

/// Makes a `#[test]` of each promise that a broker makes, in a module for each part.
///
/// The argument is an async function or closure without arguments that makes the [bus](Bus) of one
/// test. What it holds is dropped when the test ends, such as a server that was started for it.
/// Each test has a tokio runtime of its own, with two worker threads, and fails after a minute.
///
/// The parts, all of them unless some are named:
///
/// | part | cases |
/// |---|---|
/// | `pubsub` | publishing, subscribing, order, positions, loss, the end |
/// | `history` | what is kept, and how it is read |
/// | `keys` | publications that are repeated |
/// | `presence` | who is in a topic |
/// | `table` | the records and the secret that all nodes share |
///
/// ```
/// # use chat_broker::{BrokerEvents, MemoryBroker, MemoryBus};
/// # async fn bus() -> impl AsyncFn() -> (MemoryBroker, BrokerEvents) {
/// #     let bus = MemoryBus::new();
/// #     async move || bus.connect()
/// # }
/// chat_broker::conformance_tests! { bus, parts: [pubsub, history, keys] }
/// # fn main() {}
/// ```
///
/// Needs the feature `testing`. See [`testing::conformance`](crate::testing::conformance) for what
/// the cases check, and what they do not.
///
/// [Bus]: crate::testing::conformance::Bus
#[macro_export]
macro_rules! conformance_tests {
    ($bus:expr $(,)?) => {
        $crate::conformance_tests! { $bus, parts: [pubsub, history, keys, presence, table] }
    };
    ($bus:expr, parts: [$($part:ident),* $(,)?] $(,)?) => {
        $($crate::__conformance_cases! { $part: __conformance_module($bus) })*
    };
}

/// The tests of one part.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_module {
    ($part:ident, [$($case:ident)*], $bus:expr) => {
        mod $part {
            #[allow(unused_imports)]
            use super::*;

            $(
                // Not the `test` that may have been imported above.
                #[::core::prelude::v1::test]
                fn $case() {
                    $crate::testing::conformance::run_case(stringify!($case), async {
                        let bus = ($bus)().await;
                        $crate::testing::conformance::$case(&bus).await;
                    });
                }
            )*
        }
    };
}

/// The one list of all cases, by part: hands those of a part to another macro of this crate.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    (pubsub: $then:ident($($arguments:tt)*)) => {
        $crate::$then! { pubsub, [
            offsets_are_contiguous_and_equal_on_all_nodes
            two_publishers_share_one_order
            pipelined_publications_keep_their_order
            dropped_publish_publishes_nothing
            dropped_receipt_does_not_take_the_message_back
            ephemeral_publications_take_no_offset
            positions_create_nothing
            positions_are_answered_in_the_order_asked
            known_position_covers_receipts
            only_subscribed_topics_arrive
            publications_before_subscribe_do_not_arrive
            publications_after_subscribe_arrive
            publications_after_unsubscribe_do_not_arrive
            subscribe_and_unsubscribe_are_idempotent
            churn_loses_nothing_after_the_last_subscribe
            nodes_are_counted
            subscribers_are_counted
            many_topics_in_one_call
            lost_publications_are_reported
            payloads_pass_unchanged
            names_do_not_mix
            closing_is_final
        ], $($arguments)* }
    };
    (history: $then:ident($($arguments:tt)*)) => {
        $crate::$then! { history, [
            history_is_read_in_pages_both_ways
            page_has_a_bounded_size
            history_is_kept_by_count
            history_is_kept_by_bytes
            history_expires_as_a_whole
            history_is_of_one_moment
            publication_is_in_the_history_when_it_arrives
            histories_are_answered_in_the_order_asked
            many_histories_in_one_call
            reads_create_nothing
            any_mix_of_calls_matches_the_model
            joining_in_a_flood_misses_nothing
            missed_publications_are_in_the_history
        ], $($arguments)* }
    };
    (keys: $then:ident($($arguments:tt)*)) => {
        $crate::$then! { keys, [
            key_is_published_once
            keys_do_not_mix
            concurrent_uses_of_a_key_publish_once
        ], $($arguments)* }
    };
    (presence: $then:ident($($arguments:tt)*)) => {
        $crate::$then! { presence, [
            user_joins_and_leaves_once
            latest_name_of_a_user_counts
            leave_resolves_with_the_version_of_its_event
            presence_versions_rise
            presence_keeps_its_order_among_publications
            presence_passes_unchanged
            snapshot_and_events_have_no_hole
            occupancies_are_answered_in_the_order_asked
            occupants_are_listed_up_to_a_limit
            occupied_rooms_are_listed_in_pages
            users_of_a_dead_node_leave_once
            users_of_a_closed_node_leave_once
            user_at_two_nodes_leaves_with_the_last
            presence_ends_with_close
        ], $($arguments)* }
    };
    (table: $then:ident($($arguments:tt)*)) => {
        $crate::$then! { table, [
            records_pass_unchanged
            latest_of_each_record_is_read_in_order
            removed_record_stays_removed
            record_is_readable_when_it_is_announced
            every_node_is_notified_of_records
            record_lasts_a_millisecond_at_least
            expired_record_is_gone
            unknown_version_gets_the_whole_table
            records_have_bounds
            all_nodes_read_the_same_table
            secret_is_shared
            table_ends_with_close
        ], $($arguments)* }
    };
    ($part:ident: $then:ident($($arguments:tt)*)) => {
        compile_error!(concat!(
            "`", stringify!($part), "` is none of: pubsub, history, keys, presence, table"
        ));
    };
}

/// A case with a runtime of its own: the body of a test of [`conformance_tests!`].
///
/// [`conformance_tests!`]: crate::conformance_tests
#[doc(hidden)]
pub fn run_case(case: &str, work: impl Future<Output = ()>) {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome =
        runtime.expect("a runtime").block_on(async { timeout(CASE_DEADLINE, work).await });
    assert!(outcome.is_ok(), "{case} took longer than {CASE_DEADLINE:?}");
}

/// One case and its name.
pub struct Case<B> {
    /// The part of the contract, as in [`conformance_tests!`](crate::conformance_tests).
    pub part: &'static str,
    /// The name of the function.
    pub name: &'static str,
    run: for<'a> fn(&'a B) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
}

impl<B: Bus> Case<B> {
    /// All cases, part by part.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        __conformance_cases! { pubsub: __conformance_list(cases) }
        __conformance_cases! { history: __conformance_list(cases) }
        __conformance_cases! { keys: __conformance_list(cases) }
        __conformance_cases! { presence: __conformance_list(cases) }
        __conformance_cases! { table: __conformance_list(cases) }
        cases
    }

    /// Runs it.
    ///
    /// # Panics
    /// If the promise is not kept.
    ///
    /// # Cancel safety
    /// Safe: a case that is dropped drops its nodes.
    pub async fn run(&self, bus: &B) {
        (self.run)(bus).await;
    }
}

impl<B> fmt::Debug for Case<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.part, self.name)
    }
}

/// Adds the cases of one part to a list.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_list {
    ($part:ident, [$($case:ident)*], $list:ident) => {
        $list.extend([$(Case {
            part: stringify!($part),
            name: stringify!($case),
            run: |bus| Box::pin($case(bus)),
        }),*]);
    };
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
