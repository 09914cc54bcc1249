//! Keys, their values and when they expire; the commands on keys and texts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::resp::Reply;

/// The arguments of a command, its name first.
pub(super) type Arguments<'a> = &'a [Vec<u8>];

/// The answer to a command; an error is one, too.
pub(super) type Outcome = Result<Reply, Reply>;

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(Vec<u8>),
    Hash(Hash),
    Set(Set),
    Sorted(Sorted),
    List(List),
}

pub(super) type Hash = BTreeMap<Vec<u8>, Vec<u8>>;
pub(super) type Set = BTreeSet<Vec<u8>>;
pub(super) type Sorted = BTreeMap<Vec<u8>, f64>;
pub(super) type List = VecDeque<Vec<u8>>;

/// One kind of value.
pub(super) trait Kind: Default {
    fn of(value: &mut Value) -> Option<&mut Self>;
    fn wrap(self) -> Value;
}

macro_rules! kinds {
    ($($name:ident($kind:ty)),*) => {$(
        impl Kind for $kind {
            fn of(value: &mut Value) -> Option<&mut Self> {
                match value {
                    Value::$name(inner) => Some(inner),
                    _ => None,
                }
            }

            fn wrap(self) -> Value {
                Value::$name(self)
            }
        }
    )*};
}

kinds!(Text(Vec<u8>), Hash(Hash), Set(Set), Sorted(Sorted), List(List));

#[derive(Debug, Clone)]
struct Entry {
    value: Value,
    /// When it expires, in milliseconds.
    ends: Option<u64>,
}

/// The data of a Redis. A clone is a copy on disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Keyspace {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// The clock, in microseconds.
    pub(super) now: u64,
}

impl Keyspace {
    /// The value of a key; an error if it is of another kind.
    pub(super) fn get<T: Kind>(&mut self, key: &[u8]) -> Result<Option<&T>, Reply> {
        Ok(self.get_mut(key)?.map(|value| &*value))
    }

    pub(super) fn get_mut<T: Kind>(&mut self, key: &[u8]) -> Result<Option<&mut T>, Reply> {
        self.expire(key);
        let Some(entry) = self.entries.get_mut(key) else { return Ok(None) };
        T::of(&mut entry.value).map(Some).ok_or_else(Reply::wrong_type)
    }

    /// As [`get_mut`](Self::get_mut); a key that does not exist begins.
    pub(super) fn get_or_new<T: Kind>(&mut self, key: &[u8]) -> Result<&mut T, Reply> {
        self.expire(key);
        let new = || Entry { value: T::default().wrap(), ends: None };
        let entry = self.entries.entry(key.to_vec()).or_insert_with(new);
        T::of(&mut entry.value).ok_or_else(Reply::wrong_type)
    }

    /// A collection that became empty does not exist.
    pub(super) fn remove_if_empty(&mut self, key: &[u8]) {
        let is_empty = self.entries.get(key).is_some_and(|entry| match &entry.value {
            Value::Hash(hash) => hash.is_empty(),
            Value::Set(set) => set.is_empty(),
            Value::Sorted(sorted) => sorted.is_empty(),
            Value::List(list) => list.is_empty(),
            Value::Text(_) => false,
        });
        if is_empty {
            self.entries.remove(key);
        }
    }

    pub(super) fn del(&mut self, keys: Arguments<'_>) -> Reply {
        Reply::Int(keys.iter().filter(|key| self.remove(key)).count() as i64)
    }

    pub(super) fn exists(&mut self, keys: Arguments<'_>) -> Reply {
        Reply::Int(keys.iter().filter(|key| self.contains(key)).count() as i64)
    }

