//! Which connections and which rooms have the most traffic.

use std::time::{SystemTime, UNIX_EPOCH};

use chat_transport::testing::WsClient;
use serde_json::json;

use super::{KEY, SHOP, call, get, refused, server, server_with_key, user};
use crate::e2e::auth::{SECRET, signed};
use crate::support::{Chat, ask, eventually, join};

/// So many others.
const OTHERS: usize = 1000;

#[tokio::test]
async fn noisiest_client_is_found_among_a_thousand() {
    let server = server(&["--limits", "off"]);
    let mut noisy = user(&server, "noisy").await;
    let welcome = ask(&mut noisy, "welcome", json!({"type": "hello"})).await;
    for n in 0..OTHERS {
        let mut other = user(&server, &format!("user-{n}")).await;
        for _ in 0..2 {
            ask(&mut other, "pong", json!({"type": "ping"})).await;
        }
        other.close().await;
        for _ in 0..2 {
            ask(&mut noisy, "pong", json!({"type": "ping", "pad": "x".repeat(1000)})).await;
        }
    }
    let answer = get(&server, "/connections?limit=3").await;
    let listed = answer["connections"].as_array().unwrap();
    assert_eq!(listed.len(), 3, "{answer}");
    let first = &listed[0];
    assert_eq!((&first["user"], &first["address"]), (&json!("noisy"), &json!("127.0.0.1")));
    assert_eq!((&first["connection"], &answer["node"]), (&welcome["session"], &welcome["node"]));
    let (frames, bytes) = (first["frames"].as_f64().unwrap(), first["bytes"].as_f64().unwrap());
    assert!((900.0..1150.0).contains(&(bytes / frames)), "{first}");
    assert!(frames > 20.0 * listed[1]["frames"].as_f64().unwrap(), "{answer}");
}

