//! Presence in rooms, as the hub sends it to the broker and members receive it.

use std::time::Duration;

use chat_broker::testing::{Call, LossNotice};
use chat_broker::{HistoryRules, HubConfig, MemoryBus, PresenceTracker};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    enter, enter_as, faulty, faulty_with, join, member, named, occupant, room, say, start,
    start_with, user,
};

#[tokio::test(start_paused = true)]
async fn joins_and_leaves_are_sent_on_all_servers_once_per_user() {
    let bus = MemoryBus::new();
    let (a, b) = (start(&bus), start(&bus));
    let topic = room("r");
    let (_watcher, mut inbox) = enter(&b, &topic, 0, "watcher").await;
    inbox.expect(&["+watcher"]).await;
    let (first, _) = enter(&a, &topic, 1, "ann").await;
    let (second, _) = enter(&a, &topic, 2, "ann").await;
    let (third, _) = enter(&b, &topic, 3, "ann").await;
    inbox.expect(&["+ann"]).await;
    drop(first);
    drop(third);
    inbox.expect_silence().await;
    drop(second);
    inbox.expect(&["-ann"]).await;
}

/// A configuration beyond the end of the clock.
#[tokio::test(start_paused = true)]
async fn unlimited_durations_are_clamped() {
    let config = HubConfig::default().grace(Duration::MAX).linger(Duration::MAX);
    let (hub, broker) = start_with(&MemoryBus::new(), config);
    let topic = room("r");
    let (membership, mut inbox) = enter(&hub, &topic, 1, "ann").await;
    inbox.expect(&["+ann"]).await;
    membership.disconnect();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((broker.count(Call::Leave), broker.count(Call::Unsubscribe)), (0, 0));
    let (_again, mut inbox) = enter(&hub, &topic, 2, "ann").await;
    inbox.expect_silence().await;
    assert_eq!(broker.count(Call::Leave), 0);
}

#[tokio::test(start_paused = true)]
async fn lost_connection_leaves_after_grace_unless_it_returns() {
    let bus = MemoryBus::new();
    let (a, broker) = start_with(&bus, HubConfig::default());
    let b = start(&bus);
    let topic = room("r");
    let (_watcher, mut inbox) = enter(&b, &topic, 0, "watcher").await;
    inbox.expect(&["+watcher"]).await;
    let (membership, _) = enter(&a, &topic, 1, "ann").await;
    inbox.expect(&["+ann"]).await;

    membership.disconnect();
    sleep(Duration::from_secs(4)).await;
    let (here, _) = enter(&a, &topic, 2, "ann").await;
    here.disconnect();
    sleep(Duration::from_secs(4)).await;
    let (elsewhere, _) = enter(&b, &topic, 3, "ann").await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(broker.count(Call::Leave), 1, "this server lets go when the time is up");
    inbox.expect_silence().await;

    let lost = Instant::now();
    elsewhere.disconnect();
    inbox.expect(&["-ann"]).await;
    assert_eq!(lost.elapsed().as_secs(), 5);
}

/// A user gets another name in any way: on the same server, on another one, after the connection
/// was lost, or by a new token.
#[tokio::test(start_paused = true)]
async fn members_receive_the_latest_name_of_a_user() {
    let bus = MemoryBus::new();
    let (a, b) = (start(&bus), start(&bus));
    let topic = room("r");
    let (_watcher, mut inbox) = enter(&b, &topic, 0, "watcher").await;
    let (first, _) = enter_as(&a, &topic, 1, named("u", "Ann")).await;
    inbox.expect(&["+watcher", "+Ann"]).await;
    let (second, _) = enter_as(&a, &topic, 2, named("u", "Anna")).await;
    inbox.expect(&["~Anna"]).await;
    let (third, _) = enter_as(&b, &topic, 3, named("u", "Annie")).await;
    inbox.expect(&["~Annie"]).await;
    second.rename(named("u", "Anne"));
    second.rename(named("u", "Anne"));
    second.rename(occupant("another"));
    inbox.expect(&["~Anne"]).await;
    drop(second);
    drop(third);
    inbox.expect_silence().await;
    first.disconnect();
    let (back, _) = enter_as(&a, &topic, 4, named("u", "Ann")).await;
    inbox.expect(&["~Ann"]).await;
    drop(back);
    inbox.expect(&["-Ann"]).await;
    inbox.expect_silence().await;
}

