//! Deadlines, in made-up time.

use std::thread;
use std::time::Duration;

use chat_core::{CloseReason, DeliveryOutcome, Frames};
use chat_transport::testing::raw_frame;
use chat_transport::{End, LimitViolation, TransportConfig};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::{close_frame, in_memory, on_tcp, read_all, text};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_and_then_lost() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    let start = Instant::now();
    let peer = async {
        let mut ping = [0; 2];
        client.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping, [0x89, 0]);
        assert_eq!(start.elapsed(), secs(25));
        client.write_all(&raw_frame(0x8a, b"")).await.unwrap();

        client.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping, [0x89, 0]);
        assert_eq!(start.elapsed(), secs(50));
        assert_eq!(read_all(&mut client).await, close_frame(4001, "heartbeat lost"));
    };
    let server = async {
        assert_eq!(session.recv().await, None);
        assert_eq!(start.elapsed(), secs(60));
        assert_eq!(session.breach(), Some(LimitViolation::Heartbeat));
        let end = session.finish().await;
        assert!(matches!(end, End::Local(CloseReason::HeartbeatLost)), "{end:?}");
        drop(session);
    };
    tokio::join!(peer, server);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_talks_is_not_pinged() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    let server = tokio::spawn(async move {
        let mut count = 0;
        while session.recv().await.is_some() {
            count += 1;
        }
        (count, session.finish().await)
    });
    for _ in 0..10 {
        sleep(secs(24)).await;
        client.write_all(&raw_frame(0x81, b"x")).await.unwrap();
    }
    client.write_all(&raw_frame(0x88, b"")).await.unwrap();
    assert_eq!(read_all(&mut client).await, [0x88, 0]);
    drop(client);
    assert_eq!(server.await.unwrap().0, 10);
}

