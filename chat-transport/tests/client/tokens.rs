//! Tokens: sent, renewed in time, and kept secret; and rooms that a client is evicted from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chat_transport::client::{ClientConfig, ClientError, Event, State, TokenError};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::mock::{
    Mock, Peer, ann, expect_silence, joined, joined_frame, message, next, next_of_room, next_state,
    online, quick, welcome,
};

/// A backend that gives `token-1`, `token-2` and so on.
fn numbered() -> ClientConfig {
    let count = AtomicU32::new(0);
    quick().token_from(move || {
        let token = format!("token-{}", count.fetch_add(1, Ordering::Relaxed) + 1);
        async move { Ok::<_, std::io::Error>(token) }
    })
}

/// The answer to a `hello` with a token that is good for so long.
fn welcome_for(hello: &Value, seconds: u64) -> Value {
    let mut frame = welcome(hello, "ann");
    frame["expires_in_ms"] = (seconds * 1000).into();
    frame
}

/// The next connection, whose token is the one of this number and good for so long.
async fn accept(mock: &Mock, number: u32, seconds: u64) -> Peer {
    let mut peer = mock.accept().await;
    let hello = peer.recv("hello").await;
    assert_eq!(hello["token"], format!("token-{number}"));
    peer.send(welcome_for(&hello, seconds)).await;
    peer
}

#[tokio::test(start_paused = true)]
async fn token_is_renewed_before_it_expires() {
    let mock = Mock::start().await;
    let (client, mut events) = mock.client(numbered());
    let mut peer = accept(&mock, 1, 50).await;
    online(&mut events).await;
    assert_eq!(client.welcome().unwrap().expires_in, Some(Duration::from_secs(50)));
    let room = async {
        let join = peer.recv("join").await;
        peer.send(joined_frame(&join, 0, false, &[])).await;
    };
    tokio::join!(room, client.join("general", 0)).1.unwrap();

    let begun = Instant::now();
    let hello = peer.recv("hello").await;
    let waited = begun.elapsed().as_secs();
    assert!((39..=45).contains(&waited), "{waited} s");
    assert_eq!((&hello["token"], hello.get("resume")), (&json!("token-2"), None));
    // What fails is tried again.
    peer.refuse(&hello, "unauthorized").await;
    let hello = peer.recv("hello").await;
    assert_eq!(hello["token"], "token-3");
    peer.send(welcome_for(&hello, 20)).await;
    // The client is in the room as before, and no event is reported.
    peer.send(message(1)).await;
    assert!(matches!(next_of_room(&mut events).await, Event::Joined { .. }));
    assert!(matches!(next(&mut events).await, Event::Message(_)));
    expect_silence(&mut peer, &client).await;
    assert_eq!(client.welcome().unwrap().expires_in, Some(Duration::from_secs(20)));
    assert_eq!(peer.recv("hello").await["token"], "token-4");
}

#[tokio::test(start_paused = true)]
async fn expired_token_costs_one_connection() {
    let mock = Mock::start().await;
    let (_client, mut events) = mock.client(numbered());
    let mut peer = accept(&mock, 1, 3600).await;
    let goodbye = json!({"type":"goodbye","reason":"token_expired","reconnect":false,"after_ms":0});
    peer.send(goodbye.clone()).await;
    peer.close(4004).await;
    let _peer = accept(&mock, 2, 3600).await;
    online(&mut events).await;
    online(&mut events).await;

    let (mock, mut peer, _client, mut events) = joined(0, quick().token("always the same")).await;
    peer.send(goodbye).await;
    peer.close(4004).await;
    while let State::Connecting { .. } | State::Online = next_state(&mut events).await {}
    drop(mock);
    assert!(events.recv().await.is_none(), "closed");
}

#[tokio::test(start_paused = true)]
async fn fixed_token_is_sent_and_not_renewed() {
    let mock = Mock::start().await;
    let (client, mut events) = mock.client(quick().name("Ann").token("always the same"));
    let mut peer = mock.accept().await;
    let hello = peer.recv("hello").await;
    assert_eq!(hello["token"], "always the same");
    peer.send(welcome_for(&hello, 10)).await;
    online(&mut events).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    expect_silence(&mut peer, &client).await;
}

#[tokio::test]
async fn failed_token_fetch_is_retried() {
    let mock = Mock::start().await;
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let config = quick().token_from(move || {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first { Err("the backend is unavailable") } else { Ok("token-1".to_owned()) }
        }
    });
    let (_client, mut events) = mock.client(config);
    assert!(matches!(next_state(&mut events).await, State::Connecting { .. }));
    let State::Waiting { loss, .. } = next_state(&mut events).await else { panic!("no loss") };
    assert_eq!(loss.reason, "there is no token: the backend is unavailable");
    accept(&mock, 1, 3600).await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn token_source_that_says_unauthorized_closes_the_client() {
    let mock = Mock::start().await;
    let logged_out =
        || async { Err::<String, _>(TokenError::Unauthorized("logged out".to_owned())) };
    let (client, mut events) = mock.client(quick().token_from(logged_out));
    assert!(matches!(next_state(&mut events).await, State::Connecting { .. }));
    let State::Closed { loss } = next_state(&mut events).await else { panic!("not closed") };
    assert_eq!((loss.code, &*loss.reason), (None, "logged out"));
    assert!(events.recv().await.is_none());
    let error = client.join("general", 0).await.unwrap_err();
    assert_eq!(error.to_string(), "the client is closed: logged out");
}

