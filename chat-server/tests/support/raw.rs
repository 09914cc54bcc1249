//! A client of the native protocol that costs little: thousands fit into a process.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use chat_transport::testing::raw_frame;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::DEADLINE;

/// When to say again what the bus did not take.
pub(crate) const AGAIN: Duration = Duration::from_secs(1);

/// What a server says.
#[derive(Debug)]
pub(crate) enum Frame {
    Text(Bytes),
    /// A close frame with its code; it has been answered.
    Close(u16),
}

#[derive(Debug)]
pub(crate) struct Raw {
    stream: TcpStream,
    bytes: BytesMut,
}

impl Raw {
    /// Connects, or says with which status the server refused; 0 if it did not answer.
    pub(crate) async fn connect(port: u16) -> Result<Self, u16> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|_| 0_u16)?;
        Self::handshake(stream, port).await
    }

    /// Connects with a receive buffer of a few KiB.
    pub(crate) async fn connect_narrow(port: u16) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
        Self::handshake(stream, port).await.expect("the handshake was refused")
    }

    async fn handshake(stream: TcpStream, port: u16) -> Result<Self, u16> {
        // Neither a failure here nor a reset below is an answer.
        let _ = stream.set_nodelay(true);
        let mut raw = Self { stream, bytes: BytesMut::new() };
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: chat.v1\r\n\r\n"
        );
        raw.stream.write_all(request.as_bytes()).await.map_err(|_| 0_u16)?;
        loop {
            if let Some(end) = raw.bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&raw.bytes[..end]).into_owned();
                raw.bytes.advance(end + 4);
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                return if status == Some(101) { Ok(raw) } else { Err(status.unwrap_or(0)) };
            }
            if !raw.read().await {
                return Err(0);
            }
        }
    }

    /// Sends a text; whether the connection took it.
    pub(crate) async fn send(&mut self, text: &Value) -> bool {
        let frame = raw_frame(0x81, text.to_string().as_bytes());
        timeout(DEADLINE, self.stream.write_all(&frame)).await.is_ok_and(|sent| sent.is_ok())
    }

    /// Sends a close frame, without waiting for an answer.
    pub(crate) async fn send_close(&mut self, code: Option<u16>) {
        let payload = code.map(u16::to_be_bytes);
        let payload = payload.as_ref().map_or(&[][..], |bytes| bytes);
        self.stream.write_all(&raw_frame(0x88, payload)).await.unwrap();
    }

    /// The next frame; `None` at the end of the stream. Loses nothing when it is dropped.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.parse() {
                Some((0x1, text)) => return Some(Frame::Text(text)),
                Some((0x8, payload)) => {
                    // It is over, whether the server hears of it or not.
                    let _ = self.stream.try_write(&raw_frame(0x88, &payload));
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    return Some(Frame::Close(code.unwrap_or(1005)));
                }
                Some((0x9, payload)) => {
                    let _ = self.stream.try_write(&raw_frame(0x8a, &payload));
                }
                Some(_) => {}
                None if self.read().await => {}
                None => return None,
            }
        }
    }

    /// The next text of this type, as JSON; `None` if the connection ends before. An error
    /// comes instead of it.
    pub(crate) async fn next_of(&mut self, kind: &str) -> Option<Value> {
        let next = async {
            while let Frame::Text(text) = self.next().await? {
                let frame: Value = serde_json::from_slice(&text).unwrap();
                if frame["type"] == kind || frame["type"] == "error" {
                    return Some(frame);
                }
            }
            None
        };
        timeout(3 * DEADLINE, next).await.unwrap_or_else(|_| panic!("no {kind}"))
    }

    /// Sends a text, and gives the next one of this type. While the bus does not answer, as
    /// it may under a storm, the text is sent again.
    pub(crate) async fn ask(&mut self, kind: &str, text: &Value) -> Option<Value> {
        loop {
            self.send(text).await;
            let answer = self.next_of(kind).await?;
            if answer["type"] == kind {
                return Some(answer);
            }
            assert_eq!(answer["code"], "broker_unavailable", "{answer}");
            sleep(AGAIN).await;
        }
    }

    /// Takes so many bytes at most from the socket.
    pub(crate) async fn read_some(&mut self, most: usize) {
        let mut buffer = vec![0; most];
        if let Ok(read) = self.stream.read(&mut buffer).await {
            self.bytes.extend_from_slice(&buffer[..read]);
        }
    }

    /// The next text in what was taken from the socket.
    pub(crate) fn next_text(&mut self) -> Option<Bytes> {
        loop {
            match self.parse()? {
                (0x1, text) => return Some(text),
                (0x8, _) => panic!("the server has closed the connection"),
                _ => {}
            }
        }
    }

    async fn read(&mut self) -> bool {
        self.bytes.reserve(4096);
        matches!(self.stream.read_buf(&mut self.bytes).await, Ok(1..))
    }

    /// A whole frame: opcode and payload.
    fn parse(&mut self) -> Option<(u8, Bytes)> {
        let (head, rest) = self.bytes.split_first_chunk::<2>()?;
        let (len, size) = match head[1] {
            126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).unwrap(), 10),
            len => (usize::from(len), 2),
        };
        let opcode = head[0] & 0x0f;
        if self.bytes.len() < size + len {
            return None;
        }
        self.bytes.advance(size);
        Some((opcode, self.bytes.split_to(len).freeze()))
    }
}
