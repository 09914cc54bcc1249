//! `struct` of the scripts: numbers without a sign (`I4`; `B` has one byte) and texts of a fixed
//! length (`c8`), the highest byte first (`>`). The scripts use nothing else of it.

use mlua::{Error, FromLua, Lua, LuaString, MultiValue, Table, Value, Variadic};

/// A part of a format, and how many bytes it takes.
enum Field {
    Number(usize),
    Text(usize),
}

pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("pack", lua.create_function(pack)?)?;
    table.set("unpack", lua.create_function(unpack)?)?;
    Ok(table)
}

fn pack(lua: &Lua, (format, values): (String, Variadic<Value>)) -> mlua::Result<LuaString> {
    let mut values = values.into_iter();
    let mut packed = Vec::new();
    for field in fields(&format)? {
        let value = values.next().unwrap_or(Value::Nil);
        match field {
            Field::Number(size) => {
                let number = f64::from_lua(value, lua)?;
                // As a cast in C: a negative number wraps around.
                let bits = if number < 0.0 { number as i64 as u64 } else { number as u64 };
                packed.extend_from_slice(&bits.to_be_bytes()[8 - size..]);
            }
            Field::Text(size) => {
                let text = LuaString::from_lua(value, lua)?;
                let text = text.as_bytes();
                let too_short = || Error::runtime("bad argument to 'pack' (string too short)");
                packed.extend_from_slice(text.get(..size).ok_or_else(too_short)?);
            }
        }
    }
    lua.create_string(packed)
}

/// The values, and the position behind them.
fn unpack(
    lua: &Lua,
    (format, data, start): (String, LuaString, Option<usize>),
) -> mlua::Result<MultiValue> {
    let refused = |why: &str| Error::runtime(format!("bad argument to 'unpack' ({why})"));
    let start = start.unwrap_or(1).checked_sub(1);
    let mut at = start.ok_or_else(|| refused("offset must be 1 or greater"))?;
    let data = data.as_bytes();
    let mut values = MultiValue::new();
    for field in fields(&format)? {
        let (Field::Number(size) | Field::Text(size)) = field;
        let bytes = data.get(at..at + size).ok_or_else(|| refused("data string too short"))?;
        values.push_back(match field {
            Field::Number(_) => {
                let number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
                Value::Number(number as f64)
            }
            Field::Text(_) => Value::String(lua.create_string(bytes)?),
        });
        at += size;
    }
    values.push_back(Value::Number((at + 1) as f64));
    Ok(values)
}

fn fields(format: &str) -> mlua::Result<Vec<Field>> {
    let unknown = || Error::runtime(format!("the simulated struct has no format '{format}'"));
    let mut rest = format.strip_prefix('>').ok_or_else(unknown)?;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let end = rest.char_indices().skip(1).find(|(_, letter)| letter.is_alphabetic());
        let (field, behind) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
        let (kind, size) = field.split_at_checked(1).ok_or_else(unknown)?;
        fields.push(match (kind, size.parse().ok()) {
            ("B", None) if size.is_empty() => Field::Number(1),
            ("I", Some(size @ 1..=8)) => Field::Number(size),
            ("c", Some(size @ 1..)) => Field::Text(size),
            _ => return Err(unknown()),
        });
        rest = behind;
    }
    Ok(fields)
}
