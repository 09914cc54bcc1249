//! What an inspection finds out of Redis.

use std::time::Duration;

use chat_broker::testing::RedisServer;
use chat_broker::{BrokerError, RedisConfig};

use super::rights::{OPTIONAL, commands, config_of, documented, label};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn inspection_reads_how_redis_is_set_up() {
    let server = RedisServer::start_with(&["--maxmemory", "100mb", "--appendonly", "yes"]);
    let rights = documented(5);
    let found = config_of(&server, "good", &rights, 5).await.inspect().await.unwrap();
    assert_eq!(found.role.as_deref(), Some("master"));
    assert_eq!(found.eviction.as_deref(), Some("noeviction"));
    assert_eq!(found.memory_max, Some(100 << 20));
    assert_eq!((found.append_only, found.save_failed), (Some(true), Some(false)));
    assert!(found.refusal.is_none() && !found.is_full, "{found:?}");
    assert!(found.missing_rights.is_empty() && found.missing_optional_rights.is_empty());
    assert!(found.missing_names.is_empty(), "{found:?}");
    assert!(found.clock_ahead_ms.unwrap().abs() < 1000 && found.latency < Duration::from_secs(1));
    assert!(found.delivery.is_ok(), "{found:?}");
}

/// Each right is taken from a user of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn inspection_names_each_missing_right() {
    let server = RedisServer::start();
    let rights = documented(5);
    // Redis permits every user to say HELLO.
    for command in commands(&rights).filter(|command| *command != "hello") {
        let without: Vec<_> =
            rights.iter().filter(|word| **word != format!("+{command}")).cloned().collect();
        let config = config_of(&server, &command.replace('|', "-"), &without, 5).await;
        let found = match config.inspect().await {
            Ok(found) => found,
            Err(error) => {
                assert_eq!(command, "select", "{error}");
                continue;
            }
        };
        let (needed, optional) = (&found.missing_rights, &found.missing_optional_rights);
        match command {
            "evalsha" => assert!(found.refusal.is_some(), "{found:?}"),
            "subscribe" | "unsubscribe" => assert!(found.delivery.is_err(), "{found:?}"),
            _ if OPTIONAL.contains(&command) => assert_eq!(*optional, [&*label(command)]),
            _ => assert_eq!(*needed, [&*label(command)]),
        }
        assert_eq!(found.clock_ahead_ms.is_none(), command == "time", "{found:?}");
        if command == "info" {
            assert!(found.version.is_none() && found.memory_max.is_none(), "{found:?}");
        }
    }
}

/// Redis refuses each command about them, although it permits the commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn inspection_tells_names_from_commands() {
    let server = RedisServer::start();
    for (names, user, missing) in [
        (["~other:*", "&chat:*"], "keys", "keys"),
        (["~chat:*", "&other:*"], "channels", "channels"),
    ] {
        let mut rights = documented(0);
        rights.retain(|word| !word.starts_with(['~', '&']));
        rights.extend(names.map(str::to_owned));
        let config = config_of(&server, user, &rights, 0).await;
        let found = config.inspect().await.unwrap();
        assert_eq!(found.missing_names, [missing], "{found:?}");
        assert!(found.missing_rights.is_empty(), "{found:?}");
        assert!(found.missing_optional_rights.is_empty(), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn inspection_fails_for_a_server_that_cannot_be_used() {
    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let error = RedisConfig::new(cluster.url()).inspect().await.unwrap_err();
    assert!(error.to_string().contains("a node of a Redis Cluster"), "{error}");
    drop(cluster);
    let server = RedisServer::start();
    let error = RedisConfig::new(format!("{}/99999", server.url())).inspect().await.unwrap_err();
    assert!(matches!(error, BrokerError::Refused(_)), "{error}");
    assert!(error.to_string().contains("DB index is out of range"), "{error}");
    let error = RedisConfig::new("redis://127.0.0.1:1").inspect().await.unwrap_err();
    assert!(matches!(error, BrokerError::Unavailable(_)), "{error}");
}
