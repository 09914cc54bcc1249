//! A server within an application, whose own parts may be slow.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use chat_core::UserId;
use chat_server::{
    Action, AuthError, Authenticator, Authorizer, Credentials, Identity, Rate, Server, ServerConfig,
};
use chat_transport::testing::WsClient;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};

use crate::support::{DEADLINE, ask, exchange};

/// Answers to some tokens, and never to "slow"; "brief" holds for a second. Takes a while over the
/// room "sluggish".
#[derive(Debug)]
struct Slow;

/// With this, the end of "brief" and that of its extension are both noticed more than 1 s late.
const SLUGGISH: Duration = Duration::from_millis(2200);

#[async_trait]
impl Authenticator for Slow {
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        match client.token.ok_or(AuthError::Missing)? {
            "slow" => pending().await,
            "brief" => {
                let end = SystemTime::now() + Duration::from_secs(1);
                Ok(Identity::new(UserId::new("brief").unwrap()).expires(Some(end)))
            }
            user => Ok(Identity::new(UserId::new(user).map_err(|_| AuthError::Missing)?)),
        }
    }
}

#[async_trait]
impl Authorizer for Slow {
    async fn allows(&self, _: &Identity, what: Action<'_>) -> bool {
        match what {
            Action::InRoom(_, room) if room.as_str() == "slow" => pending().await,
            Action::InRoom(_, room) if room.as_str() == "sluggish" => sleep(SLUGGISH).await,
            _ => {}
        }
        true
    }
}

#[tokio::test]
async fn application_that_does_not_answer_is_not_waited_for() {
    let config = ServerConfig::default().auth_timeout(Duration::from_millis(500));
    let server = Server::builder().config(config).authenticator(Slow).authorizer(Slow).start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move { server.serve(vec![listener], pending()).await });
    let native = [("Sec-WebSocket-Protocol", "chat.v1")];
    let url = |token: &str| format!("ws://127.0.0.1:{port}/ws?token={token}");

    let refused = WsClient::try_connect(&url("slow"), &native).await;
    assert_eq!(refused.err().map(|status| status.as_u16()), Some(503));
    let mut ann = WsClient::connect_with(&url("ann"), &native).await;
    let hello = json!({"type": "hello", "token": "slow"});
    assert_eq!(ask(&mut ann, "error", hello).await["code"], "broker_unavailable");

    let began = Instant::now();
    let join = json!({"type": "join", "room": "slow"});
    assert_eq!(ask(&mut ann, "error", join).await["code"], "forbidden");
    assert!(began.elapsed() >= Duration::from_secs(4), "it was asked");
    ask(&mut ann, "joined", json!({"type": "join", "room": "r"})).await;
    serving.abort();
}

/// Commands that keep the server busy past each deadline extend the connection once, not once for
/// each deadline.
#[tokio::test]
async fn busy_connection_ends_with_its_token() {
    let config =
        ServerConfig::default().auth_timeout(Duration::from_secs(1)).token_grace(Duration::ZERO);
    let server = Server::builder().config(config).authenticator(Slow).authorizer(Slow).start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws?token=brief", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { server.serve(vec![listener], pending()).await });
    let mut client = WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
    let typing = json!({"type": "typing", "room": "sluggish", "typing": true}).to_string();
    let until_goodbye = async {
        loop {
            client.send(&typing).await;
            let answer = client.recv_json().await;
            if answer["type"] == "goodbye" {
                return answer;
            }
        }
    };
    let closed = timeout(DEADLINE, until_goodbye).await.expect("the token was for 1 s");
    assert_eq!(closed["reason"], "token_expired");
    assert_eq!(client.recv_close().await.0, 4004);
    serving.abort();
}

/// Records how often another task has run by the time of each call.
#[derive(Debug, Clone, Default)]
struct Observer {
    other_runs: Arc<AtomicU64>,
    calls: Arc<Mutex<Vec<u64>>>,
}

#[async_trait]
impl Authorizer for Observer {
    async fn allows(&self, _: &Identity, _: Action<'_>) -> bool {
        self.calls.lock().unwrap().push(self.other_runs.load(Ordering::Relaxed));
        true
    }
}

/// Else messages that arrive together are published, and delivered, in two batches, and a client
/// that waits for both keeps them apart.
#[tokio::test]
async fn frames_that_arrive_together_are_handled_together() {
    let observer = Observer::default();
    let server = Server::builder().authenticator(Slow).authorizer(observer.clone()).start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws?token=ann", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { server.serve(vec![listener], pending()).await });
    let mut client = WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
    let other_runs = Arc::clone(&observer.other_runs);
    let other = tokio::spawn(async move {
        loop {
            other_runs.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
        }
    });
    let send = json!({"type": "send", "room": "r", "message": "hi"}).to_string();
    for _ in 0..40 {
        // The server's task does not run in between: both frames are in its socket.
        client.send(&send).await;
        client.send(&send).await;
        for _ in 0..2 {
            assert_eq!(client.recv_json().await["code"], "not_in_room");
        }
    }
    let calls = observer.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 80);
    assert!(calls.chunks(2).all(|pair| pair[0] == pair[1]), "{calls:?}");
    other.abort();
    serving.abort();
}

/// The rule for hosts is one of the routes of the server, wherever they are mounted.
#[tokio::test]
async fn hosts_are_checked_below_a_path_of_an_application() {
    let config = ServerConfig::default().allow_host(vec!["app.example".to_owned()]);
    let server = Server::builder().config(config).start();
    let own = axum::routing::get(async || "an application");
    let routes = axum::Router::new().route("/", own).nest("/chat", server.router());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
    for (path, host, status) in [
        ("/chat", "app.example", 200),
        ("/chat", "localhost", 200),
        ("/chat", "evil.example", 403),
        ("/chat/ws", "evil.example", 403),
        ("/chat/nothing", "evil.example", 403),
        ("/", "evil.example", 200),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (answer, _, body) = exchange(port, &request).await;
        assert_eq!(answer, status, "{path} of {host}: {body}");
    }
    serving.abort();
}

