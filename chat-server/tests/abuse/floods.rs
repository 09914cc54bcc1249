//! Input without an end.

use std::time::{Duration, Instant};

use chat_transport::testing::raw_frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::{close_code, closed_after, websocket};
use super::{LEFT_BEHIND, unlimited};
use crate::support::control_clients::ControlClients;
use crate::support::process::Process;
use crate::support::{Chat, DEADLINE, say};

/// CPU that a flood may cost the server, which here is not optimised.
const CPU: Duration = Duration::from_secs(10);

/// What a flood has cost the server when it is over.
struct Bill {
    process: Process,
    rss_kib: u64,
    cpu: Duration,
    began: Instant,
}

impl Bill {
    fn open(server: &Chat) -> Self {
        let process = Process(server.pid());
        Self { process, rss_kib: process.rss_kib(), cpu: process.cpu(), began: Instant::now() }
    }

    fn close(self, what: &str, most: Duration) {
        let cpu = self.process.cpu() - self.cpu;
        let grown = self.process.rss_kib().saturating_sub(self.rss_kib);
        let took = self.began.elapsed();
        say(&format!("{what}: {took:.1?}, {cpu:.1?} of CPU, {grown} KiB more"));
        assert!(grown < LEFT_BEHIND, "{what}: {grown} KiB");
        assert!(cpu < most, "{what}: {cpu:?} of CPU");
    }
}

/// Writes `frame` so often, until the server ends the connection; whether it took all.
async fn flood(stream: &mut (impl AsyncWriteExt + Unpin), frame: &[u8], times: usize) -> bool {
    const AT_ONCE: usize = 1000;
    let chunk = frame.repeat(AT_ONCE);
    for _ in 0..times / AT_ONCE {
        let written = timeout(DEADLINE, stream.write_all(&chunk)).await;
        if written.expect("the server reads").is_err() {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_empty_fragments_is_cut_short() {
    // More than the kernel takes for a server that reads no further.
    const FRAGMENTS: usize = 20_000_000;
    let server = unlimited();
    let control_clients = ControlClients::at(server.port()).await;
    let mut told = 0;
    let bill = Bill::open(&server);
    let (first, fragment) = (raw_frame(0x01, b""), raw_frame(0x00, b""));
    for _ in 0..10 {
        let mut stream = websocket(server.port()).await;
        stream.write_all(&first).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut answer = Vec::new();
        let (taken, end) = tokio::join!(
            flood(&mut write, &fragment, FRAGMENTS),
            timeout(DEADLINE, read.read_to_end(&mut answer)),
        );
        assert!(!taken, "the server took it all");
        // A reset is an end as well.
        let _ = end.expect("the server ends the connection");
        // A client that goes on sending may be reset before it reads the answer.
        let is_told = answer.starts_with(b"\x88\x12\x03\xf0");
        assert!(is_told || answer.is_empty(), "not 1008: {answer:02x?}");
        told += usize::from(is_told);
    }
    // A client that stops sending receives the close code in any case.
    let enough = [first, fragment.repeat(1024)].concat();
    assert_eq!(closed_after(server.port(), &enough).await, Some(1008));
    let served = control_clients.were_served().await;
    bill.close("10 messages of empty fragments without end", Duration::from_secs(5));
    say(&format!("{told} of 10 read 1008; control clients: {served}"));
    assert!(told > 0, "nobody was told");
}

/// Answers to pings wait in 4 KiB, and then the newest alone is kept: whether they are read or
/// not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_pings_and_pongs_take_no_memory_and_nobody_elses_time() {
    const FRAMES: usize = 200_000;
    let server = unlimited();
    let control_clients = ControlClients::at(server.port()).await;
    let quiet = control_clients.quiet().await;
    for (what, head, read) in [
        ("pings", 0x89, true),
        ("pings whose answers are not read", 0x89, false),
        ("pongs", 0x8a, true),
    ] {
        let mut stream = websocket(server.port()).await;
        let frame = raw_frame(head, &[b'x'; 125]);
        let bill = Bill::open(&server);
        if read {
            let (mut from, mut to) = stream.split();
            let flooding = flood(&mut to, &frame, FRAMES);
            let reading = async {
                let mut sink = vec![0; 64 * 1024];
                while from.read(&mut sink).await.is_ok_and(|read| read > 0) {}
            };
            tokio::select! {
                taken = flooding => assert!(taken, "{what}: the connection was ended"),
                () = reading => panic!("{what}: the connection was ended"),
            }
        } else {
            assert!(flood(&mut stream, &frame, FRAMES).await, "{what}: the connection was ended");
        }
        lives(&mut stream, what).await;
        bill.close(&format!("{FRAMES} {what}"), CPU);
    }
    let served = control_clients.were_served().await;
    say(&format!("under floods of pings and pongs: control clients: {served}; before: {quiet}"));
    served.is_no_slower_than(&quiet);
}

/// A close frame gets its answer, behind what else was to be said.
async fn lives(stream: &mut TcpStream, what: &str) {
    stream.write_all(&raw_frame(0x88, b"\x03\xe8")).await.expect(what);
    assert_eq!(close_code(stream).await, Some(1000), "{what}");
}
