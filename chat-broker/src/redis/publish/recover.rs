//! Finds out whether publications were executed whose answers were lost with a connection.
//!
//! The new connection first ends the old one in Redis, so that nothing on it is executed later: a
//! search before that could miss a publication that Redis still reads from the old socket. Then the
//! logs of the topics are searched for the ids of the publications, latest entries first.
//!
//! | in the log | a later one of the same topic | the log reaches back to the last answer | outcome | then |
//! |---|---|---|---|---|
//! | yes | | | `Published` | the receipt has the position |
//! | no | in the log | | `Overtaken` | fails: it was trimmed or refused, or would change the order |
//! | no | not in the log | yes | `Missing` | is sent again |
//! | no | not in the log | no | `Unknown` | may have been trimmed: fails, or is sent again if it has a key |
//!
//! An idempotency key makes it safe to send an `Unknown` one again: Redis remembers the key for
//! five minutes, longer than the log may.

use std::collections::{HashMap, HashSet};

use chat_core::{Epoch, Position};
use redis::{Pipeline, RedisResult, Value};

use super::queue::Job;
use crate::redis::connection::Link;
use crate::redis::scripts::Scripts;

/// Entries of a log that one step searches, the latest first: it blocks Redis for some 2 ms.
const STEP: usize = 4096;

/// Maximum steps. A publication that 65,536 others in its topic have followed, while the node was
/// reconnecting, is not found. The search was once a part of each publication that was sent again;
/// in a busy room with a long history those blocked Redis for longer than the deadline.
const MAX_STEPS: usize = 16;

/// Whether Redis has executed a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Published(Position),
    /// Redis has neither it nor a later one of its topic that was sent with it.
    Missing,
    /// Redis does not have it, but a later one of its topic that was sent with it.
    Overtaken,
    /// Redis does not have it, and may have trimmed it.
    Unknown,
}

/// The search in one topic.
struct Search {
    /// Indexes of the publications that are not found yet.
    jobs: Vec<usize>,
    /// The offset up to which the next step searches, `+` for the last; `None` after the last step.
    before: Option<String>,
    /// The topic's epoch, and the offset up to which its log was trimmed; set after the last step.
    floor: Option<Position>,
}

/// The outcome of each of `jobs`, which were sent in this order. `answered` is the latest position
/// in the topic of a publication that was acknowledged.
pub(crate) async fn find(
    link: &mut Link,
    scripts: &Scripts,
    jobs: &[Job],
    answered: impl Fn(&Job) -> Position,
) -> RedisResult<Vec<Outcome>> {
    let mut found = vec![None; jobs.len()];
    let mut topics: HashMap<&str, Search> = HashMap::new();
    for (n, job) in jobs.iter().enumerate() {
        topics.entry(job.address.channel()).or_default().jobs.push(n);
    }
    let mut searches: Vec<Search> = topics.into_values().collect();
    for _ in 0..MAX_STEPS {
        let mut commands = Pipeline::with_capacity(searches.len());
        commands.ignore_errors();
        for search in &searches {
            search.add_step(&mut commands, scripts, jobs);
        }
        let mut replies = link.send(&commands).await?.into_iter();
        for search in searches.iter_mut().filter(|search| search.before.is_some()) {
            search.take(replies.next().unwrap_or(Value::Nil), &mut found);
        }
    }
    let mut unknown = HashSet::new();
    for search in &searches {
        let is_sure = |job: &&Job| search.reaches(answered(job));
        let missing = search.jobs.iter().filter_map(|n| jobs.get(*n));
        unknown.extend(missing.filter(|job| !is_sure(job)).map(|job| job.address.channel()));
    }
    Ok(outcomes(jobs, found, &unknown))
}

fn outcomes(jobs: &[Job], found: Vec<Option<Position>>, unknown: &HashSet<&str>) -> Vec<Outcome> {
    // From the last to the first: a publication that is found makes those before it overtaken.
    let mut overtaking = HashSet::new();
    let mut outcomes: Vec<Outcome> = jobs
        .iter()
        .zip(found)
        .rev()
        .map(|(job, position)| match position {
            Some(position) => {
                overtaking.insert(job.address.channel());
                Outcome::Published(position)
            }
            None if overtaking.contains(job.address.channel()) => Outcome::Overtaken,
            None if unknown.contains(job.address.channel()) => Outcome::Unknown,
            None => Outcome::Missing,
        })
        .collect();
    outcomes.reverse();
    outcomes
}

