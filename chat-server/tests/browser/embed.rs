//! A page of somebody else's that uses the module: the one in the documentation.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use crate::server::Server;
use crate::webdriver::Browser;

#[test]
fn the_page_in_the_documentation_works_as_it_stands() {
    let server = Server::start();
    let docs = include_str!("../../../docs/web-client.md");
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