#[tokio::test(start_paused = true)]
async fn without_a_heartbeat_silence_is_fine() {
    let (client, mut session) = in_memory(1024, TransportConfig::default().no_heartbeat());
    let waited = timeout(secs(100_000), session.recv()).await;
    assert!(waited.is_err(), "{waited:?}");
    drop(client);
    assert_eq!(session.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn silence_is_not_held_against_a_peer_that_is_not_read() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    let mut ping = [0; 2];
    // The peer answers, but the session does not read while it drives.
    let work = async {
        client.read_exact(&mut ping).await.unwrap();
        client.write_all(&raw_frame(0x8a, b"")).await.unwrap();
        client.write_all(&raw_frame(0x81, b"still here")).await.unwrap();
        sleep(secs(60)).await;
    };
    session.drive(work).await;
    assert_eq!(ping, [0x89, 0]);
    assert_eq!(text(session.recv().await), "still here");
    assert!(!session.outbox().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_peer_is_cut() {
    let (mut client, mut session) = in_memory(64, TransportConfig::default());
    // The timer is set for the heartbeat, which is later.
    assert!(timeout(secs(1), session.recv()).await.is_err());
    let frames = Frames::text(&"x".repeat(100));
    for _ in 0..10 {
        assert_eq!(session.outbox().send(&frames), DeliveryOutcome::Queued);
    }
    let start = Instant::now();
    assert_eq!(session.recv().await, None);
    assert_eq!(start.elapsed(), secs(10));
    assert_eq!(session.breach(), Some(LimitViolation::WriteTime));

    // Only the frame that was half written comes out whole before the close frame.
    let (end, bytes) = tokio::join!(session.finish(), async {
        let mut bytes = vec![0; frames.bytes().len()];
        client.read_exact(&mut bytes).await.unwrap();
        client.write_all(&raw_frame(0x88, b"\x0f\xa0")).await.unwrap();
        bytes.extend(read_all(&mut client).await);
        drop(client);
        bytes
    });
    assert!(matches!(end, End::Local(CloseReason::SlowConsumer)), "{end:?}");
    assert_eq!(bytes, [&frames.bytes()[..], &close_frame(4000, "slow consumer")].concat());
}

#[tokio::test(start_paused = true)]
async fn a_slow_peer_is_not_a_stalled_one() {
    let (mut client, mut session) = in_memory(64, TransportConfig::default());
    let frames = Frames::text(&"x".repeat(100));
    for _ in 0..10 {
        assert_eq!(session.outbox().send(&frames), DeliveryOutcome::Queued);
    }
    let all = frames.bytes().len() * 10;
    let reader = async {
        let mut left = vec![0; all];
        for part in left.chunks_mut(64) {
            sleep(secs(9)).await;
            client.read_exact(part).await.unwrap();
        }
        left
    };
    assert_eq!(session.drive(reader).await, frames.bytes().repeat(10));
    assert!(!session.outbox().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_message_must_end() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    let start = Instant::now();
    let server = async {
        assert_eq!(session.recv().await, None);
        assert_eq!(start.elapsed(), secs(30));
        assert_eq!(session.breach(), Some(LimitViolation::MessageTime));
        let end = session.finish().await;
        assert!(matches!(end, End::Local(CloseReason::PolicyViolation)), "{end:?}");
        drop(session);
    };
    // A byte a second keeps the heartbeat alive, and no message comes of it.
    let peer = async {
        let frame = raw_frame(0x81, &[b'x'; 1000]);
        for byte in frame.chunks(1).take(30) {
            client.write_all(byte).await.unwrap();
            sleep(secs(1)).await;
        }
        assert_eq!(read_all(&mut client).await, close_frame(1008, "policy violation"));
    };
    tokio::join!(server, peer);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_not_read_is_not_late() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    let frame = raw_frame(0x81, b"in halves");
    client.write_all(&frame[..8]).await.unwrap();
    assert!(timeout(secs(1), session.recv()).await.is_err());
    client.write_all(&frame[8..]).await.unwrap();
    session.drive(sleep(secs(60))).await;
    assert_eq!(text(session.recv().await), "in halves");
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_a_message_starts_with_each_message() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    let server = async {
        for _ in 0..10 {
            assert_eq!(text(session.recv().await), "in halves");
        }
    };
    // There is always an incomplete message, and none of them for more than 9 s.
    let stream = raw_frame(0x81, b"in halves").repeat(10);
    let peer = async {
        for half in stream.chunks(8) {
            client.write_all(half).await.unwrap();
            sleep(secs(9)).await;
        }
    };
    tokio::join!(server, peer);
}

#[tokio::test]
async fn work_goes_on_when_the_peer_dies() {
    let (client, mut session) = in_memory(16, TransportConfig::default());
    assert_eq!(session.outbox().send(&Frames::text(&"x".repeat(100))), DeliveryOutcome::Queued);
    let outbox = session.outbox().clone();
    let done = session
        .drive(async move {
            drop(client);
            while !outbox.is_closed() {
                tokio::task::yield_now().await;
            }
            "done"
        })
        .await;
    assert_eq!(done, "done");
    assert_eq!(session.recv().await, None);
    let end = session.finish().await;
    assert!(matches!(end, End::Lost(Some(_))), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kick_does_not_wait_for_the_work_in_hand() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    let outbox = session.outbox().clone();
    let work = async {
        outbox.close(CloseReason::Kicked);
        let mut frame = vec![0; close_frame(4002, "kicked").len()];
        client.read_exact(&mut frame).await.unwrap();
        frame
    };
    assert_eq!(session.drive(work).await, close_frame(4002, "kicked"));
    assert_eq!(session.recv().await, None);
    drop(client);
    let end = session.finish().await;
    assert!(matches!(end, End::Local(CloseReason::Kicked)), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn time_too_long_to_count_never_ends() {
    let config = TransportConfig::default()
        .heartbeat(Duration::MAX, Duration::MAX)
        .message_timeout(Duration::MAX)
        .write_timeout(Duration::MAX)
        .close_timeout(Duration::MAX);
    let (mut client, mut session) = in_memory(64, config);
    client.write_all(&raw_frame(0x81, b"incomplete")[..9]).await.unwrap();
    assert_eq!(session.outbox().send(&Frames::text(&"x".repeat(100))), DeliveryOutcome::Queued);
    let waited = timeout(secs(1_000_000), session.recv()).await;
    assert!(waited.is_err(), "{waited:?}");
    drop(client);
    assert!(matches!(session.finish().await, End::Local(CloseReason::Normal)));
}

/// What fills the kernel's buffers lies before the ping, and takes longer to read than the time
/// for an answer.
#[tokio::test]
async fn slow_reader_is_not_taken_for_a_dead_line() {
    const TEXTS: usize = 100;
    let soon = Duration::from_millis(300);
    let (mut client, mut session) = on_tcp(TransportConfig::default().heartbeat(soon, soon)).await;
    SockRef::from(&client).set_recv_buffer_size(1 << 20).unwrap();
    let frames = Frames::text(&"x".repeat(7000));
    for _ in 0..TEXTS {
        assert_eq!(session.outbox().send(&frames), DeliveryOutcome::Queued);
    }
    let reader = async {
        let (mut texts, mut pings) = (0, 0);
        let mut header = [0; 2];
        while texts < TEXTS {
            client.read_exact(&mut header).await.unwrap();
            if header[0] == 0x89 {
                pings += 1;
                client.write_all(&raw_frame(0x8a, b"")).await.unwrap();
                continue;
            }
            assert_eq!(header, frames.bytes()[..2], "after {texts} texts");
            let mut text = vec![0; frames.bytes().len() - header.len()];
            client.read_exact(&mut text).await.unwrap();
            texts += 1;
            sleep(Duration::from_millis(15)).await;
        }
        // It gets to the ping at last.
        client.read_exact(&mut header).await.unwrap();
        assert_eq!((header[0], pings), (0x89, 0));
        client.write_all(&raw_frame(0x8a, b"")).await.unwrap();
        client.write_all(&raw_frame(0x81, b"still here")).await.unwrap();
    };
    let ((), incoming) = tokio::join!(reader, session.recv());
    assert_eq!(text(incoming), "still here");
}

/// The process is stopped for longer than all deadlines, and so is this thread. The peer goes on
/// meanwhile, or has nothing to do.
#[tokio::test]
async fn process_that_was_stopped_does_not_blame_the_peer() {
    let soon = Duration::from_millis(300);
    let config = TransportConfig::default()
        .heartbeat(soon, soon)
        .message_timeout(soon)
        // The kernel gives the line up after twice this time, for which the peer, too, reads nothing.
        .write_timeout(Duration::from_millis(1500))
        .outbox_bytes(8 << 20);
    let (mut client, mut session) = on_tcp(config).await;
    let all = Frames::text(&"x".repeat(4 << 20));
    // Half a message has come, more is to be sent than the kernel takes, and a ping is due.
    client.write_all(&raw_frame(0x81, b"in halves")[..8]).await.unwrap();
    assert_eq!(session.outbox().send(&all), DeliveryOutcome::Queued);
    assert!(timeout(soon / 2, session.recv()).await.is_err());
    thread::sleep(Duration::from_millis(2700));
    let peer = async {
        sleep(soon / 2).await;
        client.write_all(&raw_frame(0x81, b"in halves")[8..]).await.unwrap();
        let mut sent = vec![0; all.bytes().len()];
        client.read_exact(&mut sent).await.unwrap();
        assert_eq!(sent, all.bytes()[..]);
        client
    };
    let (_client, incoming) = tokio::join!(peer, async {
        let incoming = session.recv().await;
        assert_eq!(session.breach(), None);
        let drained = session.outbox().clone();
        session.drive(drained.drained_to(0)).await;
        incoming
    });
    assert_eq!(text(incoming), "in halves");
    assert!(!session.outbox().is_closed());
}
