//! The module in another page, the one in the documentation; and the page in another application.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use tokio::runtime::Runtime;

use crate::server::Server;
use crate::webdriver::Browser;

#[test]
fn the_page_in_the_documentation_works_as_it_stands() {
    let server = Server::start();
    let docs = include_str!("../../../docs/javascript.md");
    let (_, example) = docs.split_once("```html\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let example = example.replace("localhost:8080", &format!("localhost:{}", server.port()));
    let browser = Browser::start();
    let tab = browser.open(&serve("", vec![("/", page(&example))]));
    tab.until(SHOWS, &["Ann: Hello from a page of my own"]);
    browser.assert_no_errors(&[]);
}

#[test]
fn policy_in_the_documentation_allows_the_client() {
    let server = Server::start();
    let docs = include_str!("../../../docs/javascript.md");
    let (_, policy) = docs.split_once("`script-src '").unwrap();
    let (policy, _) = policy.split_once('`').unwrap();
    let host = format!("localhost:{}", server.port());
    let policy =
        format!("default-src 'none'; img-src data:; script-src '{}", policy.replace('\n', " "))
            .replace("https://chat.example", &format!("http://{host}"))
            .replace("wss://chat.example", &format!("ws://{host}"));
    let (_, script) = docs.split_once("<script type=\"module\">").unwrap();
    let (script, _) = script.split_once("</script>").unwrap();
    let script = script.replace("localhost:8080", &host);
    let page = page("<ul id=log></ul><script type=module src=/page.js></script>");
    let browser = Browser::start();
    let tab = browser.open(&serve(&policy, vec![("/", page), ("/page.js", script)]));
    tab.until(SHOWS, &["Ann: Hello from a page of my own"]);
    browser.assert_no_errors(&[]);
}

/// Whether the page's log is this text.
const SHOWS: &str = "document.querySelector('#log').textContent === arguments[0]";

fn page(body: &str) -> String {
    format!("<!doctype html><link rel=icon href=data:,>{body}")
}

/// Serves files by their paths, on a port of its own, under a policy. Returns the address.
fn serve(policy: &str, files: Vec<(&'static str, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
    let policy = match policy {
        "" => String::new(),
        policy => format!("Content-Security-Policy: {policy}\r\n"),
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<_> = head.take_while(|line| !line.is_empty()).collect();
            let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
            let (path, text) = files.iter().find(|(name, _)| *name == path).unwrap_or(&files[0]);
            let kind = if path.ends_with(".js") { "javascript" } else { "html" };
            let length = text.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/{kind}\r\nConnection: close\r\n{policy}\
                Content-Length: {length}\r\n\r\n{text}"
            );
        }
    });
    address
}

#[test]
fn nested_page_survives_a_reload_at_each_of_its_addresses() {
    let runtime = Runtime::new().unwrap();
    let port = runtime.block_on(nested_at_chat());
    let browser = Browser::start();
    let tab = browser.open(&format!("http://localhost:{port}/chat?user=Ann&room=general"));
    for path in ["/chat/join-room/general", "/chat/join-room/general/"] {
        tab.until_shows("log", "You joined the room.");
        tab.run("history.replaceState(null, '', arguments[0])", &[path]);
        tab.run("location.reload()", &[]);
        tab.until_shows("log", "");
    }
    // Dots would be folders in a path.
    tab.run("location.href = '/chat?user=Ann&room=..'", &[]);
    tab.until("document.title.includes('..')", &[]);
    tab.until("location.pathname + location.search === arguments[0]", &["/chat?room=.."]);
    tab.run("location.reload()", &[]);
    tab.until_shows("log", "You");
    browser.assert_no_errors(&[]);
}

/// An application with the chat at `/chat`, for as long as the runtime is there.
async fn nested_at_chat() -> u16 {
    let chat = chat_server::Server::builder().start();
    let routes = axum::Router::new().nest("/chat", chat.router());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    port
}
