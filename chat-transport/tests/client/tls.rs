//! `wss://` addresses. `certificates/make.sh` made the certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chat_transport::client::{Client, ClientConfig, ClientError, Events, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};
use tokio_rustls::server::TlsStream;

use crate::mock::{Peer, Stream, joined_frame, message, next_state, online, quick, within};

const AUTHORITY: &str = include_str!("certificates/authority.pem");
const STRANGER: &str = include_str!("certificates/stranger.pem");
const KEY: &str = include_str!("certificates/server.key");
/// For `localhost`, `chat.example`, `127.0.0.1` and `::1`.
const SERVER: &str = include_str!("certificates/server.pem");
/// One that is the certificate of an authority.
const SELF_SIGNED: &str = include_str!("certificates/self-signed.pem");
const EXPIRED: &str = include_str!("certificates/expired.pem");
const ELSEWHERE: &str = include_str!("certificates/elsewhere.pem");

fn trusting(authority: &str) -> ClientConfig {
    quick().root_certificates(authority)
}

/// The handshake of a server with this certificate, and the name that the client asked for.
async fn accept<S: Stream>(
    stream: S,
    certificate: &str,
) -> std::io::Result<(TlsStream<S>, Option<String>)> {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.unwrap(), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let hello = within("a ClientHello", LazyConfigAcceptor::new(Acceptor::default(), stream));
    let hello = hello.await?;
    let name = hello.client_hello().server_name().map(str::to_owned);
    Ok((within("a handshake", hello.into_stream(Arc::new(config))).await?, name))
}

/// A client whose connections are in memory, and the server's ends of them.
fn connect(
    url: &str,
    config: ClientConfig,
) -> (Client, Events, mpsc::UnboundedReceiver<DuplexStream>) {
    let (opened, streams) = mpsc::unbounded_channel();
    let config = config.connector(move |endpoint| {
        assert!(endpoint.is_tls && endpoint.port == 443);
        let (client, server) = duplex(4096);
        opened.send(server).unwrap();
        std::future::ready(Ok(client))
    });
    let (client, events) = Client::connect([url], config).unwrap();
    (client, events, streams)
}

#[tokio::test]
async fn client_joins_and_sends_over_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("wss://localhost:{port}/ws");
    let (client, mut events) = Client::connect([url], trusting(AUTHORITY)).unwrap();
    let (stream, _) = within("a connection", listener.accept()).await.unwrap();
    let (stream, name) = accept(stream, SERVER).await.unwrap();
    assert_eq!(name.as_deref(), Some("localhost"));
    let (mut peer, headers) = Peer::accept(stream).await;
    assert_eq!(headers["Host"], format!("localhost:{port}"));
    peer.welcome().await;
    online(&mut events).await;

    // Larger than a record of TLS.
    let text = "x".repeat(32_000);
    let serve = async {
        let join = peer.recv("join").await;
        peer.send(joined_frame(&join, 7, false, &[])).await;
        let send = peer.recv("send").await;
        assert_eq!(send["message"], text);
        peer.ok(&send, 8).await;
    };
    let talk = async {
        client.join("general", 0).await.unwrap();
        client.send("general", &text).await.unwrap()
    };
    let ((), sent) = tokio::join!(serve, talk);
    assert_eq!(sent.position.unwrap().offset, 8);
}

#[tokio::test]
async fn host_is_in_sni_and_certificate() {
    for (url, name, host) in [
        ("wss://chat.example/ws", Some("chat.example"), "chat.example"),
        ("wss://127.0.0.1/ws", None, "127.0.0.1"),
        ("wss://[::1]/ws", None, "[::1]"),
    ] {
        let (_client, mut events, mut streams) = connect(url, trusting(AUTHORITY));
        let (stream, asked) = accept(streams.recv().await.unwrap(), SERVER).await.unwrap();
        assert_eq!(asked.as_deref(), name, "{url}");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let (mut peer, headers) = Peer::accept(stream).await;
        assert_eq!(headers["Host"], host);
        peer.welcome().await;
        online(&mut events).await;
    }
}

