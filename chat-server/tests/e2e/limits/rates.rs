//! What a budget that is spent does: it slows, and neither refuses nor closes.
//!
//! Times are compared with the least that the rate allows; a slow machine takes longer.

use std::pin::pin;
use std::time::{Duration, Instant};

use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use super::{NATIVE, at_once, limited, requests, server};
use crate::e2e::auth;
use crate::support::{Chat, ask, join, next_of};

/// Runs `work`, which uses `amount` of something at `per_second` and `burst` at once: it takes at
/// least as long as that.
pub(super) async fn at_the_rate<T>(
    amount: u32,
    per_second: u32,
    burst: u32,
    work: impl Future<Output = T>,
) -> T {
    let began = Instant::now();
    let done = work.await;
    let least = Duration::from_secs_f64(f64::from(amount - burst) / f64::from(per_second));
    let took = began.elapsed();
    assert!(took >= least.mul_f64(0.98), "{amount} in {took:?} instead of {least:?}");
    done
}

/// What a flood gives that lasts for seconds; the work of `other` ends before.
async fn during<T>(flood: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    let mut flood = pin!(flood);
    tokio::select! {
        biased;
        () = other => flood.await,
        _ = &mut flood => panic!("the other waited for the flood"),
    }
}

#[tokio::test]
async fn flood_is_slowed_and_loses_nothing() {
    let server = server(&["--rate", "100/200"]);
    let (mut flood, mut other) = (server.native().await, server.native().await);
    let outcome = at_the_rate(500, 100, 200, async {
        during(requests(&mut flood, 500), async {
            for _ in 0..20 {
                ask(&mut other, "pong", json!({"type": "ping"})).await;
            }
        })
        .await
    });
    let outcome = outcome.await;
    assert_eq!((outcome.done, outcome.refused.len()), (500, 0));
    assert!(limited(&server, "connection_frames").await > 100);
}

/// A client that waits for each answer, with the settings that a server has by default.
#[tokio::test]
async fn thousand_sends_in_a_row_arrive_once_and_in_order() {
    let server = Chat::alone();
    let (mut sender, mut reader) = (server.native().await, server.native().await);
    join(&mut sender, "r").await;
    join(&mut reader, "r").await;
    at_the_rate(1001, 50, 300, async {
        for n in 1..=1000 {
            let send = json!({"type": "send", "room": "r", "message": "x", "key": n.to_string()});
            assert_eq!(ask(&mut sender, "ok", send).await["offset"], n);
        }
    })
    .await;
    for n in 1..=1000 {
        assert_eq!(next_of(&mut reader, "message").await["offset"], n);
    }
}

#[tokio::test]
async fn bad_frames_cost_what_others_cost_and_close_nobody() {
    let server = server(&["--rate", "100/100"]);
    for text in ["{", r#"{"type":"send","room":"r","message":"not there"}"#] {
        let mut broken = server.native().await;
        at_the_rate(300, 100, 100, async {
            for _ in 0..300 {
                broken.send(text).await;
            }
            for _ in 0..300 {
                assert_eq!(broken.recv_json().await["type"], "error");
            }
        })
        .await;
        ask(&mut broken, "pong", json!({"type": "ping"})).await;
    }
}

#[tokio::test]
async fn connections_of_a_user_share_a_budget_and_take_turns() {
    let server = server(&["--rate", "off", "--rate-per-user", "100/100"]);
    let connect = async |user: &str| {
        WsClient::connect_with(&server.ws(&format!("/ws?userId={user}")), &[NATIVE]).await
    };
    share(&server, async || connect("ann").await, "user_frames").await;
    assert_eq!(requests(&mut connect("bob").await, 100).await.done, 100);
    // A client without a name shares with nobody.
    let before = limited(&server, "user_frames").await;
    assert_eq!(requests(&mut server.native().await, 500).await.done, 500);
    assert_eq!(limited(&server, "user_frames").await, before);
}

#[tokio::test]
async fn connections_of_an_address_share_a_budget() {
    let rates = ["--rate", "off", "--rate-per-user", "off", "--rate-per-address", "100/100"];
    let direct = server(&rates);
    share(&direct, async || direct.native().await, "address_frames").await;

    let proxied = server(&[&rates[..], &["--trusted-proxies", "127.0.0.1,::1"]].concat());
    let connect = async |address: &str| {
        let headers = [NATIVE, ("X-Forwarded-For", address)];
        WsClient::connect_with(&proxied.ws("/ws"), &headers).await
    };
    share(&proxied, async || connect("1.2.3.4").await, "address_frames").await;
    let (mut other, before) = (connect("1.2.3.5").await, limited(&proxied, "address_frames").await);
    assert_eq!(requests(&mut other, 90).await.done, 90);
    assert_eq!(limited(&proxied, "address_frames").await, before);
}

