//! What a room keeps: for newcomers, for those who page back, and for those who were away.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::{Chat, ask, join, next_of};

/// Says so many messages, one after the other: "1", "2" … Returns when the server of the
/// client, who is in the room, has them all.
async fn say(client: &mut WsClient, room: &str, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        let text = n.to_string();
        client.send_json(&json!({"type": "send", "room": room, "message": text, "id": n})).await;
        let (mut answered, mut heard) = (false, false);
        while !(answered && heard) {
            let frame = client.recv_json().await;
            answered |= frame["type"] == "ok" && frame["id"] == n;
            heard |= frame["type"] == "message" && frame["message"] == *text;
        }
    }
}

fn texts(messages: &Value) -> Vec<String> {
    let messages = messages.as_array().expect("messages").iter();
    messages.map(|message| message["message"].as_str().unwrap().to_owned()).collect()
}

fn numbers(numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    numbers.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn a_newcomer_sees_the_latest_and_pages_both_ways() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut writer = first.native().await;
    join(&mut writer, "r").await;
    say(&mut writer, "r", 1..=30).await;

    // On the server that holds them, and on one that has yet to read them.
    for server in [&first, &second] {
        let mut late = server.native().await;
        let joined =
            ask(&mut late, "joined", json!({"type": "join", "room": "r", "history": 5})).await;
        assert_eq!(texts(&joined["messages"]), numbers(26..=30));
        assert_eq!((&joined["offset"], &joined["recovered"]), (&json!(30), &json!(false)));
        assert_eq!(joined["more"], true);
        for (history, more) in [(0, true), (29, true), (30, false), (99, false)] {
            let join = json!({"type": "join", "room": "r", "history": history,
                "since": {"epoch": "other", "offset": 0}});
            let again = ask(&mut late, "joined", join).await;
            assert_eq!(again["more"], more, "{history} of 30: {again}");
        }
        let message = &joined["messages"][0];
        assert_eq!((&message["type"], &message["offset"]), (&json!("message"), &json!(26)));

        let mut before = 26;
        for (page, more) in [(16..=25, true), (6..=15, true), (1..=5, false)] {
            let frame =
                json!({"type": "history", "room": "r", "before": before, "limit": 10, "id": "h"});
            let answer = ask(&mut late, "history", frame).await;
            before = *page.start();
            assert_eq!(texts(&answer["messages"]), numbers(page));
            assert_eq!((&answer["more"], &answer["id"]), (&json!(more), &json!("h")));
            assert_eq!(answer["offset"], 30);
        }
        let frame = json!({"type": "history", "room": "r", "after": 20, "limit": 6});
        let answer = ask(&mut late, "history", frame).await;
        assert_eq!((texts(&answer["messages"]), &answer["more"]), (numbers(21..=26), &json!(true)));
        let answer = ask(&mut late, "history", json!({"type": "history", "room": "r"})).await;
        assert_eq!(texts(&answer["messages"]), numbers(1..=30));
        let frame = json!({"type": "history", "room": "r", "after": 30});
        let answer = ask(&mut late, "history", frame).await;
        assert_eq!((&answer["messages"], &answer["more"]), (&json!([]), &json!(false)));
        let both = json!({"type": "history", "room": "r", "after": 1, "before": 9});
        assert_eq!(ask(&mut late, "error", both).await["code"], "bad_field");
    }
}

