//! How sessions end, and with which code.

use std::time::Duration;

use chat_core::{CloseReason, DeliveryOutcome, Frames};
use chat_transport::testing::{DEADLINE, raw_frame, raw_handshake};
use chat_transport::{End, Incoming, InvalidClose, LimitViolation, Session, TransportConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::{close_frame, echo_server, in_memory, on_tcp, read_all};

/// Receives to the end and says goodbye.
async fn run<S>(mut session: Session<S>) -> (Vec<Incoming>, End)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut received = Vec::new();
    while let Some(incoming) = session.recv().await {
        received.push(incoming);
    }
    (received, session.finish().await)
}

#[tokio::test]
async fn every_reason_has_its_code_and_phrase() {
    for &reason in CloseReason::ALL {
        let (mut client, session) = in_memory(1024, TransportConfig::default());
        session.outbox().close(reason);
        let peer = async {
            let mut frame = vec![0; 4 + reason.as_str().len()];
            client.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame, close_frame(reason.code(), reason.as_str()));
            client.write_all(&raw_frame(0x88, &frame[2..4])).await.unwrap();
            assert_eq!(read_all(&mut client).await, b"");
        };
        let ((received, end), ()) = tokio::join!(run(session), peer);
        assert_eq!(received, []);
        assert!(matches!(end, End::Local(got) if got == reason), "{end:?}");
    }
}

#[tokio::test]
async fn own_close_frame_follows_queued_frames() {
    let (mut client, session) = in_memory(1024, TransportConfig::default());
    let outbox = session.outbox().clone();
    assert_eq!(outbox.send(&Frames::binary(&[7])), DeliveryOutcome::Queued);
    outbox.close_with(4100, "room full").unwrap();
    outbox.close(CloseReason::Kicked);
    client.write_all(&raw_frame(0x88, b"")).await.unwrap();
    let ((_, end), bytes) = tokio::join!(run(session), read_all(&mut client));
    assert_eq!(bytes, [b"\x82\x01\x07".to_vec(), close_frame(4100, "room full")].concat());
    let End::Custom { code, phrase } = end else { panic!("{end:?}") };
    assert_eq!((code, &*phrase), (4100, "room full"));
}

#[tokio::test]
async fn close_frame_that_must_not_be_sent_is_an_error() {
    let (_client, session) = in_memory(1024, TransportConfig::default());
    let outbox = session.outbox();
    for code in (0..1000).chain([1004, 1005, 1006, 1015, 2999, 5000, u16::MAX]) {
        assert_eq!(outbox.close_with(code, ""), Err(InvalidClose::Code(code)));
    }
    let long = "x".repeat(124);
    assert_eq!(outbox.close_with(4100, &long), Err(InvalidClose::Phrase(124)));
    assert!(!outbox.is_closed());
    outbox.close_with(1014, &long[..123]).unwrap();
    assert!(outbox.is_closed());
}

#[tokio::test]
async fn queued_frames_precede_the_close_frame() {
    let (mut client, session) = in_memory(1024, TransportConfig::default());
    let outbox = session.outbox().clone();
    assert_eq!(outbox.send(&Frames::text("bye")), DeliveryOutcome::Queued);
    outbox.close(CloseReason::Kicked);
    outbox.close(CloseReason::Banned);
    assert_eq!(outbox.send(&Frames::text("late")), DeliveryOutcome::Closed);
    client.write_all(&raw_frame(0x88, b"")).await.unwrap();
    let ((_, end), bytes) = tokio::join!(run(session), read_all(&mut client));
    assert_eq!(bytes, [b"\x81\x03bye".to_vec(), close_frame(4002, "kicked")].concat());
    assert!(matches!(end, End::Local(CloseReason::Kicked)), "{end:?}");
    assert!(outbox.is_closed());
}

#[tokio::test]
async fn close_frame_is_echoed() {
    let cases = [
        (&b""[..], vec![0x88, 0], None, ""),
        (b"\x03\xe8", close_frame(1000, ""), Some(1000), ""),
        (b"\x0f\xa0so long", close_frame(4000, "so long"), Some(4000), "so long"),
        // Registered with IANA later than RFC 6455, or not at all, which is allowed from 3000 on.
        (b"\x03\xf6bad gateway", close_frame(1014, "bad gateway"), Some(1014), "bad gateway"),
        (b"\x0b\xb8", close_frame(3000, ""), Some(3000), ""),
    ];
    for (payload, answer, want_code, want_phrase) in cases {
        let (mut client, session) = on_tcp(TransportConfig::default()).await;
        // Bytes behind a close frame are ignored.
        let input = [raw_frame(0x88, payload), raw_frame(0x81, b"late")].concat();
        client.write_all(&input).await.unwrap();
        let peer = async {
            assert_eq!(read_all(&mut client).await, answer);
            drop(client);
        };
        let ((received, end), ()) = tokio::join!(run(session), peer);
        assert_eq!(received, []);
        let End::ByPeer { code, phrase } = end else { panic!("{end:?}") };
        assert_eq!((code, &*phrase), (want_code, want_phrase));
    }
}

