//! Faults under load: servers, connections and Redis come and go while many clients talk.
//!
//! What was acknowledged must reach everybody, once and in order. `CHAOS_SECONDS` says how
//! long the faults go on; by default each comes once.

mod moving;
mod upgrade;
mod world;

use std::time::{Duration, Instant};

use crate::support::crowd::Crowd;
use crate::support::verdict::Verdict;
use crate::support::{alone, say};
use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered() {
    let _alone = alone().await;
    let mut world = World::start(3, &["--appendonly", "yes", "--appendfsync", "always"]).await;
    let crowd = Crowd::join(|n| world.urls(n), 200, 20).await;
    let until = Instant::now() + duration();
    let mut round = 0;
    loop {
        round += 1;
        say(&format!("round {round}: connections of clients are cut"));
        world.cut_clients(0.2);
        pause(1).await;
        say("Pub/Sub connections are dropped");
        world.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        pause(2).await;
        say("a server is killed, and another takes its place");
        world.kill_server(round % 3);
        world.cut_clients(0.1);
        pause(1).await;
        world.replace_server(round % 3).await;
        pause(2).await;
        say("Redis is frozen for 5 s");
        world.redis.pause();
        pause(5).await;
        world.redis.resume();
        pause(2).await;
        say("Redis restarts, told to");
        world.redis.stop();
        world.cut_clients(0.1);
        world.redis.restart();
        pause(3).await;
        say("Redis is killed, and restarts with its data");
        world.redis.restart();
        world.cut_clients(0.1);
        pause(3).await;
        say("all connections to Redis are dropped");
        world.redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        world.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        pause(2).await;
        if Instant::now() >= until {
            break;
        }
    }
    let records = crowd.finish().await;
    let verdict = Verdict::of(&records);
    say(&format!("{verdict}; repairs on servers took {}", world.longest_repair().await));
    crowd_is_whole(&crowd, &world).await;
    assert!(verdict.acknowledged > 1_000, "hardly anything was said");
    assert_eq!((verdict.lost, verdict.doubled, verdict.reordered, verdict.gaps), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_redis_is_emptied_everybody_is_told_and_goes_on() {
    let _alone = alone().await;
    let mut world = World::start(2, &[]).await;
    let crowd = Crowd::join(|n| world.urls(n), 200, 20).await;
    pause(3).await;
    say("Redis restarts without its data");
    world.redis.restart();
    world.cut_clients(0.3);
    pause(5).await;
    let records = crowd.finish().await;
    let verdict = Verdict::of(&records);
    say(&format!("{verdict}"));
    let untold = records.iter().filter(|record| record.gaps == 0).count();
    assert_eq!(untold, 0, "clients that were not told");
    assert_eq!((verdict.doubled, verdict.reordered), (0, 0));
    // What was said after it reaches everybody again.
    let stuck = crowd.everybody_hears_everybody().await;
    assert_eq!(stuck, 0, "clients that hear nothing any more");
    crowd_is_whole(&crowd, &world).await;
}

/// In the end every room has its members again, and nobody else.
async fn crowd_is_whole(crowd: &Crowd, world: &World) {
    let began = Instant::now();
    while let Err(wrong) = crowd.check_members().await {
        assert!(began.elapsed() < world.lease() + Duration::from_secs(20), "{wrong}");
        pause(1).await;
    }
    say(&format!("all members are right after {:.1} s", began.elapsed().as_secs_f64()));
}

fn duration() -> Duration {
    let seconds = std::env::var("CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
