//! Which tokens are accepted, and in which places of a request.

use std::time::Duration;

use chat_core::UserId;
use chat_server::{JwtSigner, TokenClaims};
use chat_transport::testing::WsClient;
use serde_json::json;

use super::{NATIVE, SECRET, claims, native, refusal, server, sign, signed, token, welcome};
use crate::support::{Chat, ask, command, exchange, next_of, run};

#[tokio::test]
async fn a_token_names_the_user_wherever_it_stands() {
    let server = server(&[]);
    let mut ann = claims("ann");
    ann.name = Some("Ann".to_owned());
    let token = sign(&ann);
    let bearer = format!("Bearer {token}");
    let url = format!("/ws?userId=eve&user=Eve&token={token}");
    let mut in_url = WsClient::connect_with(&server.ws(&url), &[NATIVE]).await;
    let headers = [NATIVE, ("Authorization", bearer.as_str())];
    let mut in_header = WsClient::connect_with(&server.ws("/ws?userId=eve"), &headers).await;
    let mut in_hello = server.native().await;
    let hello = json!({"type": "hello", "name": "Eve", "token": token});
    for (client, frame) in [
        (&mut in_url, json!({"type": "hello", "name": "Eve"})),
        (&mut in_header, json!({"type": "hello"})),
        (&mut in_hello, hello),
    ] {
        let welcome = welcome(client, frame).await;
        assert_eq!(welcome["user"]["id"], "ann");
        assert_eq!(welcome["user"]["name"], "Ann");
        assert!(welcome.get("resume").is_none(), "a secret that would prove the name");
        assert!(welcome["expires_in_ms"].as_u64().unwrap() > 590_000, "{welcome}");
    }
    assert_eq!(server.logged(&token), 0);
}

