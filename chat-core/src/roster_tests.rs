use proptest::prelude::*;

use super::*;

fn occupant(n: u32) -> Occupant {
    named(n, &n.to_string())
}

fn named(n: u32, name: &str) -> Occupant {
    let user = UserId::new(format!("u{n}")).unwrap();
    Occupant { user, info: Bytes::copy_from_slice(name.as_bytes()) }
}

/// What a broker knows of a room.
#[derive(Debug, Default)]
struct Truth {
    version: u64,
    users: std::collections::BTreeSet<u32>,
}

impl Truth {
    fn snapshot(&self, limit: usize) -> Occupancy {
        let is_small = self.users.len() <= limit;
        let occupants = self.users.iter().filter(|_| is_small).map(|n| occupant(*n)).collect();
        Occupancy { version: self.version, count: self.users.len() as u32, occupants }
    }
}

fn drain(out: &mut Vec<Item>) -> Vec<String> {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    out.drain(..)
        .map(|item| match item {
            Item::Presence(PresenceChange::Joined, info) => format!("+{}", text(info)),
            Item::Presence(PresenceChange::Left, info) => format!("-{}", text(info)),
            Item::Presence(PresenceChange::Renamed, info) => format!("~{}", text(info)),
            Item::Count(count) => format!("={count}"),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn changes_are_reported_once_and_missed_ones_after_a_snapshot() {
    let (mut roster, mut out) = (Roster::new(10), Vec::new());
    roster.change(5, 1, PresenceChange::Joined, occupant(1), &mut out);
    let mut truth = Truth { version: 5, users: [1, 2].into() };
    roster.begin_snapshot();
    roster.set(truth.snapshot(10), &mut out);
    assert_eq!(drain(&mut out), [""; 0], "the first snapshot is no news");
    roster.change(5, 2, PresenceChange::Joined, occupant(2), &mut out);
    roster.change(6, 3, PresenceChange::Joined, occupant(3), &mut out);
    roster.change(7, 2, PresenceChange::Left, occupant(1), &mut out);
    assert_eq!(drain(&mut out), ["+3", "-1"]);

    roster.change(9, 2, PresenceChange::Joined, occupant(5), &mut out);
    assert!(roster.wants_snapshot() && out.is_empty(), "one was missed");
    truth = Truth { version: 9, users: [3, 5].into() };
    roster.begin_snapshot();
    roster.set(truth.snapshot(10), &mut out);
    assert_eq!(drain(&mut out), ["-2", "+5"]);
    assert_eq!((roster.count(), roster.listed().unwrap().len()), (2, 2));
    roster.begin_snapshot();
    roster.set(Occupancy::default(), &mut out);
    assert_eq!(drain(&mut out), ["-3", "-5"], "the broker was emptied");
}

#[test]
fn first_join_of_an_empty_room_needs_no_snapshot() {
    for (count, is_wanted) in [(1, false), (2, true)] {
        let (mut roster, mut out) = (Roster::new(10), Vec::new());
        roster.begin_snapshot();
        roster.set(Occupancy { version: 3, ..Occupancy::default() }, &mut out);
        roster.change(7, count, PresenceChange::Joined, occupant(1), &mut out);
        assert_eq!(roster.wants_snapshot(), is_wanted, "{count} after missed changes");
        assert_eq!(out.is_empty(), is_wanted);
    }
}

#[test]
fn snapshot_with_the_latest_change_is_enough() {
    let (mut roster, mut out) = (Roster::new(2), Vec::new());
    let mut truth = Truth { version: 4, users: [1, 2, 3, 4].into() };
    roster.begin_snapshot();
    roster.change(4, 4, PresenceChange::Joined, occupant(4), &mut out);
    roster.set(truth.snapshot(2), &mut out);
    assert!(!roster.wants_snapshot() && roster.listed().is_none(), "a big room");
    assert!(roster.has_reached(4) && !roster.has_reached(5));

    roster.begin_snapshot();
    roster.change(5, 2, PresenceChange::Left, occupant(4), &mut out);
    truth = Truth { version: 5, users: [1, 2].into() };
    roster.set(truth.snapshot(2), &mut out);
    assert_eq!(roster.listed().map(|listed| listed.len()), Some(2));
}

#[test]
fn outdated_snapshot_undoes_nothing() {
    for (older, is_wanted_again) in
        [(Truth { version: 5, users: [1].into() }, false), (Truth::default(), true)]
    {
        let (mut roster, mut out) = (Roster::new(10), Vec::new());
        roster.begin_snapshot();
        roster.set(older.snapshot(10), &mut out);
        roster.begin_snapshot();
        roster.change(6, 1, PresenceChange::Joined, occupant(1), &mut out);
        roster.change(7, 2, PresenceChange::Joined, occupant(2), &mut out);
        roster.set(older.snapshot(10), &mut out);
        assert_eq!(roster.listed().unwrap().len(), 2);
        assert_eq!(roster.wants_snapshot(), is_wanted_again, "{older:?}");
    }
}

#[test]
fn change_missed_during_a_snapshot_needs_another() {
    let (mut roster, mut out) = (Roster::new(10), Vec::new());
    let truth = Truth { version: 5, users: [1].into() };
    roster.begin_snapshot();
    roster.set(truth.snapshot(10), &mut out);
    roster.begin_snapshot();
    roster.mark_stale();
    roster.set(truth.snapshot(10), &mut out);
    assert!(roster.wants_snapshot());
    roster.begin_snapshot();
    roster.change(7, 3, PresenceChange::Joined, occupant(3), &mut out);
    roster.set(truth.snapshot(10), &mut out);
    assert!(roster.wants_snapshot(), "6 was missed");
}

#[test]
fn latest_name_is_reported_and_listed() {
    let (mut roster, mut out) = (Roster::new(10), Vec::new());
    roster.begin_snapshot();
    roster.set(Truth { version: 5, users: [1, 2].into() }.snapshot(10), &mut out);
    roster.change(6, 2, PresenceChange::Renamed, named(1, "one"), &mut out);
    roster.change(7, 2, PresenceChange::Renamed, named(1, "one"), &mut out);
    // A broker that was emptied says again who is there, by the name of now.
    roster.change(8, 2, PresenceChange::Joined, named(2, "two"), &mut out);
    assert_eq!(drain(&mut out), ["~one", "~two"], "the same name is no news");
    let occupants = vec![named(1, "uno"), named(2, "two")];
    roster.begin_snapshot();
    roster.set(Occupancy { version: 9, count: 2, occupants }, &mut out);
    assert_eq!(drain(&mut out), ["~uno"], "it was missed");
    roster.change(10, 1, PresenceChange::Left, named(1, "one"), &mut out);
    assert_eq!(drain(&mut out), ["-uno"], "by the name that was reported last");
}

/// A broker was emptied after its clock was set back: its versions begin further below.
#[test]
fn far_lower_version_wants_a_snapshot() {
    const HOUR: u64 = 3_600_000_000;
    let late = 9 * HOUR - LATEST;
    for (version, is_wanted) in
        [(9 * HOUR - 1, false), (late, false), (late - 1, true), (8 * HOUR, true)]
    {
        let (mut roster, mut out) = (Roster::new(10), Vec::new());
        roster.begin_snapshot();
        roster.set(Truth { version: 9 * HOUR, users: [1].into() }.snapshot(10), &mut out);
        roster.change(version, 1, PresenceChange::Joined, occupant(2), &mut out);
        assert_eq!((roster.wants_snapshot(), out.len()), (is_wanted, 0), "{version}");
        roster.begin_snapshot();
        roster.set(Truth { version, users: [2].into() }.snapshot(10), &mut out);
        roster.change(version + 1, 2, PresenceChange::Joined, occupant(3), &mut out);
        assert_eq!(drain(&mut out), ["-1", "+2", "+3"]);
    }
}

#[test]
fn room_of_as_many_as_are_listed_is_no_big_one() {
    let (mut roster, mut out) = (Roster::new(2), Vec::new());
    assert!(roster.is_unknown() && !roster.has_unannounced_count());
    roster.begin_snapshot();
    roster.set(Truth { version: 5, users: [1].into() }.snapshot(2), &mut out);
    assert!(!roster.is_unknown());
    roster.change(6, 2, PresenceChange::Joined, occupant(2), &mut out);
    assert!(!roster.has_unannounced_count(), "the members were told of the join");
    assert_eq!((drain(&mut out), roster.listed().unwrap().len()), (vec!["+2".to_owned()], 2));
    roster.change(7, 3, PresenceChange::Joined, occupant(3), &mut out);
    assert!(roster.listed().is_none() && roster.has_unannounced_count() && out.is_empty());
}

#[test]
fn first_count_of_a_big_room_is_no_news() {
    let (mut roster, mut out) = (Roster::new(2), Vec::new());
    roster.begin_snapshot();
    roster.set(Truth { version: 5, users: [1, 2, 3].into() }.snapshot(2), &mut out);
    assert!(!roster.has_unannounced_count());
    roster.change(6, 4, PresenceChange::Joined, occupant(4), &mut out);
    assert!(roster.has_unannounced_count());
}

#[test]
fn large_room_gets_its_count() {
    let (mut roster, mut out) = (Roster::new(4), Vec::new());
    let mut truth = Truth { version: 100, users: (0..4).collect() };
    roster.begin_snapshot();
    roster.set(truth.snapshot(4), &mut out);
    for n in 4..9 {
        roster.change(97 + u64::from(n), n + 1, PresenceChange::Joined, occupant(n), &mut out);
    }
    assert!(out.is_empty() && roster.listed().is_none());
    assert!(roster.has_unannounced_count());
    roster.announce_count(&mut out);
    roster.announce_count(&mut out);
    assert_eq!(drain(&mut out), ["=9"]);

    for n in 3..9 {
        let left = PresenceChange::Left;
        roster.change(103 + u64::from(n), 11 - n, left, occupant(n), &mut out);
        assert_eq!(roster.wants_snapshot(), 11 - n <= 3, "a room at the limit stays big");
    }
    truth = Truth { version: 111, users: (0..3).collect() };
    roster.begin_snapshot();
    roster.set(truth.snapshot(4), &mut out);
    assert_eq!(drain(&mut out), ["=3"]);
    assert_eq!(roster.listed().unwrap().len(), 3);
}

#[test]
fn first_snapshot_older_than_a_change_is_followed_by_another() {
    let (mut roster, mut out) = (Roster::new(10), Vec::new());
    roster.begin_snapshot();
    roster.change(7, 1, PresenceChange::Joined, occupant(1), &mut out);
    roster.set(Occupancy::default(), &mut out);
    assert!(roster.wants_snapshot() && out.is_empty());
    roster.begin_snapshot();
    roster.set(Truth { version: 7, users: [1].into() }.snapshot(10), &mut out);
    assert_eq!(drain(&mut out), ["+1"]);
    assert!(!roster.wants_snapshot());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However changes are lost and snapshots delayed, in the end the roster is right,
    /// and a follower of what was told knows the same.
    #[test]
    fn roster_converges(
        steps in prop::collection::vec((0u32..8, 0u8..6), 0..200), limit in 1usize..7,
    ) {
        let (mut truth, mut roster, mut out) = (Truth::default(), Roster::new(limit), Vec::new());
        // The requested snapshot, and the answer once it is made.
        let (mut asked, mut answer) = (false, None);
        let mut follower: Option<std::collections::BTreeSet<String>> = None;
        let mut follow = |roster: &Roster, out: &mut Vec<Item>| {
            for line in drain(out) {
                let (sign, who) = line.split_at(1);
                if let Some(follower) = &mut follower {
                    match sign {
                        "+" => assert!(follower.insert(who.to_owned()), "{line}: there already"),
                        "-" => assert!(follower.remove(who), "{line}: not there"),
                        _ => {}
                    }
                }
            }
            // A member that joins a room, or a small one that was big, is given a list.
            match roster.listed() {
                None => follower = None,
                Some(listed) => {
                    let names: std::collections::BTreeSet<String> = listed
                        .values().map(|info| String::from_utf8(info.to_vec()).unwrap()).collect();
                    assert_eq!(follower.get_or_insert_with(|| names.clone()), &names);
                }
            }
        };
        for (user, outcome) in steps {
            match outcome {
                0 if roster.wants_snapshot() && !asked => {
                    roster.begin_snapshot();
                    asked = true;
                }
                0 if asked => answer = answer.or_else(|| Some(truth.snapshot(limit))),
                1 => if let Some(snapshot) = answer.take() {
                    roster.set(snapshot, &mut out);
                    asked = false;
                },
                _ => {
                    let change = if truth.users.insert(user) {
                        PresenceChange::Joined
                    } else {
                        truth.users.remove(&user);
                        PresenceChange::Left
                    };
                    truth.version += 1;
                    let count = truth.users.len() as u32;
                    if outcome == 2 {
                        roster.mark_stale();
                    } else {
                        roster.change(truth.version, count, change, occupant(user), &mut out);
                    }
                }
            }
            follow(&roster, &mut out);
        }
        if asked {
            roster.set(answer.unwrap_or_else(|| truth.snapshot(limit)), &mut out);
            follow(&roster, &mut out);
        }
        for _ in 0..3 {
            if roster.wants_snapshot() {
                roster.begin_snapshot();
                roster.set(truth.snapshot(limit), &mut out);
                follow(&roster, &mut out);
            }
        }
        prop_assert!(!roster.wants_snapshot());
        prop_assert_eq!(roster.count() as usize, truth.users.len());
        let is_small = roster.listed().is_some();
        prop_assert!(truth.users.len() <= limit || !is_small);
        prop_assert!(truth.users.len() > limit * 3 / 4 || is_small);
    }
}
