//! Joining again a room that one is in.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::Call;
use chat_broker::{JoinOptions, MemberSlot, Snapshot};
use chat_core::{CloseReason, ConnectionId, Members, Position};
use tokio::time::sleep;

use super::{LONG, World, elsewhere};
use crate::support::{Member, join, member};

#[tokio::test(start_paused = true)]
async fn member_rejoins_and_gets_what_it_asks_for_once() {
    let world = World::new(LONG);
    let since = world.say(1..=5).await;
    let (first, mut ear) = member(300);
    let mut membership = world.join(first.clone(), since).await.unwrap();
    world.say(6..=7).await;
    ear.expect_numbers(6..=7).await;
    let recover = |since| JoinOptions::default().since(since);
    membership.rejoin(first.clone(), recover(since)).await.unwrap();
    ear.expect_numbers(6..=7).await;
    world.say(8..=8).await;
    ear.expect_numbers(8..=8).await;
    // Without a position it is given the latest, and stays where it is.
    membership.rejoin(first.clone(), JoinOptions::default().history(2)).await.unwrap();
    ear.expect_numbers(7..=8).await;
    world.say(9..=600).await;
    ear.expect_numbers(9..=600).await;
    // More than the hub holds: what is published during the pages follows on them.
    world.broker.delay(Call::History, Duration::from_millis(5));
    let publishing = async {
        for n in 601..=620 {
            world.say(n..=n).await;
            sleep(Duration::from_millis(1)).await;
        }
    };
    let reading = async {
        // Live until the first page is read.
        while ear.hear().await != "6 6" {}
        ear.expect_numbers(7..=620).await;
        ear.expect_silence().await;
    };
    let closed = Arc::clone(&first.closed);
    let rejoining = membership.rejoin(first, recover(since));
    tokio::join!(rejoining, publishing, reading).0.unwrap();
    assert_eq!(*closed.lock().unwrap(), None, "nothing was delivered between the pages");
}

/// A batch on its way to many members does not repeat what one of them has got with its snapshot.
#[tokio::test(start_paused = true)]
async fn rejoin_during_a_fan_out_repeats_nothing() {
    const MEMBERS: u64 = 200;
    let world = World::new(LONG);
    let mut others = Vec::new();
    for id in 10..10 + MEMBERS {
        others.push(join(&world.hub, &world.topic, id).await);
    }
    let (last, mut ear) = member(300);
    let options = JoinOptions::default;
    let joining = world.hub.join(&world.topic, ConnectionId::new(1000), last.clone(), options());
    let mut membership = joining.await.unwrap();
    world.say(1..=1).await;
    // The fan-out lets others run before it has served so many.
    assert_eq!(others[0].1.hear().await, "1 1");
    assert_eq!(ear.0.try_recv().ok(), None);
    membership.rejoin(last, options().since(Position::default())).await.unwrap();
    ear.expect(&["1 1"]).await;
    ear.expect_silence().await;
}

/// A worker that is delivering a batch at that moment puts nothing into the outbox behind the snapshot.
#[tokio::test(start_paused = true)]
async fn former_handle_is_detached_before_the_snapshot_of_a_rejoin() {
    let world = World::new(LONG);
    let here = world.say(1..=1).await;
    let id = ConnectionId::new(1);
    let (former, _ear) = member(300);
    let mut membership = world.join(former, here).await.unwrap();
    // As a batch that is on its way holds them.
    let in_flight = world.hub.members(&world.topic);
    let (seen, members) = std::sync::mpsc::channel();
    let joiner = move |snapshot: &Snapshot<'_, Member>| {
        let member =
            |members: &Members<MemberSlot<Member>>| members.get(id).and_then(MemberSlot::member);
        seen.send((member(&in_flight).is_some(), member(snapshot.members).is_some())).unwrap();
    };
    let options = JoinOptions::default().since(here);
    membership.rejoin_with(member(300).0, options, joiner).await.unwrap();
    assert_eq!(members.try_iter().collect::<Vec<_>>(), [(false, true)]);
}

#[tokio::test(start_paused = true)]
async fn rejoin_waits_for_a_room_that_is_not_live_yet() {
    let world = World::new(LONG);
    world.say(1..=3).await;
    for options in
        [JoinOptions::default().since(Position::default()), JoinOptions::default().history(9)]
    {
        let (first, mut ear) = member(300);
        let mut membership = world.hub.attach(&world.topic, ConnectionId::new(1), first.clone());
        membership.rejoin(first, options).await.unwrap();
        ear.expect_numbers(1..=3).await;
        drop(membership);
        sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn handle_of_a_rejoin_receives_in_place_of_the_former() {
    for options in [JoinOptions::default().since(Position::default()), JoinOptions::default()] {
        let world = World::new(LONG);
        let (former, mut former_ear) = member(300);
        let mut membership = world.join(former, Position::default()).await.unwrap();
        let (latter, mut ear) = member(300);
        membership.rejoin(latter, options).await.unwrap();
        world.say(1..=2).await;
        ear.expect_numbers(1..=2).await;
        former_ear.expect_silence().await;
    }
}

/// What it received of the snapshot is followed by nothing, whatever room it has afterwards.
#[tokio::test(start_paused = true)]
async fn member_without_room_for_the_snapshot_of_a_rejoin_receives_nothing_more() {
    for options in
        [JoinOptions::default().since(Position::default()), JoinOptions::default().history(5)]
    {
        let world = World::new(LONG);
        let since = world.say(1..=5).await;
        let mut membership = world.join(member(300).0, since).await.unwrap();
        let (small, mut ear) = member(2);
        let closed = Arc::clone(&small.closed);
        membership.rejoin(small, options).await.unwrap();
        assert_eq!(*closed.lock().unwrap(), Some(CloseReason::SlowConsumer));
        ear.expect_numbers(1..=2).await;
        world.say(6..=6).await;
        sleep(Duration::from_secs(1)).await;
        assert!(ear.0.try_recv().is_err());
        drop(membership);
    }
}

#[tokio::test(start_paused = true)]
async fn member_whose_rejoin_fails_is_in_the_room_as_before() {
    let world = World::new(LONG);
    let (first, mut ear) = member(300);
    let here = world.say(1..=5).await;
    let mut membership = world.join(first.clone(), here).await.unwrap();
    world.broker.fail_next(Call::History, 1);
    let failed = membership.rejoin(first, JoinOptions::default().since(elsewhere())).await;
    assert!(failed.is_err());
    world.say(6..=7).await;
    ear.expect_numbers(6..=7).await;
}
