//! Routes below a path: of an application, or of a proxy that takes the path away.

use std::collections::BTreeSet;

use axum::Router;
use axum::routing::get;
use chat_server::{Server, ServerConfig};
use chat_transport::testing::WsClient;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

use super::{ask, get as fetch, server};
use crate::support::exchange;

async fn application(config: ServerConfig, path: &str, is_service: bool) -> (u16, JoinHandle<()>) {
    let chat = Server::builder().config(config).start().router();
    let own = Router::new().route("/", get(async || "an application"));
    let routes = if is_service { own.nest_service(path, chat) } else { own.nest(path, chat) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (port, serving)
}

async fn created(port: u16, path: &str, host: &str) -> Url {
    let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    let (status, _, body) = exchange(port, &format!("{head}Content-Length: 0\r\n\r\n")).await;
    assert_eq!(status, 201, "{path}: {body}");
    let created: Value = serde_json::from_str(&body).unwrap();
    let url = created["url"].as_str().unwrap();
    assert!(url.ends_with(created["roomId"].as_str().unwrap()), "{url}");
    url.parse().unwrap()
}

/// Where the page at `address` has its files: as a browser that is there resolves what it says.
async fn files(port: u16, address: &Url, path: &str) -> BTreeSet<String> {
    let host = &address[url::Position::BeforeHost..url::Position::AfterPort];
    let (status, page) = fetch(port, path, host).await;
    assert_eq!(status, 200, "{path}: {page}");
    assert!(!page.contains(['{', '}']), "{page}");
    let links =
        page.split(['"']).filter(|text| text.contains("web-") && !text.contains(['<', ' ']));
    let files: BTreeSet<_> =
        links.map(|link| address.join(link).unwrap().path().to_owned()).collect();
    assert!(files.len() >= 4, "{files:?}");
    files
}

#[tokio::test]
async fn everything_is_where_it_is_nested() {
    for (mount, is_service) in [("/chat", false), ("/chat", true), ("/a/chat", false)] {
        let (port, serving) = application(ServerConfig::default(), mount, is_service).await;
        let at = |path: &str| format!("{mount}{path}");
        let room = created(port, &at("/create-room"), "localhost:3000").await;
        assert!(
            room.as_str().starts_with(&format!("http://localhost:3000{mount}/join-room/")),
            "{room}"
        );
        // axum's `nest` has no `/chat/`.
        let with_slash: &[&str] = if is_service { &["/", "/?room=x"] } else { &[] };
        let pages = ["", "?room=x", "/join-room/x", "/join-room/x/", "/join-room/a%2Fb"];
        for path in pages.iter().chain(with_slash) {
            let address = Url::parse(&format!("http://localhost:{port}{}", at(path))).unwrap();
            for file in files(port, &address, &at(path)).await {
                assert!(file.starts_with(&at("/web-")), "{path}: {file}");
                assert_eq!(fetch(port, &file, "localhost").await.0, 200, "{path}: {file}");
            }
        }
        for path in ["", "/ws", "/ws/", "/join-room/r", "/join-room/r/"] {
            WsClient::connect(&format!("ws://127.0.0.1:{port}{}", at(path))).await;
        }
        for path in ["", "/ws", "/ws/", "/create-room"] {
            let (status, head) = ask(port, &format!("OPTIONS {}", at(path)), "").await;
            assert_eq!(status, 204, "{path}: {head}");
        }
        for path in ["/nothing", "/metrics", "/healthz", "/readyz"] {
            assert_eq!(fetch(port, &at(path), "localhost").await.0, 404, "{path}");
        }
        assert_eq!(
            ask(port, "OPTIONS *", "").await.0,
            404,
            "of the application, which has no such"
        );
        serving.abort();
    }
}

#[tokio::test]
async fn public_url_has_the_path_of_the_mount_once() {
    for (public_url, base) in [
        ("https://app.example", "https://app.example/chat/join-room/"),
        ("https://app.example/chat/", "https://app.example/chat/join-room/"),
        ("https://app.example/base", "https://app.example/base/chat/join-room/"),
    ] {
        let config = ServerConfig::default().public_url(Some(public_url.to_owned()));
        let (port, serving) = application(config, "/chat", false).await;
        let room = created(port, "/chat/create-room", "app.example").await;
        assert!(room.as_str().starts_with(base), "{public_url}: {room}");
        serving.abort();
    }
}

/// nginx' `location /chat { proxy_pass http://server/; }`: the server sees nothing of `/chat`.
#[tokio::test]
async fn proxy_may_take_a_path_away() {
    let server = server(&["--public-url", "https://app.example/chat"]);
    let port = server.port();
    let room = created(port, "/create-room", "app.example").await;
    assert!(room.as_str().starts_with("https://app.example/chat/join-room/"), "{room}");
    for (address, path) in [
        ("https://app.example/chat", "/"),
        ("https://app.example/chat/", "/"),
        ("https://app.example/chat/join-room/x", "/join-room/x"),
        ("https://app.example/chat/join-room/x/", "/join-room/x/"),
    ] {
        for file in files(port, &address.parse().unwrap(), path).await {
            assert!(file.starts_with("/chat/web-"), "{address}: {file}");
        }
    }
    // The page works without the proxy, too.
    for path in ["/", "/join-room/x", "/join-room/x/"] {
        let address = format!("http://localhost:{port}{path}").parse().unwrap();
        for file in files(port, &address, path).await {
            assert!(file.starts_with("/web-"), "{path}: {file}");
        }
    }
}

/// docs/protocol.md: behind TLS a link needs `CHAT_PUBLIC_URL`, since the server does not see TLS.
#[tokio::test]
async fn link_behind_tls_needs_public_url() {
    let without = server(&["--allow-host", "chat.example"]);
    let room = created(without.port(), "/create-room", "chat.example").await;
    assert_eq!(room.scheme(), "http");
    let with = server(&["--public-url", "https://chat.example"]);
    let room = created(with.port(), "/create-room/", "chat.example").await;
    assert_eq!((room.scheme(), room.host_str()), ("https", Some("chat.example")));
}
