//! The list of bans; kicks and bans themselves are in `e2e::moderation`.

use serde_json::json;

use super::{SHOP, call, get, post, refused, server, server_with_key};

#[tokio::test]
async fn bans_are_listed_in_pages() {
    let server = server(&[]);
    assert_eq!(get(&server, "/bans").await, json!({"bans": []}));
    post(&server, "/rooms/r/ban", json!({"user": "ann", "seconds": 600, "reason": "spam"})).await;
    post(&server, "/users/ann/disconnect", json!({"seconds": 600})).await;
    post(&server, "/users/bob/disconnect", json!({"seconds": 600})).await;
    post(&server, "/users/eve/disconnect", json!({})).await;
    let page = get(&server, "/bans?limit=2").await;
    let bans = page["bans"].as_array().unwrap();
    assert_eq!((&bans[0]["user"], &bans[0]["room"]), (&json!("ann"), &json!(null)));
    assert_eq!((&bans[1]["room"], &bans[1]["reason"]), (&json!("r"), &json!("spam")));
    let next = page["next"].as_str().unwrap();
    let page = get(&server, &format!("/bans?after={next}")).await;
    assert_eq!(page["bans"].as_array().unwrap().len(), 1);
    assert_eq!((&page["bans"][0]["user"], &page["next"]), (&json!("bob"), &json!(null)));
    let of_bob = get(&server, "/bans?user=bob&limit=1").await;
    assert_eq!((&of_bob["bans"][0]["user"], &of_bob["next"]), (&json!("bob"), &json!(null)));
    assert_eq!(get(&server, "/bans?user=zoe").await, json!({"bans": []}));
    post(&server, "/users/bob/unban", json!({})).await;
    post(&server, "/rooms/r/unban", json!({"user": "ann"})).await;
    assert_eq!(get(&server, "/bans").await["bans"].as_array().unwrap().len(), 1);
    assert_eq!(refused(&server, "GET /bans?after=x", None).await, (400, "bad_field".to_owned()));
}

#[tokio::test]
async fn user_is_banned_from_all_servers_until_an_unban() {
    let server = server(&[]);
    let (of_ann, path) = ("/bans?user=ann", "/users/ann/disconnect");
    post(&server, path, json!({"ban": true, "reason": "spam"})).await;
    let ban = get(&server, of_ann).await["bans"][0].take();
    let at = ban["at"].as_u64().expect("a time");
    let expected = json!({"user": "ann", "reason": "spam", "at": at, "by": "key", "key": "api"});
    assert_eq!(ban, expected, "without an end");
    post(&server, "/users/ann/unban", json!({})).await;
    post(&server, path, json!({"ban": false})).await;
    assert_eq!(get(&server, of_ann).await, json!({"bans": []}));
    post(&server, path, json!({"ban": true, "seconds": 600})).await;
    assert!(get(&server, of_ann).await["bans"][0]["until"].is_u64());
    let contradiction = json!({"ban": false, "seconds": 600});
    let of = format!("POST {path}");
    assert_eq!(refused(&server, &of, Some(contradiction)).await, (400, "bad_field".to_owned()));
}

#[tokio::test]
async fn key_lists_the_bans_of_its_rooms_and_users() {
    let lines = "scopes = [\"moderate\"]\nrooms = [\"shop-*\", \"@shop-*\"]";
    let started = server_with_key(lines, &[]);
    let server = &started.server;
    for room in ["shop-1", "other"] {
        post(server, &format!("/rooms/{room}/ban"), json!({"user": "eve"})).await;
    }
    for user in ["shop-1", "other"] {
        post(server, &format!("/users/{user}/disconnect"), json!({"seconds": 600})).await;
    }
    let (_, page) = call(server, SHOP, "GET /bans", None).await;
    let bans = page["bans"].as_array().unwrap().iter();
    let named: Vec<_> = bans.map(|ban| (ban["user"].as_str(), ban["room"].as_str())).collect();
    assert_eq!(named, [(Some("eve"), Some("shop-1")), (Some("shop-1"), None)]);
    let has_end = [0, 1].map(|index| page["bans"][index].get("until").is_some());
    assert_eq!(has_end, [false, true], "one without a time ends by an unban: {page}");
    server.until_logged_times("by=\"key\" key=\"api\"", 4);
    assert_eq!(server.logged("by=\"key\" key=\"api\""), 4);
}
