//! Reading a JSON object whose `type` says what it is.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{CowStrDeserializer, MapAccessDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::Text;

/// A frame, or one of several, that is read by its `type`.
pub(super) trait Tagged<'de>: Sized {
    fn read<A: MapAccess<'de>>(
        kind: Cow<'de, str>,
        fields: Fields<'de, A>,
    ) -> Result<Self, A::Error>;
}

/// Reads a frame in one pass if its `type` is the first field, as servers of this project write it.
pub(super) fn read<'de, D: Deserializer<'de>, T: Tagged<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Frame<T>(PhantomData<T>);

    impl<'de, T: Tagged<'de>> Visitor<'de> for Frame<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a frame: an object with a `type`")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let mut before = Vec::new();
            while let Some(Text(name)) = map.next_key()? {
                if name == "type" {
                    let Text(kind) = map.next_value().map_err(|why| in_field(&name, why))?;
                    let before = before.into_iter();
                    return T::read(kind, Fields { before, map, name: "".into(), value: None });
                }
                before.push((name, map.next_value()?));
            }
            Err(A::Error::missing_field("type"))
        }
    }

    deserializer.deserialize_map(Frame(PhantomData))
}

/// The fields of a frame but its `type`: those before it, then those after it. Errors name theirs.
pub(super) struct Fields<'de, A> {
    before: std::vec::IntoIter<(Cow<'de, str>, &'de RawValue)>,
    map: A,
    /// The field that is read.
    name: Cow<'de, str>,
    /// Its value, if it stood before the `type`.
    value: Option<&'de RawValue>,
}

impl<'de, A: MapAccess<'de>> Fields<'de, A> {
    /// The frame that these fields make up.
    pub(super) fn into_frame<T: Deserialize<'de>>(self) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(self))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        if let Some((name, value)) = self.before.next() {
            (self.name, self.value) = (name, Some(value));
        } else if let Some(Text(name)) = self.map.next_key()? {
            self.name = name;
        } else {
            return Ok(None);
        }
        seed.deserialize(CowStrDeserializer::new(Cow::Borrowed(&*self.name))).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        match self.value.take() {
            Some(value) => {
                let mut value = serde_json::Deserializer::from_str(value.get());
                seed.deserialize(&mut value).map_err(|why| in_field(&self.name, why))
            }
            None => self.map.next_value_seed(seed).map_err(|why| in_field(&self.name, why)),
        }
    }
}

fn in_field<E: Error>(name: &str, why: impl fmt::Display) -> E {
    E::custom(format_args!("field `{name}`: {why}"))
}

/// A text that may be absent.
pub(super) fn text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    Ok(Option::deserialize(d)?.map(|Text(text)| text))
}

/// A text that is empty if it is absent.
pub(super) fn or_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Cow<'de, str>, D::Error> {
    text(d).map(Option::unwrap_or_default)
}

/// A value that has a default: of a field that is absent, or `null`.
pub(super) fn or_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(d).map(Option::unwrap_or_default)
}

/// Any JSON value that may be absent.
pub(super) fn any<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Cow<'de, RawValue>>, D::Error> {
    Ok(Option::<&RawValue>::deserialize(d)?.map(Cow::Borrowed))
}

/// A field of a type that a later version may have changed: absent then.
pub(super) fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    let value = <&RawValue>::deserialize(d)?;
    Ok(serde_json::from_str(value.get()).ok())
}

/// A text, as [`lenient`] reads it.
pub(super) fn lenient_text<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Cow<'de, str>>, D::Error> {
    Ok(lenient(d)?.map(|Text(text)| text))
}
