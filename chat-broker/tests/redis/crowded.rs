//! Redis has as many clients as it takes (`maxclients`).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use chat_broker::testing::RedisServer;
use chat_broker::{Broker, BrokerEvent, Status};
use futures_util::future::join_all;

use crate::support::{Node, PATIENCE, eventually, room};

const NO_MORE: &str = "CONFIG SET maxclients 1";
const ENOUGH: &str = "CONFIG SET maxclients 1000";

/// A connection that is open already when Redis takes no more.
struct Operator(TcpStream);

impl Operator {
    fn connect(server: &RedisServer) -> Self {
        Self(TcpStream::connect(("127.0.0.1", server.port())).unwrap())
    }

    /// Redis runs these before it accepts another connection.
    fn run(&mut self, commands: &[&str]) {
        self.0.write_all(format!("{}\r\n", commands.join("\r\n")).as_bytes()).unwrap();
        let mut answers = Vec::new();
        while answers.iter().filter(|byte| **byte == b'\n').count() < commands.len() {
            let mut bytes = [0; 256];
            let length = self.0.read(&mut bytes).unwrap();
            answers.extend_from_slice(&bytes[..length]);
        }
    }
}

/// How often a connection was not accepted.
fn refused_connections(node: &Node) -> u64 {
    let refusals = node.broker.stats().refusals;
    refusals.iter().filter(|each| each.cause == "MAXCLIENTS").map(|each| each.count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_wait_for_a_connection_that_is_in_use() {
    const READS: usize = 200;
    let server = RedisServer::start();
    let node = Node::with(Node::config(&server).deadline(PATIENCE)).await;
    let topic = room("r");
    node.publish(&topic, "x").await.unwrap();
    node.position(&topic).await.expect("a first connection of the pool");
    let mut operator = Operator::connect(&server);
    operator.run(&[NO_MORE]);
    let read = async || {
        let began = Instant::now();
        let reads = join_all((0..READS).map(|_| node.position(&topic))).await;
        println!("{READS} reads took {:.1?}", began.elapsed());
        for read in reads {
            assert_eq!(read.expect("a connection serves").offset, 1);
        }
    };
    for _ in 0..3 {
        read().await;
    }
    assert_eq!(node.broker.status(), Status::Ready, "nothing else needs a connection");
    let refused = refused_connections(&node);
    assert!((1..30).contains(&refused), "{refused}: each second a few");

    operator.run(&[ENOUGH]);
    // The next attempt is due after a second at most.
    eventually("another connection of the pool", async || {
        read().await;
        server.command(&["CLIENT", "LIST", "TYPE", "normal"]).await.lines().count() > 4
    })
    .await;
    assert_eq!(refused_connections(&node), refused, "others are opened again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_subscriber_returns_when_redis_has_room_again() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    let mut operator = Operator::connect(&server);
    operator.run(&["CLIENT KILL TYPE pubsub", NO_MORE]);
    node.wait_for(Status::Away).await;
    let began = Instant::now();
    eventually("several attempts", async || refused_connections(&node) >= 3).await;
    let (refused, seconds) = (refused_connections(&node), began.elapsed().as_secs_f64());
    assert!(refused as f64 <= 10.0 + 10.0 * seconds, "{refused} attempts in {seconds:.1} s");
    operator.run(&[ENOUGH]);
    node.wait_for(Status::Ready).await;
    assert_eq!(node.next().await, BrokerEvent::Interrupted);
    node.publish(&topic, "after").await.unwrap();
    assert_eq!(node.message().await.0, "after");
}