#[tokio::test]
async fn end_of_the_stream_ends_the_session() {
    let (client, session) = in_memory(1024, TransportConfig::default());
    let outbox = session.outbox().clone();
    drop(client);
    let (_, end) = run(session).await;
    assert!(matches!(end, End::Lost(None)), "{end:?}");
    assert_eq!(outbox.send(&Frames::text("x")), DeliveryOutcome::Closed);
}

#[tokio::test]
async fn dropped_session_resets_the_socket_despite_an_outbox() {
    let (mut client, session) = on_tcp(TransportConfig::default()).await;
    let outbox = session.outbox().clone();
    drop(session);
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(outbox.send(&Frames::text("x")), DeliveryOutcome::Closed);
}

/// Input that breaks a rule, and the close frame for it.
fn violations() -> Vec<(&'static str, Vec<u8>, CloseReason)> {
    use CloseReason::{InvalidUtf8, PolicyViolation, ProtocolError, TooBig};
    let fragments = [raw_frame(0x01, &[b'x'; 40_000]), raw_frame(0x80, &[b'x'; 25_537])].concat();
    let endless = [raw_frame(0x01, b""), raw_frame(0x00, b"").repeat(100_000)].concat();
    let within = |frame| [raw_frame(0x01, b"x"), frame].concat();
    let split_surrogate = [raw_frame(0x01, b"\xed"), raw_frame(0x80, b"\xa0\x80")].concat();
    vec![
        ("unmasked", b"\x81\x02hi".to_vec(), ProtocolError),
        ("reserved bit 1", raw_frame(0xc1, b"x"), ProtocolError),
        ("reserved bit 2", raw_frame(0xa1, b"x"), ProtocolError),
        ("reserved bit 3", raw_frame(0x91, b"x"), ProtocolError),
        ("opcode 3", raw_frame(0x83, b"x"), ProtocolError),
        ("opcode 11", raw_frame(0x8b, b"x"), ProtocolError),
        ("fragmented ping", raw_frame(0x09, b"x"), ProtocolError),
        ("ping of 126 bytes", raw_frame(0x89, &[0; 126]), ProtocolError),
        ("close of 1 byte", raw_frame(0x88, b"\x03"), ProtocolError),
        ("stray continuation", raw_frame(0x80, b"x"), ProtocolError),
        ("text within a message", within(raw_frame(0x81, b"x")), ProtocolError),
        ("not UTF-8", raw_frame(0x81, b"\xff"), InvalidUtf8),
        ("surrogate", raw_frame(0x81, b"\xed\xa0\x80"), InvalidUtf8),
        ("surrogate over two frames", split_surrogate, InvalidUtf8),
        ("cut UTF-8", raw_frame(0x81, b"\xe2\x82"), InvalidUtf8),
        ("close code that is none", raw_frame(0x88, b"\x03\xe7"), ProtocolError),
        ("close code for no frame", raw_frame(0x88, b"\x03\xed"), ProtocolError),
        ("close code not registered", raw_frame(0x88, b"\x03\xf8"), ProtocolError),
        ("close phrase not UTF-8", raw_frame(0x88, b"\x03\xe8\xff"), InvalidUtf8),
        ("a byte too many", raw_frame(0x81, &[b'x'; 65_537]), TooBig),
        ("a byte too many, binary", raw_frame(0x82, &[0; 65_537]), TooBig),
        ("a byte too many in two fragments", fragments, TooBig),
        (
            "2^63 - 1 announced",
            b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec(),
            TooBig,
        ),
        ("endless empty fragments", endless, PolicyViolation),
    ]
}

