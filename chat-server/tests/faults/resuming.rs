//! Clients that say the same again, come back twice, or are gone without a word.

use std::time::{Duration, Instant};

use chat_broker::testing::{Direction, RedisServer, TcpProxy};
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::raw::Raw;
use crate::support::{Chat, ask, assert_within, join, next_of, say};

/// The network between a client and its server is gone: neither hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_on_a_dead_line_is_gone_in_time() {
    const PING: Duration = Duration::from_secs(1);
    const GRACE: Duration = Duration::from_secs(1);
    let redis = RedisServer::start();
    let args = ["--ping-interval", "1s", "--pong-timeout", "1s", "--presence-grace", "1s"];
    let [server, other] = Chat::several::<2>(&redis, &args).await;
    let proxy = TcpProxy::start(server.port());
    let mut watcher = other.native().await;
    join(&mut watcher, "r").await;
    let mut client = Raw::connect(proxy.port()).await.unwrap();
    client.ask("joined", &json!({"type": "join", "room": "r"})).await.unwrap();
    assert_eq!(next_of(&mut watcher, "presence").await["event"], "joined");
    let began = Instant::now();
    proxy.swallow(Direction::ToServer);
    proxy.swallow(Direction::ToClient);
    assert_eq!(next_of(&mut watcher, "presence").await["event"], "left");
    let took = began.elapsed();
    say(&format!(
        "a dead line: the client had left after {took:.1?}, of {:?} at least",
        PING + GRACE
    ));
    assert_within("to leave", took, Duration::from_secs(10));
    server.until_metric("chat_closed_total{code=\"4001\"}", |now| now >= 1).await;
    drop(client);
}

/// The message was taken, and its `ok` got lost on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_answer_was_lost_is_said_once() {
    let redis = RedisServer::start();
    let [server, other] = Chat::several::<2>(&redis, &[]).await;
    let proxy = TcpProxy::start(server.port());
    let mut listener = other.native().await;
    join(&mut listener, "r").await;
    let mut client = Raw::connect(proxy.port()).await.unwrap();
    let hello = json!({"type": "hello", "name": "Ann"});
    let welcome = client.ask("welcome", &hello).await.unwrap();
    client.ask("joined", &json!({"type": "join", "room": "r"})).await.unwrap();
    proxy.swallow(Direction::ToClient);
    let send = json!({"type": "send", "room": "r", "message": "once", "key": "k"});
    client.send(&send).await;
    assert_eq!(next_of(&mut listener, "message").await["offset"], 1);

    let mut again = other.native().await;
    let hello = json!({"type": "hello", "name": "Ann", "resume": welcome["resume"]});
    ask(&mut again, "welcome", hello).await;
    ask(&mut again, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(ask(&mut again, "ok", send).await["offset"], 1);
    listener.expect_silence().await;
    drop(client);
}

/// A user who reconnects twice at once is one user on two connections, and each has all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_comes_back_twice_at_once_is_one() {
    let redis = RedisServer::start();
    let [first, second] = Chat::several::<2>(&redis, &[]).await;
    let mut watcher = second.native().await;
    join(&mut watcher, "r").await;
    let mut ann = first.native().await;
    let welcome = ask(&mut ann, "welcome", json!({"type": "hello", "name": "Ann"})).await;
    join(&mut ann, "r").await;
    assert_eq!(next_of(&mut watcher, "presence").await["event"], "joined");
    drop(ann);
    ask(&mut watcher, "ok", json!({"type": "send", "room": "r", "message": "missed"})).await;

    let hello = json!({"type": "hello", "name": "Ann", "resume": welcome["resume"]});
    let since = json!({"type": "join", "room": "r", "since": {"epoch": "", "offset": 0}});
    let come_back = async |server: &Chat| {
        let mut client = server.native().await;
        let again = ask(&mut client, "welcome", hello.clone()).await;
        assert_eq!(again["user"], welcome["user"]);
        let joined = ask(&mut client, "joined", since.clone()).await;
        assert_eq!(joined["recovered"], true);
        assert_eq!(joined["messages"][0]["message"], "missed");
        (client, joined["count"].clone())
    };
    let ((mut one, count), (mut two, _)) = tokio::join!(come_back(&first), come_back(&second));
    assert_eq!(count, 2, "she and the watcher");
    ask(&mut watcher, "ok", json!({"type": "send", "room": "r", "message": "now"})).await;
    for client in [&mut one, &mut two] {
        assert_eq!(next_of(client, "message").await["message"], "now");
    }
    // One of them goes: she is still there.
    drop(two);
    ask(&mut watcher, "ok", json!({"type": "send", "room": "r", "message": "later"})).await;
    assert_eq!(next_of(&mut one, "message").await["message"], "later");
    assert_eq!(members(&mut watcher).await["count"], 2);
}

async fn members(client: &mut WsClient) -> Value {
    ask(client, "members", json!({"type": "members", "room": "r"})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coming_and_going_twice_changes_nothing_and_rooms_are_counted() {
    const MOST: usize = 128;
    let redis = RedisServer::start();
    let rates = ["rate", "rate-per-user", "join-rate"].map(|rate| format!("--{rate}=off"));
    let mut args = vec!["--limits", "on"];
    args.extend(rates.iter().map(String::as_str));
    let [server] = Chat::several::<1>(&redis, &args).await;
    let (mut client, mut watcher) = (server.native().await, server.native().await);
    join(&mut watcher, "r").await;
    ask(&mut client, "joined", json!({"type": "join", "room": "r"})).await;
    let again = ask(&mut client, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(again["count"], 2);
    // A leave before Redis was told of the join would be no event.
    assert_eq!(next_of(&mut watcher, "presence").await["event"], "joined");
    let leave = json!({"type": "leave", "room": "r"});
    ask(&mut client, "left", leave.clone()).await;
    assert_eq!(ask(&mut client, "error", leave).await["code"], "not_in_room");
    assert_eq!(next_of(&mut watcher, "presence").await["event"], "left");
    watcher.expect_silence().await;

    let mut raw = Raw::connect(server.port()).await.unwrap();
    let (mut taken, mut refused) = (0, 0);
    for n in 0..10_000 {
        raw.send(&json!({"type": "join", "room": format!("room-{n}")})).await;
        // Answered one by one: no queue has to be long.
        while let Some(crate::support::raw::Frame::Text(text)) = raw.next().await {
            let frame: Value = serde_json::from_slice(&text).unwrap();
            match frame["type"].as_str() {
                Some("joined") => taken += 1,
                Some("error") if frame["code"] == "too_many_rooms" => refused += 1,
                _ => continue,
            }
            break;
        }
    }
    assert_eq!((taken, refused), (MOST, 10_000 - MOST));
    let channels = redis.command(&["PUBSUB", "CHANNELS", "*room-*"]).await;
    assert_eq!(channels.lines().count(), MOST);
}
