//! Idle clients, in a process of their own: what they allocate is not the server's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// Each client is in one room, with four others.
const IN_A_ROOM: usize = 5;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Native,
    Topics,
}

/// A process with idle clients. They are gone when it is.
pub(crate) struct Clients(Child);

const ORDER: &str = "IDLE_CLIENTS";
const IDLE: &str = "all are idle";

impl Clients {
    /// So many clients of a kind, who have joined and are idle.
    pub(crate) fn open(port: u16, kind: Kind, count: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ORDER, format!("{port} {kind:?} {count}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(IDLE)), "the clients failed");
        Self(child)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this process was started to be the clients, which it then was.
pub(crate) fn were_ordered() -> bool {
    let Ok(order) = std::env::var(ORDER) else { return false };
    run(&order);
    true
}

fn run(order: &str) {
    let [port, kind, count] = *order.split(' ').collect::<Vec<_>>() else { panic!("{order}") };
    let kind = if kind == "Native" { Kind::Native } else { Kind::Topics };
    let port = port.parse().unwrap();
    let count = count.parse().unwrap();
    let mut clients: Vec<_> =
        (0..count).map(|n| Client::join(port, kind, &format!("room-{}", n / IN_A_ROOM))).collect();
    // What the later ones caused has reached the earlier ones too.
    for client in &mut clients {
        client.until_idle();
    }
    println!("{IDLE}");
    // Until the other test kills this process, or is gone itself.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

struct Client(TcpStream);

impl Client {
    fn join(port: u16, kind: Kind, room: &str) -> Self {
        let mut client = Self(TcpStream::connect(("127.0.0.1", port)).unwrap());
        client.0.set_nodelay(true).unwrap();
        let (path, protocol, join) = match kind {
            Kind::Native => ("/ws", "Sec-WebSocket-Protocol: chat.v1\r\n", "join"),
            Kind::Topics => ("/", "", "SUBSCRIBE"),
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        );
        client.0.write_all(request.as_bytes()).unwrap();
        client.until("\r\n\r\n");
        client.send(&format!(r#"{{"type":"{join}","room":"{room}"}}"#));
        client.until_idle();
        client
    }

    /// The server carries out a client's frames one after another, so the answer to a frame
    /// that means nothing says that all before it is done.
    fn until_idle(&mut self) {
        self.send(r#"{"type":"nothing"}"#);
        self.until("unknown_type");
    }

    /// A text of less than 126 bytes, with a mask that changes nothing.
    fn send(&mut self, text: &str) {
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        self.0.write_all(&frame).unwrap();
    }

    fn until(&mut self, text: &str) {
        let mut read = Vec::new();
        while !read.windows(text.len()).any(|part| part == text.as_bytes()) {
            let mut more = [0; 4096];
            let count = self.0.read(&mut more).unwrap();
            assert_ne!(count, 0, "the server hung up");
            read.extend_from_slice(&more[..count]);
        }
    }
}
