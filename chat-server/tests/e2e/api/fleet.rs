//! What a backend does on all servers through one.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use super::{KEY, get, member, pair, post, refused, server, server_with_key, user};
use crate::e2e::auth::{SECRET, granting, native};
use crate::support::{Chat, ask, command, eventually, next_of};

#[tokio::test]
async fn backend_makes_the_connections_of_a_user_join_and_leave() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let mut watcher = member(&first, "watcher").await;
    let (mut here, mut there) = (user(&first, "ann").await, user(&second, "ann").await);
    let mut topics = WsClient::connect(&second.ws("/?userId=ann")).await;
    topics.send_json(&json!({"type": "SUBSCRIBE", "room": "elsewhere"})).await;
    for client in [&mut here, &mut there] {
        ask(client, "welcome", json!({"type": "hello", "name": "Ann"})).await;
    }
    let ann = json!({"user": "ann"});
    assert_eq!(post(&second, "/rooms/r/join", ann.clone()).await, json!({"ok": true}));
    for client in [&mut here, &mut there] {
        let joined = next_of(client, "joined").await;
        assert_eq!((&joined["room"], joined.get("id")), (&json!("r"), None));
    }
    assert_eq!(next_of(&mut watcher, "presence").await["user"]["name"], "Ann");
    // Again without effect: the next frame of either is the message.
    post(&first, "/rooms/r/join", ann.clone()).await;
    ask(&mut here, "pong", json!({"type": "ping"})).await;
    post(&first, "/rooms/r/messages", json!({"message": "hi"})).await;
    for client in [&mut here, &mut there] {
        loop {
            let frame = client.recv_json().await;
            assert_ne!(frame["type"], "joined", "{frame}");
            if frame["type"] == "message" {
                break;
            }
        }
    }
    post(&first, "/rooms/r/leave", ann).await;
    for client in [&mut here, &mut there] {
        assert_eq!(next_of(client, "left").await, json!({"type": "left", "room": "r"}));
    }
    assert_eq!(next_of(&mut watcher, "presence").await["event"], "left");
}

#[tokio::test]
async fn banned_user_is_not_made_to_join() {
    let server = server(&[]);
    let mut ann = user(&server, "ann").await;
    ask(&mut ann, "welcome", json!({"type": "hello"})).await;
    post(&server, "/rooms/r/ban", json!({"user": "ann"})).await;
    for room in ["r", "other"] {
        post(&server, &format!("/rooms/{room}/join"), json!({"user": "ann"})).await;
    }
    assert_eq!(next_of(&mut ann, "joined").await["room"], "other");
}

/// A client cannot pass for a server.
#[tokio::test]
async fn direct_message_to_the_servers_is_no_request() {
    let server = server(&[]);
    let mut ann = user(&server, "ann").await;
    ask(&mut ann, "welcome", json!({"type": "hello"})).await;
    let request = json!({"user": "ann", "room": "r", "join": true}).to_string();
    let frame = json!({"type": "direct", "id": 1, "to": "@servers", "message": request});
    ask(&mut ann, "ok", frame.clone()).await;
    post(&server, "/rooms/other/join", json!({"user": "ann"})).await;
    assert_eq!(next_of(&mut ann, "joined").await["room"], "other");
    // The server follows the topic by now.
    assert_eq!(ask(&mut ann, "ok", frame).await["delivered"], 0);
    let sent = post(&server, "/users/@servers/messages", json!({"message": "hi"})).await;
    assert_eq!(sent, json!({"delivered": 0}));
    let users = json!({"users": ["@servers", "ann"]});
    assert_eq!(post(&server, "/users/status", users).await, json!({"online": ["ann"]}));
    assert_eq!(get(&server, "/users/@servers").await["servers"], 0);
}

#[tokio::test]
async fn request_during_a_wait_for_the_budget_is_carried_out_after_it() {
    let server = server(&["--byte-rate", "1000/1000", "--max-wait", "1m"]);
    let mut ann = member(&server, "ann").await;
    let text = "x".repeat(4000);
    ann.send_json(&json!({"type": "send", "room": "r", "message": text})).await;
    let waits = "chat_limited_total{limit=\"connection_received_bytes\"}";
    server.until_metric(waits, |waits| waits == 1).await;
    post(&server, "/rooms/other/join", json!({"user": "ann"})).await;
    assert_eq!(next_of(&mut ann, "joined").await["room"], "other");
}

#[tokio::test]
async fn user_whom_a_backend_made_join_stays_whatever_the_next_token_allows() {
    let mut command = command();
    command.env("API_KEY", KEY).env("JWT_SECRET", SECRET).args(["--port", "0"]);
    let server = Chat::start(&mut command);
    let token = granting("ann", &[("own", &["join"])]);
    let mut ann = native(&server, &token).await;
    ask(&mut ann, "joined", json!({"type": "join", "room": "own"})).await;
    post(&server, "/rooms/r/join", json!({"user": "ann"})).await;
    next_of(&mut ann, "joined").await;
    let narrow = granting("ann", &[("none", &["join"])]);
    ann.send_json(&json!({"type": "hello", "token": narrow})).await;
    assert_eq!(next_of(&mut ann, "left").await["room"], "own");
    post(&server, "/rooms/r/messages", json!({"message": "hi"})).await;
    assert_eq!(next_of(&mut ann, "message").await["room"], "r");
}

