use std::collections::BTreeMap;

use chat_core::{RoomId, Topic, UserId};
use proptest::prelude::*;

use super::*;
use crate::redis::names::{Address, Names};
use crate::redis::presence::outbox::PresenceOutbox;

fn key(user: u8) -> Key {
    key_of(&format!("u{user}"))
}

fn key_of(user: &str) -> Key {
    Key { address: address_of("r"), user: UserId::new(user).unwrap() }
}

fn address_of(room: &str) -> Address {
    Names::new("chat", 0).address(&Topic::Room(RoomId::new(room).unwrap()))
}

fn outbox() -> PresenceOutbox {
    let outbox = PresenceOutbox::default();
    outbox.restart_as(&"node".into());
    outbox
}

fn users(keys: &[Key]) -> Vec<&str> {
    keys.iter().map(|key| key.user.as_str()).collect()
}

/// Sends what waits, all of which is done.
fn send(outbox: &PresenceOutbox, sent: u64) -> Changes {
    let changes = outbox.take(sent);
    let copy = Changes {
        node: Arc::clone(&changes.node),
        joins: changes.joins.clone(),
        leaves: changes.leaves.clone(),
        fence_at: changes.fence_at,
    };
    outbox.record(changes, std::iter::repeat(Outcome::Done));
    copy
}

#[test]
fn nothing_is_sent_without_a_node() {
    let outbox = PresenceOutbox::default();
    outbox.join(key(1), Bytes::new(), 0);
    assert!(outbox.take(0).is_empty() && !outbox.has_changes());
    outbox.restart_as(&"node".into());
    assert_eq!(send(&outbox, 0).joins.len(), 1);
    assert!(!outbox.has_changes() && !outbox.is_empty());
}

/// A script that Redis refused after a first write has made a part of the join.
#[test]
fn leave_is_sent_after_refused_join() {
    let outbox = outbox();
    outbox.join(key(1), Bytes::new(), 0);
    outbox.record(outbox.take(0), [Outcome::Refused]);
    outbox.leave(&key(1), 0);
    assert_eq!(users(&send(&outbox, 0).leaves), ["u1"]);
    assert!(outbox.is_empty() && !outbox.has_changes());
}

#[test]
fn leaves_after_refused_joins_are_bounded() {
    let outbox = outbox();
    let refuse = |sent| outbox.record(outbox.take(sent), std::iter::repeat(Outcome::Refused));
    for n in 0..3 * MAX_REFUSED {
        let key = || key_of(&n.to_string());
        outbox.join(key(), Bytes::new(), 0);
        if n % 2 == 0 {
            refuse(0);
            outbox.leave(&key(), 0);
        } else {
            let changes = outbox.take(0);
            outbox.leave(&key(), 1);
            outbox.record(changes, std::iter::repeat(Outcome::Refused));
        }
        refuse(1);
    }
    outbox.retry_refused();
    while outbox.has_changes() {
        refuse(1);
    }
    let sizes = || {
        let queues = outbox.queues();
        let waiting = queues.users.values().map(departures).sum::<usize>();
        (queues.users.len(), waiting, queues.refused.len())
    };
    let kept = sizes();
    assert_eq!((kept.0, kept.0), (kept.1, kept.2));
    assert!((MAX_REFUSED / 2..=MAX_REFUSED).contains(&kept.0), "{kept:?}");
    outbox.retry_refused();
    while outbox.has_changes() {
        send(&outbox, 1);
    }
    assert_eq!(sizes(), (0, 0, 0));
}

#[test]
fn leave_follows_publications_that_precede_it() {
    let outbox = outbox();
    for user in 1..=3 {
        outbox.join(key(user), Bytes::new(), 0);
    }
    send(&outbox, 0);
    outbox.leave(&key(1), 5);
    outbox.leave(&key(2), 7);
    assert!(send(&outbox, 4).is_empty());
    assert_eq!(users(&send(&outbox, 6).leaves), ["u1"]);
    outbox.join(key(2), Bytes::new(), 6);
    assert!(send(&outbox, 9).leaves.is_empty(), "a join in time cancels the leave");
    outbox.leave(&key(3), 9);
    outbox.leave(&key(2), 9);
    assert_eq!(users(&send(&outbox, 9).leaves), ["u3", "u2"]);
    assert!(outbox.is_empty());
}

