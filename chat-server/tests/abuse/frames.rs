//! Frames that break RFC 6455, or a limit: the close code says which.

use chat_transport::testing::raw_frame;
use tokio::io::AsyncWriteExt;

use super::wire::{close_code, closed_after, websocket};
use super::{LEFT_BEHIND, unlimited};
use crate::support::control_clients::ControlClients;
use crate::support::process::Process;
use crate::support::say;

const BROKEN: u16 = 1002;
const BINARY: u16 = 1003;
const NOT_UTF8: u16 = 1007;
const FRAGMENTS: u16 = 1008;
const TOO_BIG: u16 = 1009;

/// A header that announces more than is sent.
fn announced(bytes: u64) -> Vec<u8> {
    [&[0x81, 0xff][..], &bytes.to_be_bytes(), &[0; 4]].concat()
}

/// The largest frame that a server takes by default, in bytes.
const MOST: usize = 233_472;

/// Within a message that has begun.
fn within(frame: Vec<u8>) -> Vec<u8> {
    [raw_frame(0x01, b"x"), frame].concat()
}

fn close_frame(code: u16) -> Vec<u8> {
    raw_frame(0x88, &code.to_be_bytes())
}

fn over_the_limit(fragments: usize) -> Vec<u8> {
    let part = vec![b'x'; MOST / fragments];
    let parts = (0..fragments).map(|n| raw_frame(if n == 0 { 0x01 } else { 0x00 }, &part));
    [parts.collect::<Vec<_>>().concat(), raw_frame(0x80, b"x")].concat()
}

/// What is sent, and the code of the close frame for it.
fn table() -> Vec<(&'static str, Vec<u8>, u16)> {
    let mut table = vec![
        ("unmasked", b"\x81\x02hi".to_vec(), BROKEN),
        ("unmasked ping", b"\x89\x00".to_vec(), BROKEN),
        ("reserved bit 1", raw_frame(0xc1, b"x"), BROKEN),
        ("reserved bit 2", raw_frame(0xa1, b"x"), BROKEN),
        ("reserved bit 3", raw_frame(0x91, b"x"), BROKEN),
        ("fragmented ping", raw_frame(0x09, b"x"), BROKEN),
        ("fragmented pong", raw_frame(0x0a, b"x"), BROKEN),
        ("fragmented close", raw_frame(0x08, b"\x03\xe8"), BROKEN),
        ("ping of 126 bytes", raw_frame(0x89, &[0; 126]), BROKEN),
        ("pong of 126 bytes", raw_frame(0x8a, &[0; 126]), BROKEN),
        ("close of 126 bytes", raw_frame(0x88, &[0; 126]), BROKEN),
        ("close of 1 byte", raw_frame(0x88, b"\x03"), BROKEN),
        ("close phrase not UTF-8", raw_frame(0x88, b"\x03\xe8\xff"), NOT_UTF8),
        ("stray continuation", raw_frame(0x80, b"x"), BROKEN),
        ("stray open continuation", raw_frame(0x00, b"x"), BROKEN),
        ("text within a message", within(raw_frame(0x81, b"x")), BROKEN),
        ("binary within a message", within(raw_frame(0x82, b"x")), BROKEN),
        ("0xff", raw_frame(0x81, b"\xff"), NOT_UTF8),
        ("a surrogate", raw_frame(0x81, b"\xed\xa0\x80"), NOT_UTF8),
        ("an overlong slash", raw_frame(0x81, b"\xc0\xaf"), NOT_UTF8),
        ("above U+10FFFF", raw_frame(0x81, b"\xf4\x90\x80\x80"), NOT_UTF8),
        ("cut UTF-8", raw_frame(0x81, b"\xe2\x82"), NOT_UTF8),
        (
            "a surrogate over two fragments",
            [raw_frame(0x01, b"\xed"), raw_frame(0x80, b"\xa0\x80")].concat(),
            NOT_UTF8,
        ),
        (
            "cut UTF-8 in the last fragment",
            [raw_frame(0x01, b"\xe2"), raw_frame(0x80, b"\x82")].concat(),
            NOT_UTF8,
        ),
        ("binary", raw_frame(0x82, b"{}"), BINARY),
        ("binary in fragments", [raw_frame(0x02, b"{"), raw_frame(0x80, b"}")].concat(), BINARY),
        ("2^63 - 1 announced", announced(u64::MAX >> 1), TOO_BIG),
        ("2^64 - 1 announced", announced(u64::MAX), TOO_BIG),
        ("100 MiB announced", announced(100 << 20), TOO_BIG),
        ("a byte over the limit", raw_frame(0x81, &[b'x'; MOST + 1]), TOO_BIG),
        ("a byte over the limit, binary", raw_frame(0x82, &[0; MOST + 1]), TOO_BIG),
        ("two fragments over the limit", over_the_limit(2), TOO_BIG),
        ("512 fragments over the limit", over_the_limit(512), TOO_BIG),
        ("1,025 fragments", within(raw_frame(0x00, b"").repeat(1024)), FRAGMENTS),
    ];
    for opcode in [0x3, 0x7, 0xb, 0xf] {
        table.push(("an opcode that means nothing", raw_frame(0x80 | opcode, b"x"), BROKEN));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
        table.push(("a close code that nobody may send", close_frame(code), BROKEN));
    }
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        table.push(("a close code, which comes back", close_frame(code), code));
    }
    table
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_rule_has_its_close_code() {
    let server = unlimited();
    let control_clients = ControlClients::at(server.port()).await;
    let process = Process(server.pid());
    let table = table();
    // Twice, so that what is measured is what grows, and not what a first time takes.
    let mut before = 0;
    for round in 0..2 {
        before = if round == 1 { process.rss_kib() } else { 0 };
        for (name, bytes, code) in &table {
            let closed = closed_after(server.port(), bytes).await;
            assert_eq!(closed, Some(*code), "{name} ({:02x?} …)", &bytes[..bytes.len().min(4)]);
        }
    }
    let grown = process.rss_kib().saturating_sub(before);
    assert!(grown < LEFT_BEHIND, "{} cases left {grown} KiB behind", table.len());
    let served = control_clients.were_served().await;
    say(&format!("{} broken frames: {grown} KiB more; control clients: {served}", table.len()));
}

/// Memory for what is announced is not there before it comes: 200 connections that announce
/// the most that is allowed, and nothing for what is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_announced_takes_no_memory() {
    let server = unlimited();
    let process = Process(server.pid());
    for bytes in [MOST as u64, 100 << 20] {
        assert_eq!(closed_after(server.port(), &announced(u64::MAX >> 1)).await, Some(TOO_BIG));
        let before = process.rss_kib();
        let mut waiting = Vec::new();
        for _ in 0..200 {
            let mut stream = websocket(server.port()).await;
            stream.write_all(&announced(bytes)).await.unwrap();
            if bytes > MOST as u64 {
                assert_eq!(close_code(&mut stream).await, Some(TOO_BIG));
            }
            waiting.push(stream);
        }
        // The server has read the last header when it has answered somebody who came later.
        assert_eq!(server.http("GET", "/healthz").await.0, 200);
        let grown = process.rss_kib().saturating_sub(before);
        say(&format!("200 connections announced {bytes} bytes each: {grown} KiB more"));
        assert!(grown < 200 * 32, "{grown} KiB for 200 announcements of {bytes} bytes");
    }
}