#[tokio::test]
async fn violations_close_with_their_code() {
    for (name, input, reason) in violations() {
        let (mut client, session) = on_tcp(TransportConfig::default()).await;
        // More than the server will read before it finds the fault: the close frame must
        // arrive nevertheless.
        let rest = vec![0; 300_000];
        let peer = async {
            let (mut read, mut write) = client.split();
            let sent = async {
                write.write_all(&input).await?;
                write.write_all(&rest).await
            };
            let (bytes, _) = tokio::join!(read_all(&mut read), sent);
            drop(client);
            bytes
        };
        let ((received, end), bytes) =
            timeout(DEADLINE, async { tokio::join!(run(session), peer) }).await.expect(name);
        assert_eq!(bytes, close_frame(reason.code(), reason.as_str()), "{name}");
        assert_eq!(received, [], "{name}");
        assert!(matches!(end, End::Local(got) if got == reason), "{name}: {end:?}");
    }
}

/// A client that reads nothing before it has sent all of a large frame: it learns why.
#[tokio::test]
async fn close_frame_reaches_a_client_that_sends_megabytes() {
    for megabytes in [3, 20] {
        let (mut client, session) = on_tcp(TransportConfig::default()).await;
        let peer = async {
            client.write_all(&raw_frame(0x82, &vec![7; megabytes << 20])).await.unwrap();
            let bytes = read_all(&mut client).await;
            drop(client);
            bytes
        };
        let ((_, end), bytes) = tokio::join!(run(session), peer);
        assert_eq!(bytes, close_frame(1009, "message too big"), "{megabytes} MiB");
        assert!(matches!(end, End::Local(CloseReason::TooBig)), "{end:?}");
    }
}

/// A proxy ends both sides of a tunnel when one of them ends, and the client would lose the close
/// frame to a reset.
#[tokio::test]
async fn stream_is_not_shut_down_while_a_refused_frame_arrives() {
    let (mut client, session) = on_tcp(TransportConfig::default()).await;
    let peer = async {
        let (mut read, mut write) = client.split();
        let sent = async {
            write.write_all(&raw_frame(0x82, &[7; 70_000])[..100]).await.unwrap();
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                write.write_all(&[7; 6_990]).await.unwrap();
            }
            Instant::now()
        };
        let received = async { (read_all(&mut read).await, Instant::now()) };
        let (sent, (bytes, ended)) = tokio::join!(sent, received);
        assert_eq!(bytes, close_frame(1009, "message too big"));
        assert!(ended > sent, "the stream ended before all was sent");
        drop(client);
    };
    tokio::join!(run(session), peer);
}

/// What a peer may make the server discard, and for how long, has an end.
#[tokio::test(start_paused = true)]
async fn lingering_is_bounded() {
    let huge = b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0";
    // It sends a little, again and again; and it sends as much as it can.
    for (pause, piece, seconds) in
        [(Duration::from_millis(900), 1, 30), (Duration::ZERO, 1 << 20, 3)]
    {
        let (mut client, session) = in_memory(1 << 20, TransportConfig::default());
        client.write_all(huge).await.unwrap();
        let start = Instant::now();
        let peer = async {
            let (mut sent, piece) = (0, vec![7; piece]);
            while client.write_all(&piece).await.is_ok() {
                sent += piece.len();
                tokio::time::sleep(pause).await;
            }
            sent
        };
        let ((_, end), sent) = tokio::join!(run(session), peer);
        assert!(matches!(end, End::Local(CloseReason::TooBig)), "{end:?}");
        assert_eq!(start.elapsed().as_secs(), seconds, "{sent} bytes");
        assert!(sent <= 28 << 20, "{sent} bytes");
    }
}

#[tokio::test]
async fn limits_are_inclusive() {
    let url = echo_server(TransportConfig::default().max_fragments(4)).await;
    let address = url.trim_start_matches("ws://").trim_end_matches('/');
    let mut client = raw_handshake(address, "/").await;
    let fragment = [b'x'; 16_384];
    let message = [
        raw_frame(0x01, &fragment),
        raw_frame(0x00, &fragment),
        raw_frame(0x00, &fragment),
        raw_frame(0x80, &fragment),
    ];
    for message in [message.concat(), raw_frame(0x81, &[b'x'; 65_536])] {
        client.write_all(&message).await.unwrap();
        let mut echo = vec![0; 10 + 65_536];
        client.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
    // One fragment more is one too many.
    let five = [raw_frame(0x01, b""), raw_frame(0x00, b"").repeat(4)].concat();
    client.write_all(&five).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, close_frame(1008, "policy violation"));
}