/// Another node may have set another name since, so the latest is sent even if it is the same.
#[test]
fn every_name_is_sent_once_as_the_latest() {
    let outbox = outbox();
    let sent = |outbox: &PresenceOutbox| {
        let joins = send(outbox, 0).joins.into_iter();
        joins.map(|join| (join.info, join.is_latest)).collect::<Vec<_>>()
    };
    let (ann, anna) = (Bytes::from("Ann"), Bytes::from("Anna"));
    outbox.join(key(1), ann.clone(), 0);
    outbox.join(key(1), anna.clone(), 0);
    assert_eq!(sent(&outbox), [(anna.clone(), true)], "the first name was never sent");
    outbox.join(key(1), anna.clone(), 0);
    assert_eq!(sent(&outbox), [(anna.clone(), true)]);
    let in_flight = {
        outbox.join(key(1), ann.clone(), 0);
        outbox.take(0)
    };
    outbox.join(key(1), anna.clone(), 0);
    outbox.record(in_flight, [Outcome::Done]);
    assert_eq!(sent(&outbox), [(anna.clone(), true)]);
    outbox.restart_as(&"another".into());
    assert_eq!(sent(&outbox), [(anna, false)], "by then another node may have set a later one");
}

/// One call of a script changes all users of a topic.
#[test]
fn changes_of_a_topic_are_side_by_side_and_in_order() {
    let outbox = outbox();
    let room = |name| Names::new("chat", 0).address(&Topic::Room(RoomId::new(name).unwrap()));
    let key = |(name, user)| Key { address: room(name), user: UserId::new(user).unwrap() };
    let keys = [("b", "2"), ("a", "2"), ("b", "1"), ("a", "3"), ("a", "1")].map(key);
    let sorted = [("a", "2"), ("a", "3"), ("a", "1"), ("b", "2"), ("b", "1")].map(key);
    for key in &keys {
        outbox.join(key.clone(), Bytes::new(), 0);
    }
    let joins: Vec<Key> = send(&outbox, 0).joins.into_iter().map(|join| join.key).collect();
    assert_eq!(joins, sorted);
    for key in &keys {
        outbox.leave(key, 0);
    }
    assert_eq!(send(&outbox, 0).leaves, sorted);
}

#[tokio::test]
async fn departure_resolves_when_the_leave_was_carried_out() {
    let outbox = outbox();
    for user in 1..=4 {
        outbox.join(key(user), Bytes::new(), 0);
    }
    send(&outbox, 0);
    let leave = |user| outbox.leave(&key(user), 0);
    let (announced, elsewhere, back) = (leave(1), leave(2), leave(3));
    outbox.join(key(3), Bytes::new(), 0);
    assert_eq!(back.await, None, "the user is back");
    let outcomes = [Outcome::Done, Outcome::Announced(7), Outcome::Done];
    outbox.record(outbox.take(0), outcomes);
    assert_eq!((announced.await, elsewhere.await), (Some(7), None));
    assert_eq!(outbox.leave(&key(1), 0).await, None, "an absent user cannot leave");
    let forgotten = leave(4);
    outbox.restart_as(&"another".into());
    assert_eq!(forgotten.await, None, "the lease of the former name expires");
}

/// The second leave is another than the one in flight, and has another version.
#[tokio::test]
async fn departure_of_transient_join_awaits_its_own_leave() {
    let outbox = outbox();
    outbox.join(key(1), Bytes::new(), 0);
    send(&outbox, 0);
    let first = outbox.leave(&key(1), 0);
    let in_flight = outbox.take(0);
    outbox.join(key(1), Bytes::new(), 0);
    let second = outbox.leave(&key(1), 1);
    outbox.record(in_flight, [Outcome::Announced(7)]);
    assert_eq!(first.await, None, "the user was back");
    let changes = outbox.take(1);
    assert_eq!((changes.joins.len(), changes.leaves.len()), (1, 1));
    outbox.record(changes, [Outcome::Done, Outcome::Announced(9)]);
    assert_eq!(second.await, Some(9));
    assert!(outbox.is_empty());
}