#[tokio::test]
async fn request_to_join_a_room_with_a_long_name_is_refused() {
    let server = server(&["--max-name-bytes", "8"]);
    let ann = Some(json!({"user": "ann"}));
    let long = refused(&server, "POST /rooms/a-long-name/join", ann).await;
    assert_eq!(long, (400, "room_name_invalid".to_owned()));
}

#[tokio::test]
async fn servers_are_listed() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let nodes =
        async |server: &Chat| get(server, "/nodes").await["nodes"].as_array().unwrap().clone();
    eventually("both servers are listed", async || nodes(&first).await.len() == 2).await;
    let listed = nodes(&second).await;
    assert!(listed.iter().all(|node| node["version"] == env!("CARGO_PKG_VERSION")));
    assert!(listed.iter().all(|node| node["host"].as_str().is_some_and(|host| !host.is_empty())));
    assert!(listed.iter().all(|node| node["config"] == listed[0]["config"]), "{listed:?}");
    let mut ann = user(&first, "ann").await;
    let welcome = ask(&mut ann, "welcome", json!({"type": "hello"})).await;
    let is_first = |node: &&Value| node["node"] == welcome["node"];
    assert_eq!(listed.iter().filter(is_first).count(), 1);
    second.signal("TERM");
    // It has left the topic as it has left its rooms.
    eventually("the server that has ended is not listed", async || nodes(&first).await.len() == 1)
        .await;
}

/// The server that an operator asks names the others that have the user.
#[tokio::test]
async fn user_is_located_on_other_servers() {
    let redis = RedisServer::start();
    let operators = ["--metrics-addr", "127.0.0.1:0"];
    let start = || {
        Chat::start(
            command()
                .env("API_KEY", KEY)
                .args(["--port", "0"])
                .args(["--redis-url", &redis.url()])
                .args(operators),
        )
    };
    let (first, second) = (start(), start());
    let others = async |server: &Chat| {
        let answer = get(server, "/users/ann/connections").await;
        answer["others"].as_array().unwrap().clone()
    };
    assert_eq!(others(&first).await, Vec::<Value>::new());
    let mut there = user(&second, "ann").await;
    let welcome = ask(&mut there, "welcome", json!({"type": "hello", "name": "Ann"})).await;
    let known = async || {
        let listed = get(&first, "/nodes").await["nodes"].as_array().unwrap().clone();
        listed.iter().filter(|node| node["metrics_addr"].is_string()).count() == 2
    };
    eventually("both servers follow the requests", known).await;
    let found = others(&first).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let [node, name, count, host, address] =
        ["node", "name", "count", "host", "metrics_addr"].map(|field| &found[0][field]);
    assert_eq!((node, name, count), (&welcome["node"], &json!("Ann"), &json!(1)));
    assert!(host.is_string() && address.as_str().unwrap().starts_with("127.0.0.1:"), "{found:?}");
    // Also if both have the user.
    let mut here = user(&first, "ann").await;
    ask(&mut here, "welcome", json!({"type": "hello", "name": "Ann"})).await;
    for (server, other) in [(&first, &second), (&second, &first)] {
        let nodes = others(server).await;
        let other = get(other, "/samples").await["node"].clone();
        assert_eq!(nodes.iter().map(|found| &found["node"]).collect::<Vec<_>>(), [&other]);
    }
    second.signal("KILL");
    eventually("the server that has ended does not hold up the answer", async || {
        others(&first).await.is_empty()
    })
    .await;
}

/// By it an operator sees that all servers have the next key, before tokens are signed with it.
#[tokio::test]
async fn keys_of_tokens_are_compared_between_servers() {
    const NEXT: &str = "fedcba9876543210fedcba9876543210";
    let redis = RedisServer::start();
    let url = redis.url();
    let start = |secrets: &[&str]| {
        let table = |secret: &&str| format!("[[jwt_keys]]\nsecret = {secret:?}\n");
        let tables: String = secrets.iter().map(table).collect();
        server_with_key(&format!("scopes = [\"admin\"]\n{tables}"), &["--redis-url", &url])
    };
    let servers = [start(&[SECRET]), start(&[SECRET, NEXT]), start(&[NEXT, SECRET])];
    let nodes =
        async || get(&servers[0].server, "/nodes").await["nodes"].as_array().unwrap().clone();
    eventually("all are listed", async || nodes().await.len() == 3).await;
    let nodes = nodes().await;
    let mut digests: Vec<_> =
        nodes.iter().map(|node| node["token_keys"].as_str().unwrap()).collect();
    assert!(nodes.iter().all(|node| node["config"] == nodes[0]["config"]), "{nodes:?}");
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 2, "{nodes:?}");
    for server in &servers {
        let own = get(&server.server, "/samples").await["node"].clone();
        let node = nodes.iter().find(|node| node["node"] == own).unwrap();
        let digest = node["token_keys"].as_str().unwrap();
        let metric = format!("chat_token_keys_info{{digest=\"{digest}\"}} 1");
        let (_, _, page) = server.server.http("GET", "/metrics").await;
        assert!(page.contains(&metric), "{metric}: {page}");
    }
}