/// A further tab, and a return within the grace.
#[tokio::test(start_paused = true)]
async fn further_connection_of_a_listed_user_is_no_broker_call() {
    let (hub, broker) = start_with(&MemoryBus::new(), HubConfig::default());
    let topic = room("r");
    let ann = || named("u", "Ann");
    let enters = || broker.count(Call::Enter);
    let (first, mut inbox) = enter_as(&hub, &topic, 1, ann()).await;
    let (second, _) = enter_as(&hub, &topic, 2, ann()).await;
    assert_eq!(enters(), 2, "the roster does not list the user yet");
    inbox.expect(&["+Ann"]).await;
    let (third, _) = enter_as(&hub, &topic, 3, ann()).await;
    for membership in [first, second, third] {
        membership.disconnect();
    }
    let (back, mut inbox) = enter_as(&hub, &topic, 4, ann()).await;
    assert_eq!(enters(), 2);

    // The roster still lists the first name when that is sent again.
    let (other_name, _) = enter_as(&hub, &topic, 5, named("u", "Anna")).await;
    let (same_name, _) = enter_as(&hub, &topic, 6, ann()).await;
    assert_eq!(enters(), 4);
    inbox.expect(&["~Anna", "~Ann"]).await;
    back.rename(named("u", "Anne"));
    let (after_rename, _) = enter_as(&hub, &topic, 7, ann()).await;
    assert_eq!(enters(), 6);
    inbox.expect(&["~Anne", "~Ann"]).await;

    let (_elsewhere, _) = enter_as(&hub, &room("another"), 8, ann()).await;
    assert_eq!(enters(), 7, "another room");
    let (_watcher, mut inbox) = enter(&hub, &topic, 9, "watcher").await;
    inbox.expect(&["+watcher"]).await;
    drop([back, other_name, same_name, after_rename]);
    let (_again, _) = enter_as(&hub, &topic, 10, ann()).await;
    assert_eq!((broker.count(Call::Leave), enters()), (1, 9));
    inbox.expect(&["-Ann", "+Ann"]).await;
}

/// It may have missed that the broker lost the user, or that another server sent another name.
#[tokio::test(start_paused = true)]
async fn stale_roster_spares_no_broker_call() {
    let (hub, broker, other) = faulty();
    let topic = room("r");
    let (_watcher, mut inbox) = enter(&hub, &topic, 0, "watcher").await;
    let (_first, _) = enter_as(&hub, &topic, 1, named("u", "Ann")).await;
    inbox.expect(&["+watcher", "+Ann"]).await;
    let again = async |id| enter_as(&hub, &topic, id, named("u", "Ann")).await;
    let enters = || broker.count(Call::Enter);

    // The snapshot that would show it is being read.
    let asked = broker.count(Call::Occupancy);
    broker.hold_next(Call::Occupancy, 1);
    broker.lose_presence(1, LossNotice::Lagged);
    other.enter(&topic, named("u", "Anna"));
    while broker.count(Call::Occupancy) == asked {
        tokio::task::yield_now().await;
    }
    let (_second, _) = again(2).await;
    assert_eq!(enters(), 3);
    broker.release(Call::Occupancy);
    inbox.expect(&["~Anna", "~Ann"]).await;
    inbox.expect_silence().await;

    // The broker was unavailable.
    broker.lose_presence(1, LossNotice::Interrupted);
    other.enter(&topic, named("u", "Anna"));
    sleep(Duration::from_millis(10)).await;
    let (_third, _) = again(3).await;
    assert_eq!(enters(), 4);
    sleep(Duration::from_secs(20)).await;
    let (_fourth, _) = again(4).await;
    assert_eq!(enters(), 4, "the roster was read again");
    inbox.expect_silence().await;
}