/// The join and the leave in between were never sent, so the first leave is the last.
#[tokio::test]
async fn leave_in_flight_settles_later_leave_without_publications() {
    let outbox = outbox();
    outbox.join(key(1), Bytes::new(), 0);
    send(&outbox, 0);
    outbox.leave(&key(1), 0);
    let in_flight = outbox.take(0);
    outbox.join(key(1), Bytes::new(), 0);
    let second = outbox.leave(&key(1), 0);
    outbox.record(in_flight, [Outcome::Announced(7)]);
    assert_eq!(second.await, Some(7));
    assert!(outbox.is_empty() && !outbox.has_changes());
}

#[test]
fn transient_join_is_sent_if_something_was_published() {
    let outbox = outbox();
    for (user, accepted) in [(1, 5), (2, 6), (3, 6)] {
        outbox.join(key(user), Bytes::new(), 5);
        outbox.leave(&key(user), accepted);
    }
    outbox.join(key(3), Bytes::new(), 6);
    let first = send(&outbox, 5);
    let joined: Vec<_> = first.joins.into_iter().map(|join| join.key).collect();
    assert_eq!((users(&joined), users(&first.leaves)), (vec!["u2", "u3"], vec![]));
    assert_eq!(users(&send(&outbox, 6).leaves), ["u2"]);

    outbox.join(key(2), Bytes::new(), 6);
    outbox.leave(&key(2), 7);
    let at_once = send(&outbox, 7);
    assert_eq!((at_once.joins.len(), at_once.leaves.len()), (1, 1));
    outbox.leave(&key(3), 7);
    send(&outbox, 7);
    assert!(outbox.is_empty());
}

#[test]
fn transient_joins_are_bounded() {
    let outbox = PresenceOutbox::default();
    for n in 0..2 * MAX_TRANSIENT {
        let key = key_of(&n.to_string());
        outbox.join(key.clone(), Bytes::new(), 0);
        outbox.leave(&key, 1);
    }
    assert_eq!(outbox.queues().users.len(), MAX_TRANSIENT);
}

#[test]
fn joins_precede_publications_that_follow_them_however_many() {
    let outbox = outbox();
    outbox.join(key(0), Bytes::new(), 0);
    send(&outbox, 0);
    outbox.leave(&key(0), 1);
    for n in 0..600 {
        outbox.join(key_of(&format!("of many {n}")), Bytes::new(), n / 300);
    }
    let sizes: Vec<_> = std::iter::repeat_with(|| send(&outbox, 2))
        .map(|changes| (changes.joins.len(), changes.leaves.len(), changes.fence_at))
        .take(3)
        .collect();
    assert_eq!(sizes, [(256, 0, Some(0)), (256, 1, Some(1)), (88, 0, None)]);
}

#[tokio::test]
async fn user_without_a_place_is_forgotten() {
    let outbox = outbox();
    let join = |user| outbox.join_limited(key(user), Bytes::new(), 0, 8);
    let (first, second) = (join(1), join(2));
    let changes = outbox.take(0);
    assert!(changes.joins.iter().all(|join| join.max == Some(8)));
    outbox.record(changes, [Outcome::Done, Outcome::RoomFull]);
    assert!(first.await.is_ok());
    assert!(matches!(second.await, Err(BrokerError::RoomFull { max: 8 })));
    assert_eq!(outbox.leave(&key(2), 0).await, None);
    assert!(!outbox.has_changes());
    assert_eq!(outbox.len(), 1);
    outbox.restart_as(&"another".into());
    assert_eq!(send(&outbox, 0).joins[0].max, None, "a user who is in the room is sent again");
}

/// As long as it has no answer.
#[tokio::test]
async fn maximum_is_sent_again() {
    let outbox = outbox();
    let receipt = outbox.join_limited(key(1), Bytes::new(), 0, 8);
    outbox.record(outbox.take(0), [Outcome::Unanswered]);
    let before = outbox.take(0);
    assert_eq!(before.joins[0].max, Some(8));
    outbox.restart_as(&"another".into());
    outbox.record(before, [Outcome::Done]);
    let changes = outbox.take(0);
    assert_eq!(changes.joins[0].max, Some(8), "the answer was for the former name");
    outbox.record(changes, [Outcome::RoomFull]);
    assert!(matches!(receipt.await, Err(BrokerError::RoomFull { max: 8 })));
    assert!(outbox.is_empty());
}

