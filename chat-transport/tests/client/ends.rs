//! How connections end, and whether and when the client reconnects.

use std::time::Duration;

use chat_transport::client::{Client, ClientConfig, ClientError, Event, Resume, State};
use serde_json::json;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::mock::{Mock, joined, next, next_state, quick};

/// In paused time: how long the client waits after the end that `end` makes.
async fn pause_after(config: ClientConfig, end: impl AsyncFnOnce(crate::mock::Peer)) -> Duration {
    let (mock, peer, _client, mut events) = joined(0, config).await;
    end(peer).await;
    loop {
        match next_state(&mut events).await {
            State::Waiting { retry_in, .. } => {
                let begun = Instant::now();
                mock.welcome().await;
                let waited = begun.elapsed();
                assert!(waited >= retry_in && waited < retry_in + Duration::from_millis(10));
                return retry_in;
            }
            State::Closed { loss } => panic!("closed: {loss}"),
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn client_pauses_after_a_loss_and_longer_after_a_goodbye() {
    for code in [1001, 1008, 1009, 1011, 1013, 4000, 4001, 4999] {
        let pause = pause_after(ClientConfig::default(), async |peer| peer.close(code).await).await;
        assert!(pause < Duration::from_millis(500), "{code}: {pause:?}");
    }
    // Of proxies: a restart, and no answer from what is behind them.
    for code in [1012_u16, 1014] {
        let frame = [&[0x88, 2][..], &code.to_be_bytes()].concat();
        let end = async |mut peer: crate::mock::Peer| peer.send_bytes(&frame).await;
        let pause = pause_after(ClientConfig::default(), end).await;
        assert!(pause < Duration::from_millis(500), "{code}: {pause:?}");
    }
    let pause = pause_after(ClientConfig::default(), async |mut peer| {
        let goodbye =
            json!({"type":"goodbye","reason":"shutdown","reconnect":true,"after_ms":7000});
        peer.send(goodbye).await;
        peer.close(1001).await;
    })
    .await;
    assert!(pause >= Duration::from_secs(7) && pause < Duration::from_millis(7500), "{pause:?}");
}

#[tokio::test]
async fn final_close_codes_end_the_client() {
    for code in [1000, 1002, 1003, 1007, 4002, 4003, 4004] {
        let (_mock, peer, client, mut events) = joined(0, quick()).await;
        peer.close(code).await;
        let State::Closed { loss } = next_state(&mut events).await else { panic!("{code}") };
        assert_eq!((loss.code, &*loss.reason), (Some(code), "so it is"));
        assert!(events.recv().await.is_none());
        let error = ClientError::Closed { loss: loss.clone() };
        assert_eq!(client.join("general", 0).await, Err(error));
        assert_eq!(client.state(), State::Closed { loss });
    }
}

#[tokio::test]
async fn goodbye_says_whether_to_reconnect() {
    let (_mock, mut peer, _client, mut events) = joined(0, quick()).await;
    peer.send(json!({"type":"goodbye","reason":"moved","reconnect":false,"after_ms":0,
        "message":"Restarting.","until":1_795_403_835_072_u64}))
        .await;
    peer.close(1001).await;
    let Event::Goodbye { reason, reconnect, after, message, until } = next(&mut events).await
    else {
        panic!("no goodbye")
    };
    assert_eq!((&*reason, reconnect, after), ("moved", false, Duration::ZERO));
    assert_eq!((message.as_deref(), until), (Some("Restarting."), Some(1_795_403_835_072)));
    let State::Closed { loss } = next_state(&mut events).await else { panic!("not closed") };
    assert_eq!((&loss.message, loss.until), (&message, until));
    assert_eq!(loss.to_string(), "moved (1001)");
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_until_a_connection_lasts() {
    let mock = Mock::start().await;
    let (base, cap) = (Duration::from_secs(10), Duration::from_secs(40));
    let (_client, mut events) =
        mock.client(ClientConfig::default().backoff_base(base).backoff_cap(cap));
    let mut longest = [Duration::ZERO; 10];
    for round in 0..100 {
        let peer = mock.welcome().await;
        // Of ten connections the first lasts.
        if round % 10 == 0 {
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        drop(peer);
        let pause = loop {
            if let State::Waiting { retry_in, .. } = next_state(&mut events).await {
                break retry_in;
            }
        };
        longest[round % 10] = longest[round % 10].max(pause);
    }
    assert!(longest[0] < base && longest[1] < 2 * base, "{longest:?}");
    assert!(longest.iter().all(|pause| *pause < cap), "{longest:?}");
    assert!(longest.iter().any(|pause| *pause > 2 * base), "{longest:?}");
}

/// A client that breaks a limit each time is not back each time within the first pause, also if
/// that takes it longer than other losses take to count as new ones.
#[tokio::test(start_paused = true)]
async fn pauses_grow_while_a_limit_ends_connections() {
    for code in [1008, 1009] {
        let mock = Mock::start().await;
        let (base, cap) = (Duration::from_secs(10), Duration::from_secs(40));
        let (_client, mut events) =
            mock.client(ClientConfig::default().backoff_base(base).backoff_cap(cap));
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let peer = mock.welcome().await;
            tokio::time::sleep(Duration::from_secs(6)).await;
            peer.close(code).await;
            longest = longest.max(loop {
                if let State::Waiting { retry_in, .. } = next_state(&mut events).await {
                    break retry_in;
                }
            });
        }
        assert!(longest > base, "{code}: {longest:?}");
    }
}

#[tokio::test]
async fn addresses_are_tried_in_turn() {
    let (first, second) = (Mock::start().await, Mock::start().await);
    let refused = {
        let closed = Mock::start().await;
        closed.url.clone()
    };
    let urls = [&*first.url, &*refused, &*second.url];
    let (_client, mut events) = Client::connect(urls, quick()).unwrap();
    drop(first.welcome().await);
    drop(second.welcome().await);
    let _peer = first.welcome().await;
    let mut tried = Vec::new();
    while tried.len() < 4 {
        if let State::Connecting { url } = next_state(&mut events).await {
            tried.push(url);
        }
    }
    assert_eq!(tried, [&*first.url, &*refused, &*second.url, &*first.url]);
}

#[test]
fn invalid_addresses_are_refused() {
    let fails = |urls: &[&str]| match Client::connect(urls.iter().copied(), quick()) {
        Err(ClientError::Url { url, .. }) => url,
        other => panic!("{other:?}"),
    };
    assert_eq!(fails(&["ws://localhost/ws", "http://localhost/ws"]), "http://localhost/ws");
    assert_eq!(fails(&[""]), "");
    let no_urls = Client::connect(Vec::<String>::new(), quick());
    assert_eq!(no_urls.unwrap_err(), ClientError::NoUrl);
}

#[tokio::test]
async fn rejected_hello_closes_the_client() {
    let mock = Mock::start().await;
    let (_client, mut events) = mock.client(quick().resume(Resume::new("secret.eve")));
    let mut peer = mock.accept().await;
    let hello = peer.recv("hello").await;
    assert_eq!(hello["resume"], "secret.eve");
    peer.refuse(&hello, "forbidden").await;
    next_state(&mut events).await;
    let State::Closed { loss } = next_state(&mut events).await else { panic!("not closed") };
    assert_eq!((loss.code, &*loss.reason), (None, "forbidden: No."));
}

#[tokio::test(start_paused = true)]
async fn missing_welcome_times_out() {
    let mock = Mock::start().await;
    let (_client, mut events) = mock.client(ClientConfig::default());
    let mut peer = mock.accept().await;
    peer.recv("hello").await;
    let begun = Instant::now();
    next_state(&mut events).await;
    let State::Waiting { loss, .. } = next_state(&mut events).await else { panic!("waits on") };
    assert_eq!(loss.reason, "no welcome in time");
    assert_eq!(begun.elapsed().as_secs(), 10);
    mock.welcome().await;
}

#[tokio::test(start_paused = true)]
async fn silent_server_is_pinged_and_then_abandoned() {
    let (_mock, mut peer, _client, mut events) = joined(0, ClientConfig::default()).await;
    let begun = Instant::now();
    for round in 1..=2 {
        let Some(Ok(Frame::Ping(_))) = peer.recv_raw().await else { panic!("not a ping") };
        assert_eq!(begun.elapsed().as_secs(), 25 * round);
        // The library answers with the next thing that it does.
        peer.send_raw(Frame::Pong(Default::default())).await;
    }
    let State::Waiting { loss, .. } = next_state(&mut events).await else { panic!("waits on") };
    assert_eq!(loss.reason, "no answer to a ping");
    assert_eq!(begun.elapsed().as_secs(), 50 + 35);
}

/// As that of a frozen process: it was sent a message, and says nothing.
#[tokio::test(start_paused = true)]
async fn server_that_answers_no_request_is_abandoned_after_ten_seconds() {
    let (_mock, mut peer, client, mut events) = joined(0, ClientConfig::default()).await;
    let begun = Instant::now();
    let sending = tokio::spawn(async move { client.send("general", "hi").await });
    peer.recv("send").await;
    let Some(Ok(Frame::Ping(_))) = peer.recv_raw().await else { panic!("not a ping") };
    assert_eq!(begun.elapsed().as_secs(), 5);
    let State::Waiting { loss, .. } = next_state(&mut events).await else { panic!("waits on") };
    assert_eq!(loss.reason, "no answer to a ping");
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert!(!sending.is_finished(), "the message is sent again");
}

#[tokio::test]
async fn pings_are_answered_at_once() {
    let (_mock, mut peer, _client, _events) = joined(0, quick()).await;
    for payload in ["one", "two"] {
        peer.send_raw(Frame::Ping(payload.into())).await;
        let Some(Ok(Frame::Pong(answer))) = peer.recv_raw().await else { panic!("not a pong") };
        assert_eq!(answer, payload);
    }
}

#[tokio::test]
async fn closing_ends_the_connection_and_the_events() {
    let (_mock, mut peer, client, mut events) = joined(0, quick()).await;
    let serve = async {
        let Some(Ok(Frame::Close(Some(frame)))) = peer.recv_raw().await else { panic!("no close") };
        assert_eq!(u16::from(frame.code), 1000);
        while let Some(Ok(_)) = peer.recv_raw().await {}
    };
    tokio::join!(client.close(), serve);
    let State::Closed { loss } = next_state(&mut events).await else { panic!("not closed") };
    assert_eq!(loss.code, Some(1000));
    assert!(events.recv().await.is_none());
    client.close().await;
}

#[tokio::test]
async fn last_dropped_handle_closes_the_client() {
    let (_mock, mut peer, client, mut events) = joined(0, quick()).await;
    let other = client.clone();
    drop(client);
    assert_eq!(other.state(), State::Online);
    drop(other);
    while let Some(Ok(_)) = peer.recv_raw().await {}
    assert!(matches!(next_state(&mut events).await, State::Closed { .. }));
    assert!(events.recv().await.is_none());
}

/// The server does not answer the close frame, for which the client waits for five seconds.
#[tokio::test(start_paused = true)]
async fn calls_made_while_the_client_closes_are_answered_at_once() {
    let (_mock, mut peer, client, mut events) = joined(0, quick().send_queue(1)).await;
    let send = client.send("general", "hi");
    let waiting = client.send("general", "no place");
    let serve = async {
        peer.recv("send").await;
        let begun = Instant::now();
        let close = client.close();
        let calls = async {
            assert!(matches!(next_state(&mut events).await, State::Closed { .. }));
            assert!(matches!(client.join("other", 0).await, Err(ClientError::Closed { .. })));
            assert!(matches!(client.leave("general").await, Err(ClientError::Closed { .. })));
            assert!(matches!(
                client.send("general", "late").await,
                Err(ClientError::Closed { .. })
            ));
            assert!(matches!(
                client.direct("bob", "late", None).await,
                Err(ClientError::Closed { .. })
            ));
            assert!(matches!(
                client.typing("general", true).await,
                Err(ClientError::Closed { .. })
            ));
            assert!(matches!(client.members("general").await, Err(ClientError::Closed { .. })));
            client.close().await;
            begun.elapsed()
        };
        let ((), answered) = tokio::join!(close, calls);
        assert!(answered < Duration::from_secs(1), "{answered:?}");
        assert!(begun.elapsed() >= Duration::from_secs(5), "the close frame was not waited for");
    };
    let begun = Instant::now();
    let outcome = async { (send.await, waiting.await, begun.elapsed()) };
    let ((sent, not_sent, after), ()) = tokio::join!(outcome, serve);
    assert!(matches!(sent, Err(ClientError::OutcomeUnknown { .. })), "{sent:?}");
    assert!(matches!(not_sent, Err(ClientError::Closed { .. })));
    assert!(after < Duration::from_secs(1), "{after:?}");
}

/// The process is stopped, or its machine sleeps, for longer than all deadlines: so is this thread.
/// The server is there all the time.
#[test]
fn suspended_process_does_not_time_out_the_server() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tell_url, url) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        runtime().block_on(async {
            let mock = Mock::start().await;
            tell_url.send(mock.url.clone()).unwrap();
            let mut peer = mock.welcome().await;
            let serve = async {
                let send = peer.recv("join").await;
                peer.send(crate::mock::joined_frame(&send, 0, false, &[])).await;
                let send = peer.recv("send").await;
                peer.ok(&send, 1).await;
                // Answers pings, and there is no second connection.
                while let Some(Ok(_)) = peer.recv_raw().await {}
            };
            tokio::select! {
                // The end first: the client is dropped right after it.
                biased;
                _ = ended => {}
                () = serve => panic!("the client has ended the connection"),
                _ = mock.accept() => panic!("the client has connected again"),
            }
        });
    });
    runtime().block_on(async {
        let short = Duration::from_millis(300);
        let config = quick()
            .ping_after(short)
            .pong_timeout(short)
            .request_timeout(short)
            .send_timeout(short);
        let (client, mut events) = Client::connect([url.recv().unwrap()], config).unwrap();
        client.join("general", 0).await.unwrap();
        for _ in 0..3 {
            // A ping is on its way, and for the last time a message.
            tokio::time::sleep(Duration::from_millis(310)).await;
            std::thread::sleep(Duration::from_millis(1700));
        }
        let send = tokio::spawn({
            let client = client.clone();
            async move { client.send("general", "hi").await }
        });
        // It is on the wire when the thread stops.
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::thread::sleep(Duration::from_millis(1700));
        assert_eq!(send.await.unwrap().unwrap().position.unwrap().offset, 1);
        tokio::time::sleep(short * 3).await;
        assert_eq!(client.state(), State::Online);
        while let Ok(Some(event)) = tokio::time::timeout(short / 10, events.recv()).await {
            let is_loss =
                matches!(event, Event::State(State::Waiting { .. } | State::Closed { .. }));
            assert!(!is_loss, "{event:?}");
        }
        end.send(()).unwrap();
    });
    server.join().unwrap();
}
