//! An upgrade from the former release and the way back, while clients talk.
//!
//! `CHAT_TEST_FORMER_SERVER` is the program of that release, which `.ci/former` builds.

use super::pause;
use super::world::World;
use crate::support::crowd::Crowd;
use crate::support::verdict::Verdict;
use crate::support::{alone, say};

#[ignore = "needs the former release; .ci/run --long runs it"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_and_rollback_lose_nothing() {
    let former = std::env::var_os("CHAT_TEST_FORMER_SERVER").expect("CHAT_TEST_FORMER_SERVER");
    let _alone = alone().await;
    let mut world = World::start_of(former.clone(), 3, &[]).await;
    let crowd = Crowd::join(|n| world.urls(n), 40, 8).await;
    let this = env!("CARGO_BIN_EXE_chat-server").into();
    for program in [this, former] {
        world.program = program;
        for server in 0..3 {
            pause(1).await;
            world.restart_server(server).await;
        }
    }
    pause(1).await;
    let verdict = Verdict::of(&crowd.finish().await);
    say(&format!("{verdict}"));
    assert!(verdict.acknowledged > 100, "hardly anything was said");
    assert_eq!((verdict.lost, verdict.doubled, verdict.reordered, verdict.gaps), (0, 0, 0, 0));
}