#[tokio::test]
async fn earlier_dialects_see_the_latest_after_the_welcome() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut writer = first.native().await;
    join(&mut writer, "r").await;
    say(&mut writer, "r", 1..=9).await;
    for server in [&first, &second] {
        let mut by_frame = server.client().await;
        by_frame.send(r#"{"type":"join_room","room":"r","user":"Al","history":3}"#).await;
        let mut by_url = WsClient::connect(&server.ws("/join-room/r?user=Al&history=3")).await;
        for client in [&mut by_frame, &mut by_url] {
            let welcome = client.recv_json().await;
            assert_eq!(welcome["message"], "You successfully joined room: r ");
            for text in numbers(7..=9) {
                let chat = client.recv_json().await;
                assert_eq!((&chat["type"], &chat["message"]), (&json!("chat"), &json!(text)));
            }
            assert_eq!(client.recv_json().await["message"], "Al joined the room");
        }
        // Not before both have joined: the other would be told of it.
        for client in [&mut by_frame, &mut by_url] {
            client.send(r#"{"type":"leave_room"}"#).await;
        }
    }
}

#[tokio::test]
async fn a_room_without_history_has_no_positions() {
    let directory = std::env::temp_dir().join(format!("chat-rooms-{}.toml", std::process::id()));
    std::fs::write(&directory, "[[rooms]]\nname = \"game-*\"\nhistory = 0\n").unwrap();
    let redis = RedisServer::start();
    let config = directory.to_str().unwrap();
    let [first, second] = Chat::several(&redis, &["--config", config]).await;
    let _ = std::fs::remove_file(&directory);

    let (mut a, mut b) = (first.native().await, second.native().await);
    let since = json!({"epoch": "abcdefgh", "offset": 4});
    let frame = json!({"type": "join", "room": "game-1", "since": since, "history": 9});
    let joined = ask(&mut a, "joined", frame).await;
    assert_eq!((joined.get("offset"), joined.get("epoch")), (None, None));
    assert_eq!((&joined["recovered"], &joined["messages"]), (&json!(false), &json!([])));
    join(&mut b, "game-1").await;
    let send = json!({"type": "send", "room": "game-1", "message": "x", "key": "k"});
    let ok = ask(&mut a, "ok", send).await;
    assert_eq!((ok.get("offset"), ok.get("epoch")), (None, None));
    let message = next_of(&mut b, "message").await;
    assert_eq!((message.get("offset"), &message["key"]), (None, &json!("k")));
    let refused = ask(&mut a, "error", json!({"type": "history", "room": "game-1"})).await;
    assert_eq!(refused["code"], "history_disabled");
    let log = ["EXISTS", "chat:{r.game-1}", "chat:{r.game-1}:position"];
    assert_eq!(redis.command(&log).await, "0", "nothing of it is kept");

    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let gap = next_of(&mut b, "gap").await;
    assert_eq!(gap, json!({"type": "gap", "room": "game-1"}), "it cannot know what it missed");

    join(&mut a, "general").await;
    let ok = ask(&mut a, "ok", json!({"type": "send", "room": "general", "message": "x"})).await;
    assert_eq!(ok["offset"], 1, "other rooms keep theirs");
}

#[tokio::test]
async fn returning_client_gets_all_that_it_missed() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut writer, mut reader) = (first.native().await, first.native().await);
    join(&mut writer, "r").await;
    let joined = join(&mut reader, "r").await;
    assert_eq!((&joined["epoch"], &joined["offset"]), (&json!(""), &json!(0)));
    drop(reader);
    say(&mut writer, "r", 1..=20).await;

    // From an empty room, on the same server and on another.
    let nothing = json!({"epoch": "", "offset": 0});
    let mut epoch = Value::Null;
    for server in [&first, &second] {
        let mut back = server.native().await;
        let frame = json!({"type": "join", "room": "r", "since": nothing});
        let joined = ask(&mut back, "joined", frame).await;
        assert_eq!(
            (&joined["recovered"], texts(&joined["messages"])),
            (&json!(true), numbers(1..=20))
        );
        epoch = joined["epoch"].clone();
        let since = json!({"epoch": epoch, "offset": 17});
        let frame = json!({"type": "join", "room": "r", "since": since});
        let again = ask(&mut back, "joined", frame).await;
        assert_eq!(
            (&again["recovered"], texts(&again["messages"])),
            (&json!(true), numbers(18..=20))
        );
        let since = json!({"epoch": epoch, "offset": 20});
        let frame = json!({"type": "join", "room": "r", "since": since});
        let again = ask(&mut back, "joined", frame).await;
        assert_eq!((&again["recovered"], &again["messages"]), (&json!(true), &json!([])));
    }

    // What cannot be recovered is said to be lost, with the newest page.
    for (since, why) in [
        (json!({"epoch": epoch, "offset": 21}), "beyond the top"),
        (json!({"epoch": epoch, "offset": 9_007_199_254_740_991_u64}), "far beyond"),
        (json!({"epoch": "ABCDEFGH", "offset": 3}), "another epoch"),
    ] {
        let mut back = second.native().await;
        let frame = json!({"type": "join", "room": "r", "since": since, "history": 4});
        let joined = ask(&mut back, "joined", frame).await;
        assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(false), &json!(20)), "{why}");
        assert_eq!(texts(&joined["messages"]), numbers(17..=20), "{why}");
    }
}

