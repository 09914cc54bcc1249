//! What became of all that was said.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use super::ANSWERED;
use super::crowd::{Received, Record};
use crate::support::assert_within;

/// Messages without which there is nothing to judge.
pub(super) const ENOUGH: usize = 21;

#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) acked: usize,
    pub(super) refused: usize,
    /// Acknowledged, and not received by somebody.
    pub(super) lost: usize,
    pub(super) doubled: usize,
    /// Heard after a later one of the same sender, or with an offset that does not rise.
    pub(super) reordered: usize,
    /// Offsets that were left out and not told of.
    pub(super) holes: usize,
    pub(super) gaps: usize,
    /// The longest time from a send to its answer.
    pub(super) longest_answer: Duration,
    pub(super) longest_pong: Duration,
    /// From the end of the fault until the first one was acknowledged something.
    pub(super) first: Option<Duration>,
    /// And the last one.
    pub(super) recovery: Duration,
}

impl Verdict {
    pub(super) fn of(records: &[Record], ended: Instant) -> Self {
        let mut verdict = Self::default();
        let mut acked: HashMap<&str, Vec<&str>> = HashMap::new();
        for record in records {
            let in_room = acked.entry(&record.room).or_default();
            in_room.extend(record.acked.iter().map(String::as_str));
            verdict.acked += record.acked.len();
            verdict.refused += record.refused;
            verdict.longest_answer = verdict.longest_answer.max(record.longest_answer);
            verdict.longest_pong = verdict.longest_pong.max(record.longest_pong);
            let after = record.acked_at.iter().find(|at| **at >= ended);
            let after = after.expect("everybody can say something again");
            let after = *after - ended;
            verdict.first = Some(verdict.first.map_or(after, |first| first.min(after)));
            verdict.recovery = verdict.recovery.max(after);
        }
        for record in records {
            verdict.judge(record, &acked[record.room.as_str()]);
        }
        verdict
    }

    fn judge(&mut self, record: &Record, acked: &[&str]) {
        let mut received = HashSet::new();
        let mut latest: HashMap<&str, u64> = HashMap::new();
        let mut place = record.place;
        for event in &record.received {
            match event {
                Received::Gap { offset } => {
                    self.gaps += 1;
                    place = offset.unwrap_or_default();
                }
                Received::Message { text, epoch, offset } => {
                    self.doubled += usize::from(!received.insert(text.as_str()));
                    let (sender, number) = text.split_once(' ').expect("a sender and a number");
                    let number = number.parse().expect("a number");
                    let before = latest.insert(sender, number);
                    self.reordered += usize::from(before.is_some_and(|before| before >= number));
                    if let Some(offset) = *offset {
                        let before = if epoch.is_some() { 0 } else { place };
                        self.reordered += usize::from(offset <= before);
                        self.holes += usize::from(offset > before + 1);
                        place = offset;
                    }
                }
            }
        }
        self.lost += acked.iter().filter(|text| !received.contains(**text)).count();
    }

    /// Nobody missed anything, and nobody waited for too long.
    pub(super) fn is_whole(&self) {
        self.is_told();
        assert_eq!((self.lost, self.gaps), (0, 0), "{self}");
    }

    /// What was missed was told, and nobody waited for too long.
    pub(super) fn is_told(&self) {
        assert!(self.acked >= ENOUGH, "hardly anything was said: {self}");
        assert_eq!((self.doubled, self.reordered, self.holes), (0, 0, 0), "{self}");
        assert_within("an answer", self.longest_answer, ANSWERED);
        assert_within("a pong", self.longest_pong, ANSWERED);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acked, refused, lost, doubled, reordered, holes, gaps, .. } = self;
        write!(
            f,
            "{acked} acknowledged, {refused} refused; lost {lost}, doubled {doubled}, reordered \
             {reordered}, silent holes {holes}, gaps told {gaps}; longest answer {:.1} s, pong \
             {:.1} s; the first goes on {:.2} s after the end, the last {:.2} s",
            self.longest_answer.as_secs_f64(),
            self.longest_pong.as_secs_f64(),
            self.first.unwrap_or_default().as_secs_f64(),
            self.recovery.as_secs_f64(),
        )
    }
}
