//! Two people in another room, who are to notice nothing.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chat_transport::testing::WsClient;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{assert_within, eventually, join, next_of};

/// Between two messages.
const PACE: Duration = Duration::from_millis(5);

/// How long the slowest message may take.
const SLOWEST: Duration = Duration::from_secs(5);

/// What a busy machine may make of a message that is served well.
const NOISE: Duration = Duration::from_millis(100);

/// Messages from which to tell how it is when nothing else happens.
const QUIET: usize = 200;

/// One says something, the other hears it, and so on.
pub(crate) struct ControlClients {
    stop: Arc<AtomicBool>,
    times: Arc<Mutex<Vec<Duration>>>,
    talk: JoinHandle<()>,
}

/// How long each message took.
#[derive(Debug)]
pub(crate) struct Service {
    /// The shortest first.
    times: Vec<Duration>,
}

impl ControlClients {
    /// At the server on this port.
    pub(crate) async fn at(port: u16) -> Self {
        let connect = async || {
            let protocol = [("Sec-WebSocket-Protocol", "chat.v1")];
            WsClient::connect_with(&format!("ws://127.0.0.1:{port}/ws"), &protocol).await
        };
        let (mut speaker, mut listener) = (connect().await, connect().await);
        join(&mut speaker, "elsewhere").await;
        join(&mut listener, "elsewhere").await;
        let stop = Arc::new(AtomicBool::new(false));
        let times = Arc::<Mutex<Vec<Duration>>>::default();
        let (stopped, taken) = (Arc::clone(&stop), Arc::clone(&times));
        let talk = tokio::spawn(async move {
            for said in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let text = said.to_string();
                let began = Instant::now();
                let frame = json!({"type": "send", "room": "elsewhere", "message": text});
                speaker.send_json(&frame).await;
                assert_eq!(next_of(&mut listener, "message").await["message"], text);
                next_of(&mut speaker, "ok").await;
                taken.lock().unwrap().push(began.elapsed());
                sleep(PACE).await;
            }
        });
        Self { stop, times, talk }
    }

    /// How they are served before anything happens: what is counted later begins here.
    pub(crate) async fn quiet(&self) -> Service {
        let times = || self.times.lock().unwrap();
        let enough = async || times().len() >= QUIET || self.talk.is_finished();
        eventually("a few messages", enough).await;
        Service::of(std::mem::take(&mut *times()))
    }

    /// Every message came since they began or were last asked.
    pub(crate) async fn were_served(self) -> Service {
        self.stop.store(true, Ordering::Relaxed);
        self.talk.await.expect("a control client was not served");
        let service = Service::of(std::mem::take(&mut *self.times.lock().unwrap()));
        assert_within("the slowest message", service.slowest(), SLOWEST);
        service
    }
}

impl Service {
    fn of(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was said");
        times.sort_unstable();
        Self { times }
    }

    /// How many messages there were.
    pub(crate) fn count(&self) -> usize {
        self.times.len()
    }

    fn slowest(&self) -> Duration {
        self.within(1.0)
    }

    /// This part of the messages took no longer.
    fn within(&self, part: f64) -> Duration {
        let nth = (self.times.len() as f64 * part).ceil() as usize;
        self.times[nth.max(1) - 1]
    }

    /// ControlClients that are served so have not noticed what others did.
    pub(crate) fn is_no_slower_than(&self, quiet: &Self) {
        let most = (2 * quiet.within(0.99)).max(NOISE);
        assert_within("the 99th of 100 messages", self.within(0.99), most);
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, all] = [0.5, 0.99, 1.0].map(|part| self.within(part).as_secs_f64() * 1e3);
        let count = self.count();
        write!(f, "{count} messages, p50 {half:.1} ms, p99 {most:.1} ms, slowest {all:.1} ms")
    }
}
