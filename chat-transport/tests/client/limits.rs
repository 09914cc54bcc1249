//! What is too large is the error of its call, and costs no connection.

use std::time::Duration;

use chat_transport::client::{ClientConfig, ClientError, Content, Event, HistoryRange, State};
use futures_util::future::join_all;
use serde_json::json;
use serde_json::value::to_raw_value;

use crate::mock::{
    Mock, expect_silence, joined, joined_frame, next, next_state, quick, welcome, welcome_at,
};

const MESSAGE_BYTES: usize = 32_768;

#[tokio::test]
async fn longest_texts_are_sent_however_they_are_escaped() {
    let (_mock, mut peer, client, _events) = joined(0, quick()).await;
    let texts =
        ["\n".repeat(MESSAGE_BYTES), "\u{1b}".repeat(MESSAGE_BYTES), "\u{444}".repeat(16_384)];
    for text in &texts {
        let data = to_raw_value(&"x".repeat(MESSAGE_BYTES - 2)).unwrap();
        let serve = async {
            let send = peer.recv("send").await;
            assert_eq!(send["message"], **text);
            peer.ok(&send, 1).await;
        };
        let content = Content::from(text.as_str()).data(&data);
        let (sent, ()) = tokio::join!(client.send_with("general", content), serve);
        sent.unwrap();
    }
}

#[tokio::test]
async fn too_long_message_is_not_sent() {
    let (_mock, mut peer, client, _events) = joined(0, quick()).await;
    let too_long = ClientError::MessageTooLong { limit: MESSAGE_BYTES };
    let text = "x".repeat(MESSAGE_BYTES + 1);
    let data = to_raw_value(&"x".repeat(70_000)).unwrap();
    assert_eq!(client.send("general", &text).await, Err(too_long.clone()));
    let cyrillic = "\u{444}".repeat(16_385);
    assert_eq!(client.send("general", &cyrillic).await, Err(too_long.clone()));
    assert_eq!(
        client.send_with("general", Content::from("").data(&data)).await,
        Err(too_long.clone())
    );
    assert_eq!(client.direct("bob", &text, None).await, Err(too_long.clone()));
    assert_eq!(client.direct("bob", "", Some(data)).await, Err(too_long));

    let content = Content::from("").key("k".repeat(300_000));
    let outcome = client.send_with("general", content).await;
    assert!(matches!(outcome, Err(ClientError::TooLarge { bytes: 300_000.. })), "{outcome:?}");
    assert_eq!(client.direct(&"b".repeat(129), "hi", None).await, Err(ClientError::UserId));

    for name in ["r".repeat(70_000), "r".repeat(129), String::new(), "a\nb".to_owned()] {
        assert_eq!(client.join(&name, 0).await, Err(ClientError::RoomName));
        assert_eq!(client.members(&name).await.unwrap_err(), ClientError::RoomName);
        let page = client.history(&name, HistoryRange::Latest, None).await;
        assert_eq!(page.unwrap_err(), ClientError::RoomName);
        assert_eq!(client.leave(&name).await, Err(ClientError::NotInRoom));
        assert_eq!(client.send(&name, "").await, Err(ClientError::NotInRoom));
    }
    expect_silence(&mut peer, &client).await;
    assert_eq!(client.state(), State::Online);
}

/// What is queued before the first welcome is checked when it could be sent.
#[tokio::test]
async fn limits_of_the_welcome_hold_for_what_waits() {
    let mock = Mock::start().await;
    let (client, _events) = mock.client(quick());
    let serve = async {
        let mut peer = mock.accept().await;
        let hello = peer.recv("hello").await;
        peer.send(welcome_at(&hello, json!({"message_bytes":3}))).await;
        let join = peer.recv("join").await;
        peer.send(joined_frame(&join, 0, false, &[])).await;
        let send = peer.recv("send").await;
        assert_eq!(send["message"], "abc");
        peer.ok(&send, 1).await;
        peer
    };
    let calls = async {
        let join = client.join("general", 0);
        let sends = join_all(["abcd", "abc"].map(|text| client.send("general", text)));
        tokio::join!(biased; join, sends)
    };
    let (_peer, (joined, sent)) = tokio::join!(serve, calls);
    joined.unwrap();
    assert_eq!(sent[0], Err(ClientError::MessageTooLong { limit: 3 }));
    assert!(sent[1].is_ok(), "{sent:?}");
    assert_eq!(client.welcome().unwrap().limits.message_bytes, 3);
}

/// A proxy may have a limit of its own.
#[tokio::test]
async fn close_1009_fails_the_largest_message_and_no_other() {
    let (mock, mut peer, client, mut events) = joined(0, quick()).await;
    let serve = async {
        let join = peer.recv("join").await;
        peer.send(joined_frame(&join, 0, false, &[])).await;
    };
    tokio::join!(client.join("other", 0), serve).0.unwrap();
    let large = "x".repeat(20_000);
    let serve = async {
        peer.recv("send").await;
        peer.recv("send").await;
        peer.close(1009).await;
        let mut peer = mock.welcome().await;
        for _ in 0..2 {
            let join = peer.recv("join").await;
            peer.send(joined_frame(&join, 0, true, &[])).await;
        }
        let again = peer.recv("send").await;
        assert_eq!(again["message"], "small");
        peer.ok(&again, 1).await;
        expect_silence(&mut peer, &client).await;
        peer
    };
    let (too_large, small, _peer) =
        tokio::join!(client.send("general", &large), client.send("other", "small"), serve);
    assert!(matches!(too_large, Err(ClientError::TooLarge { bytes: 20_000.. })), "{too_large:?}");
    small.unwrap();
    loop {
        if let Event::State(State::Waiting { loss, .. }) = next(&mut events).await {
            assert_eq!(loss.code, Some(1009));
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn too_large_token_closes_the_client() {
    // Larger than any server takes that is not set otherwise.
    let mock = Mock::start().await;
    let (_client, mut events) = mock.client(ClientConfig::default().token("t".repeat(300_000)));
    let _peer = mock.accept().await;
    next_state(&mut events).await;
    let State::Closed { loss } = next_state(&mut events).await else { panic!("not closed") };
    assert!(loss.reason.contains("larger than the server allows"), "{loss}");

    // Larger than this server takes.
    let (_client, mut events) = mock.client(ClientConfig::default().token("t".repeat(70_000)));
    let mut peer = mock.accept().await;
    peer.recv("hello").await;
    peer.close(1009).await;
    next_state(&mut events).await;
    let State::Closed { loss } = next_state(&mut events).await else { panic!("not closed") };
    assert_eq!(loss.code, Some(1009));
}

/// A renewal that the server does not take ends one connection, and the next `hello` the client.
#[tokio::test(start_paused = true)]
async fn renewed_token_that_is_too_large_closes_the_client() {
    let mock = Mock::start().await;
    let (sizes, count) = ([1_000, 300_000], std::sync::atomic::AtomicUsize::new(0));
    let config = quick().token_from(move || {
        let count = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let token = "t".repeat(sizes[count.min(1)]);
        async move { Ok::<_, std::io::Error>(token) }
    });
    let (client, mut events) = mock.client(config);
    let mut peer = mock.accept().await;
    let hello = peer.recv("hello").await;
    let mut frame = welcome(&hello, "ann");
    frame["expires_in_ms"] = 10_000.into();
    peer.send(frame).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    expect_silence(&mut peer, &client).await;
    peer.close(4004).await;
    let _peer = mock.accept().await;
    loop {
        if let State::Closed { loss } = next_state(&mut events).await {
            assert!(loss.reason.contains("larger than the server allows"), "{loss}");
            break;
        }
    }
}