/// The first join is answered, and so is the leave behind it.
#[tokio::test]
async fn answer_to_an_earlier_join_is_none_for_a_later_one() {
    let outbox = outbox();
    let first = outbox.join_limited(key(1), Bytes::new(), 0, 8);
    outbox.leave(&key(1), 1);
    assert!(matches!(first.await, Err(BrokerError::Closed)));
    let both = outbox.take(1);
    assert_eq!((both.joins.len(), both.leaves.len()), (1, 1));
    let second = outbox.join_limited(key(1), Bytes::new(), 1, 8);
    outbox.record(both, [Outcome::Done, Outcome::Done]);
    let changes = outbox.take(1);
    assert_eq!(changes.joins[0].max, Some(8));
    outbox.record(changes, [Outcome::RoomFull]);
    assert!(matches!(second.await, Err(BrokerError::RoomFull { max: 8 })));
    assert!(outbox.is_empty());
}

#[tokio::test]
async fn join_without_a_maximum_admits_the_user() {
    let outbox = outbox();
    let receipt = outbox.join_limited(key(1), Bytes::new(), 0, 8);
    let in_flight = outbox.take(0);
    outbox.join(key(1), Bytes::new(), 0);
    let again = outbox.join_limited(key(1), Bytes::new(), 0, 8);
    outbox.record(in_flight, [Outcome::RoomFull]);
    assert_eq!(send(&outbox, 0).joins[0].max, None);
    assert!(receipt.await.is_ok() && again.await.is_ok());
}

/// Redis executes the joins of a pipeline before its leaves.
#[tokio::test]
async fn join_behind_a_leave_of_the_room_is_sent_again() {
    let outbox = outbox();
    outbox.join(key(1), Bytes::new(), 0);
    send(&outbox, 0);
    outbox.leave(&key(1), 0);
    let receipt = outbox.join_limited(key(2), Bytes::new(), 0, 1);
    outbox.record(outbox.take(0), [Outcome::RoomFull, Outcome::Announced(2)]);
    let again = outbox.take(0);
    assert_eq!(again.joins[0].max, Some(1));
    outbox.record(again, [Outcome::RoomFull]);
    assert!(matches!(receipt.await, Err(BrokerError::RoomFull { max: 1 })));
}

/// The leave waits for the publications that it follows.
#[tokio::test]
async fn join_behind_a_leave_that_waits_is_sent_again() {
    let outbox = outbox();
    outbox.join(key(1), Bytes::new(), 0);
    send(&outbox, 0);
    outbox.leave(&key(1), 7);
    let receipt = outbox.join_limited(key(2), Bytes::new(), 7, 1);
    for sent in [5, 7] {
        let changes = outbox.take(sent);
        assert_eq!((changes.joins.len(), changes.leaves.len()), (1, usize::from(sent == 7)));
        outbox.record(changes, [Outcome::RoomFull, Outcome::Announced(2)]);
    }
    assert_eq!(send(&outbox, 7).joins[0].max, Some(1));
    assert!(receipt.await.is_ok());
}

/// Of this room by another user, and before the join.
#[tokio::test]
async fn other_leaves_that_wait_do_not_answer_for_a_full_room() {
    let outbox = outbox();
    let elsewhere = Key { address: address_of("elsewhere"), ..key(1) };
    for key in [key(1), elsewhere.clone()] {
        outbox.join(key, Bytes::new(), 0);
    }
    send(&outbox, 0);
    outbox.leave(&elsewhere, 6);
    let receipt = outbox.join_limited(key(2), Bytes::new(), 6, 1);
    outbox.leave(&key(1), 7);
    outbox.record(outbox.take(5), [Outcome::RoomFull]);
    assert!(matches!(receipt.await, Err(BrokerError::RoomFull { max: 1 })));
}

