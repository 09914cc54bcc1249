//! What backends read of rooms.

use chat_broker::testing::RedisServer;
use serde_json::{Value, json};

use super::{SHOP, call, get, member, pair, post, refused, server, server_with_key, user};
use crate::support::{ask, join};

#[tokio::test]
async fn history_is_read_in_pages() {
    let server = server(&[]);
    for number in 1..=5 {
        post(&server, "/rooms/r/messages", json!({"message": number.to_string()})).await;
    }
    let texts = |page: &Value| -> Vec<String> {
        let messages = page["messages"].as_array().unwrap().iter();
        messages.map(|message| message["message"].as_str().unwrap().to_owned()).collect()
    };
    let page = get(&server, "/rooms/r/messages?limit=2").await;
    assert_eq!(
        (texts(&page), &page["more"], &page["offset"]),
        (vec!["4".into(), "5".into()], &json!(true), &json!(5))
    );
    let page = get(&server, "/rooms/r/messages?before=4&limit=256").await;
    assert_eq!(
        (texts(&page), &page["more"]),
        (vec!["1".into(), "2".into(), "3".into()], &json!(false))
    );
    let page = get(&server, "/rooms/r/messages?after=3").await;
    assert_eq!((texts(&page), &page["more"]), (vec!["4".into(), "5".into()], &json!(false)));
    assert_eq!(page["messages"][0]["type"], "message");
    let empty = get(&server, "/rooms/empty/messages").await;
    assert_eq!(empty, json!({"epoch": "", "offset": 0, "messages": [], "more": false}));
    for query in
        ["before=1&after=1", "limit=0", "limit=257", "limit=x", "since=1", "limit=1&limit=2"]
    {
        let of = format!("GET /rooms/r/messages?{query}");
        assert_eq!(refused(&server, &of, None).await, (400, "bad_field".to_owned()), "{query}");
    }
}

#[tokio::test]
async fn room_without_history_has_no_page_and_no_position() {
    let server = server(&["--history", "0"]);
    let disabled = (409, "history_disabled".to_owned());
    assert_eq!(refused(&server, "GET /rooms/r/messages", None).await, disabled);
    assert_eq!(refused(&server, "GET /rooms/r/export", None).await, disabled);
    assert_eq!(
        post(&server, "/rooms/r/messages", json!({"message": "x"})).await,
        json!({"repeated": false})
    );
    assert_eq!(get(&server, "/rooms/r").await, json!({"room": "r", "count": 0}));
}

#[tokio::test]
async fn members_are_those_of_all_servers() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let _ann = member(&first, "ann").await;
    let _bob = member(&second, "bob").await;
    let sent = post(&first, "/rooms/r/messages", json!({"message": "x"})).await;
    for server in [&first, &second] {
        let room = get(server, "/rooms/r").await;
        assert_eq!(room, json!({"room": "r", "epoch": sent["epoch"], "offset": 1, "count": 2}));
        let members = get(server, "/rooms/r/members").await;
        let mut ids: Vec<_> = members["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["id"].as_str().unwrap())
            .collect();
        ids.sort_unstable();
        assert_eq!((ids, &members["count"]), (vec!["ann", "bob"], &json!(2)));
        let few = get(server, "/rooms/r/members?limit=1").await;
        assert_eq!(few, json!({"members": [], "count": 2}));
    }
    assert_eq!(get(&first, "/rooms/empty/members").await, json!({"members": [], "count": 0}));
}

