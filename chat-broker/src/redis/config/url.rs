//! The check of a Redis URL, and its form for the log.

use redis::IntoConnectionInfo;

/// The port of a URL without one.
const DEFAULT_PORT: u16 = 6379;

/// Refuses what can never work, and what would be passed over: a database that is asked for in
/// another library's way, say.
///
/// # Errors
/// The reason why a URL is invalid, without its password.
pub(crate) fn check(url: &str) -> Result<(), String> {
    let url = redis::parse_redis_url(url).ok_or(
        "the address of a redis begins with redis://, rediss:// or unix:///, and its port is 65535 \
         at most",
    )?;
    let is_socket = url.scheme().ends_with("unix");
    if url.fragment() == Some("insecure") && !is_socket {
        return Err(
            "#insecure is not supported: the server's certificate is always checked. Name \
                    the one that vouches for it (redis-ca)"
                .to_owned(),
        );
    }
    if url.fragment().is_some() {
        return Err("what follows on # has no meaning; in a password, # is written %23".to_owned());
    }
    if is_socket && url.host_str().is_some_and(|host| !host.is_empty()) {
        return Err("the address of a socket is unix:///path, with three slashes".to_owned());
    }
    let meant: &[&str] =
        if is_socket { &["db", "user", "pass", "protocol"] } else { &["protocol"] };
    let mut names = url.query_pairs().map(|(name, _)| name);
    if let Some(name) = names.find(|name| !meant.contains(&&**name)) {
        let hint =
            if name == "db" { ": the database is the path, as in redis://host/3" } else { "" };
        return Err(format!("'?{name}=' has no meaning{hint}"));
    }
    let in_query = url.query_pairs().find(|(name, _)| name == "db").map(|(_, database)| database);
    let in_path = (!is_socket).then(|| url.path().trim_start_matches('/').into());
    if in_query.or(in_path).is_some_and(|database| database.starts_with('-')) {
        return Err("a database is a number from 0".to_owned());
    }
    if url.port() == Some(0) {
        return Err("no server is at port 0".to_owned());
    }
    Ok(())
}

/// A URL with its port and database and without a user and a password; `None` if it is invalid.
pub(crate) fn without_credentials(url: &str) -> Option<String> {
    let database = url.into_connection_info().ok()?.redis_settings().db();
    let url = redis::parse_redis_url(url)?;
    let scheme = url.scheme();
    if scheme.ends_with("unix") {
        return Some(format!("{scheme}://{}?db={database}", url.path()));
    }
    let port = url.port().unwrap_or(DEFAULT_PORT);
    Some(format!("{scheme}://{}:{port}/{database}", url.host_str()?))
}

#[cfg(test)]
mod tests {
    use super::without_credentials;
    use crate::RedisConfig;

    #[test]
    fn valid_urls_are_accepted() {
        for url in [
            "redis://host",
            "redis://host/3",
            "redis://:se%23cret@host:1/0",
            "redis://user:secret@[::1]:6380",
            "redis://host?protocol=resp3",
            "rediss://host:6380/15",
            "valkey://host",
            "valkeys://host",
            "unix:///run/redis.sock",
            "unix:///run/redis.sock?db=3&user=u&pass=p",
        ] {
            let outcome = RedisConfig::new(url).client();
            assert!(outcome.is_ok(), "{url}: {outcome:?}");
        }
    }

    #[test]
    fn address_has_port_and_database_and_no_credentials() {
        for (url, shown) in [
            ("redis://host", "redis://host:6379/0"),
            ("rediss://user:p@ss@host:1", "rediss://host:1/0"),
            ("redis://:hunter2@[::1]/3?protocol=resp3", "redis://[::1]:6379/3"),
            ("unix:///run/redis.sock?db=3&pass=hunter2", "unix:///run/redis.sock?db=3"),
        ] {
            assert_eq!(without_credentials(url).as_deref(), Some(shown));
        }
        assert_eq!(without_credentials("hunter2"), None);
    }

    #[test]
    fn invalid_urls_are_refused_with_the_reason() {
        for (url, why) in [
            ("rediss://host/#insecure", "redis-ca"),
            ("rediss://host:6380/0#insecure", "redis-ca"),
            ("valkeys://host/#insecure", "redis-ca"),
            ("rediss://host/#other", "#"),
            ("redis://host/#insecure", "#insecure"),
            ("redis://host/0#x", "%23"),
            ("redis://host?db=3", "redis://host/3"),
            ("rediss://host?ssl_cert_reqs=none", "?ssl_cert_reqs="),
            ("redis://host/-1", "from 0"),
            ("unix:///run/redis.sock?db=-1", "from 0"),
            ("unix:///run/redis.sock?password=x", "?password="),
            ("unix://run/redis.sock", "unix:///path"),
            ("redis://host:0", "port 0"),
            ("redis://host:65536", "65535 at most"),
            ("redis://", ""),
            ("host:6379", ""),
        ] {
            let outcome = RedisConfig::new(url).client();
            let error = outcome.expect_err(url).to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