/// Joins that fill each pipeline, and a leave behind their fence.
#[test]
fn full_room_does_not_hold_up_the_leave_that_its_joins_wait_for() {
    let outbox = outbox();
    outbox.join(key(1), Bytes::new(), 0);
    send(&outbox, 0);
    let join = |n: u64, accepted| {
        drop(outbox.join_limited(key_of(&format!("n{n}")), Bytes::new(), accepted, 1));
    };
    (0..600).for_each(|n| join(n, n % 3));
    outbox.leave(&key(1), 2);
    (600..1200).for_each(|n| join(n, 2));
    let pipelines = std::iter::repeat_with(|| {
        let changes = outbox.take(2);
        let leaves = changes.leaves.len();
        let full = std::iter::repeat_n(Outcome::RoomFull, changes.joins.len());
        outbox.record(changes, full.chain([Outcome::Announced(2)]));
        leaves
    });
    assert!(pipelines.take(9).any(|leaves| leaves == 1));
}

#[tokio::test]
async fn closed_outbox_answers_all_callers() {
    let outbox = outbox();
    outbox.join(key(1), Bytes::new(), 0);
    send(&outbox, 0);
    let (departure, receipt) =
        (outbox.leave(&key(1), 0), outbox.join_limited(key(2), Bytes::new(), 0, 8));
    outbox.close();
    assert_eq!(departure.await, None);
    assert!(matches!(receipt.await, Err(BrokerError::Closed)));
    let late = outbox.join_limited(key(3), Bytes::new(), 0, 8);
    assert!(matches!(late.await, Err(BrokerError::Closed)));
    assert_eq!(outbox.leave(&key(2), 0).await, None);
}

#[tokio::test]
async fn refusal_of_an_earlier_join_is_none_of_a_later_one() {
    let outbox = outbox();
    outbox.join(key(1), Bytes::new(), 0);
    let refused = outbox.take(0);
    let later = outbox.join_limited(key(1), Bytes::new(), 0, 8);
    outbox.fail_limited_joins(&key(1), &BrokerError::refused("no"));
    outbox.record(refused, [Outcome::Refused]);
    send(&outbox, 0);
    assert!(later.await.is_ok());
}

#[tokio::test]
async fn refusal_fails_the_callers_and_leaves_nothing() {
    let outbox = outbox();
    let receipt = outbox.join_limited(key(1), Bytes::new(), 0, 8);
    let changes = outbox.take(0);
    outbox.fail_limited_joins(&key(1), &BrokerError::refused("no"));
    outbox.record(changes, [Outcome::Refused]);
    assert!(matches!(receipt.await, Err(BrokerError::Refused(_))));
    outbox.leave(&key(1), 0);
    assert_eq!(send(&outbox, 0).leaves.len(), 1);
    assert!(outbox.is_empty());
}

/// What happens to a node and its Redis.
#[derive(Debug, Clone)]
enum Step {
    /// Under one of several names.
    Join(u8, u8),
    Leave(u8),
    Publish,
    /// Takes changes; the next of these settles them.
    Send(Vec<u8>),
    Retry,
    NewNode,
    /// Redis loses a user.
    Lose(u8),
    /// Redis is compared with what it should hold.
    Reconcile,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4, 0u8..3).prop_map(|(user, name)| Step::Join(user, name)),
        4 => (0u8..4).prop_map(Step::Leave),
        4 => prop::collection::vec(0u8..6, 8).prop_map(Step::Send),
        2 => Just(Step::Publish),
        1 => Just(Step::Retry),
        1 => Just(Step::NewNode),
        1 => (0u8..4).prop_map(Step::Lose),
        1 => Just(Step::Reconcile),
    ]
}

/// The users that Redis holds, or should, by their names.
type Users = BTreeMap<String, Bytes>;

/// Settles `changes`, each by a digit: done, done but unanswered, unanswered, refused, refused but
/// done.
fn settle(outbox: &PresenceOutbox, changes: Changes, digits: &[u8], held: &mut Users) {
    let mut outcomes = Vec::new();
    let joins = changes.joins.iter().map(|join| (&join.key, Some(join)));
    let all = joins.chain(changes.leaves.iter().map(|key| (key, None)));
    for ((key, join), digit) in all.zip(digits.iter().cycle()) {
        let user = key.user.as_str().to_owned();
        match join {
            _ if matches!(digit, 3 | 4) => {}
            Some(Join { info, is_latest: true, .. }) => drop(held.insert(user, info.clone())),
            Some(Join { info, .. }) => drop(held.entry(user).or_insert_with(|| info.clone())),
            None => drop(held.remove(&user)),
        }
        outcomes.push(match digit {
            0 | 1 => Outcome::Done,
            2 | 3 => Outcome::Unanswered,
            _ => Outcome::Refused,
        });
    }
    outbox.record(changes, outcomes);
}

