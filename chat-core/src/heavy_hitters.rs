//! The keys with the most traffic of the last minute, at a cost that does not depend on how many keys
//! there are: Space-Saving (Metwally, Agrawal, El Abbadi 2005) over samples.
//!
//! Of all events one in [`SAMPLED`] is looked at, and counts as many times. Each tenth of a minute has a
//! table of [`KEYS`] keys. A key that is not in a full table replaces the lightest one and inherits its
//! weight as an error; so a key with more than its share of a table, a 128th of the traffic, is in it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// One event of so many is looked at: a power of two.
const SAMPLED: u64 = 16;

/// Keys of a period.
const KEYS: usize = 128;

/// The time of one table.
const PERIOD: Duration = Duration::from_secs(10);

/// Tables that are kept: 50 to 60 s.
const PERIODS: u64 = 6;

/// Finds the keys with the most traffic in the last minute.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use chat_core::{HeavyHitters, Sample};
///
/// let start = Instant::now();
/// let rooms = HeavyHitters::new(start);
/// for n in 0..16_000 {
///     let key = if n % 4 == 0 { "quiet" } else { "busy" };
///     rooms.sample(n, || Sample { key, weight: 1, amounts: [1], at: start });
/// }
/// let heaviest = rooms.heaviest(1, start + Duration::from_secs(10));
/// assert_eq!(heaviest[0].0, "busy");
/// assert!((1_190.0..1_210.0).contains(&heaviest[0].1[0]), "12,000 in 10 s");
/// ```
#[derive(Debug)]
pub struct HeavyHitters<K, const N: usize> {
    /// The origin of all times.
    started: Instant,
    /// The period `n` is at `n` modulo their number. All have their memory from the start: no event
    /// allocates under the lock, and what a server holds does not depend on its traffic.
    periods: Mutex<Vec<Period<K, N>>>,
}

/// An event of a key.
#[derive(Debug)]
pub struct Sample<K, const N: usize> {
    /// What the event is of.
    pub key: K,
    /// By the sum of these the keys are ordered.
    pub weight: u64,
    /// What is reported, as rates.
    pub amounts: [u64; N],
    /// When the event happened.
    pub at: Instant,
}

#[derive(Debug)]
struct Period<K, const N: usize> {
    nth: u64,
    entries: Vec<Entry<K, N>>,
}

#[derive(Debug)]
struct Entry<K, const N: usize> {
    key: K,
    /// Also that of the keys which this one has replaced.
    weight: u64,
    own: Amounts<N>,
}

/// What is known of one key.
#[derive(Debug, Clone, Copy)]
struct Amounts<const N: usize> {
    weight: u64,
    amounts: [u64; N],
}

impl<K, const N: usize> HeavyHitters<K, N> {
    /// No traffic yet. `now` is not after that of later calls.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let empty = || Period { nth: 0, entries: Vec::with_capacity(KEYS) };
        Self { started: now, periods: Mutex::new((0..PERIODS).map(|_| empty()).collect()) }
    }
}

impl<K: Clone + Eq + Hash, const N: usize> HeavyHitters<K, N> {
    /// Counts one event of 16, and as many times; `event` is called for that one alone. The caller
    /// numbers its events one after the other, from any number on: a number of its own for each
    /// connection costs less than one that all threads write.
    #[inline]
    pub fn sample(&self, number: u64, event: impl FnOnce() -> Sample<K, N>) {
        if is_sampled(number) {
            self.add(event());
        }
    }

    /// Takes a lock, and time for 128 keys. Not inlined: one event of 16 gets here.
    #[inline(never)]
    fn add(&self, Sample { key, weight, amounts, at }: Sample<K, N>) {
        let amounts = amounts.map(|amount| amount.saturating_mul(SAMPLED));
        let event = Amounts { weight: weight.saturating_mul(SAMPLED), amounts };
        let nth = self.nth(at);
        // Threads read the clock before the lock: an event may belong to the period before.
        if let Some(period) = self.periods.lock().get_mut((nth % PERIODS) as usize) {
            period.begin(nth);
            period.add(key, &event);
        }
    }

    /// The `count` heaviest keys of the last minute, heaviest first, each with its amounts in a second.
    /// They are estimates, and at most 60 s old. Of keys that are equal and differ in what `Eq` leaves
    /// out, the latest is listed.
    #[must_use]
    pub fn heaviest(&self, count: usize, now: Instant) -> Vec<(K, [f64; N])> {
        let nth = self.nth(now);
        let mut keys: HashMap<K, Amounts<N>> = HashMap::new();
        let periods = self.periods.lock();
        let mut current: Vec<_> =
            periods.iter().filter(|period| period.nth + PERIODS > nth).collect();
        // Newest first: the map keeps the first of equal keys.
        current.sort_unstable_by_key(|period| std::cmp::Reverse(period.nth));
        for period in current {
            for entry in &period.entries {
                let empty = Amounts { weight: 0, amounts: [0; N] };
                keys.entry(entry.key.clone()).or_insert(empty).plus(&entry.own);
            }
        }
        drop(periods);
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_unstable_by_key(|(_, own)| std::cmp::Reverse(own.weight));
        keys.truncate(count);
        let seconds = self.covered(now).as_secs_f64();
        let rates = |own: Amounts<N>| own.amounts.map(|amount| amount as f64 / seconds);
        keys.into_iter().map(|(key, own)| (key, rates(own))).collect()
    }

    fn nth(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / PERIOD.as_secs()
    }

