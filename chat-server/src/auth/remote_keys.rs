//! The keys of a JWKS at a URL, which are fetched again and again: issuers change them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, CACHE_CONTROL, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use bytes::Bytes;
use chat_core::Backoff;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::KeyFetches;
use super::jwk::{self, Source};
use super::key::NamedKey;
use crate::http_client::{HttpClient, RequestError, check_url};
use crate::log_budget::OncePerMinute;

/// How often the keys are fetched, unless the answer says how long it is fresh.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Bounds of what an answer may say: a shorter time would be a load, and with a longer one a key
/// that the issuer has withdrawn would be accepted for days.
const MIN_INTERVAL: Duration = Duration::from_secs(60);
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Pauses after a fetch that failed. The keys that are known stay valid until then.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The least time between the starts of two fetches for tokens that name an unknown key: every
/// client can send such tokens.
const MIN_FETCH_DISTANCE: Duration = Duration::from_secs(10);

/// The largest set, in bytes. Sets with certificates have some KiB for each key.
const MAX_BYTES: usize = 256 * 1024;

/// Where keys are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteKeysConfig {
    /// The URL of a JWKS: `https://`, or `http://` with a host on a loopback or private address.
    pub url: String,
    /// The certificates of the authorities that sign the certificate of that host, in PEM. Default:
    /// those of the operating system, or of the file in `SSL_CERT_FILE`.
    pub ca_certificate: Option<Vec<u8>>,
}

impl RemoteKeysConfig {
    /// The keys at `url`, and the default of the other field.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ca_certificate: None }
    }

    /// Sets [`ca_certificate`](Self::ca_certificate).
    #[must_use]
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_certificate = Some(pem.into());
        self
    }

    /// Checks the settings. [`RemoteKeys::start`] does so as well.
    ///
    /// # Errors
    /// [`FetchError::Config`] if the URL or a certificate cannot be used.
    pub fn check(&self) -> Result<(), FetchError> {
        let url = check_url(&self.url).map_err(|why| FetchError::Config(why.to_owned()))?;
        match &self.ca_certificate {
            Some(_) => self.client(url).map(drop),
            None => Ok(()),
        }
    }

    fn client(&self, url: Uri) -> Result<HttpClient, FetchError> {
        HttpClient::new(url, self.ca_certificate.as_deref())
            .map_err(|error| FetchError::Config(error.to_string()))
    }
}

/// Why keys were not fetched. The text names the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A setting cannot be used.
    #[error("{0}")]
    Config(String),
    /// There was no answer, or one that says that there is none now. A later fetch may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// The answer is not a set with a key that can be used, or is a redirect, which is not followed.
    #[error("{0}")]
    Unusable(String),
}

