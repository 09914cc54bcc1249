//! How the errors of Redis are read: what each means to the connection, to the caller and to the
//! log.
//!
//! | question | answer |
//! |---|---|
//! | What does an operator read? | [`in_words`] |
//! | Which error code is it, wherever this version of Redis puts it? | [`code`], [`server_code`] |
//! | Must the connection be replaced? | [`wants_reconnect`] |
//! | Does the server answer, and refuse? | [`is_refusal`] |
//! | Can this server never be used? | [`is_unsuitable`] |
//! | Is a script not loaded (any more)? | [`is_unknown_script`], [`was_unknown_script`] |
//! | Is a right or a command missing? | [`is_missing_right`] |
//! | Is it about the stored data, rather than Redis? | [`is_damage`], [`is_wrong_type`] |
//! | Does one reply speak for a whole pipeline? | [`concerns_all`] |
//! | What does the caller of the broker get? | [`broker_error`] |

use std::io;

use redis::{ErrorKind, RedisError, ServerError, ServerErrorKind, Value};

use crate::error::BrokerError;

/// Redis has not answered in time.
pub(super) fn timed_out() -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, "redis took too long").into()
}

/// The error of a failed command for the caller of the broker.
pub(super) fn broker_error(error: RedisError) -> BrokerError {
    let refused = match code(&error).as_deref() {
        Some("OOM") => return BrokerError::full(error),
        Some(code) => !is_passing(code),
        None => matches!(
            error.kind(),
            // The answer to a `SELECT`, which the library has made a text of.
            ErrorKind::Server(ServerErrorKind::ResponseError)
                | ErrorKind::AuthenticationFailed
                | ErrorKind::Extension
                | ErrorKind::Parse
                | ErrorKind::RESP3NotSupported
                | ErrorKind::UnexpectedReturnType
        ),
    };
    if refused { BrokerError::refused(error) } else { BrokerError::unavailable(error) }
}

/// Answers of a server that will work again by itself.
fn is_passing(code: &str) -> bool {
    matches!(code, "BUSY" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "MAXCLIENTS" | "TRYAGAIN")
}

/// Answers after which another server may be found at the same address, or this one with
/// other rights.
pub(super) fn wants_reconnect(error: &RedisError) -> bool {
    matches!(code(error).as_deref(), Some("LOADING" | "MASTERDOWN" | "NOAUTH" | "READONLY"))
}

/// Answers of a server that does not do as it was asked, and may later, on the same
/// connection.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    code(error).is_some() && !wants_reconnect(error)
}

/// Whether this is no server that can be used, and no later attempt will change that: Redis before
/// 6, a proxy or a service that lacks commands, or a server of another kind.
pub(super) fn is_unsuitable(error: &RedisError) -> bool {
    let lacks_command = |text: &str| {
        let text = text.to_ascii_lowercase();
        ["unknown command", "unknown subcommand", "unsupported command", "unknown redis command"]
            .iter()
            .any(|lack| text.contains(lack))
    };
    matches!(error.kind(), ErrorKind::RESP3NotSupported | ErrorKind::InvalidClientConfig)
        || code(error).as_deref() == Some("NOPROTO")
        || error.detail().is_some_and(lacks_command)
}

/// Whether Redis does not permit a command, or does not have it (under this name).
pub(super) fn is_missing_right(reply: &Value) -> bool {
    let Value::ServerError(error) = reply else { return false };
    let is_unknown = |text: &str| text.starts_with("unknown command");
    error.code() == "NOPERM" || error.details().is_some_and(is_unknown)
}

/// Whether Redis did not run a script because it does not know it (any more): nothing was changed.
pub(super) fn is_unknown_script(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

/// As [`is_unknown_script`], for the error that the replies of a pipeline became.
pub(super) fn was_unknown_script(error: &RedisError) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == "NOSCRIPT"))
}

/// The error that a reply is, if it is not about its own command alone: the script is not stored,
/// so others are not either, or Redis takes no writes, so the connection should not be used again.
pub(super) fn concerns_all(reply: &Value) -> Option<RedisError> {
    if !matches!(reply, Value::ServerError(_)) {
        return None;
    }
    let error = reply.clone().extract_error().err()?;
    (was_unknown_script(&error) || wants_reconnect(&error)).then_some(error)
}

/// Whether the answer is about what is stored, and not about Redis.
pub(super) fn is_damage(error: &RedisError) -> bool {
    match error.clone().into_server_errors() {
        Some(errors) => errors.iter().any(|(_, error)| is_wrong_type(error)),
        None => matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Parse),
    }
}

