//! Streams. The broker gives every entry an id of its own.

use std::collections::VecDeque;

use super::keyspace::{Arguments, Keyspace, Outcome, number};
use super::resp::Reply;

type Id = (u64, u64);

#[derive(Debug, Clone, Default)]
pub(super) struct Stream {
    entries: VecDeque<(Id, Vec<Vec<u8>>)>,
    last: Id,
}

impl Keyspace {
    /// `XADD key [NOMKSTREAM] [MAXLEN count] id field value …`
    pub(super) fn xadd(&mut self, arguments: Arguments<'_>) -> Outcome {
        let key = &arguments[1];
        let (mut at, mut longest, mut creates) = (2, None, true);
        loop {
            match arguments[at].to_ascii_uppercase().as_slice() {
                b"NOMKSTREAM" => (creates, at) = (false, at + 1),
                b"MAXLEN" => {
                    longest = Some(number(&arguments[at + 1])?);
                    at += 2;
                }
                _ => break,
            }
        }
        let given = match arguments[at].as_slice() {
            b"*" => None,
            id => Some(parse(id, 0)?),
        };
        if given == Some((0, 0)) {
            let why = "ERR The ID specified in XADD must be greater than 0-0";
            return Err(Reply::Error(why.to_owned()));
        }
        let now = self.now / 1000;
        let known = self.get::<Stream>(key)?;
        if known.is_none() && !creates {
            return Ok(Reply::Nil);
        }
        let last = known.map_or((0, 0), |stream| stream.last);
        let id = given.unwrap_or_else(|| (now, 0).max((last.0, last.1 + 1)));
        if id <= last {
            let why = "ERR The ID specified in XADD is equal or smaller than the target stream \
                       top item";
            return Err(Reply::Error(why.to_owned()));
        }
        let stream = self.get_or_new::<Stream>(key)?;
        stream.last = id;
        stream.entries.push_back((id, arguments[at + 1..].to_vec()));
        if let Some(longest) = longest {
            let surplus = stream.entries.len().saturating_sub(longest as usize);
            stream.entries.drain(..surplus);
        }
        Ok(Reply::bulk(format!("{}-{}", id.0, id.1)))
    }

    pub(super) fn xlen(&mut self, key: &[u8]) -> Outcome {
        let stream = self.get::<Stream>(key)?;
        Ok(Reply::Int(stream.map_or(0, |stream| stream.entries.len() as i64)))
    }

    /// `XRANGE key first last [COUNT count]`, and `XREVRANGE key last first [COUNT count]`
    pub(super) fn xrange(&mut self, arguments: Arguments<'_>, reversed: bool) -> Outcome {
        let (first, last) = if reversed { (3, 2) } else { (2, 3) };
        let first = parse(&arguments[first], 0)?;
        let last = parse(&arguments[last], u64::MAX)?;
        let count = match arguments.get(5) {
            Some(count) => number(count)? as usize,
            None => usize::MAX,
        };
        let Some(stream) = self.get::<Stream>(&arguments[1])? else {
            return Ok(Reply::Array(Vec::new()));
        };
        let begin = stream.entries.partition_point(|(id, _)| *id < first);
        let end = stream.entries.partition_point(|(id, _)| *id <= last).max(begin);
        let found = stream.entries.range(begin..end);
        let reply = |(id, fields): &(Id, Vec<Vec<u8>>)| {
            Reply::Array(vec![Reply::bulk(format!("{}-{}", id.0, id.1)), Reply::bulks(fields)])
        };
        Ok(Reply::Array(if reversed {
            found.rev().take(count).map(reply).collect()
        } else {
            found.take(count).map(reply).collect()
        }))
    }
}

/// An id; one without its second part has `rest`.
fn parse(id: &[u8], rest: u64) -> Result<Id, Reply> {
    match id {
        b"-" => return Ok((0, 0)),
        b"+" => return Ok((u64::MAX, u64::MAX)),
        _ => {}
    }
    let text = std::str::from_utf8(id).unwrap_or_default();
    let (first, second) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let second = second.map_or(Some(rest), |second| second.parse().ok());
    let why = "ERR Invalid stream ID specified as stream command argument";
    let id = first.parse().ok().zip(second);
    id.ok_or_else(|| Reply::Error(why.to_owned()))
}
