//! Receiving messages, in any pieces.

use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use chat_core::{DeliveryOutcome, Frames, FramesBuilder};
use chat_transport::testing::{WsClient, raw_frame};
use chat_transport::{Incoming, Session, TransportConfig, accept_tcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::{echo_server, in_memory, on_tcp, text};

#[tokio::test]
async fn echo_over_tcp() {
    let url = echo_server(TransportConfig::default()).await;
    let mut client = WsClient::connect(&url).await;
    for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let message = "ü".repeat(len / 2) + &"x".repeat(len % 2);
        client.send(&message).await;
        client.expect(&message).await;
        client.send_binary(message.clone()).await;
        assert_eq!(client.recv_binary().await, message);
    }
    client.expect_silence().await;
    client.close().await;
}

/// What arrives while a read is under way that empties the socket is announced again.
#[tokio::test]
async fn no_small_write_is_missed() {
    const MESSAGES: usize = 20_000;
    let (client, mut session) = on_tcp(TransportConfig::default()).await;
    client.set_nodelay(true).unwrap();
    let client = client.into_std().unwrap();
    let writer = thread::spawn(move || {
        client.set_nonblocking(false).unwrap();
        for nth in 0..MESSAGES {
            (&client).write_all(&raw_frame(0x81, nth.to_string().as_bytes())).unwrap();
        }
        client
    });
    for nth in 0..MESSAGES {
        let received = timeout(Duration::from_secs(20), session.recv()).await.expect("a message");
        assert_eq!(text(received), nth.to_string());
    }
    drop(writer.join().unwrap());
    assert_eq!(session.recv().await, None);
}

#[tokio::test]
async fn binary_frames_keep_their_order_among_texts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut session = accept_tcp(stream, &[], &Arc::default()).await.unwrap().session;
        for number in 0..100_u8 {
            let mut both = FramesBuilder::new();
            both.text(&number.to_string());
            both.binary(&vec![number; usize::from(number) * 1_000]);
            let frames = both.finish().unwrap();
            assert_eq!(session.send(&frames).await, DeliveryOutcome::Queued);
        }
        session.recv().await;
        session.finish().await;
    });
    let mut client = WsClient::connect(&url).await;
    for number in 0..100_u8 {
        client.expect(&number.to_string()).await;
        assert_eq!(client.recv_binary().await, vec![number; usize::from(number) * 1_000]);
    }
    client.close().await;
    server.await.unwrap();
}

#[tokio::test]
async fn subprotocol_is_negotiated() {
    let url = echo_server(TransportConfig::default()).await;
    let headers = [("sec-websocket-protocol", "chat, echo")];
    let mut client = WsClient::connect_with(&url, &headers).await;
    assert_eq!(client.protocol(), Some("echo"));
    client.send("x").await;
    client.expect("x").await;
}

/// Messages of all kinds, with control frames between and within them.
fn conversation() -> (Vec<u8>, Vec<Incoming>) {
    let long = "long ".repeat(2_000);
    let input = [
        raw_frame(0x81, b"one"),
        raw_frame(0x82, &[1, 2, 3]),
        raw_frame(0x01, "fr\u{e4}".as_bytes().split_at(3).0),
        raw_frame(0x89, b"ping"),
        raw_frame(0x00, b""),
        raw_frame(0x8a, b"unsolicited"),
        raw_frame(0x80, "fr\u{e4}g".as_bytes().split_at(3).1),
        raw_frame(0x81, long.as_bytes()),
        raw_frame(0x81, b""),
        raw_frame(0x82, long.as_bytes()),
        raw_frame(0x81, b"last"),
    ];
    let texts = ["one", "fr\u{e4}g", &long, "", "last"];
    let mut messages: Vec<_> = texts.iter().map(|text| message(text)).collect();
    messages.insert(1, Incoming::Binary(Bytes::from_static(&[1, 2, 3])));
    messages.insert(5, Incoming::Binary(Bytes::from(long.clone())));
    (input.concat(), messages)
}

/// What a session makes of a text in one frame.
fn message(content: &str) -> Incoming {
    let leftover = raw_frame(0x81, content.as_bytes());
    let (_, server) = duplex(1);
    let mut session = Session::new(server, leftover.into(), Arc::default());
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(message) = pin!(session.recv()).poll(&mut cx) else { panic!("no message") };
    message.unwrap()
}

