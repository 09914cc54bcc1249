//! Sending: in order, once, and again.

use std::time::Duration;

use chat_transport::client::{ClientConfig, ClientError, Content, Sent, State};
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::mock::{
    EPOCH, ann, expect_offsets, expect_silence, joined, joined_frame, message, next_message,
    next_of_room, next_state, quick, welcome,
};

fn place(sent: &Result<Sent, ClientError>) -> (&str, u64) {
    let sent = sent.as_ref().unwrap();
    let position = sent.position.unwrap();
    assert_eq!(position.epoch.as_str(), EPOCH);
    (&sent.key, position.offset)
}

/// Ann's message as all members get it.
fn own(send: &Value, offset: u64) -> Value {
    let mut own = message(offset);
    own["user"] = ann();
    own["message"] = send["message"].clone();
    own["key"] = send["key"].clone();
    own
}

#[tokio::test]
async fn messages_are_sent_one_at_a_time_and_in_order() {
    let (_mock, mut peer, client, _events) = joined(0, quick()).await;
    let serve = async {
        for offset in 1..=5 {
            let send = peer.recv("send").await;
            assert_eq!(send["message"], format!("m{offset}"));
            expect_silence(&mut peer, &client).await;
            peer.ok(&send, offset).await;
        }
    };
    let texts: Vec<String> = (1..=5).map(|n| format!("m{n}")).collect();
    let sends = join_all(texts.iter().map(|text| client.send("general", text)));
    let (outcomes, ()) = tokio::join!(sends, serve);
    let offsets: Vec<u64> = outcomes.iter().map(|sent| place(sent).1).collect();
    assert_eq!(offsets, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn data_and_key() {
    let (_mock, mut peer, client, _events) = joined(0, quick()).await;
    let data = serde_json::value::to_raw_value(&json!({"n": [1]})).unwrap();
    let serve = async {
        let send = peer.recv("send").await;
        assert_eq!((&send["data"], &send["key"]), (&json!({"n": [1]}), &json!("m-1")));
        peer.ok(&send, 1).await;
    };
    let content = Content::from("hi").data(&data).key("m-1");
    let (sent, ()) = tokio::join!(client.send_with("general", content), serve);
    assert_eq!(place(&sent), ("m-1", 1));
}

#[tokio::test(start_paused = true)]
async fn message_is_resent_with_its_key_while_the_broker_is_unavailable() {
    let (_mock, mut peer, client, _events) = joined(0, ClientConfig::default()).await;
    let serve = async {
        let first = peer.recv("send").await;
        let mut refused = Instant::now();
        peer.refuse(&first, "broker_unavailable").await;
        let second = peer.recv("send").await;
        let pause = refused.elapsed();
        assert!(pause >= Duration::from_secs(1) && pause < Duration::from_secs(3), "{pause:?}");
        assert_eq!((&second["key"], &second["message"]), (&first["key"], &json!("a")));
        refused = Instant::now();
        peer.send(json!({"type":"error","id":second["id"],"code":"rate_limited","message":"Slow.",
            "retry_after_ms":4000}))
            .await;
        let third = peer.recv("send").await;
        let pause = refused.elapsed();
        assert!(pause >= Duration::from_secs(4) && pause < Duration::from_secs(9), "{pause:?}");
        assert_eq!(third["key"], first["key"]);
        peer.ok(&third, 1).await;
        let next = peer.recv("send").await;
        assert_eq!(next["message"], "b");
        peer.ok(&next, 2).await;
    };
    let (a, b, ()) = tokio::join!(client.send("general", "a"), client.send("general", "b"), serve);
    assert_eq!((place(&a).1, place(&b).1), (1, 2));
}

#[tokio::test]
async fn message_is_resent_with_its_key_after_a_loss() {
    let (mock, mut peer, client, mut events) = joined(0, quick()).await;
    let serve = async {
        let first = peer.recv("send").await;
        drop(peer);
        let mut peer = mock.rejoin(|join| joined_frame(join, 0, true, &[])).await;
        let again = peer.recv("send").await;
        assert_eq!((&again["key"], &again["message"]), (&first["key"], &json!("a")));
        peer.send(own(&again, 1)).await;
        peer.ok(&again, 1).await;
        let next = peer.recv("send").await;
        peer.ok(&next, 2).await;
        peer
    };
    let (a, b, _peer) =
        tokio::join!(client.send("general", "a"), client.send("general", "b"), serve);
    assert_eq!((place(&a).1, place(&b).1), (1, 2));
    next_of_room(&mut events).await;
    assert_eq!(next_message(&mut events).await.key.as_deref(), Some(place(&a).0));
}

#[tokio::test]
async fn own_message_settles_its_send() {
    let (mock, mut peer, client, mut events) = joined(0, quick()).await;
    let serve = async {
        let live = peer.recv("send").await;
        peer.send(own(&live, 1)).await;
        // The answer to the second one is lost, but not the message.
        let lost = peer.recv("send").await;
        drop(peer);
        let mut peer = mock
            .rejoin(|join| {
                let mut joined = joined_frame(join, 2, true, &[]);
                joined["messages"] = json!([own(&lost, 2)]);
                joined
            })
            .await;
        expect_silence(&mut peer, &client).await;
        peer
    };
    let (a, b, _peer) =
        tokio::join!(client.send("general", "a"), client.send("general", "b"), serve);
    assert_eq!((place(&a).1, place(&b).1), (1, 2));
    let first = next_message(&mut events).await;
    assert_eq!((first.is_own, first.position.unwrap().offset), (true, 1));
    next_of_room(&mut events).await;
    expect_offsets(&mut events, &[2]).await;
}

#[tokio::test]
async fn key_of_another_user_is_no_answer() {
    let (_mock, mut peer, client, _events) = joined(0, quick()).await;
    let serve = async {
        let send = peer.recv("send").await;
        let mut theirs = message(1);
        theirs["key"] = send["key"].clone();
        peer.send(theirs).await;
        expect_silence(&mut peer, &client).await;
        peer.ok(&send, 2).await;
    };
    let (sent, ()) = tokio::join!(client.send("general", "a"), serve);
    assert_eq!(place(&sent).1, 2);
}

#[tokio::test]
async fn rejection_is_final_and_blocks_no_other_message() {
    let (_mock, mut peer, client, _events) = joined(0, quick()).await;
    let serve = async {
        let first = peer.recv("send").await;
        peer.refuse(&first, "message_too_long").await;
        let second = peer.recv("send").await;
        peer.ok(&second, 1).await;
    };
    let (a, b, ()) = tokio::join!(client.send("general", "a"), client.send("general", "b"), serve);
    assert!(matches!(a, Err(ClientError::Rejected(why)) if why.code == "message_too_long"));
    assert_eq!(place(&b).1, 1);
}

#[tokio::test]
async fn send_waits_for_a_slot_and_try_send_does_not() {
    let (_mock, mut peer, client, _events) = joined(0, quick().send_queue(2)).await;
    let serve = async {
        let first = peer.recv("send").await;
        assert_eq!(client.try_send("general", "d").await, Err(ClientError::QueueFull));
        let outcome = client.try_send_with("general", Content::from("d").key("k")).await;
        assert_eq!(outcome, Err(ClientError::QueueFull));
        peer.ok(&first, 1).await;
        for offset in 2..=3 {
            let send = peer.recv("send").await;
            peer.ok(&send, offset).await;
        }
    };
    let sends = join_all(["a", "b", "c"].map(|text| client.send("general", text)));
    let (outcomes, ()) = tokio::join!(sends, serve);
    assert_eq!(outcomes.iter().map(|sent| place(sent).1).collect::<Vec<_>>(), [1, 2, 3]);

    let serve = async {
        let send = peer.recv("send").await;
        assert_eq!(send["message"], "e");
        peer.ok(&send, 4).await;
    };
    let (sent, ()) = tokio::join!(client.try_send("general", "e"), serve);
    assert_eq!(place(&sent).1, 4);
}

#[tokio::test]
async fn send_dropped_while_it_waits_for_a_slot_is_not_sent() {
    let (_mock, mut peer, client, _events) = joined(0, quick().send_queue(1)).await;
    let serve = async {
        let first = peer.recv("send").await;
        let mut waiting = Box::pin(client.send("general", "dropped"));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        peer.ok(&first, 1).await;
        expect_silence(&mut peer, &client).await;
    };
    let (sent, ()) = tokio::join!(client.send("general", "a"), serve);
    assert_eq!(place(&sent).1, 1);

    // Once it has its place, it is sent even if it is dropped.
    let mut placed = Box::pin(client.send("general", "b"));
    assert!(placed.as_mut().now_or_never().is_none());
    drop(placed);
    assert_eq!(peer.recv("send").await["message"], "b");
}

#[tokio::test]
async fn send_that_waits_for_a_slot_fails_when_the_client_closes() {
    let (_mock, mut peer, client, _events) = joined(0, quick().send_queue(1)).await;
    let serve = async {
        peer.recv("send").await;
        let close = async { while let Some(Ok(_)) = peer.recv_raw().await {} };
        tokio::join!(client.close(), close);
    };
    let (_, waiting, ()) =
        tokio::join!(client.send("general", "a"), client.send("general", "b"), serve);
    assert!(matches!(waiting, Err(ClientError::Closed { .. })));
    assert!(matches!(client.try_send("general", "c").await, Err(ClientError::Closed { .. })));
}

#[tokio::test(start_paused = true)]
async fn outcome_is_unknown_only_after_a_server_got_the_message() {
    let (_mock, mut peer, client, _events) = joined(0, ClientConfig::default()).await;
    let begun = Instant::now();
    let serve = async {
        let first = peer.recv("send").await;
        // It is asked again after 15 seconds, and in vain.
        let again = peer.recv("send").await;
        assert_eq!(first["key"], again["key"]);
        assert_eq!(begun.elapsed().as_secs(), 15);
        drop(peer);
    };
    let (a, b, ()) = tokio::join!(
        client.send_with("general", Content::from("a").key("k")),
        client.send("general", "b"),
        serve
    );
    assert_eq!(a, Err(ClientError::OutcomeUnknown { key: "k".into() }));
    assert_eq!(b, Err(ClientError::Timeout));
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn leaving_and_closing_fail_what_waits() {
    let (_mock, mut peer, client, _events) = joined(0, quick()).await;
    let serve = async {
        peer.recv("send").await;
        let leave = async {
            let leave = peer.recv("leave").await;
            peer.send(json!({"type":"left","id":leave["id"],"room":"general"})).await;
        };
        tokio::join!(client.leave("general"), leave).0.unwrap();
    };
    let (a, b, ()) = tokio::join!(client.send("general", "a"), client.send("general", "b"), serve);
    assert!(matches!(a, Err(ClientError::OutcomeUnknown { .. })), "{a:?}");
    assert_eq!(b, Err(ClientError::NotInRoom));

    let (_mock, mut peer, client, mut events) = joined(0, quick()).await;
    let serve = async {
        peer.recv("send").await;
        let close = async { while let Some(Ok(_)) = peer.recv_raw().await {} };
        tokio::join!(client.close(), close);
    };
    let (a, b, ()) = tokio::join!(client.send("general", "a"), client.send("general", "b"), serve);
    assert!(matches!(a, Err(ClientError::OutcomeUnknown { .. })), "{a:?}");
    assert!(matches!(b, Err(ClientError::Closed { .. })));
    assert!(matches!(client.send("general", "c").await, Err(ClientError::Closed { .. })));
    assert!(matches!(next_state(&mut events).await, State::Closed { .. }));
}

#[tokio::test]
async fn message_is_not_resent_as_another_user() {
    let (mock, mut peer, client, _events) = joined(0, quick()).await;
    let serve = async {
        peer.recv("send").await;
        drop(peer);
        let mut peer = mock.accept().await;
        let hello = peer.recv("hello").await;
        peer.refuse(&hello, "unauthorized").await;
        let hello = peer.recv("hello").await;
        assert_eq!(hello.get("resume"), None);
        peer.send(welcome(&hello, "eve")).await;
        let join = peer.recv("join").await;
        peer.send(joined_frame(&join, 0, true, &[])).await;
        let send = peer.recv("send").await;
        assert_eq!(send["message"], "b");
        peer.ok(&send, 1).await;
    };
    let (a, b, ()) = tokio::join!(client.send("general", "a"), client.send("general", "b"), serve);
    assert!(matches!(a, Err(ClientError::OutcomeUnknown { .. })), "{a:?}");
    assert_eq!(place(&b).1, 1);
    assert_eq!(client.user().unwrap().id, "eve");
}