impl From<RequestError> for FetchError {
    fn from(error: RequestError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// The keys of a JWKS at a URL, kept up to date by a task until the last clone is dropped.
///
/// The task fetches them at the start; then each hour, or as often as `Cache-Control: max-age` of
/// the answer says (at least each day, at most each minute); and for a token that names an unknown
/// key, whose handshake waits for it, at most once in 10 s. A fetch ends after 5 s, reads at most
/// 256 KiB, and follows no redirect. After one that fails, the keys that are known stay valid, and
/// the next follows within a minute. A secret in the set (`oct`) is skipped: others can read it.
///
/// ```no_run
/// use chat_server::{JwtAuthenticator, JwtKeys, RemoteKeys, RemoteKeysConfig, Server};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), chat_server::FetchError> {
/// let keys = RemoteKeys::start(RemoteKeysConfig::new("https://accounts.example/jwks.json"))?;
/// keys.fetch().await?;
/// let tokens = JwtAuthenticator::with_keys(JwtKeys::new().remote(keys)).audience(["chat"]);
/// let server = Server::builder().authenticator(tokens).start();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RemoteKeys {
    shared: Arc<Shared>,
    /// Aborted with the last clone.
    _task: Arc<JoinSet<()>>,
}

struct Shared {
    /// `None` until a fetch has succeeded.
    known: RwLock<Option<Known>>,
    progress: watch::Sender<Progress>,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

struct Known {
    keys: Arc<[NamedKey]>,
    /// What the keys were read from.
    document: Bytes,
    since: Instant,
}

/// What requesters and the task agree on.
struct Progress {
    /// A fetch is under way, or requested.
    in_flight: bool,
    /// When the latest fetch was begun or requested.
    began: Instant,
    /// How many fetches have ended.
    ended: u64,
    /// How the latest of these ended.
    outcome: Result<(), FetchError>,
}

impl RemoteKeys {
    /// Starts the task, which begins to fetch the keys at once. [`fetch`](Self::fetch) waits for
    /// them. Until they are known, tokens are answered with [`AuthError::Unavailable`], and the
    /// server is not ready.
    ///
    /// [`AuthError::Unavailable`]: crate::AuthError::Unavailable
    ///
    /// # Errors
    /// [`FetchError::Config`] if the URL or a certificate cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: RemoteKeysConfig) -> Result<Self, FetchError> {
        let url = check_url(&config.url).map_err(|why| FetchError::Config(why.to_owned()))?;
        let client = config.client(url)?;
        Ok(Self::start_with(Box::new(move || Box::pin(get(client.clone())))))
    }

    fn start_with(get: Get) -> Self {
        let progress =
            Progress { in_flight: true, began: Instant::now(), ended: 0, outcome: Ok(()) };
        let shared = Arc::new(Shared {
            known: RwLock::new(None),
            progress: watch::Sender::new(progress),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let mut task = JoinSet::new();
        task.spawn(Arc::clone(&shared).keep_fetching(get));
        Self { shared, _task: Arc::new(task) }
    }

    /// Fetches the keys now, or waits for the fetch that is under way.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] or [`FetchError::Unusable`]. The keys that were known stay valid,
    /// and the task goes on to fetch.
    ///
    /// # Cancel safety
    /// Dropping the call stops waiting; the fetch goes on.
    pub async fn fetch(&self) -> Result<(), FetchError> {
        // Without a least distance there is always one to wait for.
        self.shared.fetch(Duration::ZERO).await.unwrap_or(Ok(()))
    }

    /// Fetches the keys for a token that names an unknown one, unless the latest fetch began less
    /// than 10 s ago. Returns its outcome; `None` if there is nothing new.
    pub(super) async fn fetch_missing(&self) -> Option<Result<(), FetchError>> {
        match self.shared.fetch(MIN_FETCH_DISTANCE).await {
            // A key may be missing just because the latest fetch failed.
            None => self.shared.progress.borrow().outcome.clone().err().map(Err),
            outcome => outcome,
        }
    }

    /// Whether a fetch has succeeded.
    pub(super) fn is_loaded(&self) -> bool {
        self.shared.known.read().is_some()
    }

    /// The keys that are known now.
    pub(super) fn known(&self) -> Arc<[NamedKey]> {
        self.shared.keys()
    }

    pub(super) fn fetches(&self) -> KeyFetches {
        let age = self.shared.known.read().as_ref().map(|known| known.since.elapsed());
        KeyFetches::default()
            .succeeded(self.shared.succeeded.load(Ordering::Relaxed))
            .failed(self.shared.failed.load(Ordering::Relaxed))
            .age(age)
    }
}

impl Shared {
    /// Waits for the fetch that is under way, or for a new one if the latest began `distance` ago.
    /// `None` if there is neither.
    async fn fetch(&self, distance: Duration) -> Option<Result<(), FetchError>> {
        let mut ended = None;
        // Decided under the lock of the channel: however many handshakes ask, one fetch begins.
        self.progress.send_if_modified(|progress| {
            let begins = !progress.in_flight && progress.began.elapsed() >= distance;
            if begins {
                (progress.in_flight, progress.began) = (true, Instant::now());
            }
            ended = progress.in_flight.then_some(progress.ended);
            begins
        });
        let ended = ended?;
        let mut progress = self.progress.subscribe();
        let progress = progress.wait_for(|progress| progress.ended > ended).await.ok()?;
        Some(progress.outcome.clone())
    }

    async fn keep_fetching(self: Arc<Self>, get: Get) {
        let mut progress = self.progress.subscribe();
        let mut backoff = Backoff::new(MIN_PAUSE, MAX_PAUSE);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                _ = progress.wait_for(|progress| progress.in_flight) => {}
            }
            self.progress.send_modify(|progress| {
                (progress.in_flight, progress.began) = (true, Instant::now());
            });
            let outcome = get().await.and_then(|answer| self.take(answer));
            let pause = match &outcome {
                Ok(fresh) => {
                    backoff.reset();
                    fresh.unwrap_or(INTERVAL).clamp(MIN_INTERVAL, MAX_INTERVAL)
                }
                // Servers that lost the issuer together do not ask it again together.
                Err(_) => backoff.next_jittered(getrandom::u64().unwrap_or(u64::MAX)),
            };
            next = Instant::now() + pause;
            self.end_fetch(outcome.map(drop));
        }
    }