/// These connections have 100 frames among them, and 100 a second. One that floods leaves the
/// others their turns.
async fn share(server: &Chat, connect: impl AsyncFn() -> WsClient, limit: &str) {
    let (mut one, mut two) = (connect().await, connect().await);
    at_the_rate(404, 100, 100, async {
        let flooded = during(requests(&mut one, 400), async {
            for _ in 0..4 {
                assert_eq!(requests(&mut two, 1).await.done, 1);
            }
        })
        .await;
        assert_eq!(flooded.done, 400);
    })
    .await;
    // A new connection has no new budget.
    drop((one, two));
    at_the_rate(100, 100, 1, async {
        assert_eq!(requests(&mut connect().await, 100).await.done, 100);
    })
    .await;
    assert!(limited(server, limit).await > 100);
}

#[tokio::test]
async fn retry_after_ms_holds() {
    let server = server(&["--rate-per-user", "10/10", "--max-wait", "60ms"]);
    for n in 0..3 {
        // A user each time, whose budget is full.
        let url = server.ws(&format!("/ws?userId=user-{n}"));
        let mut client = WsClient::connect_with(&url, &[NATIVE]).await;
        let mut other = WsClient::connect_with(&url, &[NATIVE]).await;
        let refused = first_refusal(&mut client).await;
        // A frame that is never refused takes nothing of its place, and neither does another
        // connection of the user.
        ask(&mut client, "pong", json!({"type": "ping"})).await;
        let (overtaken, ()) = tokio::join!(requests(&mut other, 10), async {
            tokio::time::sleep(refused).await;
            assert_eq!(direct(&mut client).await["type"], "ok", "{n}");
        });
        assert_eq!(overtaken.done + overtaken.refused.len() as u64, 10);
    }
    assert!(limited(&server, "user_frames").await > 0);
}

/// Sends until a frame is refused; its `retry_after_ms`.
async fn first_refusal(client: &mut WsClient) -> Duration {
    let mut id = 0;
    loop {
        for _ in 0..20 {
            let frame = json!({"type": "direct", "to": "nobody", "message": ".", "id": id});
            client.send_json(&frame).await;
            id += 1;
        }
        let mut refused = None;
        for _ in 0..20 {
            let answer = client.recv_json().await;
            if answer["type"] == "error" {
                refused.get_or_insert(answer);
            }
        }
        if let Some(refused) = refused {
            assert_eq!(refused["code"], "rate_limited", "{refused}");
            assert!(refused["id"].is_u64(), "{refused}");
            return pause_of(&refused);
        }
    }
}

async fn direct(client: &mut WsClient) -> Value {
    client.send_json(&json!({"type": "direct", "to": "nobody", "message": "."})).await;
    client.recv_json().await
}

/// The `retry_after_ms` of a refusal.
fn pause_of(refused: &Value) -> Duration {
    let pause = refused["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000).contains(&pause), "{refused}");
    Duration::from_millis(pause)
}

#[tokio::test]
async fn joins_have_a_rate_of_their_own() {
    let server = server(&["--join-rate", "50/100", "--max-rooms", "1000"]);
    let mut client = server.native().await;
    let joins = |verb: &'static str| {
        (0..200).map(move |n| json!({"type": verb, "room": n.to_string(), "id": n}))
    };
    let joined = at_the_rate(200, 50, 100, at_once(&mut client, "joined", joins("join"))).await;
    assert_eq!(joined.done, 200);
    assert!(limited(&server, "connection_joins").await > 50);
    let mut topics = server.client().await;
    at_the_rate(200, 50, 100, async {
        for frame in joins("SUBSCRIBE") {
            topics.send_json(&frame).await;
        }
        // The only answer that the dialect has: the last room is joined by then.
        topics.send_json(&json!({"type": "SUBSCRIBE", "room": ""})).await;
        assert_eq!(topics.recv_json().await["code"], "room_name_invalid");
    })
    .await;
}

#[tokio::test]
async fn moderators_have_a_rate() {
    let server = auth::server(&["--sanction-rate", "10/30"]);
    let token = auth::granting("mo", &[("r", &["*"])]);
    let mut moderator = auth::native(&server, &token).await;
    let ban = |n: u32| json!({"type": "ban", "room": "r", "user": n.to_string(), "seconds": 60});
    let outcome = at_once(&mut moderator, "ok", (0..50).map(ban));
    assert_eq!(at_the_rate(50, 10, 30, outcome).await.done, 50);
    assert!(limited(&server, "user_sanctions").await > 15);
    // That of its user, whatever connection it uses.
    let mut other = auth::native(&server, &token).await;
    let more = at_once(&mut other, "ok", (0..10).map(ban));
    assert_eq!(at_the_rate(10, 10, 1, more).await.done, 10);
}

