//! What is left of a connection in the kernel: nothing, once its session is over.

use std::io::ErrorKind;
use std::time::Duration;

use chat_core::{CloseReason, DeliveryOutcome, Frames};
use chat_transport::testing::{DEADLINE, raw_frame};
use chat_transport::{End, TransportConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{close_frame, on_tcp, read_all, text};

/// How the stream ends, after however many bytes.
async fn how_it_ends(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    let mut bytes = [0; 64 * 1024];
    let end = async {
        loop {
            match stream.read(&mut bytes).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error.kind()),
            }
        }
    };
    timeout(DEADLINE, end).await.unwrap()
}

#[tokio::test]
async fn slow_client_is_reset() {
    let config = TransportConfig::default().close_timeout(Duration::from_millis(100));
    let (mut client, mut session) = on_tcp(config).await;
    let frames = Frames::text(&"x".repeat(16 * 1024));
    while session.outbox().send(&frames) == DeliveryOutcome::Queued {}
    session.outbox().close(CloseReason::SlowConsumer);
    let end = session.finish().await;
    assert!(matches!(end, End::Local(CloseReason::SlowConsumer)), "{end:?}");
    drop(session);
    assert_eq!(how_it_ends(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn slow_client_that_reads_at_last_gets_the_close_frame() {
    let (mut client, mut session) = on_tcp(TransportConfig::default()).await;
    let frames = Frames::text(&"x".repeat(16 * 1024));
    while session.outbox().send(&frames) == DeliveryOutcome::Queued {}
    session.outbox().close(CloseReason::SlowConsumer);
    let peer = async {
        let (mut bytes, close) = (Vec::new(), close_frame(4000, "slow consumer"));
        while !bytes.ends_with(&close) {
            client.read_buf(&mut bytes).await.unwrap();
        }
        client.write_all(&raw_frame(0x88, &4000_u16.to_be_bytes())).await.unwrap();
        assert_eq!(how_it_ends(&mut client).await, Ok(()));
    };
    let whole = async { tokio::join!(session.finish(), peer) };
    timeout(DEADLINE, whole).await.unwrap();
}

#[tokio::test]
async fn clean_goodbye_ends_without_a_reset() {
    let (mut client, mut session) = on_tcp(TransportConfig::default()).await;
    session.outbox().close(CloseReason::GoingAway);
    let peer = async {
        let close = close_frame(1001, "going away");
        let mut frame = vec![0; close.len()];
        client.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame, close);
        client.write_all(&raw_frame(0x88, &frame[2..4])).await.unwrap();
        assert_eq!(how_it_ends(&mut client).await, Ok(()));
        drop(client);
    };
    let ends = async { tokio::join!(session.finish(), peer) };
    timeout(DEADLINE, ends).await.expect("an end");
}

/// It has said goodbye, and that it sends no more; what it was sent is not read.
#[tokio::test]
async fn half_closed_client_that_reads_nothing_is_reset() {
    let (mut client, mut session) = on_tcp(TransportConfig::default()).await;
    let frames = Frames::text(&"x".repeat(16 * 1024));
    // As much as the kernel takes without anything that waits.
    while session.outbox().usage().bytes == 0 {
        assert_eq!(session.outbox().send(&frames), DeliveryOutcome::Queued);
    }
    client.write_all(&raw_frame(0x88, b"")).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(session.recv().await, None);
    timeout(DEADLINE, session.finish()).await.expect("an end");
    drop(session);
    assert_eq!(how_it_ends(&mut client).await, Err(ErrorKind::ConnectionReset));
}

/// As a script does that pipes its frames in.
#[tokio::test]
async fn half_closed_client_gets_what_was_sent() {
    let (mut client, mut session) = on_tcp(TransportConfig::default()).await;
    client.write_all(&raw_frame(0x81, b"hi")).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(text(session.recv().await), "hi");
    let answer = "x".repeat(60_000);
    assert_eq!(session.outbox().send(&Frames::text(&answer)), DeliveryOutcome::Queued);
    assert_eq!(session.recv().await, None);
    let (_, bytes) = tokio::join!(
        async {
            session.finish().await;
            drop(session);
        },
        read_all(&mut client)
    );
    assert!(bytes.ends_with(answer.as_bytes()), "{} bytes", bytes.len());
}

/// The kernel has all that was sent, and the peer is there and does nothing.
#[tokio::test]
async fn client_that_does_not_answer_sees_an_end_and_is_reset() {
    let (mut client, mut session) = on_tcp(TransportConfig::default()).await;
    session.outbox().close(CloseReason::Normal);
    let ends = async { tokio::join!(session.finish(), read_all(&mut client)) };
    let (_, bytes) = timeout(DEADLINE, ends).await.expect("an end");
    drop(session);
    assert_eq!(bytes, close_frame(1000, "normal"));
    assert!(client.write_all(b"x").await.is_err() || how_it_ends(&mut client).await.is_err());
}
