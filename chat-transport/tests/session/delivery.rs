//! Sending: direct writes, order, slow peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_core::{CloseReason, DeliveryOutcome, Frames};
use chat_transport::testing::WsClient;
use chat_transport::{
    End, Incoming, Outbox, OutboxStats, Session, SharedTcp, TransportConfig, accept_tcp,
};
use futures_util::FutureExt;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpListener;

use crate::{in_memory, on_tcp, text};

/// A client that has a small receive buffer, and the session on its server's small socket.
async fn narrow(config: TransportConfig) -> (WsClient, Session<SharedTcp>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let config = Arc::new(config);
    tokio::join!(WsClient::connect_narrow(&url), async {
        let (stream, _) = listener.accept().await.unwrap();
        SockRef::from(&stream).set_send_buffer_size(8 * 1024).unwrap();
        accept_tcp(stream, &[], &config).await.unwrap().session
    })
}

#[tokio::test]
async fn on_tcp_the_sender_writes_and_the_session_need_not_be_driven() {
    let (mut client, session) = on_tcp(TransportConfig::default()).await;
    let outbox = session.outbox().clone();
    let sender = thread::spawn(move || outbox.send(&Frames::text("direct")));
    let mut frame = [0; 8];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x81\x06direct");
    assert_eq!(sender.join().unwrap(), DeliveryOutcome::Queued);
    assert_eq!(session.outbox().usage().frames, 0);
}

#[tokio::test]
async fn held_frames_are_written_with_the_next() {
    // Held frames are no more than what may wait, and the next one finds room nevertheless.
    let (mut client, mut session) = on_tcp(TransportConfig::default().outbox_frames(2)).await;
    let outbox = session.outbox().clone();
    for held in ["a", "b"] {
        assert_eq!(outbox.hold(&Frames::text(held)), DeliveryOutcome::Queued);
    }
    assert_eq!(session.recv().now_or_never(), None);
    assert_eq!(outbox.usage().frames, 2, "the session leaves them alone");
    assert_eq!(outbox.send(&Frames::text("c")), DeliveryOutcome::Queued);
    assert_eq!(outbox.usage().frames, 0);
    let mut frames = [0; 9];
    client.read_exact(&mut frames).await.unwrap();
    assert_eq!(&frames, b"\x81\x01a\x81\x01b\x81\x01c");
}

#[tokio::test]
async fn flush_writes_what_is_held() {
    let (mut client, session) = on_tcp(TransportConfig::default()).await;
    let outbox = session.outbox();
    assert_eq!(outbox.hold(&Frames::text("a")), DeliveryOutcome::Queued);
    // The waiter waits before the flush, and is woken by it.
    tokio::join!(biased; outbox.drained_to(0), async { outbox.flush() });
    let mut frame = [0; 3];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x81\x01a");
}

#[tokio::test]
async fn held_frame_precedes_the_close_frame() {
    let (mut client, mut session) = on_tcp(TransportConfig::default()).await;
    assert_eq!(session.outbox().hold(&Frames::text("a")), DeliveryOutcome::Queued);
    session.outbox().close(CloseReason::GoingAway);
    session.outbox().flush();
    assert_eq!(session.recv().await, None);
    let mut frames = [0; 4];
    tokio::join!(session.finish(), async {
        client.read_exact(&mut frames).await.unwrap();
        drop(client);
    });
    assert_eq!(&frames, b"\x81\x01a\x88");
}

#[tokio::test]
async fn queued_frames_follow_written_ones_in_order() {
    let (mut client, mut session) = narrow(TransportConfig::default()).await;
    let mut sent = 0_u32;
    // Till a write is cut short, and then some that have to queue.
    let mut queued = 0;
    while queued < 50 {
        let frames = Frames::text(&format!("{sent} {}", "x".repeat(3_000)));
        assert_eq!(session.outbox().send(&frames), DeliveryOutcome::Queued);
        sent += 1;
        queued += usize::from(session.outbox().usage().frames > 0);
    }
    let depth = session.outbox().usage();
    assert_eq!(depth.frames, 50);
    let whole = Frames::text(&format!("{sent} {}", "x".repeat(3_000))).bytes().len();
    assert_ne!(depth.bytes % whole, 0, "no frame was half written: the test tests nothing");

    let reader = async {
        for number in 0..sent {
            client.expect(&format!("{number} {}", "x".repeat(3_000))).await;
        }
    };
    session.drive(reader).await;
    assert_eq!(session.outbox().usage(), Default::default());
}

