//! What became of all that was said.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use chat_transport::client::Position;

/// What one client has said and heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) room: String,
    /// Acknowledged, with the moment of it.
    pub(crate) acknowledged: Vec<(String, Option<Position>, Instant)>,
    /// In the order in which they came.
    pub(crate) heard: Vec<(String, Option<Position>, Instant)>,
    pub(crate) gaps: usize,
    /// Sends whose outcome stayed unknown.
    pub(crate) unknown: usize,
    /// The longest time between the loss of a connection and the next welcome, of a member of a
    /// [`Crowd`](super::crowd::Crowd).
    pub(crate) longest_absence: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Verdict {
    clients: usize,
    pub(crate) acknowledged: usize,
    delivered: usize,
    pub(crate) unknown: usize,
    /// Acknowledged, and not heard by somebody in the room.
    pub(crate) lost: usize,
    /// Heard twice by the same client.
    pub(crate) doubled: usize,
    /// Heard after something that lies behind it: in the room's sequence, or in what its
    /// sender said.
    pub(crate) reordered: usize,
    pub(crate) gaps: usize,
    /// From the acknowledgement to the moment in which the last client heard it.
    longest: Duration,
}

impl Verdict {
    pub(crate) fn of<'a>(records: impl IntoIterator<Item = &'a Record> + Clone) -> Self {
        let mut verdict = Self::default();
        let mut said: HashMap<&str, Vec<(&str, Instant)>> = HashMap::new();
        for record in records.clone() {
            verdict.clients += 1;
            verdict.acknowledged += record.acknowledged.len();
            verdict.unknown += record.unknown;
            verdict.gaps += record.gaps;
            let in_room = said.entry(&record.room).or_default();
            in_room.extend(record.acknowledged.iter().map(|(text, _, at)| (text.as_str(), *at)));
        }
        for record in records {
            verdict.judge(record, &said[record.room.as_str()]);
        }
        verdict
    }

    fn judge(&mut self, record: &Record, said: &[(&str, Instant)]) {
        let mut heard: HashMap<&str, Instant> = HashMap::new();
        let mut latest: HashMap<&str, u64> = HashMap::new();
        let mut epochs = HashSet::new();
        let mut place = None;
        for (text, position, at) in &record.heard {
            self.delivered += 1;
            self.doubled += usize::from(heard.insert(text, *at).is_some());
            let (sender, number) = text.split_once(' ').expect("a sender and a number");
            if let Ok(number) = number.parse::<u64>() {
                let before = latest.insert(sender, number);
                self.reordered += usize::from(before.is_some_and(|before| before >= number));
            }
            let position = position.expect("a place in the sequence");
            // A sequence that was left does not come back.
            let is_new = epochs.insert(position.epoch);
            let goes_on = place.is_none_or(|(epoch, offset)| {
                if epoch == position.epoch { offset < position.offset } else { is_new }
            });
            self.reordered += usize::from(!goes_on);
            place = Some((position.epoch, position.offset));
        }
        for (text, acknowledged) in said {
            match heard.get(text) {
                Some(at) => self.longest = self.longest.max(at.duration_since(*acknowledged)),
                None => self.lost += 1,
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} clients, {} messages acknowledged, {} delivered, {} of unknown outcome; \
             lost {}, doubled {}, reordered {}, gaps told {}; \
             the longest way from `ok` to the last client took {:.1} s",
            self.clients,
            self.acknowledged,
            self.delivered,
            self.unknown,
            self.lost,
            self.doubled,
            self.reordered,
            self.gaps,
            self.longest.as_secs_f64(),
        )
    }
}