#[tokio::test]
async fn nobody_is_let_in_without_a_good_token() {
    let server = server(&["--log", "trace", "--jwt-audience", "chat", "--jwt-issuer", "us"]);
    let signed = |change: &dyn Fn(&mut TokenClaims)| {
        let mut claims = claims("ann");
        claims.aud = vec!["chat".to_owned()];
        claims.iss = Some("us".to_owned());
        change(&mut claims);
        sign(&claims)
    };
    let good = signed(&|_| {});
    native(&server, &good).await;
    let now = TokenClaims::new(&UserId::new("x").unwrap(), Duration::ZERO).exp;
    let other_secret = JwtSigner::with_secret(&[7; 32]).unwrap().sign(&claims("ann")).unwrap();
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    // {"alg":"none"} and {"alg":"HS512"}, which the signature is not of
    let none = format!("eyJhbGciOiJub25lIn0.{body}.");
    let none_signed = format!("eyJhbGciOiJub25lIn0.{body}.{signature}");
    let other_algorithm = format!("eyJhbGciOiJIUzUxMiJ9.{body}.{signature}");
    let bad = [
        signed(&|claims| claims.exp = now - 60),
        signed(&|claims| claims.nbf = Some(now + 60)),
        signed(&|claims| claims.aud = vec!["other".to_owned()]),
        signed(&|claims| claims.aud = Vec::new()),
        signed(&|claims| claims.iss = Some("them".to_owned())),
        signed(&|claims| claims.iss = None),
        signed(&|claims| claims.sub = String::new()),
        signed(&|claims| claims.sub = "a".repeat(129)),
        signed(&|claims| claims.rooms = Some([("*".to_owned(), vec!["fly".to_owned()])].into())),
        other_secret,
        none,
        none_signed,
        other_algorithm,
        format!("{head}.{body}.{}", "A".repeat(signature.len())),
        format!("{good}x"),
        "x".repeat(9_000),
        "not.a.token".to_owned(),
        String::new(),
    ];
    for token in &bad {
        let url = server.ws(&format!("/ws?token={token}"));
        let refused = WsClient::try_connect(&url, &[NATIVE]).await;
        assert_eq!(refused.err().map(|status| status.as_u16()), Some(401), "{token}");
        let mut client = server.native().await;
        let hello = json!({"type": "hello", "token": token});
        assert_eq!(refusal(&mut client, hello).await, "unauthorized", "{token}");
    }
    // In a header, nothing is no token.
    let (_, in_headers) = bad.split_last().unwrap();
    for token in in_headers {
        let bearer = format!("Bearer {token}");
        let headers = [NATIVE, ("Authorization", bearer.as_str())];
        let refused = WsClient::try_connect(&server.ws("/ws"), &headers).await;
        assert_eq!(refused.err().map(|status| status.as_u16()), Some(401), "{token}");
        let request = format!(
            "POST /create-room HTTP/1.1\r\nHost: localhost\r\nAuthorization: {bearer}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(server.raw(&request).await.0, 401, "{token}");
    }
    let counted = server.metric("chat_limited_total{limit=\"token\"}").await;
    assert_eq!(counted, 2 * (bad.len() + in_headers.len()) as u64);
    // At the level at which everything is logged.
    for secret in bad.iter().filter(|token| token.len() > 20).map(String::as_str).chain([SECRET]) {
        assert_eq!(server.logged(secret), 0, "{secret}");
    }
    assert_eq!(server.logged(signature), 0);
}

#[tokio::test]
async fn before_a_token_nothing_is_carried_out_in_any_dialect() {
    let server = server(&["--auth-timeout", "2s"]);
    let mut listener = native(&server, &token("ann")).await;
    ask(&mut listener, "joined", json!({"type": "join", "room": "r"})).await;
    next_of(&mut listener, "presence").await;

    let mut quiet = server.native().await;
    ask(&mut quiet, "pong", json!({"type": "ping"})).await;
    let native = [
        json!({"type": "join", "room": "r"}),
        json!({"type": "leave", "room": "r"}),
        json!({"type": "send", "room": "r", "message": "x"}),
        json!({"type": "direct", "to": "ann", "message": "x"}),
        json!({"type": "typing", "room": "r", "typing": true}),
        json!({"type": "history", "room": "r"}),
        json!({"type": "members", "room": "r"}),
        json!({"type": "kick", "room": "r", "user": "ann"}),
        json!({"type": "hello", "name": "Eve"}),
    ];
    for frame in native {
        assert_eq!(refusal(&mut quiet, frame.clone()).await, "unauthorized", "{frame}");
    }
    for frame in [
        json!({"type": "join_room", "room": "r", "user": "Eve"}),
        json!({"type": "SUBSCRIBE", "room": "r"}),
        json!({"type": "sendMessage", "roomId": "r", "message": "x"}),
        json!({"to": "ann", "message": "x"}),
    ] {
        let mut client = server.client().await;
        assert_eq!(refusal(&mut client, frame.clone()).await, "unauthorized", "{frame}");
    }
    let mut by_id = WsClient::connect(&server.ws("/?userId=ann")).await;
    assert_eq!(refusal(&mut by_id, json!({"to": "ann", "message": "x"})).await, "unauthorized");
    // A dialect that cannot say hello gets no connection.
    let refused = WsClient::try_connect(&server.ws("/join-room/r"), &[]).await;
    assert_eq!(refused.err().map(|status| status.as_u16()), Some(401));
    assert_eq!(server.http("POST", "/create-room").await.0, 401);
    assert_eq!(server.http("POST", "/create-room?token=x").await.0, 401);
    let path = format!("/create-room?token={}", token("ann"));
    assert_eq!(server.http("POST", &path).await.0, 201);
    assert_eq!(server.http("GET", "/join-room/r").await.0, 200, "the page is for everybody");

    // Nothing of all that was heard.
    listener.send_json(&json!({"type": "ping"})).await;
    assert_eq!(listener.recv_json().await["type"], "pong");
    // A client that shows no token in time is closed.
    assert_eq!(quiet.recv_close().await.0, 1008);
}

#[tokio::test]
async fn every_dialect_takes_a_token_in_the_url() {
    let server = server(&[]);
    let url = |path: &str, user: &str| server.ws(&format!("{path}token={}", token(user)));
    let mut ann = WsClient::connect(&url("/join-room/r?", "ann")).await;
    ann.recv().await;
    ann.recv().await;
    let mut bob = WsClient::connect(&url("/?userId=eve&", "bob")).await;
    bob.send_json(&json!({"type": "SUBSCRIBE", "room": "r"})).await;
    bob.send_json(&json!({"type": "sendMessage", "roomId": "r", "message": "here"})).await;
    assert_eq!(next_of(&mut bob, "sendMessage").await["message"], "here");
    ann.send_json(&json!({"type": "chat_message", "message": "hi"})).await;
    assert_eq!(next_of(&mut bob, "sendMessage").await["message"], "hi");
    let mut carl = WsClient::connect(&url("/?userId=eve&", "carl")).await;
    // Until the server listens for him, nothing reaches him.
    let (mut dan, direct) = (
        native(&server, &token("dan")).await,
        json!({"type": "direct", "to": "carl", "message": "hi"}),
    );
    while ask(&mut dan, "ok", direct.clone()).await["delivered"] == 0 {}
    assert_eq!(carl.recv_json().await["message"], "hi");
    carl.send_json(&json!({"to": "carl", "message": "to myself"})).await;
    assert_eq!(carl.recv_json().await["message"], "to myself");
}

#[tokio::test]
async fn the_program_makes_tokens_and_refuses_what_would_not_hold() {
    let server = server(&[]);
    let wish = ["token", "--user", "ann", "--name", "Ann", "--ttl", "5m", "--room", "r=join"];
    let (code, token, _) = run(command().env("JWT_SECRET", SECRET).args(wish));
    assert_eq!(code, 0);
    let mut client = native(&server, token.trim()).await;
    let welcome = welcome(&mut client, json!({"type": "hello"})).await;
    assert_eq!(welcome["user"]["name"], "Ann");
    assert!(welcome["expires_in_ms"].as_u64().unwrap() <= 300_000);
    assert_eq!(refusal(&mut client, json!({"type": "join", "room": "other"})).await, "forbidden");

    for (args, secret, named) in [
        (&["token", "--user", "a"][..], None, "JWT_SECRET"),
        (&["token", "--user", "a"], Some("short"), "32 bytes"),
        (&["token", "--user", "", "--ttl", "1m"], Some(SECRET), "--user"),
        (&["token", "--user", "a", "--room", "r=fly"], Some(SECRET), "fly"),
        (&["token", "--user", "a", "--private-key", "/nonexistent"], None, "/nonexistent"),
        (&["--port", "0"], Some("short"), "JWT_SECRET"),
        (&["--port", "0"], Some("-----BEGIN PUBLIC KEY-----\nMII"), "JWT_SECRET"),
        (&["--port", "0", "--jwt-public-key", "/nonexistent"], None, "/nonexistent"),
        (&["--port", "0", "--jwt-public-key", "/dev/null"], None, "jwt-public-key"),
        (
            &["--port", "0", "--jwt-audience", "chat"],
            None,
            "for --jwt-audience: it needs jwt-secret",
        ),
        (&["--port", "0", "--jwt-public-key", "x"], Some(SECRET), "tokens have one key"),
        (&["--port", "0", "--token-leeway", "6m"], Some(SECRET), "--token-leeway: 0s to 5m"),
    ] {
        let mut command = command();
        command.args(args).envs(secret.map(|secret| ("JWT_SECRET", secret)));
        let (code, _, error) = run(&mut command);
        assert_eq!(code, 2, "{args:?}");
        assert!(error.contains(named) && error.lines().count() == 1, "{args:?}: {error}");
        assert!(secret.is_none_or(|secret| secret != SECRET || !error.contains(secret)));
    }
}

/// Those who look for what is wrong with their tokens find it in the log as well; those who send
/// bad tokens without end do not fill it.
#[tokio::test]
async fn refused_token_is_logged_with_its_reason_a_few_times_a_minute() {
    let server = server(&[]);
    let mut bad = signed(&json!({"sub": 42, "exp": 4_102_444_800_u64}));
    let mut client = server.native().await;
    for _ in 0..30 {
        let hello = json!({"type": "hello", "token": bad});
        let error = ask(&mut client, "error", hello).await;
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("the claim \"sub\" is a number, not a text"), "{message}");
    }
    let line = server.until_logged_times("credentials rejected", 10);
    assert!(
        line.contains("WARN") && line.contains("sub") && line.contains("is a number"),
        "{line}"
    );
    // A minute may end in between.
    let lines = server.logged("credentials rejected");
    assert!((10..=20).contains(&lines), "{lines}");
    assert_eq!(server.logged(&bad), 0);
    bad = signed(&json!({"sub": "ann", "exp": 1_795_841_234_000_u64}));
    let (status, _, body) = server.http("POST", &format!("/create-room?token={bad}")).await;
    assert!(status == 401 && body.contains("not in milliseconds"), "{status} {body}");
}

