//! Reads the replies of Redis to publications.

use bytes::Buf;
use chat_core::{Epoch, Position};
use redis::{RedisError, RedisResult, Value};

use crate::publish::Published;

/// The length of the result of a publication, and of the number that follows those of a topic.
const RESULT: usize = 17;
const NODES: usize = 4;

/// Results of publications, in the order of their topics and of their places in these.
pub(crate) type Results = Vec<RedisResult<Published>>;

/// Reads what `PUBLISH` returned.
pub(crate) fn published(reply: Value) -> RedisResult<Published> {
    match reply.extract_error()? {
        Value::Int(nodes) => Ok(Published::new(None, u32::try_from(nodes).unwrap_or_default())),
        reply => Err(malformed(format!("{reply:?}"))),
    }
}

/// Reads what `publish.lua` returned for this many publications of each topic.
pub(crate) fn kept(reply: Value, topics: impl Iterator<Item = usize>) -> RedisResult<Results> {
    let (results, mut errors) = match reply {
        Value::BulkString(results) => (results, Vec::new().into_iter()),
        Value::Array(fields) => {
            let mut errors = fields.into_iter();
            let Some(Value::BulkString(results)) = errors.next() else {
                return Err(malformed("an array of other fields".to_owned()));
            };
            (results, errors)
        }
        reply => {
            let reply = reply.extract_error()?;
            return Err(malformed(format!("{reply:?}")));
        }
    };
    let mut results = &results[..];
    let mut outcomes = Vec::new();
    for count in topics {
        let (topic, rest) = results
            .split_at_checked(count * RESULT + NODES)
            .ok_or_else(|| malformed("too short".to_owned()))?;
        results = rest;
        let (places, mut nodes) = topic.split_at(count * RESULT);
        let nodes = nodes.get_u32();
        outcomes.extend(places.chunks(RESULT).map(|place| match place.first() {
            Some(&FAILED) => Err(error_of(errors.next())),
            _ => read_place(place, nodes),
        }));
    }
    Ok(outcomes)
}

// Kinds of results.
const FAILED: u8 = 0;
const REPEATED: u8 = 1;

fn read_place(mut place: &[u8], nodes: u32) -> RedisResult<Published> {
    let (kind, offset) = (place.get_u8(), place.get_u64());
    let epoch = Epoch::parse(place).ok_or_else(|| malformed(format!("epoch {place:?}")))?;
    let position = Position { epoch, offset };
    Ok(match kind {
        REPEATED => Published::repeated(position),
        _ => Published::new(Some(position), nodes),
    })
}

fn error_of(error: Option<Value>) -> RedisError {
    let error = error.unwrap_or(Value::Nil).extract_error().err();
    error.unwrap_or_else(|| malformed("an error is missing".to_owned()))
}

fn malformed(detail: String) -> RedisError {
    (redis::ErrorKind::UnexpectedReturnType, "not a reply to a publication", detail).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BrokerError;
    use crate::redis::error::broker_error;

    fn reply(bytes: &[u8]) -> Value {
        redis::parse_redis_value(bytes).unwrap()
    }

    fn result(kind: u8, offset: u64) -> Vec<u8> {
        [&[kind] as &[u8], &offset.to_be_bytes(), b"abcdEF12"].concat()
    }

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::parse(b"abcdEF12").unwrap(), offset }
    }

    #[test]
    fn number_of_subscribers_is_read() {
        assert_eq!(published(reply(b":3\r\n")).unwrap(), Published::new(None, 3));
        for odd in [b"$2\r\nhi\r\n" as &[u8], b"*1\r\n:1\r\n"] {
            let error = broker_error(published(reply(odd)).unwrap_err());
            assert!(matches!(error, BrokerError::Refused(_)));
        }
    }

    #[test]
    fn results_of_topics_are_read() {
        let results = [result(2, 7), result(1, 5), vec![0, 0, 0, 2], result(2, 1), vec![0; 4]];
        let read =
            |sizes: &[usize]| kept(Value::BulkString(results.concat()), sizes.iter().copied());
        let outcomes: Vec<Published> = read(&[2, 1]).unwrap().into_iter().flatten().collect();
        let first = Published::new(Some(at(7)), 2);
        let third = Published::new(Some(at(1)), 0);
        assert_eq!(outcomes, [first, Published::repeated(at(5)), third]);
        assert!(read(&[2, 2]).is_err(), "too short");
    }

    #[test]
    fn publication_fails_alone() {
        let results = [vec![0; 17], result(2, 3), vec![0; 4], vec![0; 17], vec![0; 4]].concat();
        let mut bytes = format!("*3\r\n${}\r\n", results.len()).into_bytes();
        bytes.extend(results);
        bytes.extend(b"\r\n-WRONGTYPE Operation\r\n-OOM command not allowed\r\n");
        let outcomes = kept(reply(&bytes), [2, 1].into_iter()).unwrap();
        let code = |n: usize| outcomes[n].as_ref().unwrap_err().code().unwrap().to_owned();
        assert_eq!((code(0), code(2)), ("WRONGTYPE".to_owned(), "OOM".to_owned()));
        assert_eq!(outcomes[1].as_ref().unwrap().position, Some(at(3)));
        for odd in [b"-NOSCRIPT No matching script\r\n" as &[u8], b":1\r\n", b"*1\r\n:1\r\n"] {
            assert!(kept(reply(odd), [1].into_iter()).is_err());
        }
    }
}