#[tokio::test]
async fn rooms_with_users_are_listed_in_pages() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let (mut ann, mut bob) = (user(&first, "ann").await, user(&second, "bob").await);
    for room in ["a-1", "a-2", "b-1"] {
        join(&mut ann, room).await;
    }
    join(&mut bob, "a-2").await;
    let listed = async |query: &str| {
        let page = get(&second, &format!("/rooms?{query}")).await;
        let rooms: Vec<_> = page["rooms"]
            .as_array()
            .unwrap()
            .iter()
            .map(|room| {
                (room["room"].as_str().unwrap().to_owned(), room["count"].as_u64().unwrap())
            })
            .collect();
        (rooms, page["next"].as_str().map(str::to_owned))
    };
    let all = [("a-1".to_owned(), 1), ("a-2".to_owned(), 2), ("b-1".to_owned(), 1)];
    assert_eq!(listed("").await, (all.to_vec(), None));
    assert_eq!(listed("prefix=a-").await, (all[..2].to_vec(), None));
    let (mut paged, mut after) = (Vec::new(), None::<String>);
    loop {
        let of = after.map(|after| format!("&after={after}")).unwrap_or_default();
        let (rooms, next) = listed(&format!("limit=1{of}")).await;
        assert!(rooms.len() <= 1);
        paged.extend(rooms);
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, all);
}

#[tokio::test]
async fn key_lists_no_room_of_others() {
    let lines = "scopes = [\"read\"]\nrooms = [\"shop-*\", \"*-x\", \"@u*\"]";
    let started = server_with_key(lines, &[]);
    let mut ann = user(&started.server, "ann").await;
    for room in ["shop-1", "shop-2", "other", "@u"] {
        join(&mut ann, room).await;
    }
    let list =
        async |query: &str| call(&started.server, SHOP, &format!("GET /rooms{query}"), None).await;
    let first = json!({"rooms": [{"room": "shop-1", "count": 1}], "next": "shop-1"});
    assert_eq!(list("?prefix=shop-&limit=1").await, (200, first));
    let second = json!({"rooms": [{"room": "shop-2", "count": 1}]});
    assert_eq!(list("?prefix=shop-&after=shop-1").await, (200, second));
    // Of these some rooms are others', whose names the `next` of a page would disclose.
    for query in ["", "?limit=1", "?prefix=shop", "?prefix=o", "?prefix=@u", "?prefix=*"] {
        let (status, answer) = list(query).await;
        assert_eq!((status, &answer["code"]), (403, &json!("forbidden")), "{query}: {answer}");
    }
}

#[tokio::test]
async fn key_moves_only_its_users() {
    let lines = "scopes = [\"moderate\"]\nrooms = [\"shop-*\", \"@shop-*\"]";
    let started = server_with_key(lines, &[]);
    for (call_name, user, status) in [
        ("join", "shop-1", 200),
        ("join", "eve", 403),
        ("leave", "shop-1", 200),
        ("leave", "eve", 403),
        ("kick", "eve", 200),
    ] {
        let of = format!("POST /rooms/shop-1/{call_name}");
        let answer = call(&started.server, SHOP, &of, Some(&json!({"user": user}))).await;
        assert_eq!(answer.0, status, "{call_name} {user}: {answer:?}");
    }
}

#[tokio::test]
async fn users_are_online_on_any_server() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let mut ann = user(&first, "ann").await;
    ask(&mut ann, "welcome", json!({"type": "hello"})).await;
    let asked = json!({"users": ["zoe", "ann", "bob"]});
    for server in [&first, &second] {
        assert_eq!(post(server, "/users/status", asked.clone()).await, json!({"online": ["ann"]}));
    }
    assert_eq!(post(&first, "/users/status", json!({"users": []})).await, json!({"online": []}));
    let here = json!({"user": "ann", "servers": 1, "connections": 1, "name": "ann"});
    assert_eq!(super::get(&first, "/users/ann").await, here);
    let elsewhere = json!({"user": "ann", "servers": 1, "connections": 0});
    assert_eq!(super::get(&second, "/users/ann").await, elsewhere);
    let absent = json!({"user": "a/b", "servers": 0, "connections": 0});
    assert_eq!(super::get(&first, "/users/a%2Fb").await, absent);
    let many = json!({"users": vec!["x"; 1001]});
    assert_eq!(refused(&first, "POST /users/status", Some(many)).await.0, 400);
}
