//! Clients who come and go, each in one way, again and again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chat_transport::testing::{WsClient, raw_frame, raw_handshake};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::world::World;
use crate::support::raw::{Frame, Raw};
use crate::support::{DEADLINE, ask, exchange, next_of};

/// Rooms of those who come and go; the first are also those of the crowd.
const ROOMS: usize = 24;

/// So many do the same thing at a time.
const OF_EACH: usize = 2;

/// Between two visits of one client.
const PAUSE: Duration = Duration::from_millis(20);

/// Larger than what the kernel takes for a client that does not read.
const FLOOD: usize = 300;
const LARGE: usize = 16 * 1024;

pub(crate) struct Churn {
    ports: [u16; 2],
    visits: Arc<[AtomicUsize; WAYS.len()]>,
}

const WAYS: [&str; 7] =
    ["native", "rooms", "topics", "direct", "vanishing", "slow", "breaking rules"];

/// The number of the next visitor.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// One client: where it connects, which place of those who visit at a time it takes, and a number
/// that no other has.
struct Visitor {
    port: u16,
    place: usize,
    number: usize,
}

impl Churn {
    pub(crate) fn of(world: &World) -> Self {
        let ports = [world.servers[0].port(), world.servers[1].port()];
        Self { ports, visits: Arc::default() }
    }

