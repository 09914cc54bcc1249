//! Attackers within the protocol, and 100 members of other rooms and of the same ones, at a server
//! with the settings that it has by default.
//!
//! Each test is one kind of attack: its attackers take turns at the attacks of a file here. Always:
//! no member's connection is closed, every message reaches every member of its room, all in the
//! same order, and Redis and the kernel hold no more than [`trial`] allows.
//!
//! With `LONG_ATTACKS=1` phases are longer, and members must also be served about as fast as without
//! the attack: see [`trial`] for what "without" means on a machine that attackers and servers share.
//! The ignored tests measure each attack alone.

mod attacker;
mod bans;
mod control;
mod floods;
mod gaps;
mod http;
mod large;
mod members;
mod questions;
mod redis;
mod rooms;
mod tabs;
mod trial;
mod unread;
mod usage;

use trial::{Tokens, Trial};

/// Whether phases have their full length.
fn long() -> bool {
    std::env::var_os("LONG_ATTACKS").is_some_and(|value| value != "0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_do_not_slow_members() {
    Trial::of("floods", floods::ATTACKS).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_do_not_slow_members() {
    Trial::of("large messages", large::ATTACKS).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_grows_within_the_budgets() {
    Trial::of("filling Redis", redis::ATTACKS).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_messages_do_not_close_a_slow_member() {
    Trial::of("direct messages", large::TO_ONE_MEMBER).with_slow_member().run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_do_not_slow_members() {
    Trial::of("large answers", questions::ATTACKS).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_take_bounded_kernel_memory() {
    Trial::of("unread answers", unread::ATTACKS).without_traffic_for_members().run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_and_leaves_do_not_slow_members() {
    Trial::of("joins and leaves", rooms::ATTACKS).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_requests_do_not_slow_members() {
    Trial::of("HTTP", http::ATTACKS).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_frames_and_fragments_do_not_slow_members() {
    Trial::of("control frames and fragments", control::ATTACKS).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bans_in_a_loop_do_not_slow_members() {
    Trial::of("bans", bans::ATTACKS).with_tokens().run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_one_user_have_the_budgets_of_one() {
    Trial::of("connections of one user", tabs::ATTACKS).run().await;
}

/// What each attack costs the server, to find the worst.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes"]
async fn each_attack_is_measured_alone() {
    let kinds = [
        floods::ATTACKS,
        large::ATTACKS,
        large::TO_ONE_MEMBER,
        redis::ATTACKS,
        questions::ATTACKS,
        unread::ATTACKS,
        rooms::ATTACKS,
        http::ATTACKS,
        control::ATTACKS,
        tabs::ATTACKS,
    ];
    for attack in kinds.into_iter().flatten() {
        trial::measure(attack, None).await;
    }
    for attack in bans::ATTACKS {
        trial::measure(attack, Some(Tokens::new())).await;
    }
}

/// What no budget bounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, and more memory than a test may take"]
async fn each_gap_is_measured() {
    for attack in gaps::ATTACKS {
        trial::measure(attack, None).await;
    }
}
