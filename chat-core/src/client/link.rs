//! The deadlines of a connection: when it is opened, pinged, and abandoned.

use std::time::Duration;

use super::config::Config;
use super::token::FETCH_TIMEOUT;

/// The stages of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is no connection; the next is opened at this time.
    Waiting(Duration),
    /// The token for the next connection is fetched first, until this time: a server does not wait
    /// long for a `hello`.
    FetchingToken(Duration),
    /// The connection is being opened.
    Opening,
    /// The connection is open and has no welcome yet.
    AwaitingWelcome,
    /// The connection received its welcome at this time.
    Online(Duration),
}

/// What is due on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The pause is over.
    Connect,
    /// The server is silent.
    Ping,
    /// The server, or the source of tokens, did not answer in time.
    Lost(String),
}

/// One connection after another.
///
/// While the application does not read its events, the server is not read and looks like a
/// silent one: its deadline is suspended, and restarts once it is read. Deadlines for writing are
/// not suspended.
#[derive(Debug)]
pub(super) struct Link {
    stage: Stage,
    /// When the server last showed a sign of life, or its connection was started.
    alive_at: Duration,
    /// Until when the server has to show a sign of life after a ping.
    answer_due: Option<Duration>,
    /// How many times as long it may take: twice as long after each connection that was abandoned for its
    /// silence, until nothing is unanswered. A server that is silent for another reason would else lose one
    /// connection after another.
    timeout_factor: u32,
    /// Since when the server has taken nothing of what waits to be sent.
    stalled_since: Option<Duration>,
    /// When the server last took a part of what waited: until then it had not read the requests in it.
    taken_at: Duration,
    connect_timeout: Duration,
    ping_after: Duration,
    pong_timeout: Duration,
    check_timeout: Duration,
}

/// The most that [`Link::timeout_factor`] is.
const MAX_TIMEOUT_FACTOR: u32 = 8;

impl Link {
    /// No connection; the first is due now.
    pub(super) fn new(config: &Config, now: Duration) -> Self {
        let Config { connect_timeout, ping_after, pong_timeout, check_timeout, .. } = *config;
        let (stage, alive_at) = (Stage::Waiting(now), now);
        Self {
            stage,
            alive_at,
            answer_due: None,
            timeout_factor: 1,
            stalled_since: None,
            taken_at: now,
            connect_timeout,
            ping_after,
            pong_timeout,
            check_timeout,
        }
    }

    pub(super) fn wait(&mut self, until: Duration) {
        self.stage = Stage::Waiting(until);
    }

    pub(super) fn fetch_token(&mut self, now: Duration) {
        self.stage = Stage::FetchingToken(now.saturating_add(FETCH_TIMEOUT));
    }

    pub(super) fn open(&mut self, now: Duration) {
        self.stage = Stage::Opening;
        self.stalled_since = None;
        self.restart(now);
    }

    pub(super) fn opened(&mut self) {
        self.stage = Stage::AwaitingWelcome;
    }

    pub(super) fn welcomed(&mut self, now: Duration) {
        self.stage = Stage::Online(now);
        self.restart(now);
    }

    pub(super) fn is_fetching_token(&self) -> bool {
        matches!(self.stage, Stage::FetchingToken(_))
    }

    pub(super) fn is_opening(&self) -> bool {
        self.stage == Stage::Opening
    }

