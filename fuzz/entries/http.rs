//! Requests, from their first byte and as the server's routes see them.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::HOST;
use axum::http::{HeaderName, HeaderValue, Request};
use chat_server::{Secret, Server, ServerConfig};
use chat_transport::{TransportConfig, TransportError, accept};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::block_on;

/// The bytes of a handshake: it is accepted, or refused with a status.
pub fn handshake(input: &[u8]) {
    let config = Arc::new(TransportConfig::default().max_head_bytes(1024));
    block_on(async {
        let (mut client, server) = duplex(64 * 1024);
        let talk = async {
            if client.write_all(input).await.is_ok() {
                let _ = client.shutdown().await;
            }
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            answer
        };
        let (accepted, answer) = tokio::join!(
            async { accept(server, &["chat.v1"], &config).await.map(|accepted| accepted.protocol) },
            talk
        );
        let status = answer.get(9..12).map(<[u8]>::to_vec);
        match accepted {
            Ok(protocol) => {
                assert_eq!(status.as_deref(), Some(&b"101"[..]));
                assert!(protocol.is_none_or(|protocol| protocol == "chat.v1"));
            }
            Err(TransportError::Handshake(error)) => {
                assert_eq!(status, Some(error.status().as_str().as_bytes().to_vec()));
            }
            Err(_) => {}
        }
    });
}

/// A request in lines: method and target, then headers, and after an empty line its body. It has
/// an answer below 500, whatever it is; or 503, from the status page of a server that is not
/// ready yet.
pub fn request(input: &[u8]) {
    let Some(request) = parse(input) else { return };
    let status = block_on(async {
        let answer = TowerToHyperService::new(router()).call(request).await;
        answer.map(|answer| answer.status().as_u16()).unwrap_or_default()
    });
    assert!((100..500).contains(&status) || status == 503, "status {status}");
}

fn parse(input: &[u8]) -> Option<Request<Body>> {
    let end = input.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((input, &b""[..]), |end| (&input[..end], &input[end + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.next()?;
    let space = line.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::builder().method(&line[..space]).uri(&line[space + 1..]);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        request = request.header(name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?);
    }
    // Nothing but the rule for hosts is reached without one.
    if request.headers_ref().is_some_and(|headers| !headers.contains_key(HOST)) {
        request = request.header(HOST, "localhost");
    }
    let proxy = SocketAddr::from(([127, 0, 0, 1], 1));
    request.extension(ConnectInfo(proxy)).body(Body::from(body.to_vec())).ok()
}

/// Of a server that the thread keeps: it asks for tokens, has a key for backends, and takes the
/// word of the proxy that all these requests come through.
fn router() -> Router {
    thread_local! {
        static ROUTER: OnceCell<Router> = const { OnceCell::new() };
    }
    ROUTER.with(|router| router.get_or_init(make_router).clone())
}

fn make_router() -> Router {
    let mut config = ServerConfig::default().api_key(Some(Secret::new("a key for backends")));
    config.allow_host = vec!["a".to_owned(), ".example".to_owned()];
    config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let authenticator = super::token_entry::authenticator();
    Server::builder().config(config).authenticator(authenticator).start().router()
}