const SENDERS: usize = 8;
const EACH: usize = 3_000;

/// The text of a sender's message: of many lengths, and all of it known.
fn numbered(sender: usize, number: usize) -> String {
    let filler = char::from(b'a' + u8::try_from((sender + number) % 26).unwrap());
    format!("{sender} {number} {}", filler.to_string().repeat(number * 37 % 900))
}

fn send_all(outbox: &Outbox, sender: usize) {
    for number in 0..EACH {
        let frames = Frames::text(&numbered(sender, number));
        loop {
            match outbox.send(&frames) {
                DeliveryOutcome::Queued => break,
                DeliveryOutcome::Full => thread::yield_now(),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_on_many_threads_never_mix_and_keep_their_order() {
    let config = TransportConfig::default().outbox_bytes(64 * 1024);
    let (mut client, mut session) = narrow(config).await;
    let outbox = session.outbox().clone();
    let received_all = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let outbox = outbox.clone();
            thread::spawn(move || send_all(&outbox, sender))
        })
        .collect();
    let done = Arc::clone(&received_all);
    let driver = tokio::spawn(async move {
        assert_eq!(session.recv().await, None);
        assert!(done.load(Ordering::SeqCst), "the session ended early");
        session.finish().await
    });

    // Nothing is read before the outbox runs full.
    while outbox.refused() == 0 {
        tokio::task::yield_now().await;
    }
    let mut next = [0; SENDERS];
    for _ in 0..SENDERS * EACH {
        let text = client.recv().await;
        let sender: usize = text.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(text, numbered(sender, next[sender]));
        next[sender] += 1;
    }
    assert_eq!(next, [EACH; SENDERS]);
    received_all.store(true, Ordering::SeqCst);
    client.close().await;
    assert!(matches!(driver.await.unwrap(), End::ByPeer { code: Some(1000), .. }));
    for sender in senders {
        sender.join().unwrap();
    }
}

#[tokio::test]
async fn slow_consumer_is_closed_with_4000_within_its_outbox_limit() {
    let (mut client, mut session) = narrow(TransportConfig::default()).await;
    let outbox = session.outbox().clone();
    let frames = Frames::text(&"x".repeat(16 * 1024));
    // Far more than the kernel takes.
    let mut taken = 0;
    for _ in 0..2_000 {
        match outbox.send(&frames) {
            DeliveryOutcome::Queued => taken += 1,
            DeliveryOutcome::Full => outbox.close(CloseReason::SlowConsumer),
            DeliveryOutcome::Closed => break,
            outcome => panic!("a frame was {outcome:?}"),
        }
        assert!(outbox.usage().bytes <= 1024 * 1024);
    }
    assert_eq!(outbox.refused(), 1);
    assert!(outbox.usage().bytes > 1000 * 1024);
    assert_eq!(session.recv().await, None);

    // It gets whole frames, fewer than were taken, and then the reason.
    let (end, (got, close)) = tokio::join!(session.finish(), client.recv_until_close());
    assert!(matches!(end, End::Local(CloseReason::SlowConsumer)), "{end:?}");
    assert_eq!(close, (4000, "slow consumer".into()));
    assert!(got.len() < taken, "{} of {taken}: what was queued is dropped", got.len());
    assert!(got.iter().all(|text| text.len() == 16 * 1024));
    assert_eq!(outbox.usage(), Default::default());
}

#[tokio::test]
async fn peer_that_never_reads_times_out() {
    let config = TransportConfig::default().close_timeout(Duration::from_millis(50));
    let (client, mut session) = narrow(config).await;
    let frames = Frames::text(&"x".repeat(16 * 1024));
    while session.outbox().send(&frames) == DeliveryOutcome::Queued {}
    session.outbox().close(CloseReason::SlowConsumer);
    let end = session.finish().await;
    assert!(matches!(end, End::Local(CloseReason::SlowConsumer)), "{end:?}");
    assert_eq!(session.outbox().usage(), Default::default());
    drop(client);
}

#[tokio::test]
async fn outbox_is_bounded_in_frames_and_bytes() {
    let config = TransportConfig::default().outbox_frames(3).outbox_bytes(20);
    let (_client, session) = in_memory(1024, config);
    let outbox = session.outbox();
    // Alone, it may be larger than the limit.
    assert_eq!(outbox.send(&Frames::text(&"x".repeat(100))), DeliveryOutcome::Queued);
    assert_eq!(outbox.send(&Frames::text("")), DeliveryOutcome::Full);

    let config = TransportConfig::default().outbox_frames(3).outbox_bytes(20);
    let (_client, session) = in_memory(1024, config);
    let outbox = session.outbox();
    for text in ["", "", ""] {
        assert_eq!(outbox.send(&Frames::text(text)), DeliveryOutcome::Queued);
    }
    assert_eq!((outbox.usage().frames, outbox.usage().bytes), (3, 6));
    assert_eq!(outbox.send(&Frames::text("")), DeliveryOutcome::Full);
    assert_eq!(outbox.refused(), 1);

    let config = TransportConfig::default().outbox_frames(3).outbox_bytes(20);
    let (_client, session) = in_memory(1024, config);
    let outbox = session.outbox();
    assert_eq!(outbox.send(&Frames::text("0123456")), DeliveryOutcome::Queued);
    assert_eq!(outbox.send(&Frames::text("0123456789")), DeliveryOutcome::Full);
    assert_eq!(outbox.send(&Frames::text("012345678")), DeliveryOutcome::Queued);
    assert_eq!(outbox.usage().bytes, 20);
}

#[tokio::test]
async fn queued_frames_are_written_together() {
    let (mut client, mut session) = in_memory(1 << 20, TransportConfig::default());
    let mut want = Vec::new();
    // Small ones, one that is written by itself, and more than one buffer of small ones.
    for len in [10, 200, 40_000, 1, 2].into_iter().chain(std::iter::repeat_n(1_000, 100)) {
        let frames = Frames::text(&"y".repeat(len));
        assert_eq!(session.outbox().send(&frames), DeliveryOutcome::Queued);
        want.extend_from_slice(frames.bytes());
    }
    let mut got = vec![0; want.len()];
    session.drive(client.read_exact(&mut got)).await.unwrap();
    assert!(got == want);
    assert_eq!(session.outbox().usage(), Default::default());
}

#[tokio::test]
async fn owner_of_a_session_is_notified_once() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    let outbox = session.outbox().clone();
    outbox.notify();
    outbox.notify();
    assert_eq!(session.recv().await, Some(Incoming::Notified));
    client.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
    assert_eq!(text(session.recv().await), "hi", "once for both calls");
    let waiting = tokio::spawn(async move { session.recv().await });
    // Whether it waits by then or not.
    outbox.notify();
    assert_eq!(waiting.await.unwrap(), Some(Incoming::Notified));
}

#[tokio::test]
async fn stats_count_what_an_outbox_accepts() {
    let stats = OutboxStats::new();
    let (client, server) = duplex(16);
    let config = TransportConfig::default().outbox_bytes(20);
    let mut session = Session::new(server, Bytes::new(), Arc::new(config)).with_stats(&stats);
    let hello = Frames::text("hello");
    assert_eq!(session.outbox().send(&hello), DeliveryOutcome::Queued);
    assert_eq!(session.outbox().send(&hello), DeliveryOutcome::Queued);
    assert_eq!(session.outbox().send(&hello), DeliveryOutcome::Full);
    assert_eq!(stats.waiting_bytes(), 14);
    assert_eq!((stats.sent_bytes(), stats.peak_bytes(Instant::now())), (0, 14), "not written yet");
    session.drive(tokio::task::yield_now()).await;
    assert_eq!((stats.sent_bytes(), stats.waiting_bytes()), (14, 0));
    drop(client);
    assert_eq!(session.outbox().send(&hello), DeliveryOutcome::Queued);
    assert_eq!(stats.waiting_bytes(), 7);
    drop(session);
    assert_eq!(
        (stats.sent_bytes(), stats.waiting_bytes()),
        (21, 0),
        "nothing waits for a lost peer"
    );
}
