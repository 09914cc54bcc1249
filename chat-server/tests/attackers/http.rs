//! Requests, and connections that ask for nothing.

use std::time::Duration;

use tokio::time::sleep;

use super::attacker::{Attack, Attacker, Client, attacks, handshake};

pub(crate) const ATTACKS: &[Attack] = attacks![
    "GET /metrics, 8 at once" => metrics,
    "GET / , 8 at once" => page,
    "POST /create-room" => create_room,
    "handshakes that never end" => half_handshakes,
    "connections that ask for nothing" => connections,
    "handshakes and resets" => handshakes,
];

async fn metrics(attacker: Attacker) {
    requests(&attacker, "GET /metrics").await;
}

async fn page(attacker: Attacker) {
    requests(&attacker, "GET /").await;
}

async fn create_room(attacker: Attacker) {
    requests(&attacker, "POST /create-room").await;
}

async fn requests(attacker: &Attacker, line: &str) {
    let host = format!("Host: localhost:{}", attacker.port);
    let request = format!("{line} HTTP/1.1\r\n{host}\r\nContent-Length: 0\r\n\r\n");
    let requests = request.repeat(8).into_bytes();
    attacker.flood(Client::Http, &[], |_| requests.clone()).await;
}

async fn half_handshakes(attacker: Attacker) {
    let handshake = handshake(attacker.port, "/ws", "");
    let half = &handshake.as_bytes()[..handshake.len() - 2];
    let mut held = Vec::new();
    loop {
        let mut tcp = attacker.open(Client::Http).await;
        tcp.send(half).await;
        held.push(tcp);
        // As many files as a test may have.
        if held.len() == 50 {
            sleep(Duration::from_millis(200)).await;
            held.clear();
        }
    }
}

async fn connections(attacker: Attacker) {
    loop {
        let mut tcp = attacker.open(Client::Http).await;
        tcp.send(b"G").await;
        sleep(Duration::from_millis(1)).await;
    }
}

async fn handshakes(attacker: Attacker) {
    loop {
        drop(attacker.native().await);
    }
}
