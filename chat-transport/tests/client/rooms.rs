//! Rooms: joining, messages in order, and what is missed over a loss.

use std::time::Duration;

use chat_transport::client::{ClientConfig, ClientError, Event, HistoryRange, Position, State};
use serde_json::json;

use crate::mock::{
    EPOCH, Mock, ann, expect_offsets, joined, joined_frame, message, next_message, next_of_room,
    next_state, online, quick, welcome,
};

fn offset(position: Option<Position>) -> u64 {
    position.unwrap().offset
}

#[tokio::test]
async fn welcome_join_and_messages() {
    let mock = Mock::start().await;
    let (client, mut events) = mock.client(quick().name("Ann"));
    let serve = async {
        let mut peer = mock.accept().await;
        let hello = peer.recv("hello").await;
        assert_eq!((&hello["name"], hello.get("resume")), (&json!("Ann"), None));
        peer.send(welcome(&hello, "ann")).await;
        let join = peer.recv("join").await;
        assert_eq!((&join["room"], &join["history"]), (&json!("general"), &json!(2)));
        assert_eq!(join.get("since"), None);
        peer.send(joined_frame(&join, 7, false, &[6, 7])).await;
        peer
    };
    let (mut peer, outcome) = tokio::join!(serve, client.join("general", 2));
    let outcome = outcome.unwrap();
    assert_eq!((offset(outcome.position), outcome.members.count), (7, 1));
    assert_eq!(client.user().unwrap().id, "ann");
    assert_eq!(client.state(), State::Online);

    let url = mock.url.clone();
    assert_eq!(next_state(&mut events).await, State::Connecting { url });
    assert_eq!(next_state(&mut events).await, State::Online);
    let Event::Joined { room, rejoined, recovered, members, .. } = next_of_room(&mut events).await
    else {
        panic!("wanted to be in the room first")
    };
    assert_eq!((&*room, rejoined, recovered, members.count), ("general", false, false, 1));
    expect_offsets(&mut events, &[6, 7]).await;

    let mut frame = message(8);
    frame["data"] = json!({"n": 1});
    peer.send(frame).await;
    let message = next_message(&mut events).await;
    assert_eq!((&*message.text, &*message.user.name, message.at), ("m8", "Bob", 1_795_400_235_072));
    assert_eq!(message.data.unwrap().get(), r#"{"n":1}"#);
}

#[tokio::test]
async fn presence_typing_and_counts_are_events() {
    let (_mock, mut peer, _client, mut events) = joined(0, quick()).await;
    peer.send(json!({"type":"presence","room":"general","event":"left","user":ann()})).await;
    peer.send(json!({"type":"presence","room":"general","event":"renamed","user":ann()})).await;
    peer.send(json!({"type":"presence","room":"general","event":"of a later version"})).await;
    peer.send(json!({"type":"presence","room":"general","event":"count","count":1204})).await;
    peer.send(json!({"type":"typing","room":"general","user":ann(),"typing":true})).await;
    peer.send(json!({"type":"direct","user":ann(),"message":"psst","at":1})).await;
    peer.send(json!({"type":"error","code":"rate_limited","message":"Slow."})).await;
    peer.send(json!({"type":"of a later version"})).await;
    peer.send(message(1)).await;
    for wanted in [
        "Presence { room: \"general\", change: Left, user: User { id: \"ann\"",
        "Presence { room: \"general\", change: Renamed, user: User { id: \"ann\"",
        "Count { room: \"general\", count: 1204 }",
        "Typing { room: \"general\", user: User { id: \"ann\"",
        "Direct { user: User { id: \"ann\", name: \"Ann\", color: \"#B56AD9\" }, text: \"psst\"",
        "Error(Rejection { code: \"rate_limited\"",
        "Message(Message { room: \"general\", position: Some(Position { epoch: Epoch(\"JLITNcWY\")",
    ] {
        let event = format!("{:?}", next_of_room(&mut events).await);
        assert!(event.starts_with(wanted), "wanted\n  {wanted}\ngot\n  {event}");
    }
}

#[tokio::test]
async fn reconnect_resumes_without_gap_or_repeat() {
    let (mock, mut peer, _client, mut events) = joined(41, quick()).await;
    peer.send(message(42)).await;
    expect_offsets(&mut events, &[42]).await;
    drop(peer);

    let mut peer = mock.accept().await;
    let hello = peer.recv("hello").await;
    assert_eq!(hello["resume"], "secret.ann");
    peer.send(welcome(&hello, "ann")).await;
    let join = peer.recv("join").await;
    assert_eq!(join["since"], json!({"epoch":EPOCH,"offset":42}));
    // Of a room that cannot continue there, all that it keeps.
    assert_eq!(join["history"], 256);
    // A live message that arrives before the answer is in the answer, or arrives again.
    peer.send(message(46)).await;
    peer.send(joined_frame(&join, 44, true, &[42, 43, 44])).await;
    for offset in [44, 45, 46] {
        peer.send(message(offset)).await;
    }
    let event = next_of_room(&mut events).await;
    assert!(matches!(event, Event::Joined { rejoined: true, recovered: true, .. }), "{event:?}");
    expect_offsets(&mut events, &[43, 44, 45, 46]).await;
}

#[tokio::test]
async fn empty_room_is_recovered_from_its_first_message() {
    let (mock, peer, _client, mut events) = joined(0, quick()).await;
    drop(peer);
    let mut peer = mock
        .rejoin(|join| {
            assert_eq!(join["since"], json!({"epoch":"","offset":0}));
            joined_frame(join, 2, true, &[1, 2])
        })
        .await;
    peer.send(message(3)).await;
    assert!(matches!(next_of_room(&mut events).await, Event::Joined { recovered: true, .. }));
    expect_offsets(&mut events, &[1, 2, 3]).await;
}

#[tokio::test]
async fn hole_is_filled_by_rejoining() {
    let (_mock, mut peer, _client, mut events) = joined(5, quick()).await;
    peer.send(message(6)).await;
    peer.send(message(9)).await;
    peer.send(message(10)).await;
    let join = peer.recv("join").await;
    assert_eq!(join["since"], json!({"epoch":EPOCH,"offset":6}));
    peer.send(joined_frame(&join, 9, true, &[7, 8, 9])).await;
    peer.send(message(10)).await;
    expect_offsets(&mut events, &[6]).await;
    let event = next_of_room(&mut events).await;
    assert!(matches!(event, Event::Joined { rejoined: true, recovered: true, .. }), "{event:?}");
    expect_offsets(&mut events, &[7, 8, 9, 10]).await;
}

#[tokio::test]
async fn trimmed_messages_are_a_gap() {
    let (mock, peer, _client, mut events) = joined(5, quick()).await;
    drop(peer);
    // The same sequence: the page has messages that are known, and begins after a hole.
    let peer = mock.rejoin(|join| joined_frame(join, 91, false, &[90, 91])).await;
    let event = next_of_room(&mut events).await;
    assert!(matches!(event, Event::Joined { rejoined: true, recovered: false, .. }), "{event:?}");
    let Event::Gap { room, position } = next_of_room(&mut events).await else { panic!("no gap") };
    assert_eq!((&*room, offset(position)), ("general", 89));
    expect_offsets(&mut events, &[90, 91]).await;
    drop(peer);

    // Another sequence: all of it is new, however low its offsets.
    let mut peer = mock
        .rejoin(|join| {
            let mut joined = joined_frame(join, 2, false, &[2]);
            joined["epoch"] = "ZZZZZZZZ".into();
            joined
        })
        .await;
    peer.send(message(3)).await;
    next_of_room(&mut events).await;
    let Event::Gap { position, .. } = next_of_room(&mut events).await else { panic!("no gap") };
    assert_eq!((position.unwrap().epoch.as_str(), offset(position)), ("ZZZZZZZZ", 1));
    for offset in [2, 3] {
        let position = next_message(&mut events).await.position.unwrap();
        assert_eq!((position.epoch.as_str(), position.offset), ("ZZZZZZZZ", offset));
    }
}

#[tokio::test]
async fn recovery_with_a_hole_in_it_is_a_gap() {
    let (mock, peer, _client, mut events) = joined(5, quick()).await;
    drop(peer);
    let _peer = mock.rejoin(|join| joined_frame(join, 8, true, &[7, 8])).await;
    assert!(matches!(next_of_room(&mut events).await, Event::Joined { recovered: false, .. }));
    let Event::Gap { position, .. } = next_of_room(&mut events).await else { panic!("no gap") };
    assert_eq!(offset(position), 6);
    expect_offsets(&mut events, &[7, 8]).await;
}

#[tokio::test]
async fn gap_of_the_server_is_reported_and_messages_follow() {
    let (_mock, mut peer, _client, mut events) = joined(5, quick()).await;
    peer.send(json!({"type":"gap","room":"general","epoch":EPOCH,"offset":57})).await;
    peer.send(message(58)).await;
    let Event::Gap { position, .. } = next_of_room(&mut events).await else { panic!("no gap") };
    assert_eq!(offset(position), 57);
    expect_offsets(&mut events, &[58]).await;
}

#[tokio::test]
async fn room_without_history() {
    let mock = Mock::start().await;
    let (client, mut events) = mock.client(quick());
    let answer = |join: &serde_json::Value| {
        json!({"type":"joined","id":join["id"],"room":"general","recovered":false,
            "members":[ann()],"count":1,"messages":[]})
    };
    let (peer, outcome) = tokio::join!(mock.rejoin(answer), client.join("general", 5));
    assert_eq!(outcome.unwrap().position, None);
    assert!(matches!(next_of_room(&mut events).await, Event::Joined { rejoined: false, .. }));
    drop(peer);
    let mut peer = mock
        .rejoin(|join| {
            assert_eq!(join.get("since"), None);
            answer(join)
        })
        .await;
    let mut frame = message(1);
    frame.as_object_mut().unwrap().remove("offset");
    frame.as_object_mut().unwrap().remove("epoch");
    peer.send(frame).await;
    assert!(matches!(next_of_room(&mut events).await, Event::Joined { rejoined: true, .. }));
    assert!(matches!(next_of_room(&mut events).await, Event::Gap { position: None, .. }));
    assert_eq!(next_message(&mut events).await.position, None);
}

#[tokio::test]
async fn left_room_is_not_rejoined() {
    let (mock, mut peer, client, mut events) = joined(5, quick()).await;
    let serve = async {
        let leave = peer.recv("leave").await;
        // These may be under way yet.
        peer.send(message(6)).await;
        peer.send(json!({"type":"presence","room":"general","event":"left","user":ann()})).await;
        peer.send(json!({"type":"typing","room":"general","user":ann(),"typing":true})).await;
        peer.send(json!({"type":"left","id":leave["id"],"room":"general"})).await;
        peer
    };
    let (mut peer, outcome) = tokio::join!(serve, client.leave("general"));
    outcome.unwrap();
    assert_eq!(client.leave("general").await, Err(ClientError::NotInRoom));
    assert_eq!(client.send("general", "hi").await, Err(ClientError::NotInRoom));
    assert_eq!(client.typing("general", true).await, Err(ClientError::NotInRoom));
    peer.send(json!({"type":"direct","user":ann(),"message":"psst","at":1})).await;
    let event = next_of_room(&mut events).await;
    assert!(matches!(event, Event::Direct { .. }), "of a room that was left: {event:?}");
    drop(peer);

    let mut peer = mock.welcome().await;
    online(&mut events).await;
    let (members, request) = tokio::join!(client.members("general"), async {
        let request = peer.recv("members").await;
        peer.refuse(&request, "not_in_room").await;
        request
    });
    assert_eq!(request["room"], "general");
    assert!(matches!(members, Err(ClientError::Rejected(why)) if why.code == "not_in_room"));
    tokio::join!(client.close(), async { while let Some(Ok(_)) = peer.recv_raw().await {} });
    while let Some(event) = events.recv().await {
        assert!(matches!(event, Event::State(_)), "{event:?}");
    }
}

#[tokio::test]
async fn rejected_join_fails() {
    let (mock, mut peer, client, mut events) = joined(5, quick()).await;
    let serve = async {
        let join = peer.recv("join").await;
        peer.refuse(&join, "too_many_rooms").await;
        peer
    };
    let (peer, outcome) = tokio::join!(serve, client.join("other", 0));
    assert!(matches!(outcome, Err(ClientError::Rejected(why)) if why.code == "too_many_rooms"));
    drop(peer);

    // It was joined before, so no call waits for the answer.
    let mut peer = mock.welcome().await;
    let join = peer.recv("join").await;
    assert_eq!(join["room"], "general");
    peer.refuse(&join, "forbidden").await;
    let Event::Refused { room, error } = next_of_room(&mut events).await else {
        panic!("no event")
    };
    assert_eq!(room, "general");
    assert!(matches!(error, ClientError::Rejected(why) if why.code == "forbidden"));
    assert_eq!(client.send("general", "hi").await, Err(ClientError::NotInRoom));
}

#[tokio::test(start_paused = true)]
async fn join_is_retried_while_the_broker_is_unavailable() {
    let mock = Mock::start().await;
    let (client, _events) = mock.client(ClientConfig::default());
    let serve = async {
        let mut peer = mock.welcome().await;
        let join = peer.recv("join").await;
        let refused = tokio::time::Instant::now();
        peer.refuse(&join, "broker_unavailable").await;
        let again = peer.recv("join").await;
        let pause = refused.elapsed();
        assert!(pause >= Duration::from_secs(1) && pause < Duration::from_secs(3), "{pause:?}");
        assert_ne!(join["id"], again["id"]);
        peer.send(joined_frame(&again, 3, false, &[])).await;
        peer
    };
    let (_peer, outcome) = tokio::join!(serve, client.join("general", 0));
    assert_eq!(offset(outcome.unwrap().position), 3);
}

#[tokio::test]
async fn requests() {
    let (_mock, mut peer, client, _events) = joined(5, quick()).await;
    let serve = async {
        let join = peer.recv("join").await;
        peer.send(joined_frame(&join, 5, false, &[])).await;
        let request = peer.recv("history").await;
        assert_eq!((&request["before"], &request["limit"]), (&json!(4), &json!(2)));
        assert_eq!(request.get("after"), None);
        peer.send(json!({"type":"history","id":request["id"],"room":"general","epoch":EPOCH,
            "offset":5,"messages":[message(2), message(3)],"more":true}))
            .await;
        let request = peer.recv("direct").await;
        assert_eq!((&request["to"], &request["message"]), (&json!("bob"), &json!("psst")));
        peer.send(json!({"type":"ok","id":request["id"],"delivered":2})).await;
        peer.recv("typing").await;
        assert_eq!(peer.recv("typing").await["typing"], false);
        let request = peer.recv("members").await;
        peer.send(json!({"type":"members","id":request["id"],"room":"general",
            "members":[ann()],"count":9}))
            .await;
    };
    let ask = async {
        // In the room already: this is only a look.
        assert_eq!(offset(client.join("general", 9).await.unwrap().position), 5);
        let page = client.history("general", HistoryRange::Before(4), Some(2)).await.unwrap();
        let offsets: Vec<u64> = page.messages.iter().map(|m| offset(m.position)).collect();
        assert_eq!((offsets, offset(page.position), page.more), (vec![2, 3], 5, true));
        assert_eq!(client.direct("bob", "psst", None).await, Ok(2));
        for typing in [true, true, true, false, false] {
            client.typing("general", typing).await.unwrap();
        }
        assert_eq!(client.members("general").await.unwrap().count, 9);
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn calls_that_wait_to_join_are_bounded() {
    let mock = Mock::start().await;
    let (client, _events) = mock.client(quick().send_queue(2));
    // There is no welcome, so they wait.
    let _peer = mock.accept().await;
    let joins = (0..3).map(|_| Box::pin(client.join("general", 0)));
    let (first, index, waiting) = futures_util::future::select_all(joins).await;
    assert_eq!((first.unwrap_err(), index, waiting.len()), (ClientError::QueueFull, 2, 2));
}

/// More than requests may wait: one that was not sent would leave the client in the room.
#[tokio::test]
async fn leaves_are_not_refused() {
    let mock = Mock::start().await;
    let (client, _events) = mock.client(quick().send_queue(2));
    let rooms: Vec<String> = (0..10).map(|n| format!("room-{n}")).collect();
    let serve = async {
        let mut peer = mock.welcome().await;
        for _ in 0..10 {
            let join = peer.recv("join").await;
            peer.send(joined_frame(&join, 0, false, &[])).await;
        }
        peer
    };
    let joins = futures_util::future::join_all(rooms.iter().map(|room| client.join(room, 0)));
    let (mut peer, joined) = tokio::join!(serve, joins);
    assert!(joined.iter().all(Result::is_ok), "{joined:?}");

    let serve = async {
        for _ in 0..10 {
            let leave = peer.recv("leave").await;
            peer.send(json!({"type":"left","id":leave["id"],"room":leave["room"]})).await;
        }
    };
    let leaves = futures_util::future::join_all(rooms.iter().map(|room| client.leave(room)));
    let ((), left) = tokio::join!(serve, leaves);
    assert!(left.iter().all(Result::is_ok), "{left:?}");
}
