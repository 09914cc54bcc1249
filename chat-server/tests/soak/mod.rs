//! A server that runs for long is as one that has just begun: what came and went leaves nothing.
//!
//! A crowd talks all the time, on two servers over one Redis; around it, clients of all dialects
//! come, talk, leave, vanish, read slowly and break rules. `SOAK_SECONDS` says for how long; by
//! default a minute.

mod churn;
mod level;
mod world;

use std::time::Duration;

use crate::support::crowd::Crowd;
use crate::support::verdict::Verdict;
use crate::support::{alone, say};
use churn::Churn;
use level::Level;
use world::World;

/// Those who stay, and their rooms.
const CROWD: usize = 40;
const ROOMS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_and_goes_leaves_nothing() {
    let _alone = alone().await;
    let world = World::start().await;
    let crowd = Crowd::join(|n| world.urls(n), CROWD, ROOMS).await;
    let whole = duration();
    // What a server takes once, it has taken after a while.
    let warm_up = (whole / 4).min(Duration::from_secs(60));
    Churn::of(&world).go_on_for(warm_up).await;
    let before = Level::settled(&world, CROWD).await;
    say(&format!("after {} s: {before}", warm_up.as_secs()));
    let churn = Churn::of(&world).go_on_for(whole - warm_up).await;
    let after = Level::settled(&world, CROWD).await;
    say(&format!("after {} s: {after}; {churn}", whole.as_secs()));
    let verdict = Verdict::of(&crowd.finish().await);
    say(&format!("{verdict}"));
    after.is_no_higher_than(&before);
    crowd.check_members().await.unwrap();
    assert_eq!((verdict.lost, verdict.doubled, verdict.reordered, verdict.gaps), (0, 0, 0, 0));
    assert!(verdict.acknowledged > 1_000, "hardly anything was said");
}

fn duration() -> Duration {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}
