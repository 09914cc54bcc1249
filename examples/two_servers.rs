//! Two servers over one Redis, in one process: clients of one are in the same rooms as clients
//! of the other. Uses `REDIS_URL`, or starts a private redis-server.

use std::net::SocketAddr;

use chat_broker::testing::RedisServer;
use chat_broker::{RedisBroker, RedisConfig};
use chat_server::Server;
use chat_transport::testing::WsClient;
use tokio::net::TcpListener;

async fn serve(redis: &str) -> Result<(Server, SocketAddr), Box<dyn std::error::Error>> {
    let (broker, events) = RedisBroker::connect(RedisConfig::new(redis)).await?;
    let server = Server::builder().broker(broker, events).start();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let handle = server.clone();
    tokio::spawn(async move { handle.serve(vec![listener], std::future::pending()).await });
    Ok((server, address))
}

/// Joins the room, and waits until the server has let the client in.
async fn join(address: SocketAddr, name: &str) -> WsClient {
    let mut client =
        WsClient::connect(&format!("ws://{address}/join-room/lobby?user={name}")).await;
    client.recv().await;
    client
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let private = std::env::var("REDIS_URL").is_err().then(RedisServer::start);
    let url = private.as_ref().map(RedisServer::url);
    let url = url.map_or_else(|| std::env::var("REDIS_URL"), Ok)?;

    let (first, first_address) = serve(&url).await?;
    let (second, second_address) = serve(&url).await?;
    println!("server A on {first_address}, server B on {second_address}");

    let mut alice = join(first_address, "Alice").await;
    let mut bob = join(second_address, "Bob").await;
    alice.send(r#"{"type":"chat_message","message":"Hello from A"}"#).await;
    loop {
        let frame = bob.recv().await;
        println!("Bob, on B, hears {frame}");
        if frame.contains("Hello from A") {
            break;
        }
    }
    first.shutdown().await;
    second.shutdown().await;
    Ok(())
}
