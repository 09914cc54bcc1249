use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use chat_broker::testing::RedisServer;
use serde_json::Value;

use super::end;
use crate::support::{Chat, command, run};

const SECRET: &str = "a secret of more than thirty-two bytes";

/// A running `tail --json`, killed when it is dropped.
struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tail {
    fn start(command: &mut Command) -> Self {
        let mut child =
            command.args(["tail", "general", "--json", "--history", "5"]).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("the command runs").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Waits for a line of this type.
    fn until(&mut self, kind: &str) -> Value {
        loop {
            let line = self.next();
            if line["type"] == kind {
                return line;
            }
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server with this Redis, on this port.
fn serve(redis: &RedisServer, port: &str) -> Chat {
    Chat::start(command().args(["--port", port, "--redis-url", &redis.url()]))
}

fn send(port: &str, text: &str) {
    let (code, out, error) = run(command().args(["--port", port, "send", "general", text]));
    assert!(code == 0 && out.starts_with("sent to general at "), "{out}{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tail_prints_messages_over_restarts_and_names_gaps() {
    let redis = RedisServer::start();
    let mut server = serve(&redis, "0");
    let port = server.port().to_string();
    send(&port, "one");
    let mut tail = Tail::start(command().args(["--port", &port]));
    assert_eq!(tail.until("message")["text"], "one");
    send(&port, "two");
    assert_eq!(tail.until("message")["text"], "two");

    server.signal("KILL");
    server.exit();
    let server = serve(&redis, &port);
    send(&port, "three");
    assert_eq!(tail.until("message")["text"], "three", "without a gap");

    redis.command(&["FLUSHALL"]).await;
    send(&port, "four");
    assert_eq!(tail.until("gap")["type"], "gap");
    let (code, _) = end(&mut tail.child, "INT");
    assert_eq!(code, 0);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn commands_sign_the_tokens_that_the_server_needs() {
    let server = Chat::start(command().args(["--port", "0"]).env("JWT_SECRET", SECRET));
    let port = server.port().to_string();
    let send = ["--port", &port, "send", "general", "hello", "--json"];
    let (code, out, error) = run(command().args(send).env("JWT_SECRET", SECRET));
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["room"], "general");
    let mut tail = Tail::start(command().args(["--port", &port]).env("JWT_SECRET", SECRET));
    assert_eq!(tail.until("message")["user"]["name"], "operator", "as without tokens");
    end(&mut tail.child, "INT");
    let (code, _, error) = run(command().args(send));
    assert!(code == 1 && error.contains("not sent"), "{error}");
    assert!(error.contains("credentials are needed") && error.contains("--token-file"), "{error}");
    let (code, _, error) = run(command().args(["--port", &port, "tail", "general"]));
    assert!(code == 1 && error.contains("credentials are needed"), "{error}");
    assert!(error.contains("--token-file"), "{error}");

    let (_, token, _) = run(command().args(["token", "--user", "ann"]).env("JWT_SECRET", SECRET));
    let file = std::env::temp_dir().join(format!("tail-token-{}", std::process::id()));
    std::fs::write(&file, token).unwrap();
    let (code, _, error) = run(command().args(send).arg("--token-file").arg(&file));
    assert_eq!(code, 0, "{error}");
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn send_says_why_it_fails() {
    let server = Chat::alone();
    let port = server.port().to_string();
    let send = |room: &str, text: &str| {
        run(command().args(["--port", &port, "send", room, text, "--timeout", "5s"]))
    };
    for room in ["", "a\nb"] {
        let (code, _, error) = send(room, "hello");
        assert!(code == 2 && error.contains("for '<ROOM>': it "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        let (code, _, error) = run(command().args(["--port", &port, "tail", room]));
        assert!(code == 2 && error.contains("for '<ROOM>': it "), "{error}");
    }
    let (code, _, error) = send("general", &"x".repeat(40_000));
    assert!(code == 1 && error.contains("a message has at most 32768 bytes"), "{error}");
    drop(server);
    let arguments = ["send", "general", "hello", "--timeout", "300ms", "--url"];
    let (code, _, error) = run(command().args(arguments).arg("ws://127.0.0.1:1/ws"));
    assert!(code == 1 && error.contains("not sent: cannot connect to 127.0.0.1"), "{error}");
}

/// A full Redis refuses each attempt of the client until the command gives up.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn send_says_that_redis_is_full() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    server.until_metric("chat_broker_full", |full| full == 1).await;
    let port = server.port().to_string();
    let arguments = ["--port", &port, "send", "general", "hello", "--timeout", "3s"];
    let (code, _, error) = run(command().args(arguments));
    let cause =
        "the server's latest answer: broker_unavailable: The message bus has no memory left (OOM)";
    assert!(
        code == 1 && error.contains("confirmed no attempt") && error.contains(cause),
        "{error}"
    );
}

/// A quiet room has no line on stdout: one on stderr says that the command works.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tail_says_that_it_has_joined() {
    let server = Chat::alone();
    let mut tail = command();
    tail.args(["--port", &server.port().to_string(), "tail", "general"]).stderr(Stdio::piped());
    let mut tail = tail.spawn().unwrap();
    let mut lines = BufReader::new(tail.stderr.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "chat-server: joined general");
    let (code, out) = end(&mut tail, "INT");
    assert_eq!((code, &*out), (0, ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tail_names_the_sender_with_the_id() {
    let server = Chat::alone();
    let port = server.port().to_string();
    let mut tail = command();
    tail.args(["--port", &port, "tail", "general"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tail = tail.spawn().unwrap();
    BufReader::new(tail.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    let (code, _, error) =
        run(command().args(["--port", &port, "send", "general", "hi", "--user", "Zoe"]));
    assert_eq!(code, 0, "{error}");
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let (start, text) = line.split_once(" (Zoe): ").unwrap();
    assert!(start.contains(' ') && text == "hi", "{line}");
    // A name that looks like another sender and the beginning of a message.
    let name = r#"N\" (operator): hi"#;
    let send = run(command().args(["--port", &port, "send", "general", "d", "--user", name]));
    assert_eq!(send.0, 0, "{}", send.2);
    let line = lines.next().unwrap().unwrap();
    assert!(line.ends_with(r#" ("N\\\" (operator): hi"): d"#), "{line}");
    end(&mut tail, "INT");
}