#[tokio::test]
async fn token_raises_the_rates_of_a_bot() {
    let server = auth::server(&["--rate", "10/10", "--rate-per-user", "10/10"]);
    let claims = json!({"sub": "bot", "limit_factor": 50, "exp": 4_000_000_000_u64});
    let mut bot = auth::native(&server, &auth::signed(&claims)).await;
    let welcome = ask(&mut bot, "welcome", json!({"type": "hello"})).await;
    assert_eq!(welcome["limits"]["frames"], json!({"per_second": 500, "burst": 500}));
    assert_eq!(requests(&mut bot, 450).await.done, 450);
    assert_eq!(limited(&server, "connection_frames").await, 0);
    assert_eq!(limited(&server, "user_frames").await, 0);
    for wrong in [json!(0), json!(1001), json!(-1), json!("10")] {
        let claims = json!({"sub": "bot", "limit_factor": wrong, "exp": 4_000_000_000_u64});
        let path = server.ws(&format!("/ws?token={}", auth::signed(&claims)));
        let refused = WsClient::try_connect(&path, &[NATIVE]).await;
        assert_eq!(refused.err().map(|status| status.as_u16()), Some(401), "{claims}");
    }
}

#[tokio::test]
async fn rooms_of_a_user_are_counted_over_connections() {
    let server = server(&["--max-rooms-per-user", "3"]);
    let url = server.ws("/ws?userId=ann");
    let (mut one, mut other) = (
        WsClient::connect_with(&url, &[NATIVE]).await,
        WsClient::connect_with(&url, &[NATIVE]).await,
    );
    let room = |name: &str| json!({"type": "join", "room": name});
    ask(&mut one, "joined", room("a")).await;
    ask(&mut one, "joined", room("b")).await;
    ask(&mut other, "joined", room("a")).await;
    for client in [&mut one, &mut other] {
        assert_eq!(ask(client, "error", room("c")).await["code"], "too_many_rooms");
        ask(client, "joined", room("a")).await;
    }
    assert_eq!(limited(&server, "user_rooms").await, 2);
    ask(&mut one, "left", json!({"type": "leave", "room": "b"})).await;
    ask(&mut other, "joined", room("c")).await;
    // A connection that ends leaves its rooms to the others, and another user has its own.
    drop(other);
    server.until_metric("chat_connections", |open| open == 1).await;
    ask(&mut one, "joined", room("b")).await;
    ask(&mut server.native().await, "joined", room("a")).await;
}

#[tokio::test]
async fn typing_is_passed_on_once_a_second() {
    let server = Chat::alone();
    let (mut typist, mut reader) = (server.native().await, server.native().await);
    join(&mut typist, "r").await;
    join(&mut reader, "r").await;
    let began = Instant::now();
    for _ in 0..200 {
        typist.send_json(&json!({"type": "typing", "room": "r", "typing": true})).await;
    }
    ask(&mut typist, "ok", json!({"type": "send", "room": "r", "message": "done"})).await;
    let mut passed = 0;
    loop {
        match reader.recv_json().await["type"].as_str() {
            Some("typing") => passed += 1,
            Some("message") => break,
            _ => {}
        }
    }
    assert!(passed <= 1 + began.elapsed().as_secs(), "{passed} in {:?}", began.elapsed());
}

/// What the URL of a connection asks for costs what the frame would: one join, and the answer.
#[tokio::test]
async fn room_in_the_url_is_paid_for() {
    let joined = async |client: &mut WsClient, room: &str| loop {
        let frame = client.recv_json().await;
        if frame["message"] == format!("You successfully joined room: {room} ") {
            return;
        }
    };
    let join_again = async |client: &mut WsClient, rooms: &[&str]| {
        for room in rooms {
            let frame = json!({"type": "join_room", "room": room, "user": "Al", "history": 10});
            client.send_json(&frame).await;
            joined(client, room).await;
        }
    };
    let rare = server(&["--join-rate", "1/1"]);
    at_the_rate(3, 1, 1, async {
        let mut client = WsClient::connect(&rare.ws("/join-room/a?user=Al&history=10")).await;
        joined(&mut client, "a").await;
        join_again(&mut client, &["b", "c"]).await;
    })
    .await;

    let narrow = server(&["--answer-rate", "100000/200000"]);
    let mut writer = narrow.native().await;
    let text = "x".repeat(10_000);
    for room in ["a", "b", "c", "d"] {
        join(&mut writer, room).await;
        for _ in 0..10 {
            ask(&mut writer, "ok", json!({"type": "send", "room": room, "message": text})).await;
        }
    }
    at_the_rate(300_000, 100_000, 200_000, async {
        let mut client = WsClient::connect(&narrow.ws("/join-room/a?user=Al&history=10")).await;
        joined(&mut client, "a").await;
        join_again(&mut client, &["b", "c", "d"]).await;
    })
    .await;
}
