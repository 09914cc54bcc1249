//! Hashes, sets and sorted sets.

use super::keyspace::{Arguments, Hash, Keyspace, Outcome, Set, Sorted, number};
use super::resp::Reply;

impl Keyspace {
    pub(super) fn hget(&mut self, key: &[u8], field: &[u8]) -> Outcome {
        let hash = self.get::<Hash>(key)?;
        Ok(value(hash, field))
    }

    pub(super) fn hmget(&mut self, key: &[u8], fields: Arguments<'_>) -> Outcome {
        let hash = self.get::<Hash>(key)?;
        Ok(Reply::Array(fields.iter().map(|field| value(hash, field)).collect()))
    }

    pub(super) fn hgetall(&mut self, key: &[u8]) -> Outcome {
        let hash = self.get::<Hash>(key)?;
        let pairs = hash.into_iter().flatten();
        Ok(Reply::Map(pairs.map(|(name, value)| (Reply::bulk(name), Reply::bulk(value))).collect()))
    }

    pub(super) fn hexists(&mut self, key: &[u8], field: &[u8]) -> Outcome {
        let hash = self.get::<Hash>(key)?;
        Ok(Reply::Int(hash.is_some_and(|hash| hash.contains_key(field)).into()))
    }

    pub(super) fn hlen(&mut self, key: &[u8]) -> Outcome {
        let hash = self.get::<Hash>(key)?;
        Ok(Reply::Int(hash.map_or(0, |hash| hash.len() as i64)))
    }

    pub(super) fn hset(&mut self, key: &[u8], pairs: Arguments<'_>) -> Outcome {
        let hash = self.get_or_new::<Hash>(key)?;
        let new = |pair: &&[Vec<u8>]| hash.insert(pair[0].clone(), pair[1].clone()).is_none();
        Ok(Reply::Int(pairs.chunks(2).filter(new).count() as i64))
    }

    pub(super) fn hdel(&mut self, key: &[u8], fields: Arguments<'_>) -> Outcome {
        let Some(hash) = self.get_mut::<Hash>(key)? else { return Ok(Reply::Int(0)) };
        let removed = fields.iter().filter(|field| hash.remove(*field).is_some()).count();
        self.remove_if_empty(key);
        Ok(Reply::Int(removed as i64))
    }

    /// `HSCAN key cursor [COUNT count]`. The fields stand in the order of a hash of their names, so
    /// that none is skipped when others are removed; the cursor is where the next part begins.
    pub(super) fn hscan(&mut self, arguments: Arguments<'_>) -> Outcome {
        let cursor = number(&arguments[2])? as u64;
        let count = match arguments.get(4) {
            Some(count) => number(count)? as usize,
            None => 10,
        };
        let hash = self.get::<Hash>(&arguments[1])?;
        let mut fields: Vec<_> =
            hash.into_iter().flatten().map(|pair| (slot(pair.0), pair)).collect();
        fields.sort_unstable_by_key(|(slot, _)| *slot);
        fields.retain(|(slot, _)| *slot >= cursor);
        let next = fields.get(count).map_or(0, |(slot, _)| *slot);
        let part = fields.into_iter().take(count).flat_map(|(_, (name, value))| [name, value]);
        Ok(Reply::Array(vec![Reply::bulk(next.to_string()), Reply::bulks(part)]))
    }

    pub(super) fn sadd(&mut self, key: &[u8], members: Arguments<'_>) -> Outcome {
        let set = self.get_or_new::<Set>(key)?;
        let added = members.iter().filter(|member| set.insert((*member).clone())).count();
        Ok(Reply::Int(added as i64))
    }

    pub(super) fn srem(&mut self, key: &[u8], members: Arguments<'_>) -> Outcome {
        let Some(set) = self.get_mut::<Set>(key)? else { return Ok(Reply::Int(0)) };
        let removed = members.iter().filter(|member| set.remove(*member)).count();
        self.remove_if_empty(key);
        Ok(Reply::Int(removed as i64))
    }

    pub(super) fn sismember(&mut self, key: &[u8], member: &[u8]) -> Outcome {
        let set = self.get::<Set>(key)?;
        Ok(Reply::Int(set.is_some_and(|set| set.contains(member)).into()))
    }

    pub(super) fn smembers(&mut self, key: &[u8]) -> Outcome {
        let set = self.get::<Set>(key)?;
        Ok(Reply::bulks(set.into_iter().flatten()))
    }

    /// `SRANDMEMBER key [count]`, of a count that is not negative.
    pub(super) fn srandmember(&mut self, key: &[u8], count: Option<&Vec<u8>>) -> Outcome {
        let first = self.dice();
        let set = self.get::<Set>(key)?;
        let members: Vec<_> = set.into_iter().flatten().collect();
        let nth = |n: usize| members[(first + n) % members.len()];
        let Some(count) = count else {
            return Ok(if members.is_empty() { Reply::Nil } else { Reply::bulk(nth(0)) });
        };
        let count = members.len().min(number(count)? as usize);
        Ok(Reply::bulks((0..count).map(nth)))
    }