    /// Returns when the last visitor is gone.
    pub(crate) async fn go_on_for(self, time: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut visitors = JoinSet::new();
        for nth in 0..WAYS.len() * OF_EACH {
            let (ports, stop) = (self.ports, Arc::clone(&stop));
            let visits = Arc::clone(&self.visits);
            visitors.spawn(async move {
                let way = nth % WAYS.len();
                while !stop.load(Ordering::Relaxed) {
                    let number = NEXT.fetch_add(1, Ordering::Relaxed);
                    let visitor = Visitor { port: ports[number % 2], place: nth, number };
                    visitor.visit(way).await;
                    visits[way].fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
            });
        }
        sleep(time).await;
        stop.store(true, Ordering::Relaxed);
        while let Some(visitor) = visitors.join_next().await {
            visitor.expect("a visitor was not served");
        }
        self
    }
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "visits:")?;
        for (way, visits) in WAYS.iter().zip(self.visits.iter()) {
            write!(f, " {} {way}", visits.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

impl Visitor {
    async fn visit(&self, way: usize) {
        match WAYS[way] {
            "native" => self.native().await,
            "rooms" => self.rooms().await,
            "topics" => self.topics().await,
            "direct" => self.direct().await,
            "vanishing" => self.vanishing().await,
            "slow" => self.slow().await,
            _ => self.breaking_rules().await,
        }
    }

    fn room(&self, nth: usize) -> String {
        format!("room-{}", (self.number + nth) % ROOMS)
    }

    fn text(&self, nth: usize) -> String {
        format!("visitor-{} x{nth}", self.number)
    }

    async fn connect(&self, path: &str) -> WsClient {
        WsClient::connect(&format!("ws://127.0.0.1:{}{path}", self.port)).await
    }

    async fn native(&self) {
        let mut client = self.connect("/ws").await;
        ask(&mut client, "welcome", json!({"type": "hello", "name": "visitor"})).await;
        for nth in 0..3 {
            let room = self.room(nth);
            let join = json!({"type": "join", "room": room, "history": 5});
            ask(&mut client, "joined", join).await;
            client.send_json(&json!({"type": "typing", "room": room, "typing": true})).await;
            let send = json!({"type": "send", "room": room, "message": self.text(nth)});
            ask(&mut client, "ok", send).await;
            ask(&mut client, "history", json!({"type": "history", "room": room})).await;
            ask(&mut client, "members", json!({"type": "members", "room": room})).await;
        }
        ask(&mut client, "left", json!({"type": "leave", "room": self.room(0)})).await;
        client.close().await;
    }

    async fn rooms(&self) {
        let path = format!("/join-room/{}?user=visitor&history=5", self.room(0));
        let mut client = self.connect(&path).await;
        let text = self.text(0);
        client.send_json(&json!({"type": "chat_message", "message": text})).await;
        while next_of(&mut client, "chat").await["message"] != text {}
        let room = self.room(1);
        client.send_json(&json!({"type": "join_room", "room": room, "user": "visitor"})).await;
        let joined = format!("You successfully joined room: {room} ");
        while next_of(&mut client, "system").await["message"] != joined {}
        client.send_json(&json!({"type": "leave_room"})).await;
        client.close().await;
    }

    async fn topics(&self) {
        let mut client = self.connect("/").await;
        let (room, text) = (self.room(0), self.text(0));
        client.send_json(&json!({"type": "SUBSCRIBE", "room": room})).await;
        let message = json!({"type": "sendMessage", "roomId": room, "message": text});
        client.send_json(&message).await;
        while next_of(&mut client, "sendMessage").await["message"] != text {}
        client.send_json(&json!({"type": "UNSUBSCRIBE", "room": room})).await;
        client.close().await;
    }

    async fn direct(&self) {
        let (ann, bob) = (format!("ann-{}", self.number), format!("bob-{}", self.number));
        let mut to = self.connect(&format!("/?userId={bob}")).await;
        let mut from = self.connect(&format!("/?userId={ann}")).await;
        let frame = json!({"to": bob, "message": "hi"}).to_string();
        // Until the server is subscribed to what is for bob, he is away.
        let heard = async {
            to.expect(&frame).await;
            to
        };
        let mut heard = std::pin::pin!(heard);
        loop {
            from.send(&frame).await;
            tokio::select! {
                to = &mut heard => break drop(to),
                () = sleep(PAUSE) => {}
            }
        }
        from.close().await;
    }

    /// Half of them are reset, the others end.
    async fn vanishing(&self) {
        let mut stream = raw_handshake(&format!("127.0.0.1:{}", self.port), "/ws").await;
        let join = json!({"type": "join", "room": self.room(0)}).to_string();
        stream.write_all(&raw_frame(0x81, join.as_bytes())).await.unwrap();
        stream.read_u8().await.expect("an answer");
        if self.number.is_multiple_of(2) {
            stream.set_zero_linger().unwrap();
        }
    }

    /// Somebody says much, and hears it, and somebody else does not read it.
    async fn slow(&self) {
        let room = format!("slow-{}", self.place);
        let mut slow = Raw::connect_narrow(self.port).await;
        slow.ask("joined", &json!({"type": "join", "room": room})).await.expect("it is let in");
        let mut loud = self.connect("/ws").await;
        ask(&mut loud, "joined", json!({"type": "join", "room": room})).await;
        let message = json!({"type": "send", "room": room, "message": "x".repeat(LARGE)});
        for _ in 0..FLOOD {
            ask(&mut loud, "message", message.clone()).await;
        }
        loud.close().await;
        let end = async {
            loop {
                match slow.next().await {
                    Some(Frame::Text(_)) => {}
                    Some(Frame::Close(code)) => return assert_eq!(code, 4000, "a slow consumer"),
                    // One that is too late for the close frame is reset.
                    None => return,
                }
            }
        };
        timeout(DEADLINE, end).await.expect("a slow consumer stays");
    }

    async fn breaking_rules(&self) {
        let mut client = self.connect("/ws").await;
        for text in ["?", "{}", r#"{"type":"send","room":"nobody","message":"x"}"#] {
            client.send(text).await;
            assert_eq!(client.recv_json().await["type"], "error");
        }
        client.send_binary("x").await;
        assert_eq!(client.recv_until_close().await.1.0, 1003);
        for request in
            ["GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "?\r\n\r\n"]
        {
            let (status, ..) = exchange(self.port, request).await;
            assert!(matches!(status, 400 | 426), "{status}");
        }
    }
}