    /// Takes over the keys of an answer. Returns how long it is fresh, if it says so.
    fn take(&self, answer: Answer) -> Result<Option<Duration>, FetchError> {
        let document = answer.body;
        let is_known = self.known.read().as_ref().is_some_and(|known| known.document == document);
        let keys = if is_known {
            self.keys()
        } else {
            let keys = jwk::read_set(&document, Source::Url)
                .map_err(|error| FetchError::Unusable(error.to_string()))?;
            tracing::info!(keys = keys.len(), "keys of tokens fetched");
            keys.into()
        };
        *self.known.write() = Some(Known { keys, document, since: Instant::now() });
        Ok(answer.max_age)
    }

    fn keys(&self) -> Arc<[NamedKey]> {
        let known = self.known.read();
        known.as_ref().map(|known| Arc::clone(&known.keys)).unwrap_or_default()
    }

    fn end_fetch(&self, outcome: Result<(), FetchError>) {
        let counter = if outcome.is_ok() { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &outcome {
            // Clients can cause a fetch every 10 s.
            static WARNED: OncePerMinute = OncePerMinute::new();
            if WARNED.is_due() {
                let is_loaded = self.known.read().is_some();
                let until_then = if is_loaded { "known ones stay valid" } else { "not ready" };
                tracing::warn!(%error, "keys of tokens not fetched, {until_then}");
            }
        }
        self.progress.send_modify(|progress| {
            progress.in_flight = false;
            progress.ended += 1;
            progress.outcome = outcome;
        });
    }
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKeys").field("known", &self.known()).finish_non_exhaustive()
    }
}

/// Gets the set.
type Get =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Answer, FetchError>> + Send>> + Send + Sync>;

struct Answer {
    body: Bytes,
    /// How long the answer is fresh, if it says so.
    max_age: Option<Duration>,
}

async fn get(client: HttpClient) -> Result<Answer, FetchError> {
    let mut request = Request::new(Body::empty());
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    let response = client.send(request, MAX_BYTES).await?;
    match response.status() {
        StatusCode::OK => {
            let max_age = max_age(response.headers());
            Ok(Answer { body: response.into_body(), max_age })
        }
        status if status.is_redirection() => {
            let to = response.headers().get(LOCATION);
            Err(FetchError::Unusable(format!(
                "the answer is a redirect ({status}) to {to:?}, which is not followed"
            )))
        }
        status => Err(FetchError::Unavailable(format!("the answer has the status {status}"))),
    }
}

/// How long an answer is fresh (RFC 9111, section 5.2.2.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|line| line.to_str().ok());
    let mut directives = lines.flat_map(|line| line.split(',')).map(str::trim);
    let seconds = directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok())?
    });
    seconds.map(Duration::from_secs)
}

#[cfg(test)]
#[path = "remote_keys_tests.rs"]
mod tests;
