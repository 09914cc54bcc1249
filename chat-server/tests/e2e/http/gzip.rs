//! The files of the web client, compressed.

use std::io::Read;

use flate2::read::GzDecoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{connect, server};

/// The status, the head in lower case, and the body of a file.
async fn get(port: u16, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let mut stream = connect(port).await;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer.split_off(end + 4))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn files_are_compressed_for_clients_that_take_gzip() {
    let server = server(&[]);
    let port = server.port();
    let (_, page, _) = get(port, "/", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(header(&page, "content-encoding"), None, "the page itself");

    let path = "/web/chat-client.js";
    let (status, plain_head, plain) = get(port, path, "").await;
    assert_eq!((status, header(&plain_head, "content-encoding")), (200, None));
    let (status, head, body) = get(port, path, "Accept-Encoding: br, gzip\r\n").await;
    assert_eq!((status, header(&head, "content-encoding")), (200, Some("gzip")));
    assert!(body.len() * 2 < plain.len(), "{} of {}", body.len(), plain.len());
    let mut text = Vec::new();
    GzDecoder::new(&*body).read_to_end(&mut text).unwrap();
    assert_eq!(text, plain);
    for head in [&plain_head, &head] {
        assert!(head.contains("\r\nvary: accept-encoding\r\n"), "{head}");
        assert_eq!(header(head, "cache-control"), Some("no-cache"));
    }
    let (_, head_of_refused, refused) = get(port, path, "Accept-Encoding: gzip;q=0\r\n").await;
    assert_eq!((refused, header(&head_of_refused, "etag")), (plain, header(&plain_head, "etag")));
}

#[tokio::test]
async fn each_encoding_has_an_etag_of_its_own() {
    let server = server(&[]);
    let (port, path) = (server.port(), "/web/style.css");
    let encodings = ["", "Accept-Encoding: gzip\r\n"];
    let mut etags = Vec::new();
    for encoding in encodings {
        let (_, head, _) = get(port, path, encoding).await;
        etags.push(header(&head, "etag").unwrap().to_owned());
    }
    for (at, encoding) in encodings.iter().enumerate() {
        for (of, etag) in etags.iter().enumerate() {
            let headers = format!("{encoding}If-None-Match: {etag}\r\n");
            let (status, head, body) = get(port, path, &headers).await;
            let expected = if at == of { 304 } else { 200 };
            assert_eq!(status, expected, "{headers}");
            assert_eq!(body.is_empty(), status == 304);
            assert_eq!(header(&head, "etag"), Some(&*etags[at]));
        }
    }
}
