//! What became of publications whose answers were lost with a connection.
//!
//! Redis may have executed them or not. The new connection first ends the old one, so that
//! nothing on it is executed any more, and then looks for them in the logs by their ids:
//! what is there was published, and the rest is sent again. Only what precedes one that is
//! there is not: it was published and trimmed since, or refused, and would be published a
//! second time, or in the wrong place.

use std::collections::{HashMap, HashSet};

use chat_core::{Epoch, Position};
use redis::{Pipeline, RedisResult, Value};

use super::link::Link;
use super::queue::Job;
use super::script::Scripts;

/// Entries of a log that are looked at in one step, the latest first: Redis is held up for
/// some 3 ms.
const STEP: usize = 4096;

/// Steps at most. More than 65,536 publications to one topic while a node connects again
/// hide what was published before them; so do as many as the topic keeps.
const MAX_STEPS: usize = 16;

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Published(Position),
    /// It is not there, and nothing later that was sent with it.
    Missing,
    /// It is not there, but something later is.
    Overtaken,
}

/// The search in one topic.
struct Search {
    /// What is not found yet.
    jobs: Vec<usize>,
    /// Where the next step begins.
    before: String,
}

/// What became of each of `jobs`, which were sent in this order.
pub(super) async fn find(
    link: &mut Link,
    scripts: &Scripts,
    jobs: &[Job],
) -> RedisResult<Vec<Fate>> {
    let mut found = vec![None; jobs.len()];
    let mut topics: HashMap<&str, Search> = HashMap::new();
    for (n, job) in jobs.iter().enumerate() {
        let new = || Search { jobs: Vec::new(), before: "+".to_owned() };
        topics.entry(job.address.channel()).or_insert_with(new).jobs.push(n);
    }
    let mut searches: Vec<Search> = topics.into_values().collect();
    for _ in 0..MAX_STEPS {
        let mut commands = Pipeline::with_capacity(searches.len());
        commands.ignore_errors();
        for search in &searches {
            search.add_step(&mut commands, scripts, jobs);
        }
        let mut replies = link.send(&commands).await?.into_iter();
        searches.retain_mut(|search| {
            search.take(replies.next().unwrap_or(Value::Nil), &mut found).is_some()
        });
    }
    Ok(fates(jobs, found))
}

fn fates(jobs: &[Job], found: Vec<Option<Position>>) -> Vec<Fate> {
    let mut overtaking = HashSet::new();
    let mut fates: Vec<Fate> = jobs
        .iter()
        .zip(found)
        .rev()
        .map(|(job, position)| match position {
            Some(position) => {
                overtaking.insert(job.address.channel());
                Fate::Published(position)
            }
            None if overtaking.contains(job.address.channel()) => Fate::Overtaken,
            None => Fate::Missing,
        })
        .collect();
    fates.reverse();
    fates
}

impl Search {
    fn add_step(&self, commands: &mut Pipeline, scripts: &Scripts, jobs: &[Job]) {
        let mut jobs = self.jobs.iter().filter_map(|n| jobs.get(*n)).peekable();
        let Some(first) = jobs.peek() else { return };
        let keys = [first.address.meta(), &first.address.log()];
        let call = scripts.recover.call(commands, &keys).arg(&self.before).arg(STEP);
        for job in jobs {
            call.arg(job.id.as_bytes());
        }
    }

    /// Takes what was found in a step; `None` when there is no more to be found. Of an odd
    /// reply (a key of the wrong type) the publication itself will be told.
    fn take(&mut self, reply: Value, found: &mut [Option<Position>]) -> Option<()> {
        let reply: Result<(Vec<u8>, Vec<u64>, u64), _> = redis::from_redis_value(reply);
        let (epoch, offsets, before) = reply.ok()?;
        let epoch = Epoch::parse(&epoch)?;
        let mut offsets = offsets.into_iter();
        self.jobs.retain(|n| match (offsets.next(), found.get_mut(*n)) {
            (Some(offset), Some(found)) if offset > 0 => {
                *found = Some(Position { epoch, offset });
                false
            }
            _ => true,
        });
        self.before = before.to_string();
        (before > 0 && !self.jobs.is_empty()).then_some(())
    }
}
