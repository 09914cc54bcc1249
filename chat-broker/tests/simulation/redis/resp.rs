//! RESP, the protocol of Redis: requests, and answers in version 3, which the broker asks for.

/// What Redis answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    Nil,
    Int(i64),
    /// Text in RESP2, and so in scripts.
    Double(f64),
    Bulk(Vec<u8>),
    Status(String),
    Error(String),
    Array(Vec<Reply>),
    /// An array in RESP2, and so in scripts.
    Map(Vec<(Reply, Reply)>),
    /// What no command asked for.
    Push(Vec<Reply>),
}

impl Reply {
    pub(crate) const OK: &str = "OK";

    pub(crate) fn ok() -> Self {
        Self::Status(Self::OK.to_owned())
    }

    pub(crate) fn bulk(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    pub(crate) fn bulks(texts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        Self::Array(texts.into_iter().map(Self::bulk).collect())
    }

    pub(crate) fn wrong_type() -> Self {
        Self::Error("WRONGTYPE Operation against a key holding the wrong kind of value".to_owned())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, kind: char, text: &str| {
            out.extend_from_slice(format!("{kind}{text}\r\n").as_bytes());
        };
        match self {
            Self::Nil => head(out, '_', ""),
            Self::Int(number) => head(out, ':', &number.to_string()),
            Self::Double(number) => head(out, ',', &score(*number)),
            Self::Bulk(bytes) => {
                head(out, '$', &bytes.len().to_string());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Status(text) => head(out, '+', text),
            Self::Error(text) => head(out, '-', text),
            Self::Array(replies) | Self::Push(replies) => {
                let kind = if matches!(self, Self::Array(_)) { '*' } else { '>' };
                head(out, kind, &replies.len().to_string());
                replies.iter().for_each(|reply| reply.encode(out));
            }
            Self::Map(pairs) => {
                head(out, '%', &pairs.len().to_string());
                for (name, value) in pairs {
                    name.encode(out);
                    value.encode(out);
                }
            }
        }
    }

    /// As lines, an element each, as [`RedisServer::command`] returns them.
    ///
    /// [`RedisServer::command`]: chat_broker::testing::RedisServer::command
    pub(crate) fn into_lines(self) -> Vec<String> {
        match self {
            Self::Nil => vec![String::new()],
            Self::Int(number) => vec![number.to_string()],
            Self::Double(number) => vec![score(number)],
            Self::Bulk(bytes) => vec![String::from_utf8_lossy(&bytes).into_owned()],
            Self::Status(text) | Self::Error(text) => vec![text],
            Self::Array(replies) | Self::Push(replies) => {
                replies.into_iter().flat_map(Self::into_lines).collect()
            }
            Self::Map(pairs) => {
                let flat = pairs.into_iter().flat_map(|(name, value)| [name, value]);
                flat.flat_map(Self::into_lines).collect()
            }
        }
    }
}

/// A score as Redis writes it.
pub(crate) fn score(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // Whole numbers, as all of ours are, have no fraction.
    number.to_string()
}

/// Takes the first request out of `input` from `at` on, and moves `at` behind it; `None` if it is
/// not there as a whole yet.
pub(crate) fn take_request(input: &[u8], at: &mut usize) -> Option<Vec<Vec<u8>>> {
    let mut end = *at;
    let count = header(input, &mut end, b'*')?;
    let mut arguments = Vec::with_capacity(count);
    for _ in 0..count {
        let length = header(input, &mut end, b'$')?;
        arguments.push(input.get(end..end + length)?.to_vec());
        end += length + 2;
    }
    if end > input.len() {
        return None;
    }
    *at = end;
    Some(arguments)
}

/// A line of a kind and a number.
fn header(input: &[u8], at: &mut usize, kind: u8) -> Option<usize> {
    let mut number = 0;
    let (first, digits) = input.get(*at..)?.split_first()?;
    assert_eq!(*first, kind, "requests are arrays of texts");
    for (nth, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => number = number * 10 + usize::from(byte - b'0'),
            b'\r' if nth + 1 < digits.len() => {
                *at += nth + 3;
                return Some(number);
            }
            _ => return None,
        }
    }
    None
}
