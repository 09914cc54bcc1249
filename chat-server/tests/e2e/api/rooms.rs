//! What backends read of rooms.

use chat_broker::testing::RedisServer;
use serde_json::{Value, json};

use super::{get, member, pair, post, refused, server};

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
