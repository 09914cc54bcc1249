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
    let page = format!("<!doctype html><link rel=icon href=data:,>{example}");
    let browser = Browser::start();
    let tab = browser.open(&serve(page));
    let line = "document.querySelector('#log').textContent === arguments[0]";
    tab.until(line, &["Ann: Hello from a page of my own"]);
    browser.assert_no_errors(&[]);
}

/// Serves a page on a port of its own, and returns its address.
fn serve(page: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = BufReader::new(&stream).lines().map_while(Result::ok);
            head.take_while(|line| !line.is_empty()).for_each(drop);
            let length = page.len();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {length}\r\n\r\n{page}");
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
