//! Several calls in one request.

use serde_json::{Value, json};

use super::{SHOP, call, get, post, refused, server, server_with_key};

fn send(room: &str, text: &str) -> Value {
    let path = format!("/rooms/{room}/messages");
    json!({"method": "POST", "path": path, "body": {"message": text}})
}

#[tokio::test]
async fn calls_of_one_room_are_made_in_order() {
    let server = server(&[]);
    // The same room in two spellings.
    let calls: Vec<_> =
        (0..100).map(|at| send(["a", "b", "%61"][at % 3], &at.to_string())).collect();
    let answer = post(&server, "/batch", json!({"calls": calls})).await;
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 100);
    for (room, expected) in [("a", [0, 2]), ("b", [1, 1])] {
        let page = get(&server, &format!("/rooms/{room}/messages")).await;
        let texts: Vec<usize> = page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["message"].as_str().unwrap().parse().unwrap())
            .collect();
        let of_room: Vec<_> = (0..100).filter(|at| expected.contains(&(at % 3))).collect();
        assert_eq!(texts, of_room);
        for (place, at) in of_room.iter().enumerate() {
            assert_eq!(results[*at]["status"], 200);
            assert_eq!(results[*at]["body"]["offset"], place + 1, "the answer to its call");
        }
    }
}

#[tokio::test]
async fn call_of_a_batch_is_checked_and_refused_by_itself() {
    let started = server_with_key("scopes = [\"send\"]\nrooms = [\"shop-*\"]", &[]);
    let server = &started.server;
    let calls = json!({"calls": [
        send("shop-1", "1"),
        {"method": "POST", "path": "/rooms/shop-1/kick", "body": {"user": "42"}},
        send("other", "2"),
        {"method": "GET", "path": "/rooms/shop-1/messages"},
        {"method": "POST", "path": "/batch", "body": {"calls": []}},
        {"method": "GET", "path": "/nothing"},
        {"method": "PUT", "path": "/rooms/shop-1/messages"},
        {"method": "POST", "path": "/rooms/shop-1/messages"},
        {"method": "P S", "path": "/rooms/shop-1/messages"},
        {"method": "POST", "path": "http://other/"},
        {"path": "/broadcast"},
        send("shop-1", "3"),
    ]});
    let (status, answer) = call(server, SHOP, "POST /batch", Some(&calls)).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap();
    let statuses: Vec<_> =
        results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 403, 403, 403, 404, 404, 405, 400, 400, 400, 400, 200], "{answer}");
    assert!(results[1]["body"]["message"].as_str().unwrap().contains("moderate"));
    assert_eq!(results[11]["body"]["offset"], 2);
}

/// The batch itself is a call, too.
#[tokio::test]
async fn refused_call_of_a_batch_says_when_to_make_it_again() {
    let started = server_with_key("scopes = [\"send\"]\nrate = \"1/2\"", &[]);
    let calls = json!({"calls": [send("r", "1"), send("r", "2")]});
    let (status, answer) = call(&started.server, SHOP, "POST /batch", Some(&calls)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["results"][0]["retry_after"], Value::Null, "{answer}");
    assert_eq!(answer["results"][1]["status"], 429, "{answer}");
    assert!(answer["results"][1]["retry_after"].as_u64() >= Some(1), "{answer}");
}

/// Above the limit that axum has by default, of 2 MB.
#[tokio::test]
async fn call_of_a_batch_may_be_as_large_as_a_call() {
    let args = ["--max-message-bytes", "3000000", "--outbox-bytes", "30000000"];
    let server = server(&args);
    let calls = json!({"calls": [send("r", &"x".repeat(2_500_000))]});
    let answer = post(&server, "/batch", calls).await;
    assert_eq!(answer["results"][0]["status"], 200, "{answer}");
}

#[tokio::test]
async fn batch_is_bounded() {
    let server = server(&[]);
    let many = json!({"calls": vec![send("r", "x"); 101]});
    assert_eq!(refused(&server, "POST /batch", Some(many)).await, (400, "bad_field".to_owned()));
    let large = json!({"calls": [send("r", &"x".repeat(1_048_576))]});
    assert_eq!(
        refused(&server, "POST /batch", Some(large)).await,
        (413, "body_too_large".to_owned())
    );
    assert_eq!(post(&server, "/batch", json!({"calls": []})).await, json!({"results": []}));
}
