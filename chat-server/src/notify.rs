//! What systemd shows of the program, and waits for: `Type=notify` in `deploy/chat-server.service`. Without
//! the variable `NOTIFY_SOCKET` nothing is sent.

use std::time::Duration;

use chat_server::Server;
use sd_notify::NotifyState;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// How long a start lasts while the server is not ready: Redis may be away for hours, and the server
/// serves meanwhile.
const START: Duration = Duration::from_secs(60);

/// How often a server that is not ready is asked again.
const PERIOD: Duration = Duration::from_millis(50);

/// Says that the server has started as soon as it is ready, as `/readyz` is, or at the end of [`START`].
pub(crate) async fn started(server: Server) {
    announce(|| server.is_ready(), send).await;
}

async fn announce(is_ready: impl Fn() -> bool, send: impl Fn(&[NotifyState<'_>])) {
    send(&[NotifyState::Status("listening; not ready yet: Redis, bans or keys of tokens")]);
    let until_ready = async || {
        while !is_ready() {
            sleep(PERIOD).await;
        }
    };
    if timeout(START, until_ready()).await.is_err() {
        send(&[
            NotifyState::Ready,
            NotifyState::Status("serving, but not ready: `chat-server health` says why"),
        ]);
        until_ready().await;
    }
    send(&[NotifyState::Ready, NotifyState::Status("ready")]);
}

/// Says that the settings are being read again. The time proves that the reload is later than the request
/// for it (`Type=notify-reload`).
pub(crate) fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    send(&[NotifyState::Reloading, now]);
}

/// Says that a reload has ended: with a cause if it failed.
pub(crate) fn reloaded(failure: Option<&str>) {
    let status = match failure {
        None => "settings reloaded".to_owned(),
        Some(why) => format!("settings not reloaded: {}", why.replace('\n', " ")),
    };
    send(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Says that the server drains.
pub(crate) fn stopping(signal: &str) {
    let status = format!("{signal}: draining");
    send(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("NOTIFY_SOCKET: the state was not sent: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;

    /// What is sent, each with its second, of a server that is ready after this time.
    async fn sent(after: Duration) -> Vec<(u64, String)> {
        let start = Instant::now();
        let sent = RefCell::new(Vec::new());
        announce(
            || start.elapsed() >= after,
            |states| {
                let text: Vec<_> = states.iter().map(ToString::to_string).collect();
                sent.borrow_mut().push((start.elapsed().as_secs(), text.join("; ")));
            },
        )
        .await;
        sent.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn start_waits_for_readiness_a_minute_at_most() {
        let soon = sent(Duration::from_secs(10)).await;
        assert_eq!(soon[1..], [(10, "READY=1; STATUS=ready".to_owned())]);
        let late = sent(Duration::from_secs(100)).await;
        assert_eq!(late.len(), 3, "{late:?}");
        assert!(late[1].0 == 60 && late[1].1.starts_with("READY=1; STATUS=serving, but not ready"));
        assert_eq!(late[2], (100, "READY=1; STATUS=ready".to_owned()));
    }
}