/// Sessions by cookie. Each of the handshakes, of which there are so many, is valid for one second; then
/// ann's session is extended, that of carl is dora's, and others have ended.
#[derive(Debug)]
struct Cookies(AtomicU64);

#[async_trait]
impl Authenticator for Cookies {
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        let cookie = client.headers.and_then(|headers| headers.get("cookie"));
        let user = cookie.ok_or_else(|| AuthError::invalid("log in first"))?.to_str().unwrap();
        let handshakes =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let (user, left) = match (handshakes.is_ok(), user) {
            (true, user) => (user, 1),
            (false, "ann") => ("ann", 600),
            (false, "carl") => ("dora", 600),
            (false, user) => (user, 0),
        };
        let end = SystemTime::now() + Duration::from_secs(left);
        Ok(Identity::new(UserId::new(user).unwrap()).expires(Some(end)))
    }
}

#[tokio::test]
async fn extended_session_of_a_cookie_keeps_its_connection() {
    let config = ServerConfig::default().token_grace(Duration::from_secs(1));
    let (url, serving) = with_cookies(config, 3).await;
    let mut ann = with_cookie(&url, "ann").await;
    let (mut bob, mut carl) = (with_cookie(&url, "bob").await, with_cookie(&url, "carl").await);
    for other in [&mut bob, &mut carl] {
        assert_eq!(other.recv_json().await["reason"], "token_expired");
        assert_eq!(other.recv_close().await.0, 4004);
    }
    let welcome = ask(&mut ann, "welcome", json!({"type": "hello"})).await;
    assert!(welcome["expires_in_ms"].as_u64().unwrap() > 500_000, "{welcome}");
    serving.abort();
}

#[tokio::test]
async fn session_that_ends_during_a_wait_for_the_budget_is_renewed() {
    let mut config = ServerConfig::default().token_grace(Duration::ZERO);
    config.limits.max_wait = Duration::from_secs(60);
    config.limits.connection.received_bytes = Some(Rate::new(1000, 1000));
    let (url, serving) = with_cookies(config, 1).await;
    let mut ann = with_cookie(&url, "ann").await;
    ask(&mut ann, "joined", json!({"type": "join", "room": "r"})).await;
    // Three seconds' worth.
    let text = "x".repeat(4000);
    ask(&mut ann, "ok", json!({"type": "send", "room": "r", "message": text})).await;
    serving.abort();
}

/// Serves clients that [`Cookies`] knows. Returns the URL.
async fn with_cookies(config: ServerConfig, handshakes: u64) -> (String, JoinHandle<()>) {
    let cookies = Cookies(AtomicU64::new(handshakes));
    let server = Server::builder().config(config).authenticator(cookies).start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let serving = async move {
        let _ = server.serve(vec![listener], pending()).await;
    };
    (url, tokio::spawn(serving))
}

async fn with_cookie(url: &str, cookie: &str) -> WsClient {
    WsClient::connect_with(url, &[("Sec-WebSocket-Protocol", "chat.v1"), ("Cookie", cookie)]).await
}

/// What a middleware of the application knows of a client.
#[derive(Debug, Clone)]
struct Session(&'static str);

/// Takes the session that the middleware has found.
#[derive(Debug)]
struct BySession;

#[async_trait]
impl Authenticator for BySession {
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        let session = client.extensions.and_then(|extensions| extensions.get::<Session>());
        let Session(user) = session.ok_or_else(|| AuthError::invalid("log in first"))?;
        Ok(Identity::new(UserId::new(user).unwrap()))
    }
}

/// The WebSocket below a path, and beside routes and a fallback of the application.
#[tokio::test]
async fn websocket_alone_is_part_of_an_application_with_sessions() {
    let config = ServerConfig::default().allow_host(vec!["app.example".to_owned()]);
    let chat = Server::builder().config(config).authenticator(BySession).start();
    let with_session = axum::middleware::from_fn(
        async |mut request: axum::extract::Request, next: axum::middleware::Next| {
            request.extensions_mut().insert(Session("ann"));
            next.run(request).await
        },
    );
    let routes = axum::Router::new()
        .route("/", axum::routing::get(async || "an application"))
        .nest("/chat", chat.websocket_router().layer(with_session))
        .merge(chat.websocket_router())
        .fallback(async || (axum::http::StatusCode::NOT_FOUND, "its own 404"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });

    let native = [("Sec-WebSocket-Protocol", "chat.v1")];
    let url = |path: &str| format!("ws://127.0.0.1:{port}{path}");
    let mut ann = WsClient::connect_with(&url("/chat/ws"), &native).await;
    assert_eq!(ask(&mut ann, "welcome", json!({"type": "hello"})).await["user"]["id"], "ann");
    for (path, host, status, text) in [
        ("/ws", "app.example", 426, "no_websocket"),
        ("/chat/ws", "evil.example", 403, "the setting allow-host"),
        ("/chat/metrics", "evil.example", 404, "its own 404"),
        ("/create-room", "evil.example", 404, "its own 404"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (answer, _, body) = exchange(port, &request).await;
        assert!(answer == status && body.contains(text), "{path} of {host}: {answer} {body}");
    }
    let handshake = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (status, _, body) = exchange(port, handshake).await;
    assert_eq!(status, 401);
    assert!(body.contains("Authentication failed: log in first."), "{body}");
    serving.abort();
}
