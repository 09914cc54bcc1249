//! Messages that did not arrive: members notice nothing, if the history has them.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::{Call, LossNotice};
use chat_broker::{
    Broker, HistoryRules, HubConfig, JoinOptions, MemoryBus, PublishOptions, Snapshot,
};
use chat_core::{ConnectionId, Retention, Topic};
use tokio::time::Instant;

use crate::support::{
    faulty, faulty_with, join, member, room, said, say, start_with, try_join, user,
};

#[tokio::test(start_paused = true)]
async fn missed_messages_are_read_before_members_notice() {
    for told in [LossNotice::Nothing, LossNotice::Lagged, LossNotice::Interrupted] {
        let (hub, broker, publisher) = faulty();
        let topic = room("r");
        let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
        say(&publisher, &topic, "a").await;
        inbox.expect(&["1 a"]).await;
        let reads = broker.count(Call::History);
        broker.lose_publications(3, told);
        for text in ["b", "c", "d", "e"] {
            say(&publisher, &topic, text).await;
        }
        inbox.expect(&["2 b", "3 c", "4 d", "5 e"]).await;
        inbox.expect_silence().await;
        let stats = hub.stats();
        assert_eq!(stats.gaps, 0);
        assert!((3..=4).contains(&stats.repaired), "{stats:?}");
        assert!(broker.count(Call::History) - reads <= 3, "{told:?}: one read, or a few");
    }
}

#[tokio::test(start_paused = true)]
async fn missed_last_messages_are_read() {
    for told in [LossNotice::Lagged, LossNotice::Interrupted] {
        let (hub, broker, publisher) = faulty();
        let topic = room("r");
        let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
        broker.lose_publications(2, told);
        say(&publisher, &topic, "a").await;
        say(&publisher, &topic, "b").await;
        inbox.expect(&["1 a", "2 b"]).await;
        inbox.expect_silence().await;
        assert_eq!(hub.stats().gaps, 0);
    }
}

/// No notice and no later message: the hub finds the loss by itself.
#[tokio::test(start_paused = true)]
async fn unreported_loss_is_found_by_reconciliation() {
    let (hub, broker, publisher) = faulty();
    let topic = room("r");
    let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
    broker.lose_publications(1, LossNotice::Nothing);
    say(&publisher, &topic, "a").await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    inbox.expect(&["1 a"]).await;
    assert_eq!(hub.stats().gaps, 0);
}

/// A broker may find fault with a topic that it was not asked for.
#[tokio::test(start_paused = true)]
async fn check_that_fails_for_another_topic_is_repeated_within_seconds() {
    let (hub, broker, publisher) = faulty();
    let topic = room("r");
    let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
    broker.blame_next(Call::Positions, room("another"));
    broker.lose_publications(1, LossNotice::Interrupted);
    let lost = Instant::now();
    say(&publisher, &topic, "a").await;
    inbox.expect(&["1 a"]).await;
    assert!(lost.elapsed() < Duration::from_secs(5), "{:?}", lost.elapsed());
}

