//! What systemd shows of the program, and waits for: `Type=notify` in `deploy/chat-server.service`. Without
//! the variable `NOTIFY_SOCKET` nothing is sent.

use std::borrow::Cow;
use std::time::Duration;

use chat_server::Server;
use sd_notify::NotifyState;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// How long a start lasts while the server is not ready: Redis may be away for hours, and the server
/// serves meanwhile.
const START: Duration = Duration::from_secs(60);

/// How often a server that starts is asked whether it is ready: who waits for the start waits for this.
const STARTING: Duration = Duration::from_millis(50);

/// How often afterwards.
const STARTED: Duration = Duration::from_secs(1);

/// Says that the server has started as soon as it is ready, as `/readyz` is, or at the end of [`START`].
/// From then on says whenever it is ready no more, and why, or is so again.
pub(crate) async fn readiness(server: Server) {
    announce(|| server.why_not_ready(), send).await;
}

async fn announce(why_not_ready: impl Fn() -> Reason, send: impl Fn(&[NotifyState<'_>])) {
    send(&[NotifyState::Status("listening; not ready yet: Redis, bans or keys of tokens")]);
    let until_ready = async {
        while why_not_ready().is_some() {
            sleep(STARTING).await;
        }
    };
    let _ = timeout(START, until_ready).await;
    let mut reason = why_not_ready();
    send(&[NotifyState::Ready, NotifyState::Status(&status(&reason))]);
    loop {
        sleep(STARTED).await;
        let now = why_not_ready();
        if now != reason {
            reason = now;
            send(&[NotifyState::Status(&status(&reason))]);
        }
    }
}

/// Why a server is not ready; `None` if it is.
type Reason = Option<Cow<'static, str>>;

fn status(reason: &Reason) -> String {
    match reason {
        None => "ready".to_owned(),
        Some(why) => format!("not ready: {}", one_line(why)),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// Says that the settings are being read again. The time proves that the reload is later than the request
/// for it (`Type=notify-reload`).
pub(crate) fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    send(&[NotifyState::Reloading, now]);
}

/// Says that a reload has ended, with a cause if it failed, and that of a server that is not ready.
pub(crate) fn reloaded(failure: Option<&str>, server: &Server) {
    let outcome = match failure {
        None => "settings reloaded".to_owned(),
        Some(why) => format!("settings not reloaded: {}", one_line(why)),
    };
    let status = match server.why_not_ready() {
        None => outcome,
        reason => format!("{outcome}; {}", status(&reason)),
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

    /// What is sent within 200 s, each with its second, of a server that is not ready for this reason at
    /// this second.
    async fn sent(why_not_ready: impl Fn(u64) -> Option<&'static str>) -> Vec<(u64, String)> {
        let start = Instant::now();
        let sent = RefCell::new(Vec::new());
        let announced = announce(
            || why_not_ready(start.elapsed().as_secs()).map(Cow::Borrowed),
            |states| {
                let text: Vec<_> = states.iter().map(ToString::to_string).collect();
                sent.borrow_mut().push((start.elapsed().as_secs(), text.join("; ")));
            },
        );
        assert!(timeout(Duration::from_secs(200), announced).await.is_err());
        sent.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn start_waits_for_readiness_a_minute_at_most() {
        let soon = sent(|second| (second < 10).then_some("a")).await;
        assert_eq!(soon[1..], [(10, "READY=1; STATUS=ready".to_owned())]);
        let late = sent(|second| (second < 100).then_some("a")).await;
        let expected = [(60, "READY=1; STATUS=not ready: a"), (100, "STATUS=ready")];
        assert_eq!(late[1..], expected.map(|(second, text)| (second, text.to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn change_of_readiness_is_said_once() {
        let changes = sent(|second| match second {
            20..30 => Some("a\nb"),
            30..40 => Some("c"),
            _ => None,
        });
        let expected = [
            (0, "READY=1; STATUS=ready"),
            (20, "STATUS=not ready: a b"),
            (30, "STATUS=not ready: c"),
            (40, "STATUS=ready"),
        ];
        assert_eq!(changes.await[1..], expected.map(|(second, text)| (second, text.to_owned())));
    }
}
