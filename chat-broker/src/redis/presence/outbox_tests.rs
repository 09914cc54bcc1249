use std::collections::BTreeMap;

use chat_core::{RoomId, Topic};
use proptest::prelude::*;

use super::*;
use crate::redis::names::Names;

fn key(user: u8) -> Key {
    let address = Names::new("chat", 0).address(&Topic::Room(RoomId::new("r").unwrap()));
    Key { address, user: UserId::new(format!("u{user}")).unwrap() }
}

fn claims() -> Claims {
    let claims = Claims::default();
    claims.begin(&"node".into());
    claims
}

fn users(keys: &[Key]) -> Vec<&str> {
    keys.iter().map(|key| key.user.as_str()).collect()
}

fn done(claims: &Claims, sent: u64) -> Changes {
    let changes = claims.take(sent);
    let told = Changes {
        node: Arc::clone(&changes.node),
        enters: changes.enters.clone(),
        leaves: changes.leaves.clone(),
        hold_after: changes.hold_after,
    };
    claims.settle(changes, std::iter::repeat(Outcome::Done));
    told
}

#[test]
fn nothing_is_told_before_there_is_a_node() {
    let claims = Claims::default();
    claims.enter(key(1), Bytes::new(), 0);
    assert!(claims.take(0).is_empty() && !claims.has_changes());
    claims.begin(&"node".into());
    assert_eq!(done(&claims, 0).enters.len(), 1);
    assert!(!claims.has_changes() && !claims.is_empty());
}

/// A script that Redis refused after a first write has made a part of the join.
#[test]
fn leave_is_sent_after_refused_join() {
    let claims = claims();
    claims.enter(key(1), Bytes::new(), 0);
    claims.settle(claims.take(0), [Outcome::Refused]);
    claims.leave(key(1), 0);
    assert_eq!(users(&done(&claims, 0).leaves), ["u1"]);
    assert!(claims.is_empty() && !claims.has_changes());
}

#[test]
fn leaves_after_refused_joins_are_bounded() {
    let claims = claims();
    let refused = |sent| claims.settle(claims.take(sent), std::iter::repeat(Outcome::Refused));
    for n in 0..3 * MAX_REFUSED {
        let key = || Key { user: UserId::new(n.to_string()).unwrap(), ..key(0) };
        claims.enter(key(), Bytes::new(), 0);
        if n % 2 == 0 {
            refused(0);
            claims.leave(key(), 0);
        } else {
            let changes = claims.take(0);
            // A visit: something was said meanwhile.
            claims.leave(key(), 1);
            claims.settle(changes, std::iter::repeat(Outcome::Refused));
        }
        refused(1);
    }
    claims.retry();
    while claims.has_changes() {
        refused(1);
    }
    let sizes = |state: &State| (state.claims.len(), state.departures.len(), state.refused.len());
    let kept = sizes(&claims.state());
    assert_eq!((kept.0, kept.0), (kept.1, kept.2));
    assert!((MAX_REFUSED / 2..=MAX_REFUSED).contains(&kept.0), "{kept:?}");
    claims.retry();
    while claims.has_changes() {
        done(&claims, 1);
    }
    assert_eq!(sizes(&claims.state()), (0, 0, 0));
}

#[test]
fn a_going_waits_for_what_was_published_before_it() {
    let claims = claims();
    for user in 1..=3 {
        claims.enter(key(user), Bytes::new(), 0);
    }
    done(&claims, 0);
    claims.leave(key(1), 5);
    claims.leave(key(2), 7);
    assert!(done(&claims, 4).is_empty());
    assert_eq!(users(&done(&claims, 6).leaves), ["u1"]);
    claims.enter(key(2), Bytes::new(), 6);
    assert!(done(&claims, 9).leaves.is_empty(), "who came back in time has not left");
    claims.leave(key(3), 9);
    claims.leave(key(2), 9);
    assert_eq!(users(&done(&claims, 9).leaves), ["u3", "u2"]);
    assert!(claims.is_empty());
}