    /// `ZADD key [NX | XX] score member …`
    pub(super) fn zadd(&mut self, arguments: Arguments<'_>) -> Outcome {
        let key = &arguments[1];
        let (new_only, known_only, pairs) = match arguments[2].to_ascii_uppercase().as_slice() {
            b"NX" => (true, false, &arguments[3..]),
            b"XX" => (false, true, &arguments[3..]),
            _ => (false, false, &arguments[2..]),
        };
        let pairs: Vec<_> = pairs
            .chunks(2)
            .map(|pair| Ok((score(&pair[0])?, &pair[1])))
            .collect::<Result<_, Reply>>()?;
        let sorted = self.get_or_new::<Sorted>(key)?;
        let mut added = 0;
        for (score, member) in pairs {
            let is_known = sorted.contains_key(member);
            let is_meant = if is_known { !new_only } else { !known_only };
            if is_meant {
                sorted.insert(member.clone(), score);
                added += i64::from(!is_known);
            }
        }
        self.remove_if_empty(key);
        Ok(Reply::Int(added))
    }

    pub(super) fn zcard(&mut self, key: &[u8]) -> Outcome {
        let sorted = self.get::<Sorted>(key)?;
        Ok(Reply::Int(sorted.map_or(0, |sorted| sorted.len() as i64)))
    }

    pub(super) fn zscore(&mut self, key: &[u8], member: &[u8]) -> Outcome {
        let score = self.get::<Sorted>(key)?.and_then(|sorted| sorted.get(member));
        Ok(score.map_or(Reply::Nil, |score| Reply::Double(*score)))
    }

    pub(super) fn zrem(&mut self, key: &[u8], members: Arguments<'_>) -> Outcome {
        let Some(sorted) = self.get_mut::<Sorted>(key)? else { return Ok(Reply::Int(0)) };
        let removed = members.iter().filter(|member| sorted.remove(*member).is_some()).count();
        self.remove_if_empty(key);
        Ok(Reply::Int(removed as i64))
    }

    /// `ZRANGE key 0 -1`: all.
    pub(super) fn zrange(&mut self, key: &[u8]) -> Outcome {
        let sorted = self.get::<Sorted>(key)?;
        Ok(Reply::bulks(by_score(sorted).into_iter().map(|(_, member)| member)))
    }

    /// `ZRANGEBYLEX key lowest highest [LIMIT first count]`, of members that have one score.
    pub(super) fn zrangebylex(&mut self, arguments: Arguments<'_>) -> Outcome {
        let (lowest, above) = lex_bound(&arguments[2])?;
        let (highest, below) = lex_bound(&arguments[3])?;
        let (first, count) = match &arguments[4..] {
            [] => (0, usize::MAX),
            [_, first, count] => (number(first)? as usize, number(count)? as usize),
            _ => return Err(Reply::Error("ERR syntax error".to_owned())),
        };
        let sorted = self.get::<Sorted>(&arguments[1])?;
        let is_in = |member: &[u8]| {
            let is_above = if above { member > lowest } else { member >= lowest };
            is_above && if below { member < highest } else { member <= highest }
        };
        let found = sorted.into_iter().flatten().map(|(member, _)| member);
        Ok(Reply::bulks(found.filter(|member| is_in(member)).skip(first).take(count)))
    }

    /// `ZRANGEBYSCORE key lowest highest [WITHSCORES] [LIMIT first count]`. Scores stand behind
    /// their members as in RESP2: only scripts ask for them.
    pub(super) fn zrangebyscore(&mut self, arguments: Arguments<'_>) -> Outcome {
        let (lowest, above) = bound(&arguments[2])?;
        let (highest, below) = bound(&arguments[3])?;
        let mut options = arguments[4..].iter();
        let (mut with_scores, mut first, mut count) = (false, 0, usize::MAX);
        while let Some(option) = options.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"WITHSCORES" => with_scores = true,
                b"LIMIT" => {
                    let mut next = || number(options.next().map_or(&[][..], Vec::as_slice));
                    (first, count) = (next()? as usize, next()? as usize);
                }
                _ => return Err(Reply::Error("ERR syntax error".to_owned())),
            }
        }
        let sorted = self.get::<Sorted>(&arguments[1])?;
        let is_in = |score: f64| {
            let is_above = if above { score > lowest } else { score >= lowest };
            is_above && if below { score < highest } else { score <= highest }
        };
        let mut replies = Vec::new();
        let found = by_score(sorted).into_iter().filter(|(score, _)| is_in(*score));
        for (score, member) in found.skip(first).take(count) {
            replies.push(Reply::bulk(member));
            if with_scores {
                replies.push(Reply::Double(score));
            }
        }
        Ok(Reply::Array(replies))
    }
}

fn value(hash: Option<&Hash>, field: &[u8]) -> Reply {
    hash.and_then(|hash| hash.get(field)).map_or(Reply::Nil, |value| Reply::Bulk(value.clone()))
}

fn by_score(sorted: Option<&Sorted>) -> Vec<(f64, &Vec<u8>)> {
    let mut all: Vec<_> =
        sorted.into_iter().flatten().map(|(member, score)| (*score, member)).collect();
    all.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    all
}

fn bound(text: &[u8]) -> Result<(f64, bool), Reply> {
    match text.strip_prefix(b"(") {
        Some(text) => Ok((score(text)?, true)),
        None => Ok((score(text)?, false)),
    }
}

/// A bound in members, and whether it is excluded.
fn lex_bound(text: &[u8]) -> Result<(&[u8], bool), Reply> {
    match text.split_first() {
        Some((b'(', member)) => Ok((member, true)),
        Some((b'[', member)) => Ok((member, false)),
        _ => Err(Reply::Error("ERR min or max not valid string range item".to_owned())),
    }
}

fn score(text: &[u8]) -> Result<f64, Reply> {
    let score = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    score.ok_or_else(|| Reply::Error("ERR value is not a valid float".to_owned()))
}

/// FNV-1a, in 48 bits; never 0, which begins and ends a scan.
fn slot(name: &[u8]) -> u64 {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 16) | 1
}
