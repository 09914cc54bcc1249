//! An application that does not read its events.

use std::time::Duration;

use chat_core::Frames;
use chat_transport::client::{Client, ClientConfig, Event, State};
use tokio::time::{Instant, sleep, timeout};

use crate::mock::{Peer, expect_offsets, joined, joined_frame, message, next, next_of_room, quick};

/// Sends large messages until nothing goes on: the clock, which is paused, goes on only then.
/// Returns the offset of the last.
async fn fill(peer: &mut Peer, mut offset: u64) -> u64 {
    loop {
        offset += 1;
        // More than any buffers between, if the client reads on.
        assert!(offset < 10_000, "all was read");
        let mut large = message(offset);
        large["message"] = "x".repeat(16 * 1024).into();
        if timeout(Duration::from_secs(1), peer.send(large)).await.is_err() {
            return offset;
        }
    }
}

fn patient() -> ClientConfig {
    quick().event_queue(4).ping(Duration::from_secs(3600), Duration::from_secs(1))
}

#[tokio::test(start_paused = true)]
async fn the_server_is_not_read_and_nothing_is_lost() {
    let (_mock, mut peer, client, mut events) = joined(0, patient()).await;
    let last = fill(&mut peer, 0).await;
    tokio::time::resume();
    let told = async {
        for offset in 1..=last + 1 {
            expect_offsets(&mut events, &[offset]).await;
        }
    };
    let serve = async {
        // What the client has to say goes out meanwhile.
        let send = peer.recv("send").await;
        peer.send(message(last + 1)).await;
        peer.ok(&send, last + 2).await;
    };
    let (sent, (), ()) = tokio::join!(client.send("general", "hi"), serve, told);
    assert_eq!(sent.unwrap().position.unwrap().offset, last + 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_cut_took_is_recovered() {
    let (mock, mut peer, _client, mut events) = joined(0, patient()).await;
    let last = fill(&mut peer, 0).await;
    tokio::time::resume();
    drop(peer);
    let serve = mock.rejoin(|join| {
        let since = join["since"]["offset"].as_u64().unwrap();
        assert!(since > 0 && since < last);
        let missed: Vec<u64> = (since + 1..=last).collect();
        joined_frame(join, last, true, &missed)
    });
    let told = async {
        let mut here = 0;
        while here < last {
            match next_of_room(&mut events).await {
                Event::Message(message) => {
                    here += 1;
                    assert_eq!(message.position.unwrap().offset, here);
                }
                Event::Joined { recovered: true, .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::join!(serve, told);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_no_reader() {
    let (_mock, mut peer, client, mut events) = joined(0, patient()).await;
    let last = fill(&mut peer, 0).await;
    tokio::time::resume();
    let serve = async { while let Some(Ok(_)) = peer.recv_raw().await {} };
    tokio::join!(client.close(), serve);
    // What had been read is still told, and then the end.
    let mut here = 0;
    loop {
        match next(&mut events).await {
            Event::Message(message) => {
                here += 1;
                assert_eq!(message.position.unwrap().offset, here);
            }
            Event::State(State::Closed { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(here >= 4 && here < last);
    assert!(events.recv().await.is_none());
}

/// Neither side reads: what the application has to say does not pile up without end.
#[tokio::test(start_paused = true)]
async fn server_that_takes_nothing_is_disconnected() {
    let config = quick().event_queue(4).ping(Duration::from_secs(20), Duration::from_secs(1));
    let (_mock, mut peer, client, _events) = joined(0, config).await;
    fill(&mut peer, 0).await;
    // The client reads on for the answers that its callers wait for.
    let reasons = ["the server reads nothing", "no answer to a ping"];
    let reason = call_until_given_up(&client).await;
    assert!(reasons.contains(&&*reason), "{reason}");
}

/// More events wait than may, so the client does not read, and does not ping either.
#[tokio::test(start_paused = true)]
async fn server_and_client_that_read_nothing_disconnect() {
    let config = quick().event_queue(4).ping(Duration::from_secs(20), Duration::from_secs(1));
    let (_mock, mut peer, client, _events) = joined(0, config).await;
    for offset in 1..=1_100 {
        peer.send(message(offset)).await;
    }
    assert_eq!(call_until_given_up(&client).await, "the server reads nothing");
}

/// Calls of a server that does not read, with more bytes than any buffers between hold. Returns
/// why the client gave the connection up.
async fn call_until_given_up(client: &Client) -> String {
    let text = "x".repeat(32 * 1024);
    for _ in 0..20 {
        let calls = (0..100).map(|_| client.direct("bob", &text, None));
        futures_util::future::join_all(calls).await;
        if let State::Waiting { loss, .. } = client.state() {
            return loss.reason;
        }
    }
    panic!("{:?}", client.state());
}

#[tokio::test]
async fn events_that_nobody_wants_hold_nothing_up() {
    let (_mock, mut peer, client, events) = joined(0, patient()).await;
    drop(events);
    for offset in 1..=10 {
        peer.send(message(offset)).await;
    }
    let serve = async {
        let send = peer.recv("send").await;
        peer.ok(&send, 11).await;
    };
    let (sent, ()) = tokio::join!(client.send("general", "hi"), serve);
    assert_eq!(sent.unwrap().position.unwrap().offset, 11);
}

/// A bot that answers where it reads: its `ok` comes behind more events than the queue holds.
#[tokio::test(start_paused = true)]
async fn call_made_where_events_are_read_gets_its_answer() {
    let (_mock, mut peer, client, mut events) = joined(0, patient()).await;
    let serve = async {
        peer.send(message(1)).await;
        let send = peer.recv("send").await;
        for offset in 2..=500 {
            peer.send(message(offset)).await;
        }
        peer.ok(&send, 501).await;
    };
    let bot = async {
        expect_offsets(&mut events, &[1]).await;
        let begun = Instant::now();
        let sent = client.send("general", "echo").await.unwrap();
        assert_eq!(sent.position.unwrap().offset, 501);
        assert!(begun.elapsed() < Duration::from_secs(1), "it waited");
        for offset in 2..=500 {
            expect_offsets(&mut events, &[offset]).await;
        }
    };
    tokio::join!(serve, bot);
}

/// A page on a slow line takes longer than a silent server has.
#[tokio::test(start_paused = true)]
async fn frame_that_takes_long_to_arrive_is_a_sign_of_life() {
    let config = quick().ping(Duration::from_secs(10), Duration::from_secs(5));
    let (_mock, mut peer, client, mut events) = joined(0, config).await;
    let mut large = message(1);
    large["message"] = "x".repeat(40_000).into();
    for part in Frames::text(&large.to_string()).bytes().chunks(5000) {
        peer.send_bytes(part).await;
        sleep(Duration::from_secs(9)).await;
    }
    expect_offsets(&mut events, &[1]).await;
    assert_eq!(client.state(), State::Online);
}
