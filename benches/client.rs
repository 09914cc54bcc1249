//! The latency of a client: the reference client against a whole server, over a real socket,
//! with the broker in memory.

use chat_server::Server;
use chat_transport::client::{Client, ClientConfig};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Messages in a room when a new member asks for them.
const LATEST: u32 = 50;

async fn connect(url: &str) -> Client {
    let (client, mut events) = Client::connect([url], ClientConfig::default()).expect("an address");
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    client
}

fn client(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (sender, joiner) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ws://{}/ws", listener.local_addr().expect("an address"));
        let server = Server::builder().start();
        tokio::spawn(async move {
            server.serve(vec![listener], std::future::pending()).await;
        });
        (connect(&url).await, connect(&url).await)
    });
    runtime.block_on(async {
        sender.join("room", 0).await.expect("joined");
        for n in 0..LATEST {
            sender.send("room", &n.to_string()).await.expect("taken");
        }
    });

    let mut group = c.benchmark_group("client");
    group.bench_function("a message and its answer", |b| {
        b.iter(|| runtime.block_on(sender.send("room", "hello")).expect("taken"));
    });
    group.throughput(Throughput::Elements(LATEST.into()));
    group.bench_function("join with the latest 50, and leave", |b| {
        b.iter(|| {
            runtime.block_on(async {
                joiner.join("room", LATEST).await.expect("joined");
                joiner.leave("room").await.expect("left");
            });
        });
    });
    group.finish();
}

criterion_group!(benches, client);
criterion_main!(benches);
