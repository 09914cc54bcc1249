//! A server that says what a test wants.

use std::time::Duration;

use chat_transport::client::{Client, ClientConfig, Event, Events, Message, State};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderMap;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message as Frame};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// How long anything may take, in real or in paused time.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) async fn within<F: Future>(what: &str, work: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(output) => output,
        Err(_) => panic!("wanted {what}, got nothing for {DEADLINE:?}"),
    }
}

/// The epoch of a mock's rooms.
pub(crate) const EPOCH: &str = "JLITNcWY";

pub(crate) struct Mock {
    listener: TcpListener,
    pub(crate) url: String,
}

impl Mock {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// A client of this server.
    pub(crate) fn client(&self, config: ClientConfig) -> (Client, Events) {
        Client::connect([&*self.url], config).unwrap()
    }

    /// The next connection, after the handshake.
    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = within("a connection", self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Peer::accept(stream).await.0
    }

    /// The next connection, after the welcome of Ann.
    pub(crate) async fn welcome(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.welcome().await;
        peer
    }

    /// The next connection, after the welcome of Ann with these rates.
    pub(crate) async fn welcome_at(&self, rates: Value) -> Peer {
        let mut peer = self.accept().await;
        let hello = peer.recv("hello").await;
        peer.send(welcome_at(&hello, rates)).await;
        peer
    }

    /// The next connection, in whose room `general` Ann has joined again: the answer is made
    /// of the request.
    pub(crate) async fn rejoin(&self, answer: impl FnOnce(&Value) -> Value) -> Peer {
        let mut peer = self.welcome().await;
        let join = peer.recv("join").await;
        peer.send(answer(&join)).await;
        peer
    }
}

/// A client in the room `general`, which is at offset `offset`.
pub(crate) async fn joined(offset: u64, config: ClientConfig) -> (Mock, Peer, Client, Events) {
    let mock = Mock::start().await;
    let (client, mut events) = mock.client(config);
    let serve = async {
        let mut peer = mock.welcome().await;
        let join = peer.recv("join").await;
        peer.send(joined_frame(&join, offset, false, &[])).await;
        peer
    };
    let (peer, outcome) = tokio::join!(serve, client.join("general", 0));
    outcome.unwrap();
    while !matches!(next(&mut events).await, Event::Joined { .. }) {}
    (mock, peer, client, events)
}

/// A connection, seen by the server.
pub(crate) struct Peer(WebSocketStream<Box<dyn Stream>>);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Peer {
    /// The handshake. Returns the headers of the request as well.
    #[allow(clippy::result_large_err, reason = "the library's callback")]
    pub(crate) async fn accept(stream: impl Stream + 'static) -> (Self, HeaderMap) {
        let mut headers = HeaderMap::new();
        let choose = |request: &Request, mut response: Response| {
            headers.clone_from(request.headers());
            let protocol = headers["Sec-WebSocket-Protocol"].clone();
            assert_eq!(protocol, "chat.v1");
            response.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
            Ok(response)
        };
        let stream: Box<dyn Stream> = Box::new(stream);
        let peer = Self(within("a handshake", accept_hdr_async(stream, choose)).await.unwrap());
        (peer, headers)
    }

    /// Welcomes Ann.
    pub(crate) async fn welcome(&mut self) {
        let hello = self.recv("hello").await;
        self.send(welcome(&hello, "ann")).await;
    }

    /// The next frame, which is of this type.
    pub(crate) async fn recv(&mut self, kind: &str) -> Value {
        match within(kind, self.next()).await {
            Frame::Text(text) => {
                let frame: Value = serde_json::from_str(text.as_str()).unwrap();
                assert_eq!(frame["type"], kind, "{frame}");
                frame
            }
            other => panic!("wanted {kind}, got {other:?}"),
        }
    }

    /// The next frame that is not a ping or a pong.
    async fn next(&mut self) -> Frame {
        loop {
            match self.0.next().await.expect("the client is there").unwrap() {
                Frame::Ping(_) | Frame::Pong(_) => {}
                frame => return frame,
            }
        }
    }

    /// The next frame, whatever it is.
    pub(crate) async fn recv_raw(&mut self) -> Option<Result<Frame, tungstenite::Error>> {
        within("a frame", self.0.next()).await
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        self.send_raw(Frame::text(frame.to_string())).await;
    }