    /// The time that the periods cover, at least a second: the rates of a server that has just started
    /// would be those of a burst.
    fn covered(&self, now: Instant) -> Duration {
        let since = self.nth(now).saturating_sub(PERIODS - 1) * PERIOD.as_secs();
        let age = now.saturating_duration_since(self.started);
        age.saturating_sub(Duration::from_secs(since)).max(Duration::from_secs(1))
    }
}

/// By the golden ratio, so that of events with a period, such as those of clients that take turns, each
/// has its share.
#[inline]
fn is_sampled(number: u64) -> bool {
    /// 2^64 divided by the golden ratio.
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    number.wrapping_mul(GOLDEN) < u64::MAX / SAMPLED
}

impl<K: Eq, const N: usize> Period<K, N> {
    /// Forgets an earlier period at the same place.
    fn begin(&mut self, nth: u64) {
        if self.nth < nth {
            self.nth = nth;
            self.entries.clear();
        }
    }

    fn add(&mut self, key: K, event: &Amounts<N>) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            entry.key = key;
            entry.weight += event.weight;
            entry.own.plus(event);
        } else if self.entries.len() < KEYS {
            self.entries.push(Entry { key, weight: event.weight, own: *event });
        } else if let Some(lightest) = self.entries.iter_mut().min_by_key(|entry| entry.weight) {
            *lightest = Entry { key, weight: lightest.weight + event.weight, own: *event };
        }
    }
}

impl<const N: usize> Amounts<N> {
    fn plus(&mut self, other: &Self) {
        self.weight = self.weight.saturating_add(other.weight);
        for (sum, other) in self.amounts.iter_mut().zip(other.amounts) {
            *sum = sum.saturating_add(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = HeavyHitters<u64, 1>;

    #[test]
    fn one_event_of_sixteen_is_sampled_in_any_rhythm() {
        for rhythm in [1, 2, 5, 7, 16, 48, 1000] {
            for phase in [0, 1, rhythm - 1] {
                let numbers = (0..16_000).map(|n| 123 + phase + n * rhythm);
                let sampled = numbers.filter(|n| is_sampled(*n)).count();
                assert!((950..=1050).contains(&sampled), "{sampled} of every {rhythm}th");
            }
        }
    }

    #[test]
    fn heaviest_are_found_among_many() {
        let start = Instant::now();
        let (numbers, mut n) = (Numbers::new(start), 0);
        let mut event = |key| {
            n += 1;
            numbers.sample(n, || Sample { key, weight: 1, amounts: [1], at: start });
        };
        // A tenth of the traffic is of one key, and a twentieth of another.
        for turn in 0..20_000 {
            for other in 0..17 {
                event(100 + (turn * 17 + other) % 1000);
            }
            event(1);
            event(1);
            event(2);
        }
        let heaviest = numbers.heaviest(2, start + Duration::from_secs(9));
        let keys: Vec<_> = heaviest.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, [1, 2]);
        let per_second = |nth: usize| heaviest[nth].1[0] * 9.0;
        assert!((39_000.0..41_000.0).contains(&per_second(0)), "{}", per_second(0));
        assert!((19_000.0..21_000.0).contains(&per_second(1)), "{}", per_second(1));
    }

    #[test]
    fn traffic_is_forgotten_after_a_minute() {
        let start = Instant::now();
        let numbers = Numbers::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let add = |key, weight, amount, seconds| {
            numbers.add(Sample { key, weight, amounts: [amount], at: at(seconds) });
        };
        add(1, 1, 60, 1);
        add(2, 2, 60, 30);
        assert_eq!(numbers.heaviest(9, at(30)), [(2, [32.0]), (1, [32.0])]);
        assert_eq!(numbers.heaviest(9, at(59)).len(), 2);
        assert_eq!(numbers.heaviest(9, at(60)), [(2, [19.2])], "960 in the 50 s since 10 s");
        assert_eq!(numbers.heaviest(9, at(90)), []);
        // The seventh period takes the place of the first, and nothing grows.
        add(3, 1, 1, 61);
        let listed: Vec<_> = numbers.heaviest(9, at(61)).into_iter().map(|(key, _)| key).collect();
        assert_eq!(listed, [2, 3]);
        let kept: usize = numbers.periods.lock().iter().map(|period| period.entries.len()).sum();
        assert_eq!((kept, numbers.periods.lock().len()), (2, PERIODS as usize));
    }

    #[test]
    fn latest_of_equal_keys_is_listed() {
        #[derive(Debug, Clone)]
        struct Named(u64, &'static str);
        impl PartialEq for Named {
            fn eq(&self, other: &Self) -> bool {
                self.0 == other.0
            }
        }
        impl Eq for Named {}
        impl Hash for Named {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }
        let start = Instant::now();
        let clients = HeavyHitters::<Named, 1>::new(start);
        let name = |at| clients.heaviest(1, at)[0].0.1;
        clients.add(Sample { key: Named(1, "unknown"), weight: 1, amounts: [1], at: start });
        clients.add(Sample { key: Named(1, "ann"), weight: 1, amounts: [1], at: start });
        assert_eq!(name(start), "ann");
        clients.add(Sample { key: Named(1, "bob"), weight: 1, amounts: [1], at: start + PERIOD });
        assert_eq!(name(start + PERIOD), "bob");
    }

    #[test]
    fn table_keeps_its_size() {
        let start = Instant::now();
        let numbers = Numbers::new(start);
        let event = |key| Sample { key, weight: 1, amounts: [1], at: start };
        (0..10_000).for_each(|key| numbers.add(event(key)));
        assert_eq!(numbers.periods.lock()[0].entries.len(), KEYS);
    }
}
