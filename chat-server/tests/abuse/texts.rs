//! Texts that are no frames, frames that say nothing sensible, and JSON at its edges.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use super::{LEFT_BEHIND, unlimited, unlimited_pair};
use crate::support::control_clients::ControlClients;
use crate::support::process::Process;
use crate::support::{ask, join, next_of, say};

/// As deep as a frame holds.
fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

fn nested_objects(depth: usize) -> String {
    r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth)
}

/// `data` that common parsers refuse.
const UNREADABLE: [&str; 9] = [
    r#""\ud83d""#,
    r#""\ude00\ud83d""#,
    r#"{"\ud83d":1}"#,
    r#"["\u0000"]"#,
    "1e400",
    "-1E+400",
    r#"{"a":1,"a":2}"#,
    r#"{"a":1,"\u0061":2}"#,
    r#"[[{"b":{"c":1,"d":2,"c":3}}]]"#,
];

/// What is refused, and the code of the one error that answers it.
fn refused() -> Vec<(String, &'static str)> {
    let mut table: Vec<(String, &str)> = Vec::new();
    let mut all = |code, texts: &[&str]| {
        table.extend(texts.iter().map(|text| ((*text).to_owned(), code)));
    };
    all("bad_json", &["", " ", "?", "null", "true", "1", "\"x\"", "[]", "[{}]", "{", "}", "{]"]);
    all("bad_json", &["\0", "{\0}", "\u{feff}{\"type\":\"ping\"}", r#"{"type":"ping"}x"#]);
    all("bad_json", &[r#"{"type":"ping"}{}"#, r#"{"type":"ping",}"#, r#"{type:"ping"}"#]);
    all("bad_json", &[r#"{'type':'ping'}"#, r#"{"type":"ping"/**/}"#, "{\"type\":\"pi\nng\"}"]);
    all("bad_json", &[r#"{"type":"ping","type":"ping"}"#, r#"{"type":"ping","\u0074ype":"x"}"#]);
    all("bad_json", &[r#"{"type":"ping","id":01}"#, r#"{"type":"ping","x":NaN}"#]);
    all("bad_json", &[r#"{"type":"ping","x":"\x"}"#, r#"{"type":"ping","x":"\u12"}"#]);
    all("missing_field", &["{}", r#"{"type":null}"#, r#"{"x":1}"#, r#"{"Type":"ping"}"#]);
    all("missing_field", &[r#"{"type":"join"}"#, r#"{"type":"send","room":"r"}"#]);
    all("missing_field", &[r#"{"type":"send","room":null,"message":"x"}"#]);
    all("bad_field", &[r#"{"type":1}"#, r#"{"type":{}}"#, r#"{"type":["ping"]}"#]);
    all("bad_field", &[r#"{"type":"\ud800"}"#, r#"{"type":"join","room":1}"#]);
    all("bad_field", &[r#"{"type":"join","room":"\udc00"}"#, r#"{"type":"ping","id":1.5}"#]);
    all("bad_field", &[r#"{"type":"ping","id":1e400}"#, r#"{"type":"ping","id":-0.5}"#]);
    all(
        "bad_field",
        &[r#"{"type":"ping","id":18446744073709551616}"#, r#"{"type":"ping","id":[]}"#],
    );
    all("bad_field", &[r#"{"type":"join","room":"r","history":-1}"#]);
    all("bad_field", &[r#"{"type":"join","room":"r","history":4294967296}"#]);
    all(
        "bad_field",
        &[r#"{"type":"join","room":"r","since":{"epoch":"","offset":18446744073709551616}}"#],
    );
    all(
        "bad_field",
        &[r#"{"type":"join","room":"r","since":{"epoch":"abcdefgh","offset":1e400}}"#],
    );
    all("bad_field", &[r#"{"type":"send","room":"edge","message":"\ud800"}"#]);
    all("bad_field", &[r#"{"type":"send","room":"edge","message":{"a":1}}"#]);
    all("bad_field", &[r#"{"type":"send","room":"edge","message":"x","key":"\ud800"}"#]);
    all("bad_field", &[r#"{"type":"ping","id":"\ud800"}"#, r#"{"type":"ping","id":"\u0000"}"#]);
    all("bad_field", &[r#"{"type":"send","room":"edge","message":"a\u0000b"}"#]);
    all("bad_field", &[r#"{"type":"typing","room":"edge","typing":"true"}"#]);
    all("bad_field", &[r#"{"type":"history","room":"edge","before":1,"after":2}"#]);
    all("unknown_type", &[r#"{"type":""}"#, r#"{"type":"\u0000"}"#, r#"{"type":"PING"}"#]);
    all("unknown_type", &[r#"{"type":"ping "}"#, r#"{"type":"join_room","room":"r"}"#]);
    all("not_in_room", &[r#"{"type":"send","room":"nobody","message":"x"}"#]);
    // What nobody sees, and nothing else is there.
    for text in ["", " ", r"\t\r\n", r"\u200b\u2060", "\u{3164}\u{2800}"] {
        table.push((format!(r#"{{"type":"send","room":"edge","message":"{text}"}}"#), "bad_field"));
    }
    // What some parser could not read, and would lose its page of the history with it.
    for data in UNREADABLE {
        let frame = format!(r#"{{"type":"send","room":"edge","message":"x","data":{data}}}"#);
        table.push((frame, "bad_field"));
    }
    let deep = 32_000;
    let too_deep = nested(61);
    table.extend([
        (
            format!(r#"{{"type":"send","room":"edge","message":"x","data":{too_deep}}}"#),
            "bad_field",
        ),
        ("[".repeat(65_000), "bad_json"),
        (nested(deep), "bad_json"),
        ("{\"a\":".repeat(13_000), "bad_json"),
        (nested_objects(10_000), "bad_json"),
        (nested_objects(64), "missing_field"),
        (nested_objects(65), "bad_json"),
        (format!(r#"{{"type":{}}}"#, nested(deep)), "bad_json"),
        (format!(r#"{{"type":"ping","id":{}}}"#, nested(deep)), "bad_json"),
        (format!(r#"{{"type":"join","room":"r","since":{}}}"#, nested(deep)), "bad_json"),
        (
            format!(r#"{{"type":"join","room":"r","history":{}}}"#, nested_objects(10_000)),
            "bad_json",
        ),
        (format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(127)), "bad_field"),
        (format!(r#"{{"type":"{}"}}"#, "x".repeat(60_000)), "unknown_type"),
        (
            format!(r#"{{"type":"send","room":"edge","message":"{}"}}"#, "x".repeat(32_769)),
            "message_too_long",
        ),
        (
            format!(
                r#"{{"type":"send","room":"edge","message":"x","data":[{}1]}}"#,
                "1,".repeat(16_400)
            ),
            "message_too_long",
        ),
    ]);
    table
}

/// Without it the client would wait for an answer until its own timeout.
#[tokio::test]
async fn error_of_a_nested_request_has_its_id() {
    let server = unlimited();
    let mut client = server.native().await;
    join(&mut client, "edge").await;
    let data = nested(80);
    let frame = format!(r#"{{"type":"send","id":7,"room":"edge","message":"x","data":{data}}}"#);
    client.send(&frame).await;
    let error = next_of(&mut client, "error").await;
    assert_eq!((&error["id"], &error["code"]), (&json!(7), &json!("bad_field")));
    let further = nested(80);
    let frame = format!(r#"{{"type":"leave","id":8,"room":"edge","unknown":{further}}}"#);
    client.send(&frame).await;
    let error = next_of(&mut client, "error").await;
    assert_eq!((&error["id"], &error["code"]), (&json!(8), &json!("bad_json")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_text_has_one_error_and_costs_nothing() {
    let server = unlimited();
    let control_clients = ControlClients::at(server.port()).await;
    let process = Process(server.pid());
    let mut client = server.native().await;
    join(&mut client, "edge").await;
    let table = refused();
    let mut before = 0;
    for round in 0..2 {
        before = if round == 1 { process.rss_kib() } else { before };
        for (nth, (text, code)) in table.iter().enumerate() {
            let shown: String = text.chars().take(80).collect();
            client.send(text).await;
            let answer = client.recv_json().await;
            assert_eq!(answer["type"], "error", "{shown}: {answer}");
            assert_eq!(answer["code"], *code, "{shown}: {answer}");
            // What comes next is the answer to what was said next, on the same connection.
            client.send_json(&json!({"type": "ping", "id": nth})).await;
            client.expect(&format!(r#"{{"type":"pong","id":{nth}}}"#)).await;
        }
    }
    let grown = process.rss_kib().saturating_sub(before);
    assert!(grown < LEFT_BEHIND, "{} texts left {grown} KiB behind", table.len());
    say(&format!(
        "{} wrong texts: {grown} KiB more; control clients: {}",
        table.len(),
        control_clients.were_served().await
    ));
}

/// The same texts to a server that does not know yet what the client speaks; one of them is a
/// frame of another dialect.
#[tokio::test]
async fn a_wrong_first_text_has_one_error_too() {
    let server = unlimited();
    for (text, _) in refused().iter().filter(|(text, _)| !text.contains("join_room")) {
        let mut client = server.client().await;
        client.send(text).await;
        let answer = client.recv_json().await;
        let shown: String = text.chars().take(80).collect();
        assert_eq!(answer["type"], "error", "{shown}: {answer}");
        client.send(r#"{"type":"SUBSCRIBE"}"#).await;
        assert_eq!(client.recv_json().await["type"], "error", "{shown}");
    }
}

/// What is odd and allowed: any JSON in a field that nobody reads.
#[tokio::test]
async fn fields_that_mean_nothing_are_passed_over() {
    let server = unlimited();
    let mut client = server.native().await;
    let fields = [
        "1e400".to_owned(),
        "18446744073709551616".to_owned(),
        "-0".to_owned(),
        r#""\ud800\u0000""#.to_owned(),
        r#"{"a":1,"a":2}"#.to_owned(),
        nested(63),
        nested_objects(63),
    ];
    for field in fields {
        for name in ["x", "data", "since", "room", "message", ""] {
            client.send(&format!(r#" {{"{name}":{field}, "type":"\u0070ing"}} "#)).await;
            client.expect(r#"{"type":"pong"}"#).await;
        }
    }
    client.send(r#"{"x":1,"x":2,"type":"ping","id":"\ud83d\ude00"}"#).await;
    client.expect(r#"{"type":"pong","id":"\ud83d\ude00"}"#).await;
    client.send(r#"{"type":"ping","id":18446744073709551615.0}"#).await;
    client.expect(r#"{"type":"pong","id":18446744073709551615.0}"#).await;
    // Half of an emoji, of a name that was cut.
    client.send(r#"{"type":"hello","id":1,"name":"Ann \ud83d"}"#).await;
    assert_eq!(client.recv_json().await["user"]["name"], "Ann \u{fffd}");
}

/// `message` and `data` of frames at the edges of JSON.
fn passed_on() -> Vec<(&'static str, String)> {
    let data = |data: &str| ("x", data.to_owned());
    let text = |text| (text, "null".to_owned());
    vec![
        text(r"\u0001\u001b[31m\r\n\t\/\u007f"),
        text("\u{202e}\u{200b}\u{feff}👩\u{200d}👩\u{200d}👧 caf\u{e9} cafe\u{301}"),
        text(r"\ud83d\udc4b \\ud800 <script>alert(1)</script> '; DROP TABLE rooms; --"),
        data("1.7976931348623157e308"),
        data("1e-400"),
        data("18446744073709551616"),
        data("0.1000000000000000055511151231257827"),
        data("-0"),
        data(r#""\u0001\ud800\udc00\uffff\\ud800""#),
        data(r#"{"a":1,"A":2,"":{"\u0061":null}}"#),
        data("{ \"spaces\" :\t[ 1 ,\r\n 2 ] }"),
        data(&nested(60)),
        data(&nested_objects(60)),
        ("", r#"{"like":7}"#.to_owned()),
    ]
}

/// Everybody gets the same bytes, on each server, at once and from the history, and what
/// `message` and `data` hold is what was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_passed_on_is_the_same_for_all() {
    let redis = RedisServer::start();
    let (here, there) = unlimited_pair(&redis).await;
    let (mut sender, mut near, mut far) =
        (here.native().await, here.native().await, there.native().await);
    for client in [&mut sender, &mut near, &mut far] {
        join(client, "edge").await;
    }
    for (text, data) in passed_on() {
        let frame = format!(r#"{{"type":"send","room":"edge","message":"{text}","data":{data}}}"#);
        sender.send(&frame).await;
        let own = next_message(&mut sender).await;
        assert_eq!(next_message(&mut near).await, own, "on the same server");
        assert_eq!(next_message(&mut far).await, own, "on another server");
        let shown: String = data.chars().take(60).collect();
        if data != "null" {
            assert!(own.contains(&format!(r#""data":{data},"at""#)), "{shown} became {own}");
        }
        // As `Value` would refuse some of what may stand in `data`.
        let said: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
        let came = own.split_once(r#""message":"#).unwrap().1;
        let came = serde_json::Deserializer::from_str(came).into_iter::<Value>().next().unwrap();
        assert_eq!(came.unwrap(), said);
        // A client that joins later reads the same.
        let mut newcomer = there.native().await;
        newcomer.send(r#"{"type":"join","room":"edge","history":1}"#).await;
        let joined = newcomer.recv().await;
        assert!(joined.contains(&own), "{shown}: not in the history");
        newcomer.close().await;
    }
    // And it is one message each: the next is the one that is said next.
    ask(&mut sender, "ok", json!({"type": "send", "room": "edge", "message": "end"})).await;
    for client in [&mut near, &mut far] {
        assert_eq!(next_of(client, "message").await["message"], "end");
    }
}

/// The next message of the room as it stands in its frame.
async fn next_message(client: &mut WsClient) -> String {
    loop {
        let frame = client.recv().await;
        if frame.starts_with(r#"{"type":"message","#) {
            return frame;
        }
    }
}