/// Figures of a whole server are for operators: a key for a few rooms would learn of the others.
#[tokio::test]
async fn figures_of_servers_need_the_scope_admin() {
    let others = "scopes = [\"send\", \"read\", \"moderate\", \"erase\", \"tokens\"]";
    let (started, operators) =
        (server_with_key(others, &[]), server_with_key("scopes = [\"admin\"]", &[]));
    for path in ["/nodes", "/samples", "/connections"] {
        let of = format!("GET {path}");
        let (status, answer) = call(&started.server, SHOP, &of, None).await;
        assert_eq!((status, answer["code"].as_str()), (403, Some("forbidden")), "{path}");
        assert_eq!(call(&operators.server, SHOP, &of, None).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn hottest_room_is_found_among_a_thousand() {
    const MEMBERS: usize = 10;
    let server = server(&["--limits", "off"]);
    let mut members = Vec::new();
    for n in 0..MEMBERS {
        let mut member = user(&server, &format!("user-{n}")).await;
        ask(&mut member, "joined", json!({"type": "join", "room": "hot"})).await;
        for room in 0..OTHERS / MEMBERS {
            let room = format!("room-{n}-{room}");
            ask(&mut member, "joined", json!({"type": "join", "room": room})).await;
        }
        members.push(member);
    }
    for turn in 0..3 * OTHERS / MEMBERS {
        for (n, member) in members.iter_mut().enumerate() {
            let room = format!("room-{n}-{}", turn % (OTHERS / MEMBERS));
            ask(member, "ok", json!({"type": "send", "room": room, "message": "x"})).await;
        }
        ask(&mut members[0], "ok", json!({"type": "send", "room": "hot", "message": "x"})).await;
    }
    let answer = get(&server, "/rooms?order=traffic&limit=2").await;
    let rooms = answer["rooms"].as_array().unwrap();
    let hot = &rooms[0];
    assert_eq!((rooms.len(), &hot["room"], &hot["count"]), (2, &json!("hot"), &json!(10)));
    let rate = |name: &str| hot["traffic"][name].as_f64().unwrap();
    assert_eq!(hot["traffic"]["members"], 10);
    assert!((9.9..10.1).contains(&(rate("deliveries") / rate("messages"))), "{hot}");
    assert!(rate("bytes") > 20.0 * rate("deliveries"), "{hot}");
    let listed = get(&server, "/rooms?order=traffic&prefix=room-3").await;
    let names = listed["rooms"].as_array().unwrap().iter().map(|room| room["room"].as_str());
    assert!(names.map(Option::unwrap).all(|name| name.starts_with("room-3")), "{listed}");
}

#[tokio::test]
async fn lists_by_traffic_need_the_scope_admin() {
    let with_file = server_with_key("scopes = [\"read\"]", &[]);
    let server: &Chat = &with_file.server;
    for path in ["/connections", "/rooms?order=traffic"] {
        assert_eq!(call(server, SHOP, &format!("GET {path}"), None).await.0, 403, "{path}");
        assert_eq!(call(server, KEY, &format!("GET {path}"), None).await.0, 200, "{path}");
    }
    for path in ["/connections?limit=101", "/rooms?order=traffic&after=r", "/rooms?order=x"] {
        let refused = refused(server, &format!("GET {path}"), None).await;
        assert_eq!(refused, (400, "bad_field".to_owned()), "{path}");
    }
    let mut ann = user(server, "ann").await;
    join(&mut ann, "r").await;
    let rooms = json!({"rooms": [{"room": "r", "count": 1}]});
    assert_eq!(get(server, "/rooms").await, rooms, "in their own order as before");
}

/// A client that has yet to say who it is, and one that has ended before it did, have no user both.
#[tokio::test]
async fn connection_that_has_ended_is_listed_as_such() {
    let server = server(&["--jwt-secret", SECRET, "--limits", "off"]);
    let protocol = [("Sec-WebSocket-Protocol", "chat.v1")];
    let mut stranger = WsClient::connect_with(&server.ws("/ws"), &protocol).await;
    for _ in 0..200 {
        ask(&mut stranger, "pong", json!({"type": "ping"})).await;
    }
    let listed = async || get(&server, "/connections").await["connections"][0].take();
    let open = listed().await;
    assert!(open["connection"].is_string() && open.get("user").is_none(), "{open}");
    assert_eq!(open.get("ended"), None, "{open}");
    stranger.close().await;
    eventually("the end of the connection", async || listed().await["ended"] == true).await;
}

/// A client is known by the id of its connection until it authenticates: the frame that is looked at may be
/// the one with the token.
#[tokio::test]
async fn connections_are_listed_with_their_present_users() {
    /// One frame in 16 is looked at.
    const CLIENTS: usize = 200;
    let server = server(&["--jwt-secret", SECRET, "--limits", "off"]);
    let client = async || {
        let protocol = [("Sec-WebSocket-Protocol", "chat.v1")];
        WsClient::connect_with(&server.ws("/ws"), &protocol).await
    };
    let users = async || {
        let answer = get(&server, "/connections?limit=100").await;
        let listed = answer["connections"].as_array().unwrap().iter();
        listed.map(|connection| connection.get("user").cloned()).collect::<Vec<_>>()
    };
    for _ in 0..CLIENTS {
        ask(&mut client().await, "error", json!({"type": "hello", "token": "wrong"})).await;
    }
    let strangers = users().await;
    assert!(!strangers.is_empty() && strangers.iter().all(Option::is_none), "{strangers:?}");
    let token = signed(&json!({"sub": "ann", "exp": 4_102_444_800_u64}));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut ann = client().await;
        ask(&mut ann, "welcome", json!({"type": "hello", "token": token})).await;
        clients.push(ann);
    }
    let known: Vec<_> = users().await.into_iter().flatten().collect();
    assert!(!known.is_empty() && known.iter().all(|user| user == "ann"), "{known:?}");
}

#[tokio::test]
async fn user_is_located_by_connection_and_room() {
    let with_file = server_with_key("scopes = [\"read\"]", &[]);
    let server: &Chat = &with_file.server;
    let mut ann = user(server, "ann").await;
    let welcome = ask(&mut ann, "welcome", json!({"type": "hello", "name": "Ann"})).await;
    join(&mut ann, "b").await;
    join(&mut ann, "a").await;
    let mut other = user(server, "ann").await;
    ask(&mut other, "pong", json!({"type": "ping"})).await;
    let mut bob = user(server, "bob").await;
    join(&mut bob, "c").await;

    let found = get(server, "/users/ann/connections").await;
    assert_eq!((&found["node"], &found["count"]), (&welcome["node"], &json!(2)), "{found}");
    assert_eq!(found["connections"].as_array().unwrap().len(), 2, "{found}");
    let first = &found["connections"][0];
    assert_eq!(
        (&first["connection"], &first["address"]),
        (&welcome["session"], &json!("127.0.0.1"))
    );
    assert_eq!(first["name"], "Ann", "{found}");
    assert_eq!((&first["rooms"], &first["room_count"]), (&json!(["a", "b"]), &json!(2)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let since = first["since"].as_u64().unwrap();
    assert!(now.abs_diff(since) < 60_000, "{since} {now}");
    assert_eq!(found["connections"][1]["rooms"], json!([]), "{found}");
    let nobody = get(server, "/users/nobody/connections").await;
    assert_eq!((&nobody["count"], &nobody["connections"]), (&json!(0), &json!([])));
    assert_eq!(call(server, SHOP, "GET /users/ann/connections", None).await.0, 403);
}

#[tokio::test]
async fn answers_name_the_server_that_they_are_about() {
    let server = server(&[]);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let samples = get(&server, "/samples").await;
    for path in ["/samples", "/connections", "/users/ann/connections"] {
        let answer = get(&server, path).await;
        assert_eq!((&answer["host"], &answer["node"]), (&json!(host.trim()), &samples["node"]));
    }
}

#[tokio::test]
async fn users_are_found_by_the_beginning_of_the_id_or_a_part_of_the_name() {
    let with_file = server_with_key("scopes = [\"read\"]\nrooms = [\"@b*\"]", &[]);
    let server: &Chat = &with_file.server;
    let mut clients = Vec::new();
    for (id, name) in [("ann-1", "Zoë"), ("ann-2", "Joe"), ("bob", "ZOË ann")] {
        let mut client = user(server, id).await;
        ask(&mut client, "welcome", json!({"type": "hello", "name": name})).await;
        clients.push(client);
    }
    for (search, found) in [
        ("ANN-", &["ann-1", "ann-2"][..]),
        ("ann", &["ann-1", "ann-2", "bob"]),
        ("nn-1", &[]),
        ("zo%C3%AB", &["ann-1", "bob"]),
        ("oe", &["ann-2"]),
    ] {
        let answer = get(server, &format!("/users?search={search}")).await;
        let ids: Vec<_> =
            answer["users"].as_array().unwrap().iter().map(|user| &user["id"]).collect();
        assert_eq!(ids, found, "{search}: {answer}");
        assert_eq!(answer["more"], false);
    }
    let one = get(server, "/users?search=ann&limit=1").await;
    assert_eq!(
        (&one["users"], &one["more"]),
        (&json!([{"id": "ann-1", "name": "Zoë"}]), &json!(true))
    );
    let long = format!("?search={}", "x".repeat(129));
    for query in ["", "?search=", "?search=a&limit=101", &long] {
        let (status, _) = refused(server, &format!("GET /users{query}"), None).await;
        assert_eq!(status, 400, "{query}");
    }
    let (_, answer) = call(server, SHOP, "GET /users?search=ann", None).await;
    assert_eq!(answer["users"], json!([{"id": "bob", "name": "ZOË ann"}]), "a key for some users");
    assert_eq!(get(server, "/users/bob").await["name"], "ZOË ann");
}
