//! A client for tests, over real sockets and with an implementation of its own.
//!
//! Every method panics if something is not as the test expects, and reports what it received
//! instead; nothing waits longer than [`DEADLINE`].
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use chat_transport::testing::WsClient;
//!
//! let mut client = WsClient::connect("ws://127.0.0.1:3000/ws").await;
//! client.send(r#"{"type":"ping"}"#).await;
//! client.expect(r#"{"type":"pong"}"#).await;
//! client.close().await;
//! # }
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation ends a test"
)]

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// The longest time that a call may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A WebSocket client.
#[derive(Debug)]
pub struct WsClient {
    socket: WebSocketStream<TcpStream>,
    protocol: Option<String>,
    marks: u64,
}

impl WsClient {
    /// Connects to a `ws://` address.
    ///
    /// # Panics
    /// The connection or the handshake failed.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn connect(url: &str) -> Self {
        Self::connect_with(url, &[]).await
    }

    /// Connects with further headers, such as `Sec-WebSocket-Protocol`.
    ///
    /// # Panics
    /// The connection or the handshake failed.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn connect_with(url: &str, headers: &[(&'static str, &str)]) -> Self {
        match Self::try_connect(url, headers).await {
            Ok(client) => client,
            Err(status) => panic!("{url} refused the handshake: {status}"),
        }
    }

    /// Connects, or returns the status with which the handshake was refused.
    ///
    /// # Errors
    /// The server answered with another status than 101.
    ///
    /// # Panics
    /// The connection failed, or the answer was not HTTP.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn try_connect(
        url: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, StatusCode> {
        let request = request(url, headers);
        let address = request.uri().authority().expect("an address in the URL").to_string();
        let stream = within("connecting", TcpStream::connect(&address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::handshake(request, stream).await
    }

    /// Connects with a receive buffer of a few KiB, for tests of slow readers: a server
    /// that sends notices after 3 MiB at the latest that it is not read.
    ///
    /// # Panics
    /// The connection or the handshake failed.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn connect_narrow(url: &str) -> Self {
        let request = request(url, &[]);
        let address = request.uri().authority().expect("an address in the URL").as_str();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = within("connecting", socket.connect(address.parse().unwrap())).await.unwrap();
        Self::handshake(request, stream).await.expect("the handshake was refused")
    }

    async fn handshake(request: Request<()>, stream: TcpStream) -> Result<Self, StatusCode> {
        match within("the handshake", client_async(request, stream)).await {
            Ok((socket, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|name| name.to_str().unwrap().to_owned());
                Ok(Self { socket, protocol, marks: 0 })
            }
            Err(Error::Http(response)) => Err(response.status()),
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    /// The subprotocol that the server chose.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Sends a text.
    ///
    /// # Panics
    /// The connection is closed, or takes nothing.
    ///
    /// # Cancel safety
    /// When it is dropped, the text may be sent or not.
    pub async fn send(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends a text, unless the connection is closed; returns whether it was sent.
    ///
    /// # Panics
    /// The server takes nothing.
    ///
    /// # Cancel safety
    /// When it is dropped, the text may be sent or not.
    pub async fn try_send(&mut self, text: &str) -> bool {
        within("sending", self.socket.send(Message::text(text))).await.is_ok()
    }

    /// Sends a value as JSON.
    ///
    /// # Panics
    /// The connection is closed, or takes nothing.
    ///
    /// # Cancel safety
    /// When it is dropped, the text may be sent or not.
    pub async fn send_json(&mut self, value: &Value) {
        self.send(&value.to_string()).await;
    }

    /// Sends a binary message.
    ///
    /// # Panics
    /// The connection is closed, or takes nothing.
    ///
    /// # Cancel safety
    /// When it is dropped, the message may be sent or not.
    pub async fn send_binary(&mut self, bytes: impl Into<Bytes>) {
        self.send_message(Message::binary(bytes)).await;
    }

    /// The next text.
    ///
    /// # Panics
    /// Something else was received, or nothing.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn recv(&mut self) -> String {
        match self.next("a text").await {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("wanted a text, got {other:?}"),
        }
    }

    /// The next text, as JSON.
    ///
    /// # Panics
    /// Something else was received, or nothing.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn recv_json(&mut self) -> Value {
        let text = self.recv().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }

    /// The next message, which must be binary.
    ///
    /// # Panics
    /// Something else was received, or nothing.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn recv_binary(&mut self) -> Bytes {
        match self.next("a binary message").await {
            Message::Binary(bytes) => bytes,
            other => panic!("wanted a binary message, got {other:?}"),
        }
    }

    /// Expects `text` next, byte by byte.
    ///
    /// # Panics
    /// Something else was received, or nothing.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let got = self.recv().await;
            assert!(got == text, "at {caller}: wanted\n  {text}\ngot\n  {got}");
        }
    }

    /// Expects a text next that is `value` in JSON, however it is written.
    ///
    /// # Panics
    /// Something else was received, or nothing.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn expect_json(&mut self, value: &Value) {
        let got = self.recv_json().await;
        assert!(got == *value, "wanted\n  {value}\ngot\n  {got}");
    }

    /// Expects nothing: sends a ping, and fails if anything that the server had queued for this
    /// client arrives before the answer. Messages that have not reached the server yet are not
    /// noticed.
    ///
    /// # Panics
    /// A message was received before the answer, or no answer.
    ///
    /// # Cancel safety
    /// When it is dropped, the answer may arrive later, and is skipped.
    pub async fn expect_silence(&mut self) {
        self.marks += 1;
        let mark = Bytes::copy_from_slice(&self.marks.to_be_bytes());
        self.send_message(Message::Ping(mark.clone())).await;
        loop {
            match self.frame("the answer to a ping").await {
                Message::Pong(payload) if payload == mark => return,
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("wanted nothing, got {other:?}"),
            }
        }
    }

    /// The server's close frame, which is next: code and phrase. 1005 without a code.
    ///
    /// # Panics
    /// Something else was received, or nothing.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn recv_close(&mut self) -> (u16, String) {
        match self.next("a close frame").await {
            Message::Close(frame) => code_and_phrase(frame),
            other => panic!("wanted a close frame, got {other:?}"),
        }
    }

    /// All texts up to the server's close frame, and its code and phrase.
    ///
    /// # Panics
    /// No close frame was received.
    ///
    /// # Cancel safety
    /// Texts may be lost when it is dropped.
    pub async fn recv_until_close(&mut self) -> (Vec<String>, (u16, String)) {
        let mut texts = Vec::new();
        loop {
            match self.next("a close frame").await {
                Message::Text(text) => texts.push(text.as_str().to_owned()),
                Message::Close(frame) => return (texts, code_and_phrase(frame)),
                _ => {}
            }
        }
    }

    /// Closes with code 1000 and expects the same code, and the end of the stream.
    ///
    /// # Panics
    /// The server does not answer, or with another code.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn close(mut self) {
        let frame = CloseFrame { code: 1000.into(), reason: "".into() };
        self.send_message(Message::Close(Some(frame))).await;
        assert_eq!(self.recv_until_close().await.1.0, 1000);
        let after = within("the end of the stream", self.socket.next()).await;
        assert!(after.is_none(), "wanted the end of the stream, got {after:?}");
    }

    async fn send_message(&mut self, message: Message) {
        within("sending", self.socket.send(message)).await.expect("the connection takes nothing");
    }

    /// The next message that is not a ping or a pong.
    async fn next(&mut self, wanted: &str) -> Message {
        loop {
            match self.frame(wanted).await {
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(frame) => {
                    // The answer. The server may have closed the connection already.
                    let _ = within("sending", self.socket.flush()).await;
                    return Message::Close(frame);
                }
                message => return message,
            }
        }
    }

    async fn frame(&mut self, wanted: &str) -> Message {
        match within(wanted, self.socket.next()).await {
            Some(Ok(message)) => message,
            Some(Err(error)) => panic!("wanted {wanted}, got an error: {error}"),
            None => panic!("wanted {wanted}, got the end of the stream"),
        }
    }
}