#[tokio::test]
async fn a_short_history_says_what_it_has_lost() {
    let redis = RedisServer::start();
    let [first, second] = Chat::several(&redis, &["--history", "5"]).await;
    let mut writer = first.native().await;
    join(&mut writer, "r").await;
    say(&mut writer, "r", 1..=12).await;
    let mut reader = second.native().await;
    let joined =
        ask(&mut reader, "joined", json!({"type": "join", "room": "r", "history": 99})).await;
    assert_eq!(texts(&joined["messages"]), numbers(8..=12));
    for server in [&first, &second] {
        for (offset, recovered, messages) in
            [(7, true, 8..=12), (6, false, 8..=12), (10, true, 11..=12), (1, false, 8..=12)]
        {
            let since = json!({"epoch": joined["epoch"], "offset": offset});
            let mut back = server.native().await;
            let frame = json!({"type": "join", "room": "r", "since": since});
            let again = ask(&mut back, "joined", frame).await;
            assert_eq!(again["recovered"], recovered, "since {offset}");
            assert_eq!(texts(&again["messages"]), numbers(messages), "since {offset}");
        }
    }
}

/// Has Redis log all commands from now on.
async fn log_commands(redis: &RedisServer) {
    for (name, value) in [("slowlog-log-slower-than", "0"), ("slowlog-max-len", "100000")] {
        redis.command(&["CONFIG", "SET", name, value]).await;
    }
    redis.command(&["SLOWLOG", "RESET"]).await;
}

/// How often Redis was asked for the history of the room `r` since then: each time its script asks
/// for the length. Servers read a key of their own besides, to see whether they may.
async fn reads(redis: &RedisServer) -> usize {
    let log = redis.command(&["SLOWLOG", "GET", "100000"]).await;
    let lines: Vec<&str> = log.lines().collect();
    let is_read = |pair: &&[&str]| pair[0] == "LLEN" && pair[1] == "chat:{r.r}";
    lines.windows(2).filter(is_read).count()
}

async fn history(client: &mut WsClient, mut frame: Value) -> Value {
    frame["type"] = json!("history");
    frame["room"] = json!("r");
    ask(client, "history", frame).await
}

/// All of a room's history, page by page from its end.
async fn all_pages(client: &mut WsClient, limit: u64) -> Vec<String> {
    let (mut all, mut before) = (Vec::new(), json!(null));
    loop {
        let mut frame = json!({"limit": limit});
        if !before.is_null() {
            frame["before"] = before;
        }
        let page = history(client, frame).await;
        all.splice(0..0, texts(&page["messages"]));
        if page["more"] == false {
            return all;
        }
        before = page["messages"][0]["offset"].clone();
    }
}

