//! What a token allows, verb by verb.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::json;

use super::{SECRET, granting, native, refusal};
use crate::support::{Chat, ask, command};

#[tokio::test]
async fn each_verb_needs_its_capability() {
    let redis = RedisServer::start();
    let start = || {
        Chat::start(
            command().env("REDIS_URL", redis.url()).args(["--port", "0"]).env("JWT_SECRET", SECRET),
        )
    };
    let (first, second) = (start(), start());
    first.until_ready().await;
    second.until_ready().await;
    let everything = granting("owner", &[("*", &["*"])]);
    let mut owner = native(&first, &everything).await;
    ask(&mut owner, "joined", json!({"type": "join", "room": "r"})).await;
    ask(&mut owner, "ok", json!({"type": "send", "room": "r", "message": "before"})).await;

    let verbs = [
        ("join", json!({"type": "join", "room": "r"})),
        ("send", json!({"type": "send", "room": "r", "message": "x"})),
        ("send", json!({"type": "typing", "room": "r", "typing": true})),
        ("history", json!({"type": "history", "room": "r"})),
        ("presence", json!({"type": "members", "room": "r"})),
        ("direct", json!({"type": "direct", "to": "r", "message": "x"})),
        ("moderate", json!({"type": "kick", "room": "r", "user": "nobody"})),
        ("moderate", json!({"type": "ban", "room": "r", "user": "nobody", "seconds": 1})),
        ("moderate", json!({"type": "unban", "room": "r", "user": "nobody"})),
    ];
    for lacking in ["join", "send", "history", "presence", "direct", "moderate"] {
        let all = ["join", "send", "history", "presence", "direct", "moderate"];
        let others: Vec<_> = all.into_iter().filter(|one| *one != lacking).collect();
        let rules: [(&str, &[&str]); 2] = [("r", &others), ("@*", &others)];
        let mut client = native(&second, &granting("guest", &rules)).await;
        if lacking != "join" {
            let since = json!({"epoch": "", "offset": 0});
            let join = json!({"type": "join", "room": "r", "history": 10, "since": since});
            let joined = ask(&mut client, "joined", join).await;
            let messages = joined["messages"].as_array().unwrap().len();
            assert_eq!(messages > 0, lacking != "history", "{joined}");
            assert_eq!(joined["count"] == 2, lacking != "presence", "{joined}");
            let can = others.iter().filter(|one| **one != "direct").collect::<Vec<_>>();
            assert_eq!(joined["can"], json!(can), "without {lacking}");
        }
        for (needed, frame) in &verbs {
            let mut frame = frame.clone();
            frame["id"] = json!(format!("{lacking}-{frame}").chars().take(40).collect::<String>());
            client.send_json(&frame).await;
            client.send_json(&json!({"type": "ping", "id": "end"})).await;
            let mut refused = None;
            loop {
                let answer = client.recv_json().await;
                match answer["type"].as_str().unwrap() {
                    "error" if answer["id"] == frame["id"] => {
                        refused = Some(answer["code"].clone())
                    }
                    "presence" => assert_ne!(lacking, "presence", "{answer}"),
                    "pong" => break,
                    _ => {}
                }
            }
            let is_forbidden = refused == Some(json!("forbidden"));
            assert_eq!(is_forbidden, *needed == lacking, "{frame} without {lacking}: {refused:?}");
        }
    }
    // Whether the room is there or not makes no difference.
    let mut stranger = native(&second, &granting("eve", &[("mine", &["*"])])).await;
    for (_, mut frame) in verbs {
        let mut answers = Vec::new();
        for room in ["r", "no-such-room"] {
            let place = if frame["to"].is_string() { "to" } else { "room" };
            frame[place] = json!(room);
            answers.push(ask(&mut stranger, "error", frame.clone()).await);
        }
        assert_eq!(answers[0], answers[1]);
        assert_eq!(answers[0]["code"], "forbidden");
    }
    let path =
        |room: &str| format!("/join-room/{room}?token={}", granting("eve", &[("mine", &["*"])]));
    let status = |room: &str| {
        let url = second.ws(&path(room));
        async move { WsClient::try_connect(&url, &[]).await.err().map(|status| status.as_u16()) }
    };
    assert_eq!((status("r").await, status("no-such-room").await), (Some(403), Some(403)));
    assert_eq!(status("mine").await, None);
    // Other dialects.
    let url = second.ws(&format!("/?token={}", granting("eve", &[("mine", &["*"])])));
    for frame in [
        json!({"type": "SUBSCRIBE", "room": "r"}),
        json!({"type": "sendMessage", "roomId": "r", "message": "x"}),
        json!({"type": "join_room", "room": "r"}),
        json!({"to": "owner", "message": "x"}),
    ] {
        let mut client = WsClient::connect(&url).await;
        assert_eq!(refusal(&mut client, frame.clone()).await, "forbidden", "{frame}");
    }
    let mut blind = native(&first, &granting("blind", &[("r", &["join"])])).await;
    let joined = ask(&mut blind, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(joined["members"].as_array().unwrap().len(), 1, "{joined}");
    ask(&mut owner, "ok", json!({"type": "send", "room": "r", "message": "after"})).await;
    assert_eq!(blind.recv_json().await["message"], "after", "and no presence before it");
}