#[tokio::test]
async fn unaccepted_certificate_is_named_and_retried() {
    for (certificate, authority, reason) in [
        (EXPIRED, AUTHORITY, "it has expired"),
        (ELSEWHERE, AUTHORITY, "it is for another name"),
        (SELF_SIGNED, SELF_SIGNED, "it is the certificate of an authority"),
        (SERVER, STRANGER, "no trusted authority has signed it"),
    ] {
        let (client, mut events, mut streams) =
            connect("wss://chat.example/ws", trusting(authority));
        let refused = accept(streams.recv().await.unwrap(), certificate).await;
        assert!(refused.is_err(), "{reason}");
        next_state(&mut events).await;
        let State::Waiting { loss, .. } = next_state(&mut events).await else { panic!("{reason}") };
        let expected = format!("the certificate of chat.example is not accepted: {reason}");
        assert_eq!((loss.code, &loss.reason), (None, &expected));
        assert_eq!(client.last_disconnect(), Some(loss));
        // The next attempt finds a good certificate, if the authority is trusted.
        let next = accept(streams.recv().await.unwrap(), SERVER).await;
        assert_eq!(next.is_ok(), authority == AUTHORITY);
    }
}

#[tokio::test]
async fn server_without_tls_is_named() {
    let (client, mut events, mut streams) = connect("wss://chat.example/ws", trusting(AUTHORITY));
    let mut stream = streams.recv().await.unwrap();
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    next_state(&mut events).await;
    next_state(&mut events).await;
    let reason = client.last_disconnect().unwrap().reason;
    assert_eq!(reason, "chat.example does not answer with TLS");
}

/// Servers that are killed do not say that they close.
#[tokio::test]
async fn end_without_close_notify_is_an_end() {
    let (client, mut events, mut streams) = connect("wss://chat.example/ws", trusting(AUTHORITY));
    let (stream, _) = accept(streams.recv().await.unwrap(), SERVER).await.unwrap();
    let (mut peer, _) = Peer::accept(stream).await;
    peer.welcome().await;
    online(&mut events).await;
    drop(peer);
    next_state(&mut events).await;
    assert_eq!(
        client.last_disconnect().unwrap().reason,
        "the connection ended without a close frame"
    );
}

/// Passes a server's bytes on to a client: at once, and once `is_slow` one kibibyte in ten seconds.
async fn relay(client: DuplexStream, server: DuplexStream, is_slow: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let forth = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        let mut bytes = [0; 1024];
        loop {
            let count = from_server.read(&mut bytes).await?;
            to_client.write_all(&bytes[..count]).await?;
            if is_slow.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            if count == 0 {
                return std::io::Result::Ok(());
            }
        }
    };
    let _ = tokio::join!(forth, back);
}

/// The client cannot decrypt a record before it has all of it.
#[tokio::test(start_paused = true)]
async fn part_of_a_record_is_a_sign_of_life() {
    let (client, mut events, mut streams) = connect("wss://chat.example/ws", trusting(AUTHORITY));
    let is_slow = Arc::<AtomicBool>::default();
    let (stream, far) = duplex(1 << 20);
    tokio::spawn(relay(streams.recv().await.unwrap(), far, Arc::clone(&is_slow)));
    let (mut peer, _) = Peer::accept(accept(stream, SERVER).await.unwrap().0).await;
    peer.welcome().await;
    let joined = async {
        let join = peer.recv("join").await;
        peer.send(joined_frame(&join, 0, false, &[])).await;
    };
    tokio::join!(joined, client.join("general", 0)).1.unwrap();
    is_slow.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let mut large = message(1);
    large["message"] = "x".repeat(15_000).into();
    peer.send(large).await;
    let received = timeout(Duration::from_secs(300), events.message()).await;
    assert_eq!(received.expect("the connection is not lost").unwrap().text.len(), 15_000);
    assert_eq!(client.last_disconnect(), None);
    assert!(begun.elapsed() > Duration::from_secs(100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn root_certificates_are_checked_at_the_start() {
    let start = |pem: &str| Client::connect(["wss://localhost/ws"], trusting(pem)).map(drop);
    assert_eq!(start(AUTHORITY), Ok(()));
    for pem in ["", KEY, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(matches!(start(pem), Err(ClientError::Tls(_))), "{pem}");
    }
}
