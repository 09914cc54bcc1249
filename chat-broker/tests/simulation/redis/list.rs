//! Lists.

use std::iter;
use std::ops::Range;

use super::keyspace::{Arguments, Keyspace, List, Outcome, number};
use super::resp::Reply;

impl Keyspace {
    /// `LPUSH` and `RPUSH`, which differ in `push`.
    pub(super) fn push(
        &mut self,
        key: &[u8],
        values: Arguments<'_>,
        push: impl Fn(&mut List, Vec<u8>),
    ) -> Outcome {
        let list = self.get_or_new::<List>(key)?;
        values.iter().for_each(|value| push(list, value.clone()));
        Ok(Reply::Int(list.len() as i64))
    }

    /// `LPOP` and `RPOP`, which differ in `pop`.
    pub(super) fn pop(
        &mut self,
        key: &[u8],
        count: Option<&[u8]>,
        pop: impl Fn(&mut List) -> Option<Vec<u8>>,
    ) -> Outcome {
        let count = count.map(pop_count).transpose()?;
        let Some(list) = self.get_mut::<List>(key)? else { return Ok(Reply::Nil) };
        let mut popped = iter::from_fn(|| pop(list)).map(Reply::Bulk);
        let reply = match count {
            Some(count) => Reply::Array(popped.take(count).collect()),
            None => popped.next().unwrap_or(Reply::Nil),
        };
        self.remove_if_empty(key);
        Ok(reply)
    }

    pub(super) fn llen(&mut self, key: &[u8]) -> Outcome {
        let list = self.get::<List>(key)?;
        Ok(Reply::Int(list.map_or(0, |list| list.len() as i64)))
    }

    pub(super) fn lindex(&mut self, key: &[u8], index: &[u8]) -> Outcome {
        let Some(list) = self.get::<List>(key)? else { return Ok(Reply::Nil) };
        let nth = from_start(list, number(index)?);
        let value = usize::try_from(nth).ok().and_then(|nth| list.get(nth));
        Ok(value.map_or(Reply::Nil, Reply::bulk))
    }

    pub(super) fn lset(&mut self, key: &[u8], index: &[u8], value: &[u8]) -> Outcome {
        let error = |why: &str| Reply::Error(format!("ERR {why}"));
        let list = self.get_mut::<List>(key)?.ok_or_else(|| error("no such key"))?;
        let nth = from_start(list, number(index)?);
        let stored = usize::try_from(nth).ok().and_then(|nth| list.get_mut(nth));
        *stored.ok_or_else(|| error("index out of range"))? = value.to_vec();
        Ok(Reply::ok())
    }

    pub(super) fn lrange(&mut self, key: &[u8], first: &[u8], last: &[u8]) -> Outcome {
        let (first, last) = (number(first)?, number(last)?);
        let list = self.get::<List>(key)?.into_iter();
        Ok(Reply::bulks(list.flat_map(|list| list.range(range(list, first, last)))))
    }

    pub(super) fn ltrim(&mut self, key: &[u8], first: &[u8], last: &[u8]) -> Outcome {
        let (first, last) = (number(first)?, number(last)?);
        if let Some(list) = self.get_mut::<List>(key)? {
            let kept = range(list, first, last);
            list.truncate(kept.end);
            list.drain(..kept.start);
        }
        self.remove_if_empty(key);
        Ok(Reply::ok())
    }
}

/// The entries from `first` to `last`, both included; empty if there are none.
fn range(list: &List, first: i64, last: i64) -> Range<usize> {
    let first = from_start(list, first).clamp(0, list.len() as i64);
    let end = from_start(list, last).saturating_add(1).clamp(first, list.len() as i64);
    first as usize..end as usize
}

/// A negative index counts from the end. Below 0 if that is before the first entry.
fn from_start(list: &List, index: i64) -> i64 {
    if index < 0 { index + list.len() as i64 } else { index }
}

fn pop_count(count: &[u8]) -> Result<usize, Reply> {
    let count = number(count).ok().and_then(|count| usize::try_from(count).ok());
    let why = "ERR value is out of range, must be positive";
    count.ok_or_else(|| Reply::Error(why.to_owned()))
}