/// Another node may have said another name since, so the latest is told even if it is the same.
#[test]
fn every_name_is_told_once_as_the_latest() {
    let claims = claims();
    let told = |claims: &Claims| {
        let enters = done(claims, 0).enters.into_iter();
        enters.map(|enter| (enter.info, enter.is_latest)).collect::<Vec<_>>()
    };
    let (ann, anna) = (Bytes::from("Ann"), Bytes::from("Anna"));
    claims.enter(key(1), ann.clone(), 0);
    claims.enter(key(1), anna.clone(), 0);
    assert_eq!(told(&claims), [(anna.clone(), true)], "the one before was never told");
    claims.enter(key(1), anna.clone(), 0);
    assert_eq!(told(&claims), [(anna.clone(), true)]);
    let under_way = {
        claims.enter(key(1), ann.clone(), 0);
        claims.take(0)
    };
    claims.enter(key(1), anna.clone(), 0);
    claims.settle(under_way, [Outcome::Done]);
    assert_eq!(told(&claims), [(anna.clone(), true)]);
    claims.begin(&"another".into());
    assert_eq!(told(&claims), [(anna, false)], "by then another node may have said a later one");
}

#[tokio::test]
async fn departure_resolves_when_the_leave_was_carried_out() {
    let claims = claims();
    for user in 1..=4 {
        claims.enter(key(user), Bytes::new(), 0);
    }
    done(&claims, 0);
    let leave = |user| claims.leave(key(user), 0);
    let (announced, elsewhere, back) = (leave(1), leave(2), leave(3));
    claims.enter(key(3), Bytes::new(), 0);
    assert_eq!(back.await, None, "the user is back");
    let outcomes = [Outcome::Done, Outcome::Announced(7), Outcome::Done];
    claims.settle(claims.take(0), outcomes);
    assert_eq!((announced.await, elsewhere.await), (Some(7), None));
    assert_eq!(claims.leave(key(1), 0).await, None, "who is not there cannot leave");
    let forgotten = leave(4);
    claims.begin(&"another".into());
    assert_eq!(forgotten.await, None, "another node was there, and its lease runs out");
}

#[test]
fn a_visit_is_news_if_something_was_published() {
    let claims = claims();
    for (user, accepted) in [(1, 5), (2, 6), (3, 6)] {
        claims.enter(key(user), Bytes::new(), 5);
        claims.leave(key(user), accepted);
    }
    claims.enter(key(3), Bytes::new(), 6);
    let first = done(&claims, 5);
    let came: Vec<_> = first.enters.into_iter().map(|enter| enter.key).collect();
    assert_eq!((users(&came), users(&first.leaves)), (vec!["u2", "u3"], vec![]));
    assert_eq!(users(&done(&claims, 6).leaves), ["u2"]);

    claims.enter(key(2), Bytes::new(), 6);
    claims.leave(key(2), 7);
    let at_once = done(&claims, 7);
    assert_eq!((at_once.enters.len(), at_once.leaves.len()), (1, 1));
    claims.leave(key(3), 7);
    done(&claims, 7);
    assert!(claims.is_empty());
}

#[test]
fn visits_are_bounded() {
    let claims = Claims::default();
    for n in 0..2 * MAX_VISITS {
        let user = UserId::new(n.to_string()).unwrap();
        let key = Key { user, ..key(0) };
        claims.enter(key.clone(), Bytes::new(), 0);
        claims.leave(key, 1);
    }
    assert_eq!(claims.state().claims.len(), MAX_VISITS);
}

#[test]
fn comings_come_before_what_is_published_after_them_however_many() {
    let claims = claims();
    claims.enter(key(0), Bytes::new(), 0);
    done(&claims, 0);
    claims.leave(key(0), 1);
    for n in 0..600 {
        let user = UserId::new(format!("of many {n}")).unwrap();
        claims.enter(Key { user, ..key(0) }, Bytes::new(), n / 300);
    }
    let sizes: Vec<_> = std::iter::repeat_with(|| done(&claims, 2))
        .map(|changes| (changes.enters.len(), changes.leaves.len(), changes.hold_after))
        .take(3)
        .collect();
    assert_eq!(sizes, [(256, 0, Some(0)), (256, 1, Some(1)), (88, 0, None)]);
}