/// Whether a key of ours holds another type of value.
pub(super) fn is_wrong_type(error: &ServerError) -> bool {
    // Before Redis 7 an error inside a script has it in its text.
    error.code() == "WRONGTYPE"
        || error.details().is_some_and(|details| details.contains("WRONGTYPE "))
}

/// The code of an error that Redis answered, of the first one in a pipeline.
pub(super) fn code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| server_code(error).to_owned())
}

/// The code of an error, where it says `ERR` and knows better. Of an error inside a script the code
/// is in the text, before Redis 7: `ERR Error running script (call to f_…): @user_script: 7:
/// -OOM …`, or `@user_script: 7: -OOM …` if the script returns it; and a right that a script lacks has
/// no code in any version.
pub(super) fn server_code(error: &ServerError) -> &str {
    const NO_RIGHT: [&str; 2] = ["The user executing the script", "ACL failure in script"];
    let text = error.details().unwrap_or_default();
    let is_of_script = error.code().starts_with("@user_script");
    if error.code() != "ERR" && !is_of_script {
        error.code()
    } else if NO_RIGHT.iter().any(|right| text.contains(right)) {
        "NOPERM"
    } else if text.starts_with("max number of clients") {
        "MAXCLIENTS"
    } else if is_of_script || text.starts_with("Error running script") {
        let is_code = |word: &&str| word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase());
        text.split(' ').map(|word| word.trim_start_matches('-')).find(is_code).unwrap_or("ERR")
    } else {
        "ERR"
    }
}

/// As [`server_code`], and of a missing right whether it is that to a key or to a channel, and not that to
/// the command: Redis says so in the text alone.
pub(super) fn cause(error: &ServerError) -> &str {
    let text = error.details().unwrap_or_default();
    match server_code(error) {
        "NOPERM" if text.contains(" channel") => "NOPERM_CHANNEL",
        "NOPERM" if text.contains(" key") => "NOPERM_KEY",
        code => code,
    }
}

/// The error in one line for people: of an answer of Redis its code and its sentence, of the first one in
/// a pipeline, without the script.
pub(super) fn in_words(error: &RedisError) -> String {
    let errors = error.clone().into_server_errors();
    let Some((_, first)) = errors.as_deref().and_then(<[_]>::first) else {
        return without_answer(&error.to_string());
    };
    answer_in_words(first)
}

/// The library has no answer for a refused `SELECT`: it makes a text of it.
fn without_answer(text: &str) -> String {
    match text.strip_prefix("Redis server refused to switch database") {
        Some(answer) => {
            let answer = answer.rsplit(": ").next().unwrap_or_default();
            format!("Redis refuses the database of the URL: {answer}")
        }
        None => text.to_owned(),
    }
}

