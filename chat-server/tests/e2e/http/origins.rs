//! Pages elsewhere: why they are refused, and which are not.

use super::{UPGRADE, ask, server};

#[tokio::test]
async fn foreign_origin_of_handshakes_is_logged() {
    let server = server(&[]);
    let connect = async |origin: &str| {
        ask(server.port(), "GET /ws", &format!("Origin: {origin}\r\n{UPGRADE}")).await.0
    };
    for _ in 0..5 {
        assert_eq!(connect("https://app.example").await, 403);
    }
    assert_eq!(connect("https://b.example").await, 403);
    let line = server.until_logged("app.example");
    for part in ["WARN", "origin=\"https://app.example\"", "localhost", "the setting allow-origin"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    server.until_logged("b.example");
    assert_eq!((server.logged("app.example"), server.logged("b.example")), (5, 1));
    // Any number of origins that a client makes up.
    for n in 0..100 {
        assert_eq!(connect(&format!("https://{n}.{}.example", "x".repeat(2000))).await, 403);
    }
    // A minute may end in between.
    assert!(server.logged("foreign_origin") <= 120);
    assert!(server.log().iter().all(|line| line.len() < 1000));
    let refused = "chat_refused_handshakes_total{status=\"403\",reason=\"foreign_origin\"}";
    assert_eq!(server.metric(refused).await, 106);
}

/// Which the browser refuses by itself: it asks first, or may not read the answer.
#[tokio::test]
async fn foreign_origin_of_cors_is_logged() {
    let server = server(&[]);
    for (line, origin) in [
        ("OPTIONS /create-room", "https://asks.example"),
        ("GET /web/chat-client.js", "https://imports.example"),
    ] {
        let headers = format!("Origin: {origin}\r\nConnection: close\r\n");
        let (_, head) = ask(server.port(), line, &headers).await;
        assert!(!head.contains("access-control-allow-origin"), "{head}");
        server.until_logged(origin);
    }
}

#[tokio::test]
async fn refused_handshakes_are_counted_by_reason() {
    let server = server(&[]);
    for (line, headers, reason) in [
        ("GET /ws", String::new(), "no_upgrade"),
        ("GET /ws", UPGRADE.replace("Version: 13", "Version: 8"), "version"),
        ("GET /ws", UPGRADE.replace("dGhl", "????"), "key"),
        ("GET /ws?userId=%ff", UPGRADE.to_owned(), "bad_field"),
        ("GET /join-room/%00", UPGRADE.to_owned(), "room_name_invalid"),
    ] {
        let (status, _) = ask(server.port(), line, &headers).await;
        let name =
            format!("chat_refused_handshakes_total{{status=\"{status}\",reason=\"{reason}\"}}");
        assert_eq!(server.metric(&name).await, 1, "{line} {headers}");
    }
}

#[tokio::test]
async fn listed_origins_are_those_that_browsers_send() {
    let listed = "https://port.example:443, https://m\u{fc}nchen.example, file://, \
                  capacitor://localhost, HTTPS://Upper.Example/";
    let server = server(&["--allow-origin", listed]);
    for (origin, status) in [
        ("https://port.example", 101),
        ("https://xn--mnchen-3ya.example", 101),
        ("file://", 101),
        ("capacitor://localhost", 101),
        ("https://upper.example", 101),
        ("http://port.example", 403),
        ("ionic://localhost", 403),
        ("null", 403),
    ] {
        let headers = format!("Origin: {origin}\r\n{UPGRADE}");
        let (got, head) = ask(server.port(), "GET /ws", &headers).await;
        assert_eq!(got, status, "{origin}: {head}");
    }
}
