use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn row(key: &str, version: u64, value: Option<&'static str>) -> Row {
    let left = if value.is_some() { LONG } else { Duration::ZERO };
    Row { key: key.to_owned(), version, value: value.map(Bytes::from), left }
}

fn table(id: &str, version: u64, complete: bool, rows: &[Row]) -> Table {
    let rows = rows.iter().map(|row| (row.key.clone(), row.clone())).collect();
    Table { id: id.to_owned(), version, complete, rows }
}

fn keys(mut rows: Vec<Row>) -> Vec<String> {
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows.into_iter().map(|row| row.key).collect()
}

#[test]
fn absent_records_are_lost_with_their_table_and_removed_from_the_same() {
    let now = Instant::now();
    let mut copy = RecordCopy::default();
    let all = [row("a", 1, Some("x")), row("b", 2, Some("x")), row("c", 3, None)];
    assert_eq!(copy.merge(&table("t", 3, true, &all), now), []);
    assert_eq!(copy.known(), ("t", 3));
    assert_eq!(copy.merge(&table("t", 4, true, &all[..1]), now), []);
    assert_eq!(copy.records(now).records.len(), 1, "b was removed, and the removal forgotten");

    let lost = copy.merge(&table("u", 5, true, &[]), now);
    assert_eq!(keys(lost), ["a", "c"], "a removal is to be known there as well");
    assert_eq!(copy.known().0, "t", "until they are written");
    assert_eq!(copy.merge(&table("u", 6, true, &[all[0].clone(), all[2].clone()]), now), []);
    assert_eq!(copy.known(), ("u", 6));
}

#[test]
fn lost_value_of_one_version_is_restored() {
    let now = Instant::now();
    let mut copy = RecordCopy::default();
    copy.merge(&table("t", 1, true, &[row("a", 1, Some("x"))]), now);
    assert_eq!(keys(copy.merge(&table("", 1, true, &[row("a", 1, None)]), now)), ["a"]);
    assert_eq!(copy.merge(&table("t", 2, false, &[row("a", 2, None)]), now), []);
    assert_eq!(copy.records(now).records, []);
}

#[test]
fn removal_is_held_for_the_lifetime_of_the_record() {
    let now = Instant::now();
    let mut copy = RecordCopy::default();
    copy.merge(&table("t", 1, true, &[row("a", 1, Some("x"))]), now);
    copy.merge(&table("t", 2, false, &[row("a", 2, None)]), now);
    let later = now + LONG - SHORTEST * 2;
    assert_eq!(keys(copy.merge(&table("u", 3, true, &[row("a", 1, Some("x"))]), later)), ["a"]);
    copy.merge(&table("u", 3, true, &[]), now + LONG);
    assert!(copy.held.is_empty());
}

/// In Redis: the copy of each node knows it for longer.
#[test]
fn restored_removal_is_remembered_as_long_as_any_other() {
    let now = Instant::now();
    let mut copy = RecordCopy::default();
    copy.merge(&table("t", 1, true, &[row("a", 1, Some("x"))]), now);
    copy.merge(&table("t", 2, false, &[row("a", 2, None)]), now);
    let left = |now| copy.rows(now).first().map(|row| row.left);
    assert_eq!(left(now), Some(Records::REMEMBERED));
    assert_eq!(left(now + LONG - SHORTEST * 2), Some(SHORTEST * 2));
    assert_eq!(left(now + LONG), None);
}

#[test]
fn oldest_removals_are_forgotten_before_records() {
    let now = Instant::now();
    let mut copy = RecordCopy::default();
    let most = Records::MAX as u64;
    let removals = (2..most + 4).map(|version| row(&version.to_string(), version, None));
    let rows: Vec<Row> = removals.chain([row("1", 1, Some("x"))]).collect();
    copy.merge(&table("t", most + 3, true, &rows), now);
    assert_eq!(copy.held.len(), Records::MAX + 1);
    let is_held = |version: u64| copy.held.contains_key(&version.to_string());
    assert!(is_held(1) && !is_held(2) && !is_held(3) && is_held(4) && is_held(most + 3));
}

proptest! {
    /// Nodes that saw different parts agree on the latest of each, in any order of writes.
    #[test]
    fn latest_version_of_a_record_is_kept(
        versions in proptest::collection::vec((0..4_usize, any::<bool>()), 1..20),
        seen in proptest::collection::vec((0..3_usize, 0..20_usize), 0..60),
        order in proptest::collection::vec(0..3_usize, 3..12),
    ) {
        let now = Instant::now();
        let history: Vec<Row> = versions
            .iter()
            .zip(1..)
            .map(|((key, has_value), n)| row(&key.to_string(), n, has_value.then_some("x")))
            .collect();
        let mut copies: [RecordCopy; 3] = Default::default();
        for (node, n) in seen {
            if let Some(row) = history.get(n) {
                copies[node].merge(&table("t", row.version, false, std::slice::from_ref(row)), now);
            }
        }
        let mut expected = std::collections::HashMap::new();
        for held in copies.iter().flat_map(|copy| &copy.held) {
            let latest = expected.entry(held.0.clone()).or_insert(held.1.version);
            *latest = held.1.version.max(*latest);
        }
        // What `restore_records.lua` does with a table that is empty at first.
        let mut redis: Vec<Row> = Vec::new();
        for node in order.into_iter().chain([0, 1, 2]) {
            for lost in copies[node].merge(&table("u", 99, true, &redis), now) {
                if redis.iter().all(|row| row.key != lost.key || row.version < lost.version) {
                    redis.retain(|row| row.key != lost.key);
                    redis.push(lost);
                }
            }
        }
        let found = redis.into_iter().map(|row| (row.key, row.version)).collect();
        prop_assert_eq!(expected, found);
    }
}
