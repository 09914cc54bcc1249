//! Scripts, run by the Lua that Redis has, with what Redis gives them.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex};

use mlua::{Error, Function, Lua, Value, Variadic};

use super::lua_struct;
use super::resp::{Reply, score};
use super::state::State;

/// The scripts that were stored, by their names.
pub(super) struct Scripts {
    lua: Lua,
    stored: BTreeMap<Vec<u8>, Function>,
}

impl Scripts {
    pub(super) fn new(state: &Arc<Mutex<State>>) -> Self {
        let lua = Lua::new();
        give_commands(&lua, state).expect("a table of functions");
        Self { lua, stored: BTreeMap::new() }
    }

    /// `SCRIPT LOAD`
    pub(super) fn load(&mut self, text: &[u8]) -> Reply {
        match self.compile(text) {
            Ok(name) => Reply::Bulk(name),
            Err(error) => error,
        }
    }

    /// `SCRIPT FLUSH`
    pub(super) fn flush(&mut self) {
        self.stored.clear();
    }

    /// `EVAL`: the arguments behind the text.
    pub(super) fn eval(&mut self, text: &[u8], arguments: &[Vec<u8>]) -> Reply {
        match self.compile(text) {
            Ok(name) => self.eval_stored(&name, arguments),
            Err(error) => error,
        }
    }

    /// `EVALSHA`: the arguments behind the name.
    pub(super) fn eval_stored(&mut self, name: &[u8], arguments: &[Vec<u8>]) -> Reply {
        let Some(script) = self.stored.get(name) else {
            return Reply::Error("NOSCRIPT No matching script. Please use EVAL.".to_owned());
        };
        self.run(script, arguments).unwrap_or_else(|error| Reply::Error(text_of(&error)))
    }

    fn compile(&mut self, text: &[u8]) -> Result<Vec<u8>, Reply> {
        let name = name_of(text);
        if !self.stored.contains_key(&name) {
            let script = self.lua.load(text).set_name("@user_script").into_function();
            let why = |error| Reply::Error(format!("ERR Error compiling script: {error}"));
            self.stored.insert(name.clone(), script.map_err(why)?);
        }
        Ok(name)
    }

    fn run(&self, script: &Function, arguments: &[Vec<u8>]) -> mlua::Result<Reply> {
        let keys = std::str::from_utf8(&arguments[0]).unwrap().parse().unwrap();
        let (keys, rest) = arguments[1..].split_at(keys);
        let table = |texts: &[Vec<u8>]| {
            let texts = texts.iter().map(|text| self.lua.create_string(text));
            self.lua.create_sequence_from(texts.collect::<mlua::Result<Vec<_>>>()?)
        };
        self.lua.globals().set("KEYS", table(keys)?)?;
        self.lua.globals().set("ARGV", table(rest)?)?;
        to_reply(&script.call::<Value>(())?)
    }
}

/// An error that a command answers within a script, and that ends it.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// As Redis words it: that of the command which was refused, or that of Lua.
fn text_of(error: &Error) -> String {
    let refused = error.chain().find_map(|cause| cause.downcast_ref::<Refused>());
    match refused {
        Some(Refused(text)) => text.clone(),
        None => format!("ERR {}", line(&error.to_string())),
    }
}

/// Errors and statuses are one line.
fn line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

fn give_commands(lua: &Lua, state: &Arc<Mutex<State>>) -> mlua::Result<()> {
    let redis = lua.create_table()?;
    let (called, tried) = (Arc::clone(state), Arc::clone(state));
    let call = move |lua: &Lua, arguments: Variadic<Value>| match execute(&called, &arguments) {
        Reply::Error(text) => Err(Error::external(Refused(text))),
        reply => to_lua(lua, reply),
    };
    let pcall =
        move |lua: &Lua, arguments: Variadic<Value>| to_lua(lua, execute(&tried, &arguments));
    redis.set("call", lua.create_function(call)?)?;
    redis.set("pcall", lua.create_function(pcall)?)?;
    lua.globals().set("redis", redis)?;

    lua.globals().set("struct", lua_struct::table(lua)?)
}

fn execute(state: &Mutex<State>, arguments: &[Value]) -> Reply {
    let Some(arguments) = arguments.iter().map(argument).collect::<Option<Vec<_>>>() else {
        let why = "ERR Lua redis lib command arguments must be strings or integers";
        return Reply::Error(why.to_owned());
    };
    state.lock().unwrap().execute(&arguments)
}

fn argument(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Integer(number) => Some(number.to_string().into_bytes()),
        Value::Number(number) => Some(score(*number).into_bytes()),
        _ => None,
    }
}

fn to_lua(lua: &Lua, reply: Reply) -> mlua::Result<Value> {
    let text = |bytes: &[u8]| lua.create_string(bytes).map(Value::String);
    let field = |name: &str, value: &str| {
        let table = lua.create_table()?;
        table.set(name, value)?;
        Ok(Value::Table(table))
    };
    match reply {
        Reply::Nil => Ok(Value::Boolean(false)),
        Reply::Int(number) => Ok(Value::Number(number as f64)),
        Reply::Double(number) => text(score(number).as_bytes()),
        Reply::Bulk(bytes) => text(&bytes),
        Reply::Status(status) => field("ok", &status),
        Reply::Error(error) => field("err", &error),
        Reply::Array(replies) | Reply::Push(replies) => {
            // One by one: values that Rust holds are on a stack of Lua, which has room for 8000.
            let table = lua.create_table_with_capacity(replies.len(), 0)?;
            for (n, reply) in replies.into_iter().enumerate() {
                table.raw_set(n + 1, to_lua(lua, reply)?)?;
            }
            Ok(Value::Table(table))
        }
        Reply::Map(pairs) => {
            let flat = pairs.into_iter().flat_map(|(name, value)| [name, value]);
            to_lua(lua, Reply::Array(flat.collect()))
        }
    }
}

fn to_reply(value: &Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::Boolean(true) => Reply::Int(1),
        Value::Integer(number) => Reply::Int(*number),
        Value::Number(number) => Reply::Int(*number as i64),
        Value::String(text) => Reply::Bulk(text.as_bytes().to_vec()),
        Value::Table(table) => {
            if let Value::String(error) = table.raw_get("err")? {
                return Ok(Reply::Error(line(&error.to_string_lossy())));
            }
            if let Value::String(status) = table.raw_get("ok")? {
                return Ok(Reply::Status(line(&status.to_string_lossy())));
            }
            let mut replies = Vec::new();
            for value in table.sequence_values::<Value>() {
                replies.push(to_reply(&value?)?);
            }
            Reply::Array(replies)
        }
        _ => Reply::Nil,
    })
}

/// A name that depends on the text, as its SHA-1 does.
fn name_of(text: &[u8]) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    hasher.write(text);
    format!("{:040x}", hasher.finish()).into_bytes()
}