/// A caller whose leave has resolved does not find the user in the list.
#[tokio::test(start_paused = true)]
async fn roster_shows_a_leave_when_it_resolves() {
    let bus = MemoryBus::new();
    let (hub, other) = (start(&bus), start(&bus));
    let topic = room("r");
    let (watcher, _inbox) = enter(&hub, &topic, 0, "watcher").await;
    let listed = || {
        let mut users = Vec::new();
        watcher.with_snapshot(|snapshot| {
            let listed = snapshot.roster.unwrap().listed().unwrap();
            users.extend(listed.keys().map(|user| user.as_str().to_owned()));
        });
        users
    };
    for n in 1..20 {
        let (membership, _) = enter(&hub, &topic, n, "ann").await;
        membership.leave().await;
        assert!(!listed().contains(&"ann".to_owned()), "{n}: {:?}", listed());
    }
    let (here, _) = enter(&hub, &topic, 20, "ann").await;
    let (_there, _) = enter(&other, &topic, 1, "ann").await;
    here.leave().await;
    assert_eq!(listed(), ["ann", "watcher"], "another server holds the user");
    let (last, _) = enter(&other, &room("empty"), 2, "ann").await;
    last.leave().await;
    let (nobody, _inbox) = member(1);
    hub.attach(&topic, chat_core::ConnectionId::new(21), nobody).leave().await;
}

/// Each has its own wait, and one that is given up ends no other.
#[tokio::test(start_paused = true)]
async fn leave_resolves_when_the_roster_shows_it_and_not_before() {
    let (hub, broker, _) = faulty();
    let topic = room("r");
    let (_watcher, mut inbox) = enter(&hub, &topic, 0, "watcher").await;
    let mut memberships = Vec::new();
    for (id, name) in [(1, "ann"), (2, "bob"), (3, "cid")] {
        memberships.push(enter(&hub, &topic, id, name).await.0);
    }
    inbox.expect(&["+watcher", "+ann", "+bob", "+cid"]).await;
    broker.hold_events();
    let mut leaving: Vec<_> = memberships.into_iter().map(|one| Box::pin(one.leave())).collect();
    for leaving in &mut leaving {
        assert!(timeout(Duration::from_secs(1), leaving).await.is_err(), "the event is held");
    }
    drop(leaving.remove(0));
    for leaving in &mut leaving {
        assert!(timeout(Duration::from_secs(1), leaving).await.is_err(), "the event is held");
    }
    broker.release_events();
    for leaving in leaving {
        timeout(Duration::from_secs(1), leaving).await.expect("shown");
    }
    inbox.expect(&["-ann", "-bob", "-cid"]).await;
}

#[tokio::test(start_paused = true)]
async fn user_is_absent_when_no_roster_lists_the_user() {
    let (hub, _broker, other) = faulty();
    let topics = [room("a"), room("b")];
    let soon = Duration::from_secs(1);
    // Nobody is in the rooms here, so there is nothing to wait for.
    timeout(soon, hub.absent(&topics[0], &user("ann"))).await.expect("at once");
    let mut memberships = Vec::new();
    for (topic, id) in topics.iter().zip(1..) {
        other.enter(topic, occupant("ann"));
        memberships.push(join(&hub, topic, id).await);
    }
    timeout(soon, hub.absent(&topics[0], &user("bob"))).await.expect("at once");
    assert!(timeout(soon, hub.absent(&topics[0], &user("ann"))).await.is_err());
    other.leave(&topics[0], &user("ann"));
    timeout(soon, hub.absent(&topics[0], &user("ann"))).await.expect("the user has left");
    assert!(timeout(soon, hub.absent_everywhere(&user("ann"))).await.is_err());
    other.leave(&topics[1], &user("ann"));
    timeout(soon, hub.absent_everywhere(&user("ann"))).await.expect("the user has left");
}

