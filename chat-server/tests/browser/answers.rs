//! The files of the page and its requests, as the server answers them.

use crate::server::Server;

const HOST: &str = "Host: chat.example:8080";
const OURS: [&str; 2] = ["--allow-host", "chat.example"];

#[test]
fn the_page_is_locked_down_and_cached_by_its_content() {
    let server = Server::start_with(&OURS);
    for path in ["/", "/join-room/general"] {
        let (status, head, body) = server.request(&format!("GET {path}"), &[HOST]);
        assert_eq!(status, 200);
        assert!(body.starts_with("<!doctype html>"), "{body}");
        assert!(!body.contains("<script>") && !body.contains("style="), "nothing inline");
        for field in [
            "content-type: text/html; charset=utf-8",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; ",
            "connect-src 'self' http://chat.example:* https://chat.example:* ws://chat.example:* ",
            "frame-ancestors 'none'",
        ] {
            assert!(head.contains(field), "{field}: {head}");
        }
    }
    let (_, head, _) = server.request("GET /web/style.css", &[HOST]);
    assert!(head.contains("content-type: text/css"), "{head}");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an ETag");
    let known = format!("If-None-Match: {etag}");
    let (status, head, body) = server.request("GET /web/style.css", &[HOST, &known]);
    assert_eq!((status, body.as_str()), (304, ""));
    assert!(head.contains("cache-control: no-cache"), "{head}");
    assert_eq!(server.request("GET /web/../Cargo.toml", &[HOST]).0, 404);
    assert_eq!(server.request("GET /web/none.js", &[HOST]).0, 404);
}

/// During an upgrade a page of one version may ask a server of another.
#[test]
fn files_of_the_own_version_are_cached_and_those_of_another_are_not() {
    let server = Server::start_with(&OURS);
    let (_, _, page) = server.request("GET /", &[HOST]);
    let (_, rest) = page.split_once("/web-").expect("an address with a version");
    let (version, _) = rest.split_once('/').unwrap();
    for (version, caching) in
        [(version, "public, max-age=31536000, immutable"), ("0000000000000000", "no-cache")]
    {
        let (status, head, body) =
            server.request(&format!("GET /web-{version}/chat-client.js"), &[HOST]);
        assert_eq!(status, 200, "{version}");
        assert!(head.contains(&format!("cache-control: {caching}\r\n")), "{head}");
        assert!(body.contains("class ChatClient"), "{version}");
    }
}

#[test]
fn pages_elsewhere_import_and_post_only_if_allowed() {
    let server = Server::start_with(
        &[&OURS[..], &["--allow-origin", "https://app.example,https://b.example"]].concat(),
    );
    let (evil, other_port) = ("Origin: http://evil.example", "Origin: http://chat.example:5173");
    for origin in [other_port, "Origin: https://app.example", "Origin: https://b.example"] {
        let allowed = format!("access-control-allow-origin: {}", origin.replace("Origin: ", ""));
        for (line, expected) in [
            ("GET /web/chat-client.js", 200),
            ("POST /create-room", 201),
            ("OPTIONS /create-room", 204),
        ] {
            let (status, head, _) = server.request(line, &[HOST, origin]);
            assert_eq!(status, expected, "{line} {origin}");
            assert!(head.contains(&allowed) && head.contains("vary: origin"), "{line}: {head}");
        }
    }
    for (line, expected) in [
        ("GET /web/chat-client.js", 200),
        ("POST /create-room", 403),
        ("OPTIONS /create-room", 204),
    ] {
        let (status, head, _) = server.request(line, &[HOST, evil]);
        assert_eq!(status, expected, "{line}");
        assert!(!head.contains("access-control-allow-origin"), "{line}: {head}");
    }
    assert_eq!(server.request("POST /create-room", &[HOST]).0, 201, "not a page");
}

#[test]
fn handshakes_follow_the_same_rule() {
    let server = Server::start_with(&OURS);
    let upgrade = [
        HOST,
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    for path in ["/", "/ws", "/join-room/general"] {
        for origin in ["http://evil.example", "null", "http://localhost"] {
            let origin = format!("Origin: {origin}");
            let headers: Vec<_> = upgrade.into_iter().chain([origin.as_str()]).collect();
            let (status, _, body) = server.request(&format!("GET {path}"), &headers);
            assert_eq!(status, 403, "{path} {origin}");
            assert!(body.contains("allow-origin"), "{body}");
        }
    }
}