#[tokio::test]
async fn messages_do_not_depend_on_how_the_bytes_are_cut() {
    let (input, messages) = conversation();
    for piece in (1..40).chain([255, 256, 257, 5_000, 100_000]) {
        let (mut client, mut session) = in_memory(piece, TransportConfig::default());
        let (mut read, mut write) = tokio::io::split(&mut client);
        let received = async {
            let mut received = Vec::new();
            while received.len() < messages.len() {
                received.push(session.recv().await.unwrap());
            }
            // The pong, if the last message arrived before it could be written.
            session.drive(tokio::task::yield_now()).await;
            received
        };
        let mut pong = [0; 6];
        let (received, sent, answer) =
            tokio::join!(received, write.write_all(&input), read.read_exact(&mut pong));
        sent.unwrap();
        answer.unwrap();
        assert!(received == messages, "in pieces of {piece} bytes");
        assert_eq!(&pong, b"\x8a\x04ping");
    }
}

#[tokio::test]
async fn bytes_read_with_the_handshake_come_first() {
    let (mut client, server) = duplex(1024);
    let leftover = [raw_frame(0x81, b"early"), raw_frame(0x81, b"split")[..4].to_vec()].concat();
    client.write_all(&raw_frame(0x81, b"split")[4..]).await.unwrap();
    let mut session = Session::new(server, leftover.into(), Arc::default());
    assert_eq!(text(session.recv().await), "early");
    assert_eq!(text(session.recv().await), "split");
}

#[tokio::test]
async fn recv_loses_nothing_when_it_is_dropped() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    let frame = raw_frame(0x81, b"in two halves");
    for half in frame.chunks(7) {
        client.write_all(half).await.unwrap();
        // Polled once at least, and dropped.
        tokio::select! {
            biased;
            message = session.recv() => {
                assert_eq!(text(message), "in two halves");
                return;
            }
            () = std::future::ready(()) => {}
        }
    }
    panic!("the message did not arrive");
}

#[tokio::test]
async fn pings_are_answered_in_order() {
    let (mut client, mut session) = on_tcp(TransportConfig::default()).await;
    for payload in [&b""[..], b"x", &[7; 125]] {
        client.write_all(&raw_frame(0x89, payload)).await.unwrap();
    }
    client.write_all(&raw_frame(0x81, b"end")).await.unwrap();
    let mut pongs = vec![0; 2 + 3 + 127];
    tokio::join!(
        async {
            assert_eq!(text(session.recv().await), "end");
            session.drive(tokio::task::yield_now()).await;
        },
        async {
            client.read_exact(&mut pongs).await.unwrap();
        }
    );
    assert_eq!(pongs, [&b"\x8a\x00\x8a\x01x\x8a\x7d"[..], &[7; 125]].concat());
}

#[tokio::test]
async fn ping_flood_does_not_grow_the_outbox() {
    let (client, mut session) =
        in_memory(1024, TransportConfig::default().max_control_frames(u32::MAX));
    let outbox = session.outbox().clone();
    let (mut read, mut write) = tokio::io::split(client);
    let flood = async {
        for round in 0..20_000_u32 {
            write.write_all(&raw_frame(0x89, &round.to_be_bytes())).await.unwrap();
            assert!(outbox.usage().bytes <= 4096 + 6, "{:?}", outbox.usage());
        }
        write.write_all(&raw_frame(0x81, b"end")).await.unwrap();
    };
    let (last, ()) = tokio::join!(session.recv(), flood);
    assert_eq!(text(last), "end");
    assert!(outbox.usage().bytes > 2048, "no pong had to wait: the test tests nothing");

    // Once they are read, the answer to the last ping is the last.
    let pongs = async {
        let mut pong = [0; 6];
        while pong[2..] != 19_999_u32.to_be_bytes() {
            read.read_exact(&mut pong).await.unwrap();
            assert_eq!(pong[..2], [0x8a, 4]);
        }
    };
    session.drive(pongs).await;
    assert_eq!(outbox.usage().frames, 0);
}

#[tokio::test]
async fn send_waits_for_room() {
    let config = TransportConfig::default().outbox_frames(4);
    let (mut client, mut session) = in_memory(16, config);
    let frames = Frames::text("0123456789");
    let sender = async {
        for _ in 0..100 {
            assert_eq!(session.send(&frames).await, DeliveryOutcome::Queued);
            assert!(session.outbox().usage().frames <= 4);
        }
        assert_eq!(session.outbox().refused(), 0);
        session.finish().await
    };
    let reader = async {
        let mut received = vec![0; frames.bytes().len() * 100];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(received, frames.bytes().repeat(100));
        drop(client);
    };
    tokio::join!(sender, reader);
}