impl Default for Search {
    fn default() -> Self {
        Self { jobs: Vec::new(), before: Some("+".to_owned()), floor: None }
    }
}

impl Search {
    fn add_step(&self, commands: &mut Pipeline, scripts: &Scripts, jobs: &[Job]) {
        let mut jobs = self.jobs.iter().filter_map(|n| jobs.get(*n)).peekable();
        let (Some(before), Some(first)) = (&self.before, jobs.peek()) else { return };
        let keys = [first.address.log(), &first.address.position()];
        let call = scripts.recover.call(commands, &keys).arg(before).arg(STEP);
        for job in jobs {
            call.arg(job.id.as_bytes());
        }
    }

    /// Reads the reply to a step. A malformed reply (a key of the wrong type) ends the search as if
    /// the log were empty: the publication is sent again, and its own reply has the error.
    fn take(&mut self, reply: Value, found: &mut [Option<Position>]) {
        let reply: Result<(Vec<u8>, Vec<u64>, u64, u64), _> = redis::from_redis_value(reply);
        let parsed = reply.ok().and_then(|(epoch, offsets, before, floor)| {
            Some((Epoch::parse(&epoch)?, offsets, before, floor))
        });
        let Some((epoch, offsets, before, floor)) = parsed else {
            (self.before, self.floor) = (None, Some(Position::default()));
            return;
        };
        let mut offsets = offsets.into_iter();
        self.jobs.retain(|n| match (offsets.next(), found.get_mut(*n)) {
            (Some(offset), Some(found)) if offset > 0 => {
                *found = Some(Position { epoch, offset });
                false
            }
            _ => true,
        });
        self.before = (before > 0 && !self.jobs.is_empty()).then(|| before.to_string());
        if self.before.is_none() {
            self.floor = Some(Position { epoch, offset: floor });
        }
    }

    /// Whether the search covered all publications after `answered`.
    fn reaches(&self, answered: Position) -> bool {
        self.floor.is_some_and(|floor| {
            let since = if answered.epoch == floor.epoch { answered.offset } else { 0 };
            floor.offset <= since
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    fn at(epoch: &[u8], offset: u64) -> Position {
        Position { epoch: Epoch::parse(epoch).unwrap(), offset }
    }

    #[test]
    fn publication_that_may_be_trimmed_is_not_missing() {
        let mut found = [None; 2];
        let mut search = Search { jobs: vec![0, 1], ..Search::default() };
        search.take(reply("*4\r\n$8\r\nabcdEF12\r\n*2\r\n:0\r\n:9\r\n:4\r\n:0\r\n"), &mut found);
        assert_eq!((found, search.jobs.len()), ([None, Some(at(b"abcdEF12", 9))], 1));
        assert_eq!(search.before.as_deref(), Some("4"));
        assert!(!search.reaches(at(b"abcdEF12", 8)), "the search has not ended");

        search.take(reply("*4\r\n$8\r\nabcdEF12\r\n*1\r\n:0\r\n:0\r\n:3\r\n"), &mut found);
        assert!(search.before.is_none());
        assert!(search.reaches(at(b"abcdEF12", 3)), "the log reaches back to the last answer");
        assert!(!search.reaches(at(b"abcdEF12", 2)), "3 may have been it");
        assert!(!search.reaches(at(b"ABCDEFGH", 7)), "nothing was answered in this epoch");
    }

    #[test]
    fn empty_search_means_nothing_was_published() {
        for odd in ["*4\r\n$0\r\n\r\n*1\r\n:0\r\n:0\r\n:0\r\n", "-WRONGTYPE no list\r\n"] {
            let mut search = Search { jobs: vec![0], ..Search::default() };
            search.take(reply(odd), &mut [None]);
            assert!(search.before.is_none() && search.reaches(Position::default()), "{odd}");
        }
    }
}