/// Calls that fail are tried again by one timer, whatever asks for them.
#[tokio::test(start_paused = true)]
async fn failed_calls_are_retried_once_a_second() {
    let (hub, broker, publisher) = faulty();
    let topic = room("r");
    let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
    let made = broker.count(Call::Positions) + broker.count(Call::History);
    for call in [Call::Positions, Call::History] {
        broker.delay(call, Duration::from_millis(300));
        broker.fail_next(call, 10_000);
    }
    broker.lose_publications(1, LossNotice::Nothing);
    for n in 0..100 {
        say(&publisher, &topic, &n.to_string()).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let made = broker.count(Call::Positions) + broker.count(Call::History) - made;
    assert!((200..=500).contains(&made), "{made} calls in 300 s");
    for call in [Call::Positions, Call::History] {
        broker.fail_next(call, 0);
    }
    for n in 0..100 {
        inbox.expect(&[&format!("{} {n}", n + 1)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn room_that_ended_in_an_outage_is_not_read() {
    let (hub, broker, _publisher) = faulty();
    let topic = room("r");
    let (membership, ..) = join(&hub, &topic, 1).await;
    broker.fail_next(Call::Positions, 10_000);
    tokio::time::sleep(Duration::from_secs(35)).await;
    drop(membership);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let made = broker.count(Call::Positions);
    assert!(made > 0);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(broker.count(Call::Positions), made);
}

#[tokio::test(start_paused = true)]
async fn interruption_reads_only_rooms_that_are_behind() {
    let (hub, broker, publisher) = faulty();
    let mut memberships = Vec::new();
    for n in 0..1_000 {
        memberships.push(join(&hub, &room(&format!("r{n}")), n).await);
    }
    let topics = |call| -> usize {
        broker.calls().iter().filter(|(made, _)| *made == call).map(|(_, topics)| topics).sum()
    };
    let (reads, checks) = (topics(Call::History), topics(Call::Positions));
    broker.lose_publications(3, LossNotice::Interrupted);
    for n in [7, 70, 700] {
        say(&publisher, &room(&format!("r{n}")), "x").await;
    }
    for n in [7, 70, 700] {
        memberships[n].1.expect(&["1 x"]).await;
    }
    assert_eq!(hub.stats().gaps, 0);
    assert!(
        topics(Call::History) - reads <= 9,
        "{} rooms were read",
        topics(Call::History) - reads
    );
    assert!(topics(Call::Positions) - checks >= 1_000);
    let calls = broker.count(Call::Positions);
    assert!(calls <= 3 * 4, "{calls} calls for a thousand rooms, three times");
}

#[tokio::test(start_paused = true)]
async fn messages_wait_behind_a_repair() {
    let (hub, broker, publisher) = faulty();
    let topic = room("r");
    let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
    broker.lose_publications(1, LossNotice::Nothing);
    broker.fail_next(Call::History, 2);
    for text in ["a", "b"] {
        say(&publisher, &topic, text).await;
    }
    let (_late, mut late, position) = join(&hub, &topic, 2).await;
    assert_eq!(position, 0, "a new member is at the position of the others");
    say(&publisher, &topic, "c").await;
    for inbox in [&mut inbox, &mut late] {
        inbox.expect(&["1 a", "2 b", "3 c"]).await;
    }
    assert!(hub.stats().longest_repair >= Duration::from_secs(2), "{:?}", hub.stats());
    inbox.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn messages_missing_from_the_history_are_a_gap() {
    let short = Retention::default().messages(2);
    let rules = HistoryRules::new(Some(short));
    let (hub, broker, publisher) = faulty_with(HubConfig::default().history(rules));
    let topic = room("r");
    let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
    broker.lose_publications(4, LossNotice::Interrupted);
    for text in ["a", "b", "c", "d", "e"] {
        let delivery = PublishOptions::default().retention(short);
        publisher.publish(&topic, said(text), delivery).await.unwrap().await.unwrap();
    }
    // How much is there depends on when it is read.
    let mut received = Vec::new();
    while received.last().is_none_or(|last| last != "5 e") {
        received.push(inbox.next().await);
    }
    assert!(received.iter().any(|told| told.starts_with("gap ")), "{received:?}");
    assert!(hub.stats().gaps >= 1);
}

/// A room without history cannot know what it missed.
#[tokio::test(start_paused = true)]
async fn room_without_history_gets_a_gap_for_each_interruption() {
    let rules = HistoryRules::new(None);
    let (hub, broker, publisher) = faulty_with(HubConfig::default().history(rules));
    let topic = room("r");
    let (first, mut inbox) = member(100);
    let on_snapshot = |snapshot: &Snapshot<'_, _>| {
        assert!(snapshot.position.is_none() && snapshot.recent.is_none());
    };
    let joining =
        hub.join_with(&topic, ConnectionId::new(1), first, JoinOptions::default(), on_snapshot);
    let _membership = joining.await.unwrap();
    assert_eq!(broker.count(Call::History), 0);
    let say = async |text| {
        publisher
            .publish(&topic, said(text), PublishOptions::default())
            .await
            .unwrap()
            .await
            .unwrap();
    };
    say("a").await;
    inbox.expect(&["a"]).await;
    broker.lose_publications(1, LossNotice::Interrupted);
    say("b").await;
    say("c").await;
    inbox.expect(&["gap", "c"]).await;
    assert_eq!(hub.stats().gaps, 1);
}

/// It misses nothing that it could say so of: no sequence, and no other member.
#[tokio::test(start_paused = true)]
async fn topic_of_a_user_has_no_gaps() {
    let (hub, broker, publisher) = faulty();
    let topic = Topic::User(user("ann"));
    let (handle, mut inbox) = member(10);
    let membership = hub.attach(&topic, ConnectionId::new(1), handle);
    membership.subscribed().await.unwrap();
    broker.lose_publications(1, LossNotice::Interrupted);
    for text in ["lost", "a"] {
        let published = publisher.publish(&topic, said(text), PublishOptions::default()).await;
        published.unwrap().await.unwrap();
    }
    inbox.expect(&["a"]).await;
    assert_eq!(hub.stats().gaps, 0);
}

/// What is lost before a room without history is live is before the first message of its members.
#[tokio::test(start_paused = true)]
async fn room_without_history_that_opens_during_an_interruption_has_no_gap() {
    let rules = HistoryRules::new(None);
    let (hub, broker, publisher) = faulty_with(HubConfig::default().history(rules));
    let topic = room("r");
    broker.hold_next(Call::Occupancy, 1);
    broker.lose_publications(1, LossNotice::Lagged);
    let interrupting = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let lost = publisher.publish(&topic, said("lost"), PublishOptions::default()).await;
        lost.unwrap().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.release(Call::Occupancy);
    };
    let ((_membership, mut inbox, _), ()) = tokio::join!(join(&hub, &topic, 1), interrupting);
    inbox.expect_silence().await;
    assert_eq!(hub.stats().gaps, 0);
}

/// The reconciliation has read the message before its event arrives.
#[tokio::test(start_paused = true)]
async fn event_that_arrives_late_is_a_repeat() {
    let (hub, broker, publisher) = faulty();
    let topic = room("r");
    let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
    say(&publisher, &topic, "a").await;
    inbox.expect(&["1 a"]).await;
    assert_eq!((hub.stats().repeats, hub.stats().longest_repair), (0, Duration::ZERO));
    broker.hold_events();
    say(&publisher, &topic, "b").await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    inbox.expect(&["2 b"]).await;
    broker.release_events();
    inbox.expect_silence().await;
    let stats = hub.stats();
    assert_eq!((stats.received, stats.repeats, stats.repaired, stats.gaps), (2, 1, 1, 0));
}

/// From the moment in which messages are known to be missing, not from the last that was not.
#[tokio::test(start_paused = true)]
async fn longest_repair_is_the_time_for_which_messages_were_missing() {
    let (hub, broker, publisher) = faulty();
    let topic = room("r");
    let (_membership, mut inbox, _) = join(&hub, &topic, 1).await;
    say(&publisher, &topic, "a").await;
    inbox.expect(&["1 a"]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    broker.delay(Call::History, Duration::from_secs(2));
    broker.lose_publications(1, LossNotice::Nothing);
    for text in ["b", "c"] {
        say(&publisher, &topic, text).await;
    }
    inbox.expect(&["2 b", "3 c"]).await;
    assert_eq!(hub.stats().longest_repair, Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn recent_messages_are_bounded_over_all_rooms() {
    let config = HubConfig::default().recent_bytes(100_000);
    let bus = MemoryBus::new();
    let (hub, _) = start_with(&bus, config);
    let (publisher, _events) = bus.connect();
    let mut memberships = Vec::new();
    for n in 0..100 {
        memberships.push(join(&hub, &room(&format!("r{n}")), n).await);
    }
    let text = "x".repeat(500);
    for _ in 0..20 {
        for n in 0..100 {
            say(&publisher, &room(&format!("r{n}")), &text).await;
        }
    }
    for (_, inbox, _) in &mut memberships {
        for offset in 1..=20 {
            assert_eq!(inbox.next().await, format!("{offset} {text}"));
        }
    }
    let held = hub.stats().recent_bytes;
    assert!((50_000..160_000).contains(&held), "{held} bytes are held");
    drop(memberships);
    assert_eq!(hub.stats().recent_bytes, 0);
}

/// Faults of every kind, at random times: in the end everybody has received everything, once
/// and in order.
#[tokio::test(start_paused = true)]
async fn faults_lose_repeat_and_reorder_nothing() {
    // Fewer than the broker keeps.
    const MESSAGES: u64 = 250;
    for seed in 1..=20_u64 {
        let mut random = seed;
        let mut next = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let bus = MemoryBus::new();
        let (hub, broker) = start_with(&bus, HubConfig::default());
        let (publisher, _events) = bus.connect();
        let topic = room("r");
        let (_membership, mut inbox, _) = join(&hub, &topic, 0).await;
        broker.delay(Call::History, Duration::from_millis(next(30)));
        broker.delay(Call::Positions, Duration::from_millis(next(30)));
        let mut inboxes = Vec::new();
        for n in 1..=MESSAGES {
            match next(40) {
                0 => broker.lose_publications(next(5) as usize, LossNotice::Nothing),
                1 => broker.lose_publications(next(20) as usize, LossNotice::Lagged),
                2 => broker.lose_publications(next(20) as usize, LossNotice::Interrupted),
                3 => broker.fail_next(Call::History, next(3) as usize),
                4 => broker.fail_next(Call::Positions, next(3) as usize),
                5 => broker.hold_events(),
                6 => broker.release_events(),
                7 => {
                    // New members during the faults, if the room can be joined.
                    if let Ok(membership) = try_join(&hub, &topic, 1_000 + n).await {
                        drop(membership);
                        inboxes.push(join(&hub, &topic, n).await);
                    }
                }
                8 => tokio::time::sleep(Duration::from_millis(next(100))).await,
                _ => {}
            }
            say(&publisher, &topic, &n.to_string()).await;
        }
        broker.release_events();
        broker.lose_publications(0, LossNotice::Nothing);
        say(&publisher, &topic, &(MESSAGES + 1).to_string()).await;
        for offset in 1..=MESSAGES + 1 {
            assert_eq!(inbox.next().await, format!("{offset} {offset}"), "seed {seed}");
        }
        for (_membership, inbox, position) in &mut inboxes {
            for offset in *position + 1..=MESSAGES + 1 {
                assert_eq!(inbox.next().await, format!("{offset} {offset}"), "seed {seed}");
            }
        }
        assert_eq!(hub.stats().gaps, 0);
        let broker: Arc<dyn Broker> = broker;
        broker.close().await;
    }
}

/// What is lost while a room opens may be missing in the read that opens it.
#[tokio::test(start_paused = true)]
async fn messages_lost_while_a_room_opens_are_read() {
    let (hub, broker, publisher) = faulty();
    let topic = room("r");
    broker.hold_next(Call::History, 1);
    let joining = async {
        let (membership, inbox, position) = join(&hub, &topic, 1).await;
        assert_eq!(position, 0, "the read is of the moment before");
        (membership, inbox)
    };
    let losing = async {
        while broker.count(Call::History) == 0 {
            tokio::task::yield_now().await;
        }
        broker.lose_publications(1, LossNotice::Interrupted);
        say(&publisher, &topic, "a").await;
        while broker.count(Call::Positions) == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.release(Call::History);
    };
    let ((_membership, mut inbox), ()) = tokio::join!(joining, losing);
    inbox.expect(&["1 a"]).await;
    inbox.expect_silence().await;
}

/// However often the connection breaks while the broker does not answer.
#[tokio::test(start_paused = true)]
async fn repeated_interruptions_are_read_once() {
    let (hub, broker, publisher) = faulty();
    let mut memberships = Vec::new();
    for n in 0..10 {
        memberships.push(join(&hub, &room(&format!("r{n}")), n).await);
    }
    let checked = || -> usize {
        let calls = broker.calls();
        let checks = calls.iter().filter(|(call, _)| *call == Call::Positions);
        checks.map(|(_, topics)| topics).sum()
    };
    broker.hang_next(Call::Positions, 1_000);
    broker.lose_publications(50, LossNotice::Interrupted);
    for _ in 0..50 {
        say(&publisher, &room("r0"), "x").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    broker.release(Call::Positions);
    for offset in 1..=50 {
        memberships[0].1.expect(&[&format!("{offset} x")]).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!((50..100).contains(&checked()), "{} rooms were checked", checked());
}

/// However much quiet rooms hold, a busy one keeps its share for joins.
#[tokio::test(start_paused = true)]
async fn quiet_rooms_do_not_starve_a_busy_one() {
    let bus = MemoryBus::new();
    let (hub, _) = start_with(&bus, HubConfig::default().recent_bytes(200_000));
    let (publisher, _events) = bus.connect();
    let text = "x".repeat(500);
    let mut memberships = Vec::new();
    for n in 0..19 {
        let topic = room(&format!("quiet {n}"));
        memberships.push(join(&hub, &topic, n).await);
        for _ in 0..40 {
            say(&publisher, &topic, &text).await;
        }
    }
    let topic = room("busy");
    let (_membership, mut inbox, _) = join(&hub, &topic, 99).await;
    for offset in 1..=100 {
        say(&publisher, &topic, &text).await;
        assert_eq!(inbox.next().await, format!("{offset} {text}"));
    }
    let held = Arc::new(std::sync::Mutex::new(0));
    let tell = Arc::clone(&held);
    let on_snapshot = move |snapshot: &Snapshot<'_, _>| {
        let position = snapshot.position.unwrap();
        *tell.lock().unwrap() = snapshot.recent.unwrap().latest(position, 100, 1 << 20).count();
    };
    let (late, options) = (member(8).0, JoinOptions::default());
    let joining = hub.join_with(&topic, ConnectionId::new(100), late, options, on_snapshot);
    let _late = joining.await.unwrap();
    assert!(*held.lock().unwrap() >= 5, "{} messages are at hand", *held.lock().unwrap());
}