/// What Redis holds for a node, and what happens to it.
#[derive(Debug, Clone)]
enum Step {
    /// Under one of several names.
    Enter(u8, u8),
    Leave(u8),
    Publish,
    /// Takes changes that are settled by the next of these.
    Tell(Vec<u8>),
    Retry,
    Begin,
    /// Redis loses a user.
    Lose(u8),
    /// Redis is compared with what was told.
    Reconcile,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4, 0u8..3).prop_map(|(user, name)| Step::Enter(user, name)),
        4 => (0u8..4).prop_map(Step::Leave),
        4 => prop::collection::vec(0u8..6, 8).prop_map(Step::Tell),
        2 => Just(Step::Publish),
        1 => Just(Step::Retry),
        1 => Just(Step::Begin),
        1 => (0u8..4).prop_map(Step::Lose),
        1 => Just(Step::Reconcile),
    ]
}

/// The users that Redis holds, or should, by their names.
type Users = BTreeMap<String, Bytes>;

/// Settles `changes` by fate: done, unanswered though done, unanswered, refused, refused though done.
fn settle(claims: &Claims, changes: Changes, fates: &[u8], held: &mut Users) {
    let mut outcomes = Vec::new();
    let enters = changes.enters.iter().map(|enter| (&enter.key, Some(enter)));
    let all = enters.chain(changes.leaves.iter().map(|key| (key, None)));
    for ((key, enter), fate) in all.zip(fates.iter().cycle()) {
        let user = key.user.as_str().to_owned();
        match enter {
            _ if matches!(fate, 3 | 4) => {}
            Some(Enter { info, is_latest: true, .. }) => drop(held.insert(user, info.clone())),
            Some(Enter { info, .. }) => drop(held.entry(user).or_insert_with(|| info.clone())),
            None => drop(held.remove(&user)),
        }
        outcomes.push(match fate {
            0 | 1 => Outcome::Done,
            2 | 3 => Outcome::Unanswered,
            _ => Outcome::Refused,
        });
    }
    claims.settle(changes, outcomes);
}

fn reconcile(claims: &Claims, held: &Users) {
    let (_, mut told) = claims.after(None, 9).unwrap();
    told.retain(|key| !held.contains_key(key.user.as_str()));
    claims.tell_again(told);
}

proptest! {
    /// Whatever is lost and refused on the way, Redis comes to hold what is wanted.
    #[test]
    fn redis_comes_to_the_truth(steps in prop::collection::vec(step(), 0..60)) {
        let (claims, mut wanted, mut held) = (claims(), Users::new(), Users::new());
        let mut under_way: Option<(Changes, Vec<u8>)> = None;
        let (mut nodes, mut accepted) = (0, 0);
        for step in steps {
            match step {
                Step::Enter(user, name) => {
                    let info = Bytes::from(vec![name]);
                    wanted.insert(format!("u{user}"), info.clone());
                    claims.enter(key(user), info, accepted);
                }
                Step::Leave(user) => {
                    wanted.remove(&format!("u{user}"));
                    claims.leave(key(user), accepted);
                }
                Step::Publish => accepted += 1,
                Step::Tell(fates) => {
                    if let Some((changes, fates)) = under_way.take() {
                        settle(&claims, changes, &fates, &mut held);
                    }
                    under_way = Some((claims.take(accepted), fates));
                }
                Step::Retry => claims.retry(),
                Step::Lose(user) => drop(held.remove(&format!("u{user}"))),
                Step::Reconcile => reconcile(&claims, &held),
                Step::Begin => {
                    if let Some((changes, fates)) = under_way.take() {
                        claims.begin(&format!("node {nodes}").into());
                        settle(&claims, changes, &fates, &mut held);
                    }
                    nodes += 1;
                    claims.begin(&format!("node {nodes}").into());
                    held.clear();
                }
            }
            let state = claims.state();
            prop_assert!(state.entering.len() + state.leaving.len() <= 4);
            prop_assert!(state.claims.len() <= 4 && state.refused.len() <= 4);
                let visits = state.claims.values().filter(|claim| claim.visit.is_some());
                prop_assert_eq!(state.visits, visits.count());
        }
        if let Some((changes, fates)) = under_way.take() {
            settle(&claims, changes, &fates, &mut held);
        }
        claims.retry();
        for _ in 0..2 {
            while claims.has_changes() {
                settle(&claims, claims.take(accepted), &[0], &mut held);
            }
            reconcile(&claims, &held);
        }
        prop_assert!(claims.state().departures.is_empty());
        prop_assert_eq!(&held, &wanted);
        prop_assert_eq!(claims.is_empty(), wanted.is_empty());
    }
}
