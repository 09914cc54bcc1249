//! Two people in another room, who are to notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::{Chat, join, next_of};

/// Between two messages.
const PACE: Duration = Duration::from_millis(5);

/// How long the slowest message may take, on a busy machine.
const SLOWEST: Duration = Duration::from_secs(5);

/// One says something, the other hears it, and so on.
pub(crate) struct Bystanders {
    stop: Arc<AtomicBool>,
    talk: JoinHandle<(usize, Duration)>,
}

impl Bystanders {
    pub(crate) async fn at(server: &Chat) -> Self {
        let (mut speaker, mut listener) = (server.native().await, server.native().await);
        join(&mut speaker, "elsewhere").await;
        join(&mut listener, "elsewhere").await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let talk = tokio::spawn(async move {
            let (mut said, mut slowest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                said += 1;
                let text = said.to_string();
                let began = Instant::now();
                let frame = json!({"type": "send", "room": "elsewhere", "message": text});
                speaker.send_json(&frame).await;
                assert_eq!(next_of(&mut listener, "message").await["message"], text);
                next_of(&mut speaker, "ok").await;
                slowest = slowest.max(began.elapsed());
                sleep(PACE).await;
            }
            (said, slowest)
        });
        Self { stop, talk }
    }

    /// Every message came, and in time: how many, and how long the slowest took.
    pub(crate) async fn were_served(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let (said, slowest) = self.talk.await.expect("a bystander was not served");
        assert!(slowest < SLOWEST, "a bystander waited {slowest:?}");
        format!("bystanders: {said} messages, the slowest took {} ms", slowest.as_millis())
    }
}
