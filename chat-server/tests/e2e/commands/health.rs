use std::io::Write;

use chat_broker::testing::RedisServer;

use crate::support::{Chat, command, run};

/// The exit code, and the printed line.
fn health(settings: &[&str], arguments: &[&str]) -> (i32, String) {
    let (code, out, error) = run(command().args(settings).arg("health").args(arguments));
    (code, out + &error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_is_that_of_the_server() {
    let mut redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    let port = server.port().to_string();
    let settings = ["--port", port.as_str(), "--host", "0.0.0.0"];
    assert_eq!(health(&settings, &[]).0, 0);

    redis.kill();
    server.until_status("/readyz", 503).await;
    let (code, line) = health(&settings, &[]);
    assert!(code == 1 && line.contains("/readyz: 503"), "{line}");
    assert_eq!(health(&settings, &["--live"]).0, 0);

    server.signal("STOP");
    let (code, line) = health(&settings, &["--live", "--timeout", "100ms"]);
    assert!(code == 1 && line.contains("no answer within 100ms"), "{line}");
    server.signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_asks_the_address_of_metrics() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let settings = ["--port", "0", "--metrics-addr", address.as_str()];
    let (code, line) = health(&settings, &[]);
    assert!(code == 1 && line.contains("cannot connect"), "{line}");
    let _server = Chat::start(command().args(settings));
    assert_eq!(health(&settings, &[]).0, 0, "the port for clients is not needed");
    let (code, line) = health(&["--port", "0"], &[]);
    assert!(code == 2 && line.contains("the port of the server is not known"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answer_before_the_request_is_read() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\nfull\n").unwrap();
    });
    let (code, line) = health(&["--port", &port], &[]);
    assert!(code == 1 && line.contains("/readyz: 503 full"), "{line}");
    server.join().unwrap();
}

#[test]
fn setting_behind_the_command_is_pointed_out() {
    let (code, line) = health(&[], &["--port", "1"]);
    assert!(
        code == 2 && line.contains("--port found; settings stand before the command"),
        "{line}"
    );
    let (code, line) = health(&[], &["--timeot", "1s"]);
    assert!(code == 2 && line.contains("did you mean --timeout?"), "{line}");
}