/// As [`in_words`], for one answer.
pub(super) fn answer_in_words(answer: &ServerError) -> String {
    let (code, text) = (server_code(answer), answer.details().unwrap_or_default());
    // Where Redis has the code in the text, the script is in front of it.
    let sentence = text.split_once(code).map_or(text, |(_, sentence)| sentence);
    // Since Redis 7 the script is behind the sentence: `… script: 0a1b, on @user_script:19.`
    let sentence = sentence.split(" script: ").next().unwrap_or(sentence);
    format!("{code} {}", sentence.trim()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(answer: &str) -> RedisError {
        let reply = redis::parse_redis_value(format!("{answer}\r\n").as_bytes()).unwrap();
        reply.extract_error().unwrap_err()
    }

    #[test]
    fn error_code_is_found_in_any_position() {
        for (answer, expected) in [
            ("-READONLY You can't write against a read only replica.", "READONLY"),
            (
                "-ERR Error running script (call to f_0a1b): @user_script: 21: -READONLY You can't",
                "READONLY",
            ),
            (
                "-ERR Error running script (call to f_0a1b): @user_script:8: WRONGTYPE Operation",
                "WRONGTYPE",
            ),
            ("-ERR Error running script (call to f_0a1b): @user_script:8: attempt to", "ERR"),
            ("-ERR unknown command OOM", "ERR"),
            (
                "-ERR Error running script (call to f_0a1b): @user_script:1: @user_script: 1: The \
                 user executing the script can't run this command or subcommand",
                "NOPERM",
            ),
            ("-ERR The user executing the script can't publish to the channel", "NOPERM"),
            ("-@user_script: 34: -OOM command not allowed", "OOM"),
            ("-@user_script: 34: -READONLY You can't write", "READONLY"),
            ("-@user_script: 1: The user executing the script can't run this command", "NOPERM"),
            ("-ERR ACL failure in script: No permissions to access a key", "NOPERM"),
            ("-ERR max number of clients reached", "MAXCLIENTS"),
        ] {
            assert_eq!(code(&error(answer)).as_deref(), Some(expected), "{answer}");
        }
    }

    /// As the library makes it of the answer to `SELECT`.
    #[test]
    fn database_that_redis_does_not_have_is_a_refusal_in_words() {
        let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
        let text = "Redis server refused to switch database";
        let error = RedisError::from((kind, text, "DB index is out of range".to_owned()));
        let words = "Redis refuses the database of the URL: DB index is out of range";
        assert_eq!(in_words(&error), words);
        assert!(matches!(broker_error(error), BrokerError::Refused(_)));
    }

    /// In the words of Redis 6, of Redis 7 and Valkey, and of their scripts.
    #[test]
    fn missing_right_is_that_to_a_command_a_key_or_a_channel() {
        for (answer, expected) in [
            ("-NOPERM this user has no permissions to run the 'keys' command", "NOPERM"),
            ("-NOPERM User chat has no permissions to run the 'sadd' command", "NOPERM"),
            ("-ERR The user executing the script can't run this command or subcommand", "NOPERM"),
            (
                "-NOPERM this user has no permissions to access one of the keys used as arguments",
                "NOPERM_KEY",
            ),
            ("-NOPERM No permissions to access a key", "NOPERM_KEY"),
            ("-ERR ACL failure in script: No permissions to access a key", "NOPERM_KEY"),
            (
                "-NOPERM this user has no permissions to access one of the channels used as arguments",
                "NOPERM_CHANNEL",
            ),
            ("-NOPERM No permissions to access a channel", "NOPERM_CHANNEL"),
            (
                "-ERR The user executing the script can't publish to the channel mentioned in the \
                 command",
                "NOPERM_CHANNEL",
            ),
            ("-WRONGTYPE Operation against a key", "WRONGTYPE"),
        ] {
            let errors = error(answer).into_server_errors().unwrap();
            assert_eq!(cause(&errors[0].1), expected, "{answer}");
        }
    }

    #[test]
    fn answer_is_one_sentence_for_people() {
        let readonly = "READONLY You can't write against a read only replica.";
        for (answer, expected) in [
            (format!("-{readonly}"), readonly),
            (format!("-{readonly} script: 0a1b, on @user_script:19."), readonly),
            (
                format!(
                    "-ERR Error running script (call to f_0a1b): @user_script: 21: -{readonly}"
                ),
                readonly,
            ),
            (format!("-@user_script: 34: -{readonly}"), readonly),
            ("-OOM command not allowed".to_owned(), "OOM command not allowed"),
            (
                "-ERR max number of clients reached".to_owned(),
                "MAXCLIENTS max number of clients reached",
            ),
            ("-ERR unknown command 'X'".to_owned(), "ERR unknown command 'X'"),
            ("-BUSY".to_owned(), "BUSY"),
        ] {
            assert_eq!(in_words(&error(&answer)), expected, "{answer}");
        }
        assert_eq!(in_words(&timed_out()), timed_out().to_string());
    }

    #[test]
    fn servers_that_lack_commands_are_unsuitable() {
        for (answer, expected) in [
            ("-ERR unknown command 'HELLO'", true),
            ("-ERR unknown command `HELLO`, with args beginning with: `3`, ", true),
            ("-ERR unsupported command 'hello'", true),
            ("-ERR Unknown Redis command called from script", true),
            ("-NOPROTO unsupported protocol version", true),
            ("-LOADING Redis is loading", false),
            ("-NOAUTH Authentication required.", false),
            ("-ERR max number of clients reached", false),
            ("-NOPERM this user has no permissions to run the 'hello' command", false),
        ] {
            assert_eq!(is_unsuitable(&error(answer)), expected, "{answer}");
        }
    }

    #[test]
    fn errors_of_stored_data_are_damage() {
        for (answer, expected) in [
            ("-WRONGTYPE Operation against a key holding the wrong kind of value", true),
            ("-ERR Error running script (call to f_0a): @user_script:8: WRONGTYPE Operation", true),
            ("-OOM command not allowed", false),
            ("-NOPERM no", false),
        ] {
            assert_eq!(is_damage(&error(answer)), expected, "{answer}");
        }
    }

    #[test]
    fn refusals_differ_from_outages() {
        for (code, is_refused) in [
            ("OOM", true),
            ("READONLY", true),
            ("NOAUTH", true),
            ("WRONGTYPE", true),
            ("MOVED", true),
            ("LOADING", false),
            ("BUSY", false),
            ("MASTERDOWN", false),
        ] {
            let outcome = broker_error(error(&format!("-{code} why")));
            assert_eq!(matches!(outcome, BrokerError::Refused(_)), is_refused, "{outcome:?}");
            assert_eq!(outcome.is_full(), code == "OOM", "{outcome:?}");
        }
    }
}