    /// Whether frames can be sent and received.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::AwaitingWelcome | Stage::Online(_))
    }

    /// Whether the server takes what it is sent.
    pub(super) fn is_writable(&self) -> bool {
        self.is_open() && self.stalled_since.is_none()
    }

    /// Since when the connection is online.
    pub(super) fn online_since(&self) -> Option<Duration> {
        match self.stage {
            Stage::Online(since) => Some(since),
            _ => None,
        }
    }

    /// The server shows a sign of life. It counts only after the welcome, which has one time limit,
    /// whatever else the server sends before.
    pub(super) fn alive(&mut self, now: Duration) {
        if self.online_since().is_some() {
            self.restart(now);
        }
    }

    /// The server has taken everything, or a part (`false`), which restarts its deadline.
    pub(super) fn writable(&mut self, all: bool, now: Duration) {
        if !all || self.stalled_since.is_some() {
            self.taken_at = now;
        }
        self.stalled_since = (!all).then_some(now);
    }

    /// The deadline of a silent server restarts.
    pub(super) fn restart(&mut self, now: Duration) {
        self.alive_at = now;
        self.answer_due = None;
    }

    /// Nothing is unanswered.
    pub(super) fn all_answered(&mut self) {
        if self.online_since().is_some() {
            self.timeout_factor = 1;
        }
    }

    /// After a time in which the process did not run, the server has the time of a pong to show
    /// that it is there. Returns whether it is to be pinged.
    pub(super) fn restart_with_ping(&mut self, now: Duration) -> bool {
        self.stalled_since = self.stalled_since.map(|_| now);
        self.restart(now);
        if self.online_since().is_none() {
            return false;
        }
        self.answer_due = Some(now.saturating_add(self.pong_timeout));
        true
    }

    /// When something is due; `is_read`: whether the server can be read; `unanswered_since`: since when the
    /// oldest request has been unanswered.
    pub(super) fn deadline(
        &self,
        is_read: bool,
        unanswered_since: Option<Duration>,
    ) -> Option<Duration> {
        let read = is_read.then(|| self.read_deadline(unanswered_since).0);
        read.into_iter().chain(self.write_deadline()).min()
    }

    /// What is due.
    pub(super) fn take_due(
        &mut self,
        is_read: bool,
        unanswered_since: Option<Duration>,
        now: Duration,
    ) -> Option<Due> {
        let is_due = |deadline: Option<Duration>| deadline.is_some_and(|due| due <= now);
        if is_due(self.write_deadline()) {
            return Some(Due::Lost("the server reads nothing".into()));
        }
        let (due, answer_time) = self.read_deadline(unanswered_since);
        if !is_read || !is_due(Some(due)) {
            return None;
        }
        Some(match self.stage {
            Stage::Waiting(_) => Due::Connect,
            Stage::FetchingToken(_) => {
                let seconds = FETCH_TIMEOUT.as_secs();
                Due::Lost(format!("there is no token: none within {seconds} s"))
            }
            Stage::Opening => Due::Lost("no connection in time".into()),
            Stage::AwaitingWelcome => Due::Lost("no welcome in time".into()),
            Stage::Online(_) if self.answer_due.is_some() => {
                self.timeout_factor = MAX_TIMEOUT_FACTOR.min(2 * self.timeout_factor);
                Due::Lost("no answer to a ping".into())
            }
            Stage::Online(_) => {
                self.answer_due = Some(due.saturating_add(answer_time));
                Due::Ping
            }
        })
    }

    /// When the next is due of what does not concern writing; if it is a ping, how long its answer may take.
    fn read_deadline(&self, unanswered_since: Option<Duration>) -> (Duration, Duration) {
        let none = Duration::ZERO;
        match self.stage {
            Stage::Waiting(until) | Stage::FetchingToken(until) => (until, none),
            Stage::Opening | Stage::AwaitingWelcome => {
                (self.alive_at.saturating_add(self.connect_timeout), none)
            }
            Stage::Online(_) => {
                self.answer_due.map_or_else(|| self.ping(unanswered_since), |due| (due, none))
            }
        }
    }

    /// When the server is pinged, and how long the answer may take.
    fn ping(&self, unanswered_since: Option<Duration>) -> (Duration, Duration) {
        let silent = (self.alive_at.saturating_add(self.ping_after), self.pong_timeout);
        let unanswered = unanswered_since.map(|since| {
            // A server that takes a part of a large frame is there, and answers after the last part.
            let since = self.alive_at.max(since).max(self.taken_at);
            (since.saturating_add(self.check_timeout), self.check_timeout)
        });
        let (due, answer_time) = unanswered.map_or(silent, |unanswered| unanswered.min(silent));
        (due, answer_time.saturating_mul(self.timeout_factor))
    }

    /// A server that takes nothing has as long as one that sends nothing.
    fn write_deadline(&self) -> Option<Duration> {
        self.stalled_since
            .filter(|_| self.is_open())
            .map(|since| since.saturating_add(self.silence_timeout()))
    }

    /// How long a server may be silent.
    fn silence_timeout(&self) -> Duration {
        self.ping_after.saturating_add(self.pong_timeout)
    }
}