    pub(super) fn keys(&mut self) -> Reply {
        let all: Vec<_> = self.entries.keys().cloned().collect();
        Reply::bulks(all.into_iter().filter(|key| self.contains(key)))
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Sets when a key expires, in milliseconds from now.
    pub(super) fn expire_in(&mut self, key: &[u8], lifetime: i64) -> Reply {
        if !self.contains(key) {
            return Reply::Int(0);
        }
        let ends = self.millis().saturating_add_signed(lifetime);
        self.entries.get_mut(key).unwrap().ends = Some(ends);
        self.expire(key);
        Reply::Int(1)
    }

    pub(super) fn persist(&mut self, key: &[u8]) -> Reply {
        let ends = self.contains(key).then(|| self.entries.get_mut(key).unwrap().ends.take());
        Reply::Int(i64::from(ends.flatten().is_some()))
    }

    /// The time to live of a key, in milliseconds; -1: without end, -2: there is none.
    pub(super) fn lifetime(&mut self, key: &[u8]) -> i64 {
        let now = self.millis();
        match self.contains(key).then(|| self.entries[key].ends) {
            None => -2,
            Some(None) => -1,
            Some(Some(ends)) => (ends - now) as i64,
        }
    }

    pub(super) fn get_text(&mut self, key: &[u8]) -> Outcome {
        let text = self.get::<Vec<u8>>(key)?;
        Ok(text.map_or(Reply::Nil, |text| Reply::Bulk(text.clone())))
    }

    /// `SET key value [NX | XX] [EX seconds | PX milliseconds]`
    pub(super) fn set_text(&mut self, arguments: Arguments<'_>) -> Outcome {
        let (key, text) = (&arguments[1], &arguments[2]);
        let syntax_error = || Reply::Error("ERR syntax error".to_owned());
        let (mut must_exist, mut lifetime) = (None, None);
        let mut options = arguments[3..].iter();
        while let Some(option) = options.next() {
            match (option.to_ascii_uppercase().as_slice(), must_exist, lifetime) {
                (b"NX", None | Some(false), _) => must_exist = Some(false),
                (b"XX", None | Some(true), _) => must_exist = Some(true),
                (b"EX", _, None | Some((1000, _))) => lifetime = Some((1000, options.next())),
                (b"PX", _, None | Some((1, _))) => lifetime = Some((1, options.next())),
                _ => return Err(syntax_error()),
            }
        }
        let ends = match lifetime {
            Some((unit, Some(lifetime))) => Some(self.end_of(lifetime, unit)?),
            Some((_, None)) => return Err(syntax_error()),
            None => None,
        };
        if must_exist.is_some_and(|must| must != self.contains(key)) {
            return Ok(Reply::Nil);
        }
        self.entries.insert(key.clone(), Entry { value: Value::Text(text.clone()), ends });
        Ok(Reply::ok())
    }

    fn end_of(&self, lifetime: &[u8], unit: i64) -> Result<u64, Reply> {
        let lifetime = number(lifetime)?.checked_mul(unit).filter(|lifetime| *lifetime > 0);
        let ends = lifetime.and_then(|lifetime| (self.millis() as i64).checked_add(lifetime));
        let why = "ERR invalid expire time in 'set' command";
        ends.map(|ends| ends as u64).ok_or_else(|| Reply::Error(why.to_owned()))
    }

    /// Something that depends on all data, to choose by.
    pub(super) fn dice(&self) -> usize {
        (self.now / 7) as usize
    }

    fn millis(&self) -> u64 {
        self.now / 1000
    }

    fn contains(&mut self, key: &[u8]) -> bool {
        self.expire(key);
        self.entries.contains_key(key)
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        self.expire(key);
        self.entries.remove(key).is_some()
    }

    fn expire(&mut self, key: &[u8]) {
        let now = self.millis();
        if self.entries.get(key).is_some_and(|entry| entry.ends.is_some_and(|ends| ends <= now)) {
            self.entries.remove(key);
        }
    }
}

/// A whole number, written as Redis itself writes it: it takes neither `+1` nor `01`.
pub(super) fn number(text: &[u8]) -> Result<i64, Reply> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
    number
        .filter(|number| number.to_string().as_bytes() == text)
        .ok_or_else(|| Reply::Error("ERR value is not an integer or out of range".to_owned()))
}
