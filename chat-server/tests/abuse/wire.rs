//! Raw connections to a server.

use std::net::Ipv4Addr;
use std::time::Duration;

use chat_transport::testing::raw_handshake;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::DEADLINE;

/// A TCP connection on which nothing was said.
pub(crate) async fn connect(port: u16) -> TcpStream {
    let connect = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    timeout(DEADLINE, connect).await.expect("the server accepts").unwrap()
}

/// A WebSocket of the native protocol, to send bytes on.
pub(crate) async fn websocket(port: u16) -> TcpStream {
    raw_handshake(&format!("127.0.0.1:{port}"), "/ws").await
}

/// A frame from the server: opcode and payload.
pub(crate) async fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let head = stream.read_u8().await.ok()?;
    let length = match stream.read_u8().await.ok()? {
        126 => u64::from(stream.read_u16().await.ok()?),
        127 => stream.read_u64().await.ok()?,
        length => u64::from(length),
    };
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head & 0x0f, payload))
}

/// The code of the close frame that is the server's next data or close frame; `None` if the
/// stream ends without one.
pub(crate) async fn close_code(stream: &mut TcpStream) -> Option<u16> {
    let next = async {
        loop {
            match read_frame(stream).await? {
                (0x8, payload) => {
                    return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                }
                (0x9 | 0xa, _) => {}
                (opcode, payload) => {
                    panic!("opcode {opcode}: {}", String::from_utf8_lossy(&payload))
                }
            }
        }
    };
    timeout(DEADLINE, next).await.expect("the server neither closes nor answers")
}

/// Sends `bytes` on a new WebSocket, and gives the code with which the server closes it.
/// What comes after the fault need not be taken.
pub(crate) async fn closed_after(port: u16, bytes: &[u8]) -> Option<u16> {
    let mut stream = websocket(port).await;
    let sent = stream.write_all(bytes).await;
    let code = close_code(&mut stream).await;
    assert!(sent.is_ok() || code.is_some(), "the connection was reset: {sent:?}");
    code
}

/// All that comes until the server ends the connection; what is still to be said is not.
pub(crate) async fn read_to_end(
    stream: &mut (impl AsyncReadExt + Unpin),
    within: Duration,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = async {
        // A reset ends it as well.
        while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {}
    };
    let seen = timeout(within, end).await;
    assert!(seen.is_ok(), "still open after {within:?}: {}", String::from_utf8_lossy(&bytes));
    bytes
}