/// `echo`, `openssl rand` and most editors end a secret with a line feed, which a backend that
/// reads it does not keep.
#[tokio::test]
async fn white_space_around_a_secret_is_not_part_of_it() {
    let padded = format!(" {SECRET}\r\n");
    let key = "a key for backends";
    let file = std::env::temp_dir().join(format!("chat-padded-{}.toml", std::process::id()));
    std::fs::write(&file, format!("\u{feff}jwt-secret = \"{SECRET}\\t\"\napi-key = \"{key} \"\n"))
        .unwrap();
    let start = |configure: &dyn Fn(&mut std::process::Command)| {
        let mut command = command();
        configure(command.args(["--port", "0", "--log", "trace"]));
        Chat::start(&mut command)
    };
    for (server, names) in [
        (
            start(&|command| {
                command.env("JWT_SECRET", &padded).env("API_KEY", format!("{key}\n"));
            }),
            ["JWT_SECRET: white space", "API_KEY: white space"],
        ),
        (
            start(&|command| {
                command.arg(format!("--jwt-secret={padded}")).arg(format!("--api-key= {key}"));
            }),
            ["--jwt-secret: white space", "--api-key: white space"],
        ),
        (
            start(&|command| {
                command.arg("--config").arg(&file);
            }),
            ["jwt-secret (", "line 2): white space"],
        ),
    ] {
        for name in names {
            assert!(server.until_logged(name).contains("WARN"), "{name}");
        }
        assert_eq!(server.logged(SECRET) + server.logged(key), 0);
        native(&server, &token("ann")).await;
        let head = format!(
            "POST /api/users/u/disconnect HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\n"
        );
        let answer =
            server.raw(&format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(answer.0, 200, "{}", answer.2);
    }
    std::fs::remove_file(file).unwrap();
    let (code, made, warning) =
        run(command().env("JWT_SECRET", padded).args(["token", "--user", "ann"]));
    assert!(code == 0 && warning.contains("JWT_SECRET: white space"), "{warning}");
    native(&server(&[]), made.trim()).await;
    assert_eq!(server(&[]).logged("white space"), 0, "where there is none");
}

#[tokio::test]
async fn leeway_is_a_setting() {
    let mut late = claims("ann");
    late.exp -= 630;
    let refused = async |args: &[&str]| {
        let server = server(args);
        let url = server.ws(&format!("/ws?token={}", sign(&late)));
        WsClient::try_connect(&url, &[NATIVE]).await.err().map(|status| status.as_u16())
    };
    assert_eq!(refused(&[]).await, Some(401), "30 s are more than 5 s");
    assert_eq!(refused(&["--token-leeway", "1m"]).await, None);
}

#[tokio::test]
async fn log_says_that_there_is_no_key() {
    let server = Chat::alone();
    server.until_logged("every client has access under any name");
    assert_eq!(server.logged("every client has access"), 1);
    let request = format!(
        "POST /create-room HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        server.port()
    );
    assert_eq!(exchange(server.port(), &request).await.0, 201);
}