/// A TCP connection on which a plain handshake for `path` is done, for tests that send bytes
/// of their own.
///
/// # Panics
/// The connection or the handshake failed.
///
/// # Cancel safety
/// Dropping it closes the connection.
pub async fn raw_handshake(address: &str, path: &str) -> TcpStream {
    let mut stream = within("connecting", TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "wanted status 101, got {head}");
    stream
}

/// The head of an HTTP response; what follows it stays in the stream.
///
/// # Panics
/// The stream ends before the head does.
///
/// # Cancel safety
/// What was read is lost when it is dropped.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the head of a response", stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A client's frame as RFC 6455 section 5.2 has it, with a mask of zeros, which leaves the
/// payload readable: `head` is the byte with the final bit and the opcode.
#[must_use]
pub fn raw_frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![head];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ ..=125), _) => frame.push(0x80 | len),
        (_, Ok(len)) => {
            frame.push(0x80 | 126);
            frame.extend(len.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fn code_and_phrase(frame: Option<CloseFrame>) -> (u16, String) {
    frame.map_or((1005, String::new()), |frame| {
        (frame.code.into(), frame.reason.as_str().to_owned())
    })
}

fn request(url: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = url.into_client_request().expect("a ws:// URL");
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().expect("a header value"));
    }
    request
}

async fn within<F: Future>(what: &str, work: F) -> F::Output {
    match timeout(DEADLINE, work).await {
        Ok(output) => output,
        Err(_) => panic!("wanted {what}, got nothing for {DEADLINE:?}"),
    }
}