/// Of whatever type: what it says is for people, and decides nothing.
#[test]
fn other_token_errors_are_retried() {
    let boxed: Box<dyn std::error::Error + Send + Sync> = "unauthorized".into();
    for error in [
        TokenError::from("unauthorized"),
        "unauthorized".to_owned().into(),
        std::io::Error::other("unauthorized").into(),
        boxed.into(),
    ] {
        assert!(matches!(error, TokenError::Retry(why) if why.to_string() == "unauthorized"));
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_that_says_unauthorized_closes_the_client() {
    let mock = Mock::start().await;
    let count = AtomicU32::new(0);
    let patient = quick().request_timeout(Duration::from_secs(600));
    let (client, mut events) = mock.client(patient.token_from(move || {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first {
                Ok("token-1".to_owned())
            } else {
                Err(TokenError::Unauthorized("logged out".to_owned()))
            }
        }
    }));
    let mut peer = accept(&mock, 1, 50).await;
    online(&mut events).await;
    let serve = async {
        let _send = peer.recv("members").await;
        while let Some(Ok(_)) = peer.recv_raw().await {}
    };
    let (asked, ()) = tokio::join!(client.members("general"), serve);
    assert!(matches!(asked, Err(ClientError::Closed { .. })), "it does not wait for its timeout");
    let State::Closed { loss } = next_state(&mut events).await else { panic!("not closed") };
    assert_eq!(loss.reason, "logged out");
}

/// The server does not wait for it, so there is no connection before.
#[tokio::test(start_paused = true)]
async fn slow_token_fetch_is_awaited_and_used() {
    for seconds in [3, 15, 50] {
        let mock = Mock::start().await;
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let config = ClientConfig::default().token_from(move || {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok::<_, std::io::Error>("late".to_owned())
            }
        });
        let begun = Instant::now();
        let (_client, mut events) = mock.client(config);
        let mut peer = mock.accept().await;
        assert_eq!(begun.elapsed().as_secs(), seconds);
        let hello = peer.recv("hello").await;
        assert_eq!(hello["token"], "late");
        peer.send(welcome_for(&hello, 3600)).await;
        assert!(matches!(next_state(&mut events).await, State::Connecting { .. }));
        assert_eq!(next_state(&mut events).await, State::Online);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn token_fetch_that_hangs_is_retried() {
    let mock = Mock::start().await;
    let count = AtomicU32::new(0);
    let config = quick().token_from(move || {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first {
                std::future::pending::<()>().await;
            }
            Ok::<_, std::io::Error>("token-1".to_owned())
        }
    });
    let (_client, mut events) = mock.client(config);
    assert!(matches!(next_state(&mut events).await, State::Connecting { .. }));
    tokio::time::sleep(Duration::from_secs(119)).await;
    let State::Waiting { loss, .. } = next_state(&mut events).await else { panic!("no loss") };
    assert_eq!(loss.reason, "there is no token: none within 120 s");
    accept(&mock, 1, 3600).await;
}

#[tokio::test]
async fn evicted_client_does_not_rejoin() {
    for reason in ["kicked", "banned", "forbidden"] {
        let (mock, mut peer, client, mut events) = joined(0, quick()).await;
        let kicking = async {
            let send = peer.recv("send").await;
            peer.send(
                json!({"type":"left","room":"general","reason":reason,"message":"Calm down."}),
            )
            .await;
            peer.refuse(&send, "not_in_room").await;
        };
        let (_, sent) = tokio::join!(kicking, client.send("general", "hi"));
        assert!(matches!(sent, Err(ClientError::OutcomeUnknown { .. })), "{sent:?}");
        let Event::Left { room, reason: reported, message, .. } = next(&mut events).await else {
            panic!("no event")
        };
        assert_eq!(
            (&*room, &*reported, message.as_deref()),
            ("general", reason, Some("Calm down."))
        );
        assert_eq!(client.send("general", "hi").await, Err(ClientError::NotInRoom));

        drop(peer);
        let mut peer = mock.welcome().await;
        online(&mut events).await;
        expect_silence(&mut peer, &client).await;
    }
}

#[tokio::test]
async fn eviction_during_a_rejoin_is_final() {
    let (_mock, mut peer, client, mut events) = joined(5, quick()).await;
    // A hole has the client join again.
    peer.send(message(8)).await;
    let join = peer.recv("join").await;
    peer.send(json!({"type":"left","room":"general","reason":"kicked"})).await;
    peer.send(joined_frame(&join, 8, true, &[6, 7, 8])).await;
    assert_eq!(peer.recv("leave").await["room"], "general");
    assert!(matches!(next(&mut events).await, Event::Left { message: None, .. }));
    peer.send(json!({"type":"direct","user":ann(),"message":"psst","at":1})).await;
    assert!(matches!(next(&mut events).await, Event::Direct { .. }), "nothing of the room");
    assert_eq!(client.typing("general", true).await, Err(ClientError::NotInRoom));
}

#[tokio::test]
async fn left_frame_of_an_earlier_membership_does_not_end_a_new_one() {
    let (_mock, mut peer, client, mut events) = joined(5, quick()).await;
    let serve = async {
        let leave = peer.recv("leave").await;
        let join = peer.recv("join").await;
        peer.send(json!({"type":"left","room":"general","reason":"kicked"})).await;
        peer.refuse(&leave, "not_in_room").await;
        peer.send(joined_frame(&join, 5, false, &[])).await;
    };
    let (_, (left, joined)) = tokio::join!(serve, async {
        let leave = client.leave("general");
        let join = client.join("general", 0);
        tokio::join!(biased; leave, join)
    });
    left.unwrap_err();
    joined.unwrap();
    assert!(matches!(next(&mut events).await, Event::Joined { rejoined: false, .. }));
}