#[tokio::test]
async fn held_history_is_paged_without_asking_redis() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut ann, mut bob) = (first.native().await, second.native().await);
    join(&mut ann, "r").await;
    join(&mut bob, "r").await;
    say(&mut ann, "r", 1..=300).await;
    while next_of(&mut bob, "message").await["message"] != "300" {}
    log_commands(&redis).await;
    for client in [&mut ann, &mut bob] {
        for limit in [3, 50, 256] {
            assert_eq!(all_pages(client, limit).await, numbers(45..=300));
        }
        for (after, limit, expected, more) in [
            (0, 10, 45..=54, true),
            (44, 256, 45..=300, false),
            (290, 10, 291..=300, false),
            (289, 10, 290..=299, true),
        ] {
            let page = history(client, json!({"after": after, "limit": limit})).await;
            assert_eq!(texts(&page["messages"]), numbers(expected), "after {after}");
            assert_eq!((&page["more"], &page["offset"]), (&json!(more), &json!(300)));
        }
        let beginning = history(client, json!({"before": 45})).await;
        assert_eq!((&beginning["messages"], &beginning["more"]), (&json!([]), &json!(false)));
    }
    assert_eq!(reads(&redis).await, 0);
    history(&mut ann, json!({"after": 301})).await;
    assert_eq!(reads(&redis).await, 1, "it may have missed something");
}

/// Its sender may read it at once, before it arrives where the others get it from.
#[tokio::test]
async fn acknowledged_message_is_in_the_history() {
    let redis = RedisServer::start();
    let (server, _other) = Chat::pair(&redis).await;
    let mut ann = server.native().await;
    join(&mut ann, "r").await;
    for n in 1..=300 {
        let text = n.to_string();
        ask(&mut ann, "ok", json!({"type": "send", "room": "r", "message": text})).await;
        let page = history(&mut ann, json!({"limit": 1})).await;
        assert_eq!(texts(&page["messages"]), [text]);
    }
}

/// More than a server holds, less than it may, or not what it should be.
#[tokio::test]
async fn history_that_is_not_held_is_read() {
    let redis = RedisServer::start();
    let [long] = Chat::several::<1>(&redis, &["--history", "400"]).await;
    let mut ann = long.native().await;
    join(&mut ann, "r").await;
    say(&mut ann, "r", 1..=350).await;
    assert_eq!(all_pages(&mut ann, 100).await, numbers(1..=350));

    // Its settings count from the next message on.
    let [short] = Chat::several::<1>(&redis, &["--history", "10"]).await;
    let mut bob = short.native().await;
    join(&mut bob, "r").await;
    assert_eq!(all_pages(&mut bob, 100).await, numbers(1..=350));
    say(&mut bob, "r", 351..=351).await;
    log_commands(&redis).await;
    assert_eq!(all_pages(&mut bob, 4).await, numbers(342..=351));
    assert_eq!(reads(&redis).await, 0);
}

#[tokio::test]
async fn expired_history_is_not_shown() {
    let redis = RedisServer::start();
    let [server] = Chat::several::<1>(&redis, &["--history-ttl", "1s"]).await;
    let mut ann = server.native().await;
    join(&mut ann, "r").await;
    say(&mut ann, "r", 1..=3).await;
    assert_eq!(all_pages(&mut ann, 9).await, numbers(1..=3));
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while !all_pages(&mut ann, 9).await.is_empty() {
        assert!(std::time::Instant::now() < deadline, "it is still shown");
    }
    assert_eq!(redis.command(&["EXISTS", "chat:{r.r}"]).await, "0", "not before its time");
    let mut late = server.native().await;
    let joined = ask(&mut late, "joined", json!({"type": "join", "room": "r", "history": 9})).await;
    assert_eq!((&joined["messages"], &joined["offset"]), (&json!([]), &json!(3)));
    say(&mut ann, "r", 4..=4).await;
    assert_eq!(all_pages(&mut ann, 9).await, numbers(4..=4));
}

