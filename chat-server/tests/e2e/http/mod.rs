//! What a client of HTTP sees: each answer, and whether the connection stays open.

mod answers;
mod gzip;
mod keep_alive;
mod large;
mod mounted;
mod origins;

use chat_transport::testing::read_head;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Chat, command, exchange};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn server(args: &[&str]) -> Chat {
    Chat::start(command().args(["--port", "0"]).args(args))
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

/// The status and the head, in lower case, of the answer to a request without a body, of whose
/// connection nothing else is read.
async fn ask(port: u16, line: &str, headers: &str) -> (u16, String) {
    let mut stream = connect(port).await;
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await.to_ascii_lowercase();
    (status(&head), head)
}

/// The status, the head and the body of the answer, on a connection that stays open for others.
async fn ask_on(stream: &mut TcpStream, request: &str) -> (u16, String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(stream).await.to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    (status(&head), head, String::from_utf8(body).unwrap())
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The page or the JSON at a path.
async fn get(port: u16, path: &str, host: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let (status, _, body) = exchange(port, &request).await;
    (status, body)
}
