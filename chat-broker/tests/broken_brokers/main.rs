//! A mutation test of the conformance suite: brokers with one fault each, and the cases that name
//! the fault fail.
//!
//! Each case runs in virtual time: waiting for an event that never arrives costs nothing.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by a panic and says what failed"
)]

mod broker;
mod events;
mod presence;
mod table;

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::Duration;

use chat_broker::testing::conformance::{Bus, Case};
use tokio::task::yield_now;
use tokio::{runtime, time};

use self::broker::bus;

/// The faults, a test for each, and the cases that must fail.
macro_rules! faults {
    ($($(#[$doc:meta])* $test:ident: $fault:ident => $($case:ident),+;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Fault {
            $($(#[$doc])* $fault,)*
        }

        $(
            #[test]
            fn $test() {
                assert_found(Fault::$fault, &[$(stringify!($case)),+]);
            }
        )*

        /// The cases that some fault must break.
        const NAMED: &[&str] = &[$($(stringify!($case)),+),*];
    };
}

faults! {
    /// Every tenth offset is left out.
    skips_offsets: SkipsOffsets => offsets_are_contiguous_and_equal_on_all_nodes;
    /// Every tenth publication arrives twice.
    delivers_twice: DeliversTwice => offsets_are_contiguous_and_equal_on_all_nodes;
    /// Every second node receives two publications that arrive together in the other order.
    swaps_publications: SwapsPublications => two_publishers_share_one_order;
    /// Every second publication is overtaken by the next of the same task.
    swaps_calls: SwapsCalls => pipelined_publications_keep_their_order;
    /// A call that is dropped continues.
    publishes_dropped_calls: PublishesDroppedCalls => dropped_publish_publishes_nothing;
    /// Ephemeral publications are persistent.
    persists_ephemeral: PersistsEphemeral => ephemeral_publications_take_no_offset;
    /// Asking for the position of an unknown topic starts its sequence.
    positions_create_topics: PositionsCreateTopics => positions_create_nothing;
    /// The positions of several topics are those of the topics in reverse.
    reverses_positions: ReversesPositions => positions_are_answered_in_the_order_asked;
    /// The position of the last topic is missing.
    drops_position: DropsPosition => positions_are_answered_in_the_order_asked;
    /// The last of several answers is given twice.
    repeats_answer: RepeatsAnswer =>
        positions_are_answered_in_the_order_asked, histories_are_answered_in_the_order_asked,
        occupancies_are_answered_in_the_order_asked;
    /// The known position is that of the publication before.
    knows_old_position: KnowsOldPosition => known_position_covers_receipts;
    /// A node is subscribed to what any node is subscribed to.
    subscribes_all_nodes: SubscribesAllNodes => only_subscribed_topics_arrive;
    /// The latest publication of a topic arrives when a node subscribes.
    replays_on_subscribe: ReplaysOnSubscribe => publications_before_subscribe_do_not_arrive;
    /// `subscribe` returns before the node is subscribed.
    subscribes_late: SubscribesLate =>
        publications_after_subscribe_arrive, churn_loses_nothing_after_the_last_subscribe;
    /// `unsubscribe` does nothing.
    ignores_unsubscribe: IgnoresUnsubscribe => publications_after_unsubscribe_do_not_arrive;
    /// Unsubscribing from a topic that is not subscribed is an error.
    refuses_unknown_topics: RefusesUnknownTopics => subscribe_and_unsubscribe_are_idempotent;
    /// Every publication is said to have reached one node.
    counts_one_node: CountsOneNode => nodes_are_counted, subscribers_are_counted;
    /// A call is for the first 1,000 topics.
    takes_1000_topics: Takes1000Topics => many_topics_in_one_call, many_histories_in_one_call;
    /// `Lagged` is lost.
    loses_silently: LosesSilently => lost_publications_are_reported;
    /// Payloads are taken for text.
    changes_payloads: ChangesPayloads => payloads_pass_unchanged;
    /// Names are the same in upper and lower case.
    folds_names: FoldsNames => names_do_not_mix;
    /// A closed broker accepts publications.
    publishes_after_close: PublishesAfterClose => closing_is_final;

    /// The offset that others follow on is read, too.
    reads_one_before: ReadsOneBefore => history_is_read_in_pages_both_ways;
    /// A read has no limit.
    ignores_limit: IgnoresLimit => history_is_read_in_pages_both_ways;
    /// A page is as large as its limit allows.
    ignores_page_size: IgnoresPageSize => page_has_a_bounded_size;
    /// One publication too few is kept.
    keeps_one_too_few: KeepsOneTooFew => history_is_kept_by_count;
    /// The payload that is kept is not bounded.
    keeps_all_bytes: KeepsAllBytes => history_is_kept_by_bytes;
    /// Histories do not expire.
    keeps_for_long: KeepsForLong => history_expires_as_a_whole;
    /// Some entries are lost.
    loses_entries: LosesEntries => missed_publications_are_in_the_history;
    /// The position of a history is read after its entries.
    reads_position_later: ReadsPositionLater =>
        history_is_of_one_moment, joining_in_a_flood_misses_nothing;
    /// A publication is in the history only some time after it was handed on.
    keeps_late: KeepsLate => publication_is_in_the_history_when_it_arrives;
    /// The answer to the last read is missing.
    drops_history: DropsHistory => histories_are_answered_in_the_order_asked;
    /// Reading an unknown topic starts its sequence.
    reads_create_topics: ReadsCreateTopics => reads_create_nothing;
    /// Every fifth key is ignored.
    forgets_some_keys: ForgetsSomeKeys => any_mix_of_calls_matches_the_model;

    /// Keys are ignored.
    ignores_keys: IgnoresKeys => key_is_published_once;
    /// A repeated publication is answered with the position of the latest.
    answers_with_new_position: AnswersWithNewPosition => key_is_published_once;
    /// A key is one for all topics.
    shares_keys: SharesKeys => keys_do_not_mix;
    /// A key is remembered some time after its publication.
    remembers_keys_late: RemembersKeysLate => concurrent_uses_of_a_key_publish_once;

    /// Some versions are left out.
    skips_versions: SkipsVersions => user_joins_and_leaves_once;
    /// A user who leaves at one node has left, until the other says the user is there again.
    announces_each_leave: AnnouncesEachLeave =>
        user_joins_and_leaves_once, user_at_two_nodes_leaves_with_the_last;
    /// `Renamed` is lost.
    loses_renames: LosesRenames => latest_name_of_a_user_counts;
    /// A departure has no version.
    forgets_departures: ForgetsDepartures => leave_resolves_with_the_version_of_its_event;
    /// The versions of a topic that was empty start again.
    restarts_versions: RestartsVersions => presence_versions_rise;
    /// A join arrives after publications that followed it.
    enters_late: EntersLate => presence_keeps_its_order_among_publications;
    /// The information of users is taken for text.
    changes_information: ChangesInformation => presence_passes_unchanged;
    /// A snapshot has the version of the next change.
    answers_next_version: AnswersNextVersion => snapshot_and_events_have_no_hole;
    /// The occupants of the last topic are missing.
    drops_occupancy: DropsOccupancy => occupancies_are_answered_in_the_order_asked;
    /// Occupants are listed beyond the limit.
    lists_all_occupants: ListsAllOccupants => occupants_are_listed_up_to_a_limit;
    /// A list of rooms ends with its first page.
    lists_one_page: ListsOnePage => occupied_rooms_are_listed_in_pages;
    /// All rooms are listed.
    ignores_prefix: IgnoresPrefix => occupied_rooms_are_listed_in_pages;
    /// The users of an expired node stay.
    keeps_dead_nodes: KeepsDeadNodes => users_of_a_dead_node_leave_once;
    /// The users of a closed node stay.
    keeps_closed_nodes: KeepsClosedNodes => users_of_a_closed_node_leave_once;
    /// A closed node can still say that a user is there.
    enters_after_close: EntersAfterClose => presence_ends_with_close;

    /// Values are taken for text.
    changes_records: ChangesRecords => records_pass_unchanged;
    /// Changes are read latest first.
    reverses_changes: ReversesChanges => latest_of_each_record_is_read_in_order;
    /// A removed record is back with the next read.
    resurrects_records: ResurrectsRecords => removed_record_stays_removed;
    /// Nodes are notified before the record is set.
    announces_early: AnnouncesEarly => record_is_readable_when_it_is_announced;
    /// Every second node is not notified.
    notifies_some_nodes: NotifiesSomeNodes => every_node_is_notified_of_records;
    /// What is to last for no time is not set.
    ignores_short_lifetimes: IgnoresShortLifetimes => record_lasts_a_millisecond_at_least;
    /// Records do not expire.
    keeps_expired_records: KeepsExpiredRecords => expired_record_is_gone;
    /// Of an unknown version nothing has changed.
    trusts_unknown_versions: TrustsUnknownVersions => unknown_version_gets_the_whole_table;
    /// Keys and values that are too long are cut.
    cuts_records: CutsRecords => records_have_bounds;
    /// Every third change that is read is missing.
    omits_changes: OmitsChanges => all_nodes_read_the_same_table;
    /// Each node has a secret of its own.
    has_own_secret: HasOwnSecret => secret_is_shared;
    /// The table of a closed node answers.
    answers_after_close: AnswersAfterClose => table_ends_with_close;
}

/// A wrapper cannot see that a receipt was dropped.
const NOT_NAMED: [&str; 1] = ["dropped_receipt_does_not_take_the_message_back"];

#[test]
fn each_case_has_a_fault_that_it_names() {
    let cases = cases_of(&|| bus(None)).into_iter().map(|case| case.name);
    let unnamed: Vec<_> = cases.filter(|name| !NAMED.contains(name)).collect();
    assert_eq!(unnamed, NOT_NAMED);
}

#[test]
fn without_a_fault_no_case_fails() {
    assert_eq!(failures(&|| bus(None)), Vec::<&str>::new());
}

fn assert_found(fault: Fault, cases: &[&str]) {
    let failed = failures(&|| bus(Some(fault)));
    println!("{fault:?}: {failed:#?}");
    let missed: Vec<_> = cases.iter().filter(|case| !failed.contains(case)).collect();
    assert!(missed.is_empty(), "{fault:?} is not found by {missed:?}");
}

fn cases_of<B: Bus>(_: &impl Fn() -> B) -> Vec<Case<B>> {
    Case::all()
}

/// The names of the cases that fail with such a bus.
fn failures<B: Bus>(bus: &impl Fn() -> B) -> Vec<&'static str> {
    // The default prints where each of many expected panics arose.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
    let mut cases = cases_of(bus);
    cases.retain(|case| {
        let run = AssertUnwindSafe(|| in_virtual_time(async { case.run(&bus()).await }));
        panic::catch_unwind(run).is_err()
    });
    cases.into_iter().map(|case| case.name).collect()
}

fn in_virtual_time(work: impl Future<Output = ()>) {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        tokio::spawn(tick());
        time::timeout(Duration::from_secs(60), work).await.expect("the case ends");
    });
}

/// Moves the clock, though some task may always be ready: a case whose publishers go on until the
/// other side has received something would never end.
async fn tick() {
    loop {
        for _ in 0..20 {
            yield_now().await;
        }
        time::advance(Duration::from_millis(10)).await;
    }
}