fn reconcile(outbox: &PresenceOutbox, held: &Users) {
    let (_, mut synced) = outbox.synced_after(None, 9).unwrap();
    synced.retain(|key| !held.contains_key(key.user.as_str()));
    outbox.resend_lost(&synced);
}

/// How many callers wait for the leave of a user.
fn departures(pending: &PendingPresence) -> usize {
    pending.unsettled.as_ref().map_or(0, |unsettled| unsettled.departures.len())
}

/// Each user is listed where the state says, with the same order, and nowhere else.
fn check_indexes(queues: &Queues) -> Result<(), TestCaseError> {
    let listed = |index| {
        let users = queues.users.iter();
        users.filter(move |(_, pending)| Index::of(pending.state.stage) == index)
    };
    let ordered = |index| {
        let queue = listed(index).map(|(key, pending)| (pending.order(), key.clone()));
        queue.collect::<BTreeMap<SeqKey, Key>>()
    };
    prop_assert_eq!(&ordered(Index::Joins), &queues.joins);
    prop_assert_eq!(&ordered(Index::Leaves), &queues.leaves);
    prop_assert!(listed(Index::Refused).map(|(key, _)| key).eq(&queues.refused));
    let transient = |pending: &&PendingPresence| pending.state.stage == Stage::TransientQueued;
    prop_assert_eq!(queues.users.values().filter(transient).count(), queues.transient);
    for pending in queues.users.values() {
        prop_assert!(pending.state.stage != Stage::Absent);
        prop_assert!(departures(pending) == 0 || !pending.state.stage.is_present());
        prop_assert_eq!(pending.unsettled.is_none(), pending.state == State::SETTLED);
    }
    Ok(())
}

proptest! {
    /// After any losses and refusals, Redis holds in the end what the node wants.
    #[test]
    fn redis_converges(steps in prop::collection::vec(step(), 0..60)) {
        let (outbox, mut wanted, mut held) = (outbox(), Users::new(), Users::new());
        let mut in_flight: Option<(Changes, Vec<u8>)> = None;
        let (mut nodes, mut accepted) = (0, 0);
        for step in steps {
            match step {
                Step::Join(user, name) => {
                    let info = Bytes::from(vec![name]);
                    wanted.insert(format!("u{user}"), info.clone());
                    outbox.join(key(user), info, accepted);
                }
                Step::Leave(user) => {
                    wanted.remove(&format!("u{user}"));
                    outbox.leave(&key(user), accepted);
                }
                Step::Publish => accepted += 1,
                Step::Send(digits) => {
                    if let Some((changes, digits)) = in_flight.take() {
                        settle(&outbox, changes, &digits, &mut held);
                    }
                    in_flight = Some((outbox.take(accepted), digits));
                }
                Step::Retry => outbox.retry_refused(),
                Step::Lose(user) => drop(held.remove(&format!("u{user}"))),
                Step::Reconcile => reconcile(&outbox, &held),
                Step::NewNode => {
                    if let Some((changes, digits)) = in_flight.take() {
                        outbox.restart_as(&format!("node {nodes}").into());
                        settle(&outbox, changes, &digits, &mut held);
                    }
                    nodes += 1;
                    outbox.restart_as(&format!("node {nodes}").into());
                    held.clear();
                }
            }
            check_indexes(&outbox.queues())?;
        }
        if let Some((changes, digits)) = in_flight.take() {
            settle(&outbox, changes, &digits, &mut held);
        }
        outbox.retry_refused();
        for _ in 0..2 {
            while outbox.has_changes() {
                settle(&outbox, outbox.take(accepted), &[0], &mut held);
            }
            reconcile(&outbox, &held);
        }
        check_indexes(&outbox.queues())?;
        prop_assert_eq!(&held, &wanted);
        prop_assert_eq!(outbox.is_empty(), wanted.is_empty());
    }
}