#[tokio::test]
async fn frames_may_have_a_limit_of_their_own() {
    let config = TransportConfig::default().max_message_bytes(10).max_frame_bytes(4);
    let (mut client, session) = in_memory(1024, config);
    let message = [raw_frame(0x01, b"1234"), raw_frame(0x80, b"5678")].concat();
    client.write_all(&[message, raw_frame(0x81, b"12345")].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    let ((received, end), bytes) = tokio::join!(run(session), read_all(&mut client));
    assert_eq!(received.len(), 1);
    assert_eq!(bytes, close_frame(1009, "message too big"));
    assert!(matches!(end, End::Local(CloseReason::TooBig)), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_a_silent_peer() {
    let (mut client, session) = in_memory(1024, TransportConfig::default());
    session.outbox().close(CloseReason::GoingAway);
    let start = Instant::now();
    let (_, end) = run(session).await;
    assert!(matches!(end, End::Local(CloseReason::GoingAway)), "{end:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert_eq!(read_all(&mut client).await, close_frame(1001, "going away"));
}

#[tokio::test(start_paused = true)]
async fn answered_close_takes_no_time() {
    let (mut client, session) = in_memory(1024, TransportConfig::default());
    session.outbox().close(CloseReason::GoingAway);
    let start = Instant::now();
    client.write_all(&raw_frame(0x88, b"\x03\xe9")).await.unwrap();
    let peer = async {
        let bytes = read_all(&mut client).await;
        drop(client);
        bytes
    };
    let ((_, end), bytes) = tokio::join!(run(session), peer);
    assert!(matches!(end, End::Local(CloseReason::GoingAway)), "{end:?}");
    assert_eq!(bytes, close_frame(1001, "going away"));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn stream_stays_open_for_the_close_answer() {
    let (mut client, session) = in_memory(1024, TransportConfig::default());
    session.outbox().close(CloseReason::GoingAway);
    let peer = async {
        let want = close_frame(1001, "going away");
        let mut frame = vec![0; want.len()];
        client.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame, want);
        assert!(timeout(Duration::from_secs(1), client.read_u8()).await.is_err());
        client.write_all(&raw_frame(0x88, b"\x03\xe9")).await.unwrap();
        assert_eq!(read_all(&mut client).await, b"");
    };
    tokio::join!(run(session), peer);
}

#[tokio::test]
async fn finish_closes_an_open_session() {
    let (mut client, mut session) = in_memory(1024, TransportConfig::default());
    client.write_all(&raw_frame(0x88, b"\x03\xe8")).await.unwrap();
    let (end, bytes) = tokio::join!(session.finish(), async {
        let bytes = read_all(&mut client).await;
        drop(client);
        bytes
    });
    assert!(matches!(end, End::Local(CloseReason::Normal)), "{end:?}");
    assert_eq!(bytes, close_frame(1000, "normal"));
    assert_eq!(session.recv().await, None);
    assert_eq!(session.send(&Frames::text("x")).await, DeliveryOutcome::Closed);
}

#[tokio::test]
async fn too_many_pings_in_a_second_are_a_breach() {
    let (mut client, mut session) = on_tcp(TransportConfig::default().max_control_frames(10)).await;
    for _ in 0..11 {
        client.write_all(b"\x89\x80\0\0\0\0").await.unwrap();
    }
    assert_eq!(session.recv().await, None);
    assert!(matches!(session.finish().await, End::Local(CloseReason::PolicyViolation)));
    drop(session);
    assert!(read_all(&mut client).await.ends_with(&close_frame(1008, "policy violation")));
}

#[tokio::test]
async fn session_reports_the_violated_limit() {
    let pings = raw_frame(0x89, b"").repeat(4);
    for (bytes, violation) in [
        (raw_frame(0x81, &[b'x'; 11]), Some(LimitViolation::Size)),
        (
            [raw_frame(0x01, b"123456"), raw_frame(0x80, b"123456")].concat(),
            Some(LimitViolation::Size),
        ),
        (
            [raw_frame(0x01, b""), raw_frame(0x00, b"").repeat(3)].concat(),
            Some(LimitViolation::Fragments),
        ),
        (pings, Some(LimitViolation::ControlFrames)),
        (b"\x81\x02hi".to_vec(), None),
        (raw_frame(0x81, b"\xff"), None),
        (raw_frame(0x88, b""), None),
    ] {
        let config =
            TransportConfig::default().max_message_bytes(10).max_fragments(3).max_control_frames(3);
        let (mut client, mut session) = in_memory(1024, config);
        client.write_all(&bytes).await.unwrap();
        assert_eq!(session.recv().await, None, "{bytes:?}");
        assert_eq!(session.violation(), violation, "{bytes:?}");
        let is_violation = bytes != raw_frame(0x88, b"");
        assert_eq!(session.violation_detail().is_some(), is_violation, "{bytes:?}");
    }
}
