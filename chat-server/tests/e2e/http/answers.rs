//! Which status and which code each request gets.

use serde_json::Value;

use super::{UPGRADE, ask, server};
use crate::support::{Chat, exchange};

const KEY: &str = "Authorization: Bearer a key for backends\r\n";

async fn answer(server: &Chat, request: &str) -> (u16, String, String) {
    exchange(server.port(), request).await
}

/// All pairs of status and code (docs/protocol.md) by the requests that get them.
#[tokio::test]
async fn refusals_have_their_status_and_code() {
    let server = server(&["--api-key", "a key for backends", "--jwt-secret", SECRET]);
    let host = "Host: localhost\r\nConnection: close\r\n";
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\n{host}\r\n");
    let upgrade_and_close = UPGRADE.replace("Connection: Upgrade", "Connection: Upgrade, close");
    let upgrade = |target: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{upgrade_and_close}\r\n")
    };
    let post = |path: &str, headers: &str, body: &str| {
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\n{host}{headers}Content-Length: {length}\r\n\r\n{body}")
    };
    let json = format!("{KEY}Content-Type: application/json\r\n");
    let fields = |count: usize| "X: y\r\n".repeat(count);
    let table = [
        (get("/ws?userId=%ff"), 400, "bad_field"),
        (upgrade("/ws?userId=a&userId=b"), 400, "bad_field"),
        (upgrade("/?token=%ff"), 400, "bad_field"),
        (upgrade("/ws?x=%ff"), 400, "bad_field"),
        (upgrade("/ws?userId=%00"), 400, "bad_field"),
        (upgrade("/ws?history=many"), 400, "bad_field"),
        (upgrade("/join-room/%ff"), 400, "bad_field"),
        (get("/join-room/%ff"), 400, "bad_field"),
        (get("/join-room/%00"), 400, "room_name_invalid"),
        (get("/web/%ff"), 400, "bad_field"),
        (post("/create-room?token=%ff", "", ""), 400, "bad_field"),
        (post("/api/users/%ff/unban", KEY, ""), 400, "bad_field"),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400, "bad_field"),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GARBAGE\r\n\r\n".to_owned(), 400, "bad_request"),
        (get("/ws"), 426, "no_websocket"),
        (upgrade("/ws").replace("websocket", "h2c"), 426, "no_websocket"),
        (upgrade("/").replace("websocket", "h2c"), 426, "no_websocket"),
        (upgrade("/join-room/r").replace("websocket", "TLS/1.0"), 426, "no_websocket"),
        (upgrade("/ws").replace("Version: 13", "Version: 8"), 426, "no_websocket"),
        (upgrade("/ws").replace("dGhl", "????"), 400, "no_websocket"),
        (upgrade("/ws").replace("HTTP/1.1", "HTTP/1.0"), 400, "no_websocket"),
        (post("/create-room", "", ""), 401, "unauthorized"),
        (upgrade("/ws?token=x"), 401, "unauthorized"),
        (upgrade("/join-room/r"), 401, "unauthorized"),
        (post("/api/rooms/r/kick", "", "{}"), 401, "unauthorized"),
        (get("/").replace("localhost", "evil.example"), 403, "host_not_allowed"),
        (
            upgrade("/ws").replace("Upgrade:", "Origin: http://evil.example\r\nUpgrade:"),
            403,
            "origin_not_allowed",
        ),
        (post("/create-room", "Origin: http://evil.example\r\n", ""), 403, "origin_not_allowed"),
        (get("/nothing"), 404, "not_found"),
        (get("/web/nothing.js"), 404, "not_found"),
        (post("/api/nothing", KEY, ""), 404, "not_found"),
        (post("/ws", "", ""), 405, "method_not_allowed"),
        (post("/healthz", "", ""), 405, "method_not_allowed"),
        (post("/readyz", "", ""), 405, "method_not_allowed"),
        (post("/metrics", "", ""), 405, "method_not_allowed"),
        (get("/create-room"), 405, "method_not_allowed"),
        (
            get("/api/rooms/r/kick").replace("\r\n\r\n", &format!("\r\n{KEY}\r\n")),
            405,
            "method_not_allowed",
        ),
        (post("/create-room", "", &"x".repeat(20_000)), 413, "body_too_large"),
        (post("/nothing", "", &"x".repeat(20_000)), 413, "body_too_large"),
        (post("/api/rooms/r/kick", &json, &"x".repeat(1_048_577)), 413, "body_too_large"),
        (post("/api/rooms/r/kick", KEY, r#"{"user":"bob"}"#), 415, "unsupported_media_type"),
        (post("/api/rooms/r/kick", KEY, ""), 415, "unsupported_media_type"),
        (post("/api/users/bob/disconnect", KEY, "{}"), 415, "unsupported_media_type"),
        (
            format!(
                "POST /api/rooms/r/kick HTTP/1.1\r\n{host}{json}Transfer-Encoding: chunked\r\n\r\n?\r\n"
            ),
            400,
            "bad_request",
        ),
        (post("/api/rooms/r/kick", &json, "{"), 400, "bad_json"),
        (post("/api/users/bob/disconnect", &json, "{"), 400, "bad_json"),
        (post("/api/rooms/r/kick", &json, "{}"), 400, "missing_field"),
        (post("/api/rooms/r/kick", &json, r#"{"user":7}"#), 422, "bad_field"),
        (post("/api/users/bob/disconnect", &json, r#"{"x":7}"#), 422, "bad_field"),
        (get("/").replace("\r\n\r\n", &format!("\r\n{}\r\n", fields(98))), 200, ""),
        (get("/").replace("\r\n\r\n", &format!("\r\n{}\r\n", fields(99))), 431, "head_too_large"),
        (get(&format!("/?{}", "x".repeat(17_000))), 431, "head_too_large"),
    ];
    let mut wrong = Vec::new();
    for (request, status, code) in table {
        let (got, head, body) = answer(&server, &request).await;
        let json: Option<Value> = serde_json::from_str(&body).ok();
        let says = json.as_ref().is_some_and(|json| {
            let is_said = json["message"].as_str().is_some_and(|message| !message.is_empty());
            json["code"] == code && is_said && head.contains("content-type: application/json")
        });
        // A 405 says what would do, a 426 what it would be.
        let helps = match status {
            405 => head.contains("\r\nallow: "),
            426 => head.contains("\r\nupgrade: websocket") && head.contains("connection: upgrade"),
            431 => body.contains("100 header fields and 16384 bytes"),
            _ => true,
        };
        if got != status || !(says || code.is_empty()) || !helps {
            wrong.push(format!("{request:.90?}: {status} {code}, got {got} {head} {body:.200}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const SECRET: &str = "a secret of at least thirty-two bytes";

/// What a balancer asks to see whether a server is there.
#[tokio::test]
async fn probes_get_what_balancers_expect() {
    let server = server(&["--api-key", "a key for backends"]);
    let mut wrong = Vec::new();
    for (line, status, allow) in [
        ("OPTIONS *", 204, "get,head,post,options"),
        ("OPTIONS /", 204, "get,head,options"),
        ("OPTIONS /ws", 204, "get,head,options"),
        ("OPTIONS /ws/", 204, "get,head,options"),
        ("OPTIONS /join-room/r", 204, "get,head,options"),
        ("OPTIONS /create-room", 204, "post,options"),
        ("OPTIONS /web/app.js", 204, "get,head,options"),
        ("OPTIONS /healthz", 204, "get,head,options"),
        ("OPTIONS /readyz", 204, "get,head,options"),
        ("OPTIONS /metrics", 204, "get,head,options"),
        ("OPTIONS /nothing", 404, ""),
        ("HEAD /", 200, ""),
        ("HEAD /join-room/r", 200, ""),
        ("HEAD /join-room/r/", 200, ""),
        ("HEAD /web/app.js", 200, ""),
        ("HEAD /healthz", 200, ""),
        ("HEAD /metrics", 200, ""),
        ("HEAD /ws", 426, ""),
        ("HEAD /ws/", 426, ""),
        ("HEAD /create-room", 405, "post,options"),
        ("GET /create-room/", 405, "post,options"),
        ("DELETE /", 405, "get,head,options"),
        ("PUT /healthz", 405, "get,head,options"),
        ("POST /metrics", 405, "get,head,options"),
        ("TRACE /", 405, "get,head,options"),
    ] {
        let (got, head) = ask(server.port(), line, "Connection: close\r\n").await;
        let allowed = head.split("\r\nallow: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        if got != status || !allow.is_empty() && allowed != Some(allow) {
            wrong.push(format!("{line}: {head}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Header fields that are lists: several lines are one list, blanks and tabs, any case.
#[tokio::test]
async fn handshake_is_read_as_lists() {
    let server = server(&[]);
    const REST: &str =
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n";
    for (headers, protocol) in [
        ("Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade:\tWEBSOCKET\t\r\n", ""),
        ("connection: ,keep-alive\t,\tuPGRADE ,\r\nupgrade: ,h2c,,WebSocket\r\n", ""),
        (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: v9\r\n\
             Sec-WebSocket-Protocol: ,x,\tchat.v1\t,y\r\n",
            "chat.v1",
        ),
        (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: a; b=\",\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\n",
            "",
        ),
    ] {
        for path in ["/", "/ws", "/ws/", "/join-room/r", "/join-room/r/"] {
            let (status, head) =
                ask(server.port(), &format!("GET {path}"), &format!("{headers}{REST}")).await;
            assert_eq!(status, 101, "{path} {headers}: {head}");
            assert!(head.contains("\r\nsec-websocket-accept: "), "{head}");
            let chosen = head.split("sec-websocket-protocol: ").nth(1);
            let chosen = chosen.and_then(|rest| rest.split("\r\n").next()).unwrap_or_default();
            assert_eq!(chosen, protocol, "{headers}");
        }
    }
}

/// Browsers then fail the connection; other clients use it without a subprotocol.
#[tokio::test]
async fn offer_of_unknown_subprotocols_gets_none() {
    let server = server(&[]);
    for (offer, chosen) in [("v9", None), ("v9, chat.v2", None), ("v9, chat.v1", Some("chat.v1"))] {
        let headers = format!("Sec-WebSocket-Protocol: {offer}\r\n{UPGRADE}");
        let (status, head) = ask(server.port(), "GET /ws", &headers).await;
        assert_eq!(status, 101, "{offer}: {head}");
        let named = head.split("sec-websocket-protocol: ").nth(1);
        assert_eq!(named.and_then(|rest| rest.split("\r\n").next()), chosen, "{offer}: {head}");
    }
}

/// Some proxies send `Connection: upgrade` with every request, and `Upgrade` only if it was there.
#[tokio::test]
async fn page_is_for_those_who_ask_for_no_upgrade() {
    let server = server(&[]);
    for path in ["/", "/join-room/r"] {
        let line = format!("GET {path}");
        for (headers, status) in [
            ("", 200),
            ("Connection: upgrade\r\n", 200),
            ("Connection: upgrade\r\nUpgrade:\r\n", 200),
            ("Upgrade-Insecure-Requests: 1\r\n", 200),
            ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n", 426),
            ("Connection: Upgrade\r\nUpgrade: TLS/1.2\r\nUpgrade: h2c\r\n", 426),
            ("Upgrade: websocket\r\n", 426),
        ] {
            let (got, head) = ask(server.port(), &line, headers).await;
            assert_eq!(got, status, "{path} {headers}: {head}");
        }
    }
    for path in ["/web/app.js", "/healthz"] {
        let (status, _) =
            ask(server.port(), &format!("GET {path}"), "Connection: Upgrade\r\nUpgrade: h2c\r\n")
                .await;
        assert_eq!(status, 200, "{path}: an upgrade that nobody offers is ignored");
    }
}