/// More than a frame takes: the rest follows in frames of its own, as fast as it is read,
/// while others go on talking.
#[tokio::test]
async fn a_lot_that_was_missed_comes_in_pages() {
    const MISSED: u64 = 120;
    let redis = RedisServer::start();
    let [first, second] = Chat::several(&redis, &["--history-bytes", "10000000"]).await;
    let mut writer = first.native().await;
    join(&mut writer, "r").await;
    let padding = "x".repeat(20_000);
    let send = |n: u64| json!({"type": "send", "room": "r", "message": format!("{n} {padding}")});
    for n in 1..=MISSED {
        ask(&mut writer, "ok", send(n)).await;
    }
    let mut said = MISSED;
    for server in [&first, &second] {
        let mut back = server.native().await;
        let since = json!({"epoch": "", "offset": 0});
        back.send_json(&json!({"type": "join", "room": "r", "since": since})).await;
        let all = said + 20;
        let writing = async {
            for n in said + 1..=all {
                ask(&mut writer, "ok", send(n)).await;
            }
        };
        let reading = async {
            let joined = next_of(&mut back, "joined").await;
            assert_eq!(joined["recovered"], true);
            let in_frame = joined["messages"].as_array().unwrap();
            assert!(!in_frame.is_empty() && in_frame.len() < MISSED as usize);
            assert_eq!(joined["offset"], in_frame.len());
            for (message, offset) in in_frame.iter().zip(1_u64..) {
                assert_eq!(message["offset"], offset);
            }
            for offset in in_frame.len() as u64 + 1..=all {
                let message = next_of(&mut back, "message").await;
                assert_eq!(message["offset"], offset, "no gap, no repeat");
            }
        };
        tokio::join!(writing, reading);
        said = all;
    }
}

#[tokio::test]
async fn the_same_key_is_the_same_message_through_any_server() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut reader = second.native().await;
    join(&mut reader, "r").await;
    let mut ann = first.native().await;
    let welcome = ask(&mut ann, "welcome", json!({"type": "hello", "name": "Ann"})).await;
    join(&mut ann, "r").await;
    let send = json!({"type": "send", "room": "r", "message": "once", "key": "k"});
    let first_ok = ask(&mut ann, "ok", send.clone()).await;
    drop(ann);
    let mut again = second.native().await;
    let hello = json!({"type": "hello", "name": "Ann", "resume": welcome["resume"]});
    ask(&mut again, "welcome", hello).await;
    // It is back in time: nobody hears of it.
    ask(&mut again, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(ask(&mut again, "ok", send.clone()).await, first_ok);

    let mut bob = second.native().await;
    join(&mut bob, "r").await;
    let ok = ask(&mut bob, "ok", send).await;
    assert_eq!(ok["offset"], 2, "another user's key is another key");
    for offset in 1..=2 {
        let message = next_of(&mut reader, "message").await;
        assert_eq!((&message["offset"], &message["key"]), (&json!(offset), &json!("k")));
    }
    reader.expect_silence().await;
}

/// Positions of other servers, of other systems, or of nowhere: the room's epoch is none of them.
#[tokio::test]
async fn unknown_epoch_of_any_form_gives_the_newest_page() {
    let server = Chat::alone();
    let mut writer = server.native().await;
    join(&mut writer, "r").await;
    say(&mut writer, "r", 1..=60).await;
    let long = "x".repeat(10_000);
    for epoch in ["no-such-epoch", "1", "ABCDEFGH", "é👋", "????????", &long] {
        for (offset, history) in [("1", None), ("0", None), ("60.0", Some(3)), ("2e0", Some(0))] {
            let mut client = server.native().await;
            let history = history.map_or(String::new(), |n| format!(r#""history":{n}.0,"#));
            client
                .send(&format!(
                    r#"{{"type":"join","room":"r",{history}"since":{{"epoch":"{epoch}","offset":{offset}}}}}"#
                ))
                .await;
            let joined = next_of(&mut client, "joined").await;
            assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(false), &json!(60)));
            let newest = match &*history {
                "" => numbers(11..=60),
                r#""history":0.0,"# => Vec::new(),
                _ => numbers(58..=60),
            };
            assert_eq!(texts(&joined["messages"]), newest, "{epoch} {offset}");
        }
    }
}