    /// Sends bytes that need not be a whole frame.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send_raw(&mut self, frame: Frame) {
        self.0.send(frame).await.unwrap();
    }

    /// Answers a `send` that is in the room at `offset`.
    pub(crate) async fn ok(&mut self, request: &Value, offset: u64) {
        self.send(json!({"type":"ok","id":request["id"],"epoch":EPOCH,"offset":offset})).await;
    }

    pub(crate) async fn refuse(&mut self, request: &Value, code: &str) {
        self.send(json!({"type":"error","id":request["id"],"code":code,"message":"No."})).await;
    }

    pub(crate) async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "so it is".into() };
        self.0.send(Frame::Close(Some(frame))).await.unwrap();
        while let Some(Ok(_)) = self.0.next().await {}
    }
}

pub(crate) fn ann() -> Value {
    json!({"id":"ann","name":"Ann","color":"#B56AD9"})
}

pub(crate) fn welcome(hello: &Value, user: &str) -> Value {
    json!({"type":"welcome","id":hello["id"],"session":"n-1","resume":format!("secret.{user}"),
        "user":{"id":user,"name":"Ann","color":"#B56AD9"},"node":"n","protocol":1,
        "heartbeat_ms":25000,
        "limits":{"message_bytes":32768,"frame_bytes":233_472,"rooms":128,"in_flight":64}})
}

/// The welcome of Ann by a server with these rates: `{"frames":{"per_second":1,"burst":2}}`.
pub(crate) fn welcome_at(hello: &Value, rates: Value) -> Value {
    let mut welcome = welcome(hello, "ann");
    let limits = welcome["limits"].as_object_mut().unwrap();
    limits.extend(rates.as_object().unwrap().clone());
    welcome
}

/// The answer to `join`: the room is at `offset`, after the messages of `offsets`.
pub(crate) fn joined_frame(join: &Value, offset: u64, recovered: bool, offsets: &[u64]) -> Value {
    let room = &join["room"];
    let messages: Vec<Value> = offsets.iter().map(|offset| message(*offset)).collect();
    let epoch = if offset == 0 { "" } else { EPOCH };
    json!({"type":"joined","id":join["id"],"room":room,"epoch":epoch,"offset":offset,
        "recovered":recovered,"members":[ann()],"count":1,"messages":messages})
}

/// Bob's message number `offset` in `general`.
pub(crate) fn message(offset: u64) -> Value {
    let mut message = json!({"type":"message","room":"general","offset":offset,
        "user":{"id":"bob","name":"Bob","color":"#5B8DEF"},
        "message":format!("m{offset}"),"at":1_795_400_235_072_u64});
    if offset == 1 {
        message["epoch"] = EPOCH.into();
    }
    message
}

/// Settings with which nothing takes long that need not.
pub(crate) fn quick() -> ClientConfig {
    ClientConfig::default().backoff_base(Duration::ZERO).backoff_cap(Duration::ZERO)
}

/// The next event.
pub(crate) async fn next(events: &mut Events) -> Event {
    within("an event", events.recv()).await.expect("another event")
}

/// The next event that is not about the connection.
pub(crate) async fn next_of_room(events: &mut Events) -> Event {
    loop {
        match next(events).await {
            Event::State(_) => {}
            event => return event,
        }
    }
}

pub(crate) async fn next_state(events: &mut Events) -> State {
    loop {
        if let Event::State(state) = next(events).await {
            return state;
        }
    }
}

pub(crate) async fn next_message(events: &mut Events) -> Message {
    match next_of_room(events).await {
        Event::Message(message) => message,
        other => panic!("wanted a message, got {other:?}"),
    }
}

/// Wants messages of these offsets next.
pub(crate) async fn expect_offsets(events: &mut Events, offsets: &[u64]) {
    for offset in offsets {
        let position = next_message(events).await.position.unwrap();
        assert_eq!((position.epoch.as_str(), position.offset), (EPOCH, *offset));
    }
}

/// Waits until the client is welcome.
pub(crate) async fn online(events: &mut Events) {
    while next_state(events).await != State::Online {}
}

/// Wants nothing from the client: what is asked here is the next frame.
pub(crate) async fn expect_silence(peer: &mut Peer, client: &Client) {
    let answer = async {
        let probe = peer.recv("members").await;
        peer.refuse(&probe, "not_in_room").await;
    };
    let (_, outcome) = tokio::join!(answer, client.members("a probe"));
    outcome.unwrap_err();
}
