//! Clients that keep to the protocol, with the settings that a server has by default: none of them
//! is refused or closed, however much they do at once.

use std::time::{Duration, Instant};

use chat_broker::testing::free_port;
use chat_transport::testing::WsClient;
use serde_json::json;
use tokio::task::JoinSet;

use super::NATIVE;
use crate::support::{Chat, ask, command, counted, next_of, say};

/// How long all of them may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Joins `rooms` rooms at once, and waits until it is in all of them; one frame for each.
async fn join_all(client: &mut WsClient, rooms: usize) {
    for n in 0..rooms {
        client.send_json(&json!({"type": "join", "room": format!("room-{n}"), "id": n})).await;
    }
    for _ in 0..rooms {
        let answer = loop {
            let frame = client.recv_json().await;
            if frame["id"].is_u64() {
                break frame;
            }
        };
        assert_eq!(answer["type"], "joined", "{answer}");
    }
}

/// Runs so many clients at once to their end.
async fn together<T: Send + 'static, F>(count: usize, client: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let began = Instant::now();
    let mut all = JoinSet::new();
    for n in 0..count {
        all.spawn(client(n));
    }
    let all = tokio::time::timeout(PATIENCE, all.join_all()).await.expect("not all are served");
    say(&format!("{count} clients were served in {:.1?}", began.elapsed()));
    all
}

async fn nobody_was_refused(server: &Chat) {
    let (_, _, page) = server.http("GET", "/metrics").await;
    assert_eq!(counted(&page, "chat_rejected_total{"), [""; 0]);
    let closed = counted(&page, "chat_closed_total{");
    assert!(closed.iter().all(|line| line.contains("1006")), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_tabs_join_a_thousand_rooms() {
    let server = Chat::alone();
    let url = server.ws("/ws?userId=ann");
    let tab = |_| {
        let url = url.clone();
        async move {
            let mut client = WsClient::connect_with(&url, &[NATIVE]).await;
            join_all(&mut client, 128).await;
            client
        }
    };
    let tabs = together(8, tab).await;
    nobody_was_refused(&server).await;
    drop(tabs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_tabs_come_back_twice_within_a_second() {
    let server = Chat::alone();
    let url = server.ws("/ws?userId=ann");
    let tab = |_| {
        let url = url.clone();
        async move {
            for lasts in [true, true, false] {
                let mut client = WsClient::connect_with(&url, &[NATIVE]).await;
                join_all(&mut client, 128).await;
                if !lasts {
                    return client;
                }
            }
            unreachable!("the third stays")
        }
    };
    let tabs = together(4, tab).await;
    nobody_was_refused(&server).await;
    drop(tabs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_sends_over_a_hundred_rooms_at_once() {
    let server = Chat::alone();
    let mut client = server.native().await;
    join_all(&mut client, 100).await;
    for n in 0..1000 {
        let room = format!("room-{}", n % 100);
        let key = n.to_string();
        let send = json!({"type": "send", "room": room, "message": "x", "key": key, "id": n});
        client.send_json(&send).await;
    }
    for n in 0..1000 {
        let ok = next_of(&mut client, "ok").await;
        assert_eq!((&ok["id"], &ok["offset"]), (&json!(n), &json!(n / 100 + 1)));
    }
    nobody_was_refused(&server).await;
}

/// An office behind one address, whose server is killed and started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eighty_people_behind_one_address_come_back() {
    const PEOPLE: usize = 80;
    const ROOMS: usize = 60;
    let start = |port: u16| {
        let port = port.to_string();
        let args = ["--port", &port, "--trusted-proxies", "127.0.0.1,::1"];
        Chat::start(command().args(args))
    };
    let person = |port: u16| {
        move |_| async move {
            let headers = [NATIVE, ("X-Forwarded-For", "9.9.9.9")];
            let url = format!("ws://127.0.0.1:{port}/ws");
            let mut client = WsClient::connect_with(&url, &headers).await;
            join_all(&mut client, ROOMS).await;
            client
        }
    };
    let server = start(free_port());
    let port = server.port();
    let people = together(PEOPLE, person(port)).await;
    drop(server);
    drop(people);
    let server = start(port);
    let mut people = together(PEOPLE, person(port)).await;
    nobody_was_refused(&server).await;
    let send = json!({"type": "send", "room": "room-0", "message": "all"});
    ask(&mut people[0], "ok", send).await;
    for client in &mut people {
        assert_eq!(next_of(client, "message").await["message"], "all");
    }
}
