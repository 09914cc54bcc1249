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

/// Reads a frame in one pass if its `type` comes first, as servers of this project write it.
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
            while let Some(Field { name, value }) = next(&mut map)? {
                if name == "type" {
                    let Text(kind) = parse(&name, value)?;
                    return T::read(kind, Fields { before: before.into_iter(), map, value: None });
                }
                before.push(Field { name, value });
            }
            Err(A::Error::missing_field("type"))
        }
    }

    deserializer.deserialize_map(Frame(PhantomData))
}

/// The fields of a frame but its `type`: those before it, then those after it.
pub(super) struct Fields<'de, A> {
    before: std::vec::IntoIter<Field<'de>>,
    map: A,
    /// The field whose name was read last.
    value: Option<Field<'de>>,
}

struct Field<'de> {
    name: Cow<'de, str>,
    value: &'de RawValue,
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
        let field = match self.before.next() {
            Some(field) => Some(field),
            None => next(&mut self.map)?,
        };
        let Some(field) = field else { return Ok(None) };
        let key = seed.deserialize(CowStrDeserializer::new(Cow::Borrowed(&*field.name)))?;
        self.value = Some(field);
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        let field = self.value.take().ok_or_else(|| A::Error::custom("a value without a key"))?;
        let mut value = serde_json::Deserializer::from_str(field.value.get());
        seed.deserialize(&mut value).map_err(|why| in_field(&field.name, &why))
    }
}

/// The next field that is not `null`: that counts as absent.
fn next<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Field<'de>>, A::Error> {
    while let Some(Text(name)) = map.next_key()? {
        let value: &RawValue = map.next_value()?;
        if value.get() != "null" {
            return Ok(Some(Field { name, value }));
        }
    }
    Ok(None)
}

fn parse<'de, T: Deserialize<'de>, E: Error>(name: &str, value: &'de RawValue) -> Result<T, E> {
    serde_json::from_str(value.get()).map_err(|why| in_field(name, &why))
}

fn in_field<E: Error>(name: &str, why: &serde_json::Error) -> E {
    E::custom(format_args!("field `{name}`: {why}"))
}

/// A text that may be absent.
pub(super) fn text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    Text::deserialize(d).map(|Text(text)| Some(text))
}

/// Any JSON value that may be absent.
pub(super) fn any<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Cow<'de, RawValue>>, D::Error> {
    <&RawValue>::deserialize(d).map(|value| Some(Cow::Borrowed(value)))
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
