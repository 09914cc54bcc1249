//! When keys are fetched, by a clock that the tests move.

use std::sync::atomic::AtomicUsize;

use axum::http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::{advance, sleep};

use super::*;

/// What the issuer answers, and how often it was asked.
#[derive(Default)]
struct Issuer {
    answers: Mutex<Vec<Result<(String, Option<Duration>), FetchError>>>,
    asked: AtomicUsize,
    /// How long each answer takes.
    delay: Duration,
}

impl Issuer {
    fn start(self: &Arc<Self>) -> RemoteKeys {
        let issuer = Arc::clone(self);
        RemoteKeys::start_with(Box::new(move || Box::pin(Arc::clone(&issuer).answer())))
    }

    /// The next answer; the last one stays.
    async fn answer(self: Arc<Self>) -> Result<Answer, FetchError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        sleep(self.delay).await;
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        answer.map(|(body, max_age)| Answer { body: body.into(), max_age })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn issuer(answers: Vec<Result<(String, Option<Duration>), FetchError>>) -> Arc<Issuer> {
    Arc::new(Issuer { answers: Mutex::new(answers), ..Issuer::default() })
}

fn set(ids: &[&str]) -> String {
    let x = "1msNAMwUYuMqaH_llZGvhqRyChcxDVCC-myfo9heR-w";
    let key = |id| serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": id});
    serde_json::json!({"keys": ids.iter().map(key).collect::<Vec<_>>()}).to_string()
}

fn ids(keys: &RemoteKeys) -> Vec<String> {
    keys.known().iter().map(|key| key.id.clone().unwrap()).collect()
}

fn down() -> FetchError {
    FetchError::Unavailable("the issuer is down".to_owned())
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_each_hour() {
    let issuer = issuer(vec![Ok((set(&["a"]), None)), Ok((set(&["b"]), None))]);
    let keys = issuer.start();
    assert!(!keys.is_loaded());
    assert_eq!(keys.fetch().await, Ok(()));
    assert_eq!((ids(&keys), issuer.asked()), (vec!["a".to_owned()], 1));
    sleep(INTERVAL - SECOND).await;
    assert_eq!(issuer.asked(), 1);
    sleep(2 * SECOND).await;
    assert_eq!((ids(&keys), issuer.asked()), (vec!["b".to_owned()], 2));
}

#[tokio::test(start_paused = true)]
async fn max_age_is_obeyed_within_bounds() {
    let five_minutes = Duration::from_secs(300);
    for (max_age, interval) in [
        (Duration::ZERO, MIN_INTERVAL),
        (five_minutes, five_minutes),
        (Duration::from_secs(u64::MAX), MAX_INTERVAL),
    ] {
        let issuer = issuer(vec![Ok((set(&["a"]), Some(max_age)))]);
        let keys = issuer.start();
        keys.fetch().await.unwrap();
        sleep(interval - SECOND).await;
        assert_eq!(issuer.asked(), 1, "{max_age:?}");
        sleep(2 * SECOND).await;
        assert_eq!(issuer.asked(), 2, "{max_age:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_keys_cause_one_fetch_in_ten_seconds() {
    let answers = vec![Ok((set(&["a"]), None)), Ok((set(&["a", "b"]), None))];
    let issuer = Issuer { answers: Mutex::new(answers), delay: SECOND, ..Issuer::default() };
    let issuer = Arc::new(issuer);
    let keys = issuer.start();
    keys.fetch().await.unwrap();
    assert_eq!(keys.fetch_missing().await, None, "a fetch has just been made");
    advance(MIN_FETCH_DISTANCE).await;

    let mut waiting = JoinSet::new();
    for _ in 0..1000 {
        let keys = keys.clone();
        waiting.spawn(async move { (keys.fetch_missing().await, ids(&keys)) });
    }
    let outcomes = waiting.join_all().await;
    let both = vec!["a".to_owned(), "b".to_owned()];
    assert!(outcomes.iter().all(|outcome| *outcome == (Some(Ok(())), both.clone())));
    assert_eq!(issuer.asked(), 2, "all share one");
    for _ in 0..100 {
        assert_eq!(keys.fetch_missing().await, None);
        advance(SECOND / 100).await;
    }
    assert_eq!(issuer.asked(), 2);
    advance(MIN_FETCH_DISTANCE).await;
    assert_eq!(keys.fetch_missing().await, Some(Ok(())));
    assert_eq!(issuer.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn known_keys_outlast_failed_fetches() {
    let unusable = Ok(("<html>".to_owned(), None));
    let issuer = issuer(vec![Ok((set(&["a"]), None)), Err(down()), unusable, Err(down())]);
    let keys = issuer.start();
    keys.fetch().await.unwrap();
    assert_eq!(keys.fetch().await, Err(down()));
    assert!(matches!(keys.fetch().await, Err(FetchError::Unusable(_))));
    assert_eq!(ids(&keys), ["a"]);
    let missing = keys.fetch_missing().await;
    assert!(matches!(missing, Some(Err(_))), "a key may be missing for that: {missing:?}");
    let fetches = keys.fetches();
    assert_eq!((fetches.succeeded, fetches.failed), (1, 2));
    sleep(Duration::from_secs(3600)).await;
    assert!(keys.is_loaded() && keys.fetches().age.unwrap() >= Duration::from_secs(3600));
    let failed = keys.fetches().failed;
    assert!(failed >= 3600 / MAX_PAUSE.as_secs(), "{failed} attempts in an hour");
}

#[tokio::test(start_paused = true)]
async fn first_keys_are_awaited() {
    let issuer = issuer(vec![Err(down()), Err(down()), Ok((set(&["a"]), None))]);
    let keys = issuer.start();
    assert_eq!(keys.fetch().await, Err(down()));
    assert!(!keys.is_loaded());
    sleep(10 * SECOND).await;
    assert!(keys.is_loaded());
}

#[tokio::test(start_paused = true)]
async fn task_ends_with_the_last_clone() {
    let issuer = issuer(vec![Ok((set(&["a"]), None))]);
    let keys = issuer.start();
    let clone = keys.clone();
    keys.fetch().await.unwrap();
    drop(keys);
    assert_eq!(clone.fetch().await, Ok(()));
    drop(clone);
    sleep(2 * INTERVAL).await;
    assert_eq!(issuer.asked(), 2);
}

#[test]
fn max_age_is_read_from_cache_control() {
    for (lines, seconds) in [
        (&["max-age=300"][..], Some(300)),
        (&["public, Max-Age=\"60\" , must-revalidate"], Some(60)),
        (&["no-cache", "max-age=5"], Some(5)),
        (&["s-maxage=7"], None),
        (&["max-age=-1"], None),
        (&["max-age"], None),
        (&[], None),
    ] {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{lines:?}");
    }
}