/// The event of the last leave is lost, and an empty room has no version to compare with.
#[tokio::test(start_paused = true)]
async fn leave_of_last_user_resolves_after_its_event_is_lost() {
    let (hub, broker, _) = faulty();
    let topic = room("r");
    let (_watcher, ..) = join(&hub, &topic, 0).await;
    let (membership, mut inbox) = enter(&hub, &topic, 1, "ann").await;
    inbox.expect(&["+ann"]).await;
    broker.lose_presence(1, LossNotice::Lagged);
    let left = timeout(Duration::from_secs(60), membership.leave()).await;
    left.expect("the room is known to be empty");
}

#[tokio::test(start_paused = true)]
async fn leave_in_one_tab_ends_the_grace_of_another() {
    let bus = MemoryBus::new();
    let hub = start(&bus);
    let topic = room("r");
    let (_watcher, mut inbox) = enter(&hub, &topic, 0, "watcher").await;
    let (lost, _) = enter(&hub, &topic, 1, "ann").await;
    let (left, _) = enter(&hub, &topic, 2, "ann").await;
    inbox.expect(&["+watcher", "+ann"]).await;
    lost.disconnect();
    drop(left);
    inbox.expect(&["-ann"]).await;
    inbox.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn expired_grace_lets_only_users_without_connections_leave() {
    let bus = MemoryBus::new();
    let hub = start(&bus);
    let (r, s) = (room("r"), room("s"));
    let (_in_r, mut inbox) = enter(&hub, &r, 0, "watcher").await;
    let (_in_s, mut other) = enter(&hub, &s, 1, "watcher").await;
    for (id, name) in [(2, "ann"), (4, "bob")] {
        enter(&hub, &r, id, name).await.0.disconnect();
        enter(&hub, &s, id + 1, name).await.0.disconnect();
    }
    let (_back, _) = enter(&hub, &r, 6, "bob").await;
    inbox.expect(&["+watcher", "+ann", "+bob"]).await;
    other.expect(&["+watcher", "+ann", "+bob"]).await;

    let lost = Instant::now();
    hub.expire_grace(Some(&r), &user("ann"));
    inbox.expect(&["-ann"]).await;
    hub.expire_grace(None, &user("bob"));
    other.expect(&["-bob"]).await;
    assert_eq!(lost.elapsed(), Duration::ZERO);
    other.expect(&["-ann"]).await;
    assert_eq!(lost.elapsed().as_secs(), 5, "where nothing has ended its time");
    inbox.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn missed_presence_changes_are_sent_as_a_difference() {
    for told in [LossNotice::Lagged, LossNotice::Interrupted, LossNotice::Nothing] {
        let (hub, broker, other) = faulty();
        let topic = room("r");
        other.enter(&topic, occupant("before"));
        let (_watcher, mut inbox) = enter(&hub, &topic, 0, "watcher").await;
        inbox.expect(&["+watcher"]).await;
        broker.lose_presence(2, told);
        other.leave(&topic, &user("before"));
        other.enter(&topic, occupant("missed"));
        // The next event shows the hole, if no notice did.
        other.enter(&topic, occupant("seen"));
        let mut received = [inbox.next().await, inbox.next().await, inbox.next().await];
        received.sort();
        assert_eq!(received, ["+missed", "+seen", "-before"], "{told:?}");
        inbox.expect_silence().await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_joins_are_sent_as_few_counts() {
    let bus = MemoryBus::new();
    let (hub, _) = start_with(&bus, HubConfig::default().presence_limit(10));
    let (other, _events) = bus.connect();
    let topic = room("r");
    let (_watcher, mut inbox) = enter(&hub, &topic, 0, "watcher").await;
    for n in 0..2_000 {
        other.enter(&topic, occupant(&format!("u{n}")));
        if n % 500 == 0 {
            sleep(Duration::from_secs(1)).await;
        }
    }
    let (mut singles, mut counts) = (0, Vec::new());
    while counts.last() != Some(&2_001) {
        match inbox.next().await.split_at(1) {
            ("=", count) => counts.push(count.parse::<u32>().unwrap()),
            _ => singles += 1,
        }
    }
    assert!(singles <= 10, "{singles} single ones");
    assert!(counts.len() <= 6 && counts.is_sorted(), "{counts:?}");
    inbox.expect_silence().await;

    for n in 0..2_000 {
        other.leave(&topic, &user(&format!("u{n}")));
    }
    let mut last = inbox.next().await;
    while last != "-u1999" && last != "=1" {
        last = inbox.next().await;
    }
    other.enter(&topic, occupant("one more"));
    while inbox.next().await != "+one more" {}
}

/// After a broker returned empty, other servers send it their users one by one: no member receives
/// a leave.
#[tokio::test(start_paused = true)]
async fn broker_that_returns_empty_announces_no_leave() {
    let (hub, broker, other) = faulty();
    let topic = room("r");
    other.enter(&topic, occupant("ann"));
    let (_watcher, mut inbox) = enter(&hub, &topic, 0, "watcher").await;
    inbox.expect(&["+watcher"]).await;
    broker.lose_presence(2, LossNotice::Interrupted);
    other.leave(&topic, &user("ann"));
    sleep(Duration::from_secs(3)).await;
    other.enter(&topic, occupant("ann"));
    sleep(Duration::from_secs(10)).await;
    inbox.expect_silence().await;
    other.leave(&topic, &user("ann"));
    inbox.expect(&["-ann"]).await;
}

/// Nothing else of such a room is compared with the broker.
#[tokio::test(start_paused = true)]
async fn leave_that_is_missed_in_a_room_without_history_is_told() {
    let rules = HistoryRules::new(None);
    let (hub, broker, other) = faulty_with(HubConfig::default().history(rules));
    let topic = room("r");
    other.enter(&topic, occupant("ann"));
    let (_watcher, mut inbox) = enter(&hub, &topic, 0, "watcher").await;
    inbox.expect(&["+watcher"]).await;
    broker.lose_presence(1, LossNotice::Interrupted);
    other.leave(&topic, &user("ann"));
    inbox.expect(&["gap", "-ann"]).await;
}

/// The other servers have their whole time after the last of them.
#[tokio::test(start_paused = true)]
async fn interruption_that_follows_on_another_makes_nobody_leave() {
    let (hub, broker, other) = faulty();
    let topic = room("r");
    other.enter(&topic, occupant("ann"));
    let (_watcher, mut inbox) = enter(&hub, &topic, 0, "watcher").await;
    inbox.expect(&["+watcher"]).await;
    broker.lose_presence(2, LossNotice::Interrupted);
    broker.lose_publications(1, LossNotice::Interrupted);
    other.leave(&topic, &user("ann"));
    sleep(Duration::from_secs(3)).await;
    say(&other, &topic, "lost").await;
    inbox.expect(&["1 lost"]).await;
    sleep(Duration::from_secs(4)).await;
    other.enter(&topic, occupant("ann"));
    sleep(Duration::from_secs(10)).await;
    inbox.expect_silence().await;
}

/// The snapshot on its way may be of the moment before.
#[tokio::test(start_paused = true)]
async fn changes_missed_during_a_snapshot_are_read_again() {
    let (hub, broker, other) = faulty();
    let topic = room("r");
    let (_watcher, mut inbox) = enter(&hub, &topic, 0, "watcher").await;
    inbox.expect(&["+watcher"]).await;
    let asked = broker.count(Call::Occupancy);
    broker.hold_next(Call::Occupancy, 1);
    broker.lose_presence(1, LossNotice::Lagged);
    other.enter(&topic, occupant("first"));
    while broker.count(Call::Occupancy) == asked {
        tokio::task::yield_now().await;
    }
    broker.lose_presence(1, LossNotice::Lagged);
    other.enter(&topic, occupant("second"));
    sleep(Duration::from_secs(1)).await;
    broker.release(Call::Occupancy);
    inbox.expect(&["+first", "+second"]).await;
    inbox.expect_silence().await;
}
