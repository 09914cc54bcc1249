//! `chat-server check`: the settings in effect, and whether a server can run with them here.

#[cfg(feature = "redis")]
mod redis;
mod report;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use chat_server::{Rate, ServerConfig};
use tokio::net::lookup_host;

use super::print;
use crate::open_files;
use crate::settings::{CheckArgs, Exit, SettingInEffect, Settings, Sources};
use report::Report;

/// A server that may open fewer files admits fewer clients than most expect.
const FEW_FILES: u64 = 10_000;

pub(super) async fn run(
    args: &CheckArgs,
    settings: &Settings,
    sources: &Sources,
) -> Result<ExitCode, Exit> {
    let server = settings.server()?;
    #[cfg(feature = "redis")]
    settings.redis.check_url()?;
    let mut report = Report::default();
    check_settings(&mut report, &server, settings, sources);
    if let Some(file) = sources.file() {
        let of_file = |setting: &SettingInEffect| setting.is_secret && setting.is_of_file();
        let has_secrets =
            args.settings.iter().any(of_file) || settings.tokens.tables_have_secrets();
        check_file(&mut report, file, has_secrets);
    }
    for file in settings.tokens.secret_files() {
        check_file(&mut report, file, true);
    }
    check_host(&mut report, settings, sources).await;
    check_tokens(&mut report, settings, sources).await;
    check_files(&mut report, &server, settings);
    check_redis(&mut report, &server, settings, sources).await;
    let file = sources.file();
    let listed = in_effect(&args.settings, settings, &server);
    let text = if args.json { report.json(file, &listed) } else { report.text(file, &listed) };
    print(&text);
    Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The settings, with the values of defaults that follow from other settings and from the machine.
fn in_effect(
    listed: &[SettingInEffect],
    settings: &Settings,
    server: &ServerConfig,
) -> Vec<SettingInEffect> {
    let mut listed = listed.to_vec();
    let computed = computed(settings, server);
    for setting in listed.iter_mut().filter(|setting| setting.source == SettingInEffect::DEFAULT) {
        if let Some((_, value)) = computed.iter().find(|(name, _)| *name == setting.name) {
            setting.value.clone_from(value);
            setting.source = "computed".to_owned();
        }
    }
    if !settings.limits.enabled {
        lift(&mut listed);
    }
    listed
}

/// Without limits, the values of rates and counts are not in effect.
fn lift(listed: &mut [SettingInEffect]) {
    const COUNTS: [&str; 4] =
        ["max-connections", "max-connections-per-address", "max-rooms", "max-rooms-per-user"];
    let switch = listed.iter().find(|setting| setting.name == "limits");
    let Some(source) = switch.map(|switch| switch.source.clone()) else { return };
    for setting in listed.iter_mut().filter(|setting| setting.source != "computed") {
        let is_rate = setting.name.ends_with("rate") || setting.name.contains("rate-per-");
        let lifted = match COUNTS.contains(&&*setting.name) {
            true => "none",
            false if is_rate && Settings::is_limit(&setting.name) => "off",
            false => continue,
        };
        (setting.value, setting.source) = (lifted.to_owned(), source.clone());
    }
}

fn computed(settings: &Settings, server: &ServerConfig) -> Vec<(&'static str, String)> {
    let by_system = settings.limits.connections_by_system();
    let limits = open_files::bound(server.clone(), by_system).limits;
    let count = |count: Option<usize>| count.map_or("none".to_owned(), |count| count.to_string());
    let rate = |rate: Option<Rate>| rate.map_or("off".to_owned(), in_units);
    Vec::from([
        ("threads", settings.listen.threads().to_string()),
        ("metrics-addr", format!("port {}", settings.listen.port)),
        ("max-frame-bytes", server.transport.max_message_bytes.to_string()),
        ("max-connections", count(limits.connections)),
        ("max-connections-per-address", count(limits.connections_per_address)),
        ("http-rate-per-address", rate(limits.http_requests_per_address)),
        ("rate-per-address", rate(limits.address.frames)),
        ("byte-rate-per-address", rate(limits.address.received_bytes)),
        ("answer-rate-per-address", rate(limits.address.answer_bytes)),
        ("kept-rate-per-address", rate(limits.address.kept_bytes)),
    ])
}

/// A rate as settings have it: `2M/8M`.
fn in_units(rate: Rate) -> String {
    const UNITS: [(u32, &str); 2] = [(1024 * 1024, "M"), (1024, "K")];
    let written = |number: u32| {
        let unit = UNITS.into_iter().find(|(unit, _)| number.is_multiple_of(*unit));
        unit.map_or_else(|| number.to_string(), |(unit, name)| format!("{}{name}", number / unit))
    };
    format!("{}/{}", written(rate.per_second()), written(rate.burst()))
}

fn check_settings(
    report: &mut Report,
    server: &ServerConfig,
    settings: &Settings,
    sources: &Sources,
) {
    report.ok("settings", "all values are valid");
    for warning in sources.warnings() {
        report.warn("settings", warning);
    }
    // If they are not known, the keys of tokens fail below.
    for warning in settings.warnings(server).unwrap_or_default() {
        report.warn("settings", warning);
    }
    if server.api_key.is_none() && server.api_keys.is_empty() {
        report.ok("api", "off: no key is set");
    } else {
        let tables = server.api_keys.len();
        let all = tables + usize::from(server.api_key.is_some());
        let keys = if all == 1 { "key" } else { "keys" };
        let found = format!("{all} {keys}, {tables} of them in [[api_keys]]");
        let ended: Vec<_> = settings.api.ended_keys().collect();
        match ended.len() {
            0 => report.ok("api", found),
            _ if ended.len() == all => {
                report.warn("api", "every key has ended: no call is accepted")
            }
            _ => report.warn("api", format!("{found}; ended: {}", ended.join(", "))),
        }
    }
}

/// A file with secrets is for the server's user alone, and its group.
fn check_file(report: &mut Report, file: &Path, has_secrets: bool) {
    const CHECK: &str = "file";
    let mode = match file.metadata() {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) => return report.warn(CHECK, format!("{}: {error}", file.display())),
    };
    if has_secrets && mode & 0o004 != 0 {
        let file = file.display();
        report.warn(CHECK, format!("{file} has secrets, and every user can read it: chmod o-r"));
    } else {
        report.ok(CHECK, format!("{}: mode {:03o}", file.display(), mode & 0o777));
    }
}

async fn check_host(report: &mut Report, settings: &Settings, sources: &Sources) {
    let Some(host) = settings.listen.host() else { return };
    let found = lookup_host((host.trim_matches(['[', ']']), settings.listen.port)).await;
    match found.map(|found| settings.listen.check_apart(&found.collect::<Vec<_>>())) {
        Ok(Ok(())) => report.ok("host", format!("{host} is an address, or has one")),
        Ok(Err(overlap)) => report.fail("host", Exit::from(overlap).message(sources)),
        Err(error) => report.fail("host", format!("{host} has no address: {error}")),
    }
}

/// The keys of tokens: settings, files and the URL.
async fn check_tokens(report: &mut Report, settings: &Settings, sources: &Sources) {
    match settings.tokens.are_needed() {
        Err(invalid) => report.fail("tokens", Exit::from(invalid).message(sources)),
        Ok(false) => report.ok("tokens", "clients need none"),
        Ok(true) => check_keys(report, settings, sources).await,
    }
}

#[cfg(feature = "jwt")]
async fn check_keys(report: &mut Report, settings: &Settings, sources: &Sources) {
    match settings.tokens.keys() {
        Ok(_) if settings.tokens.all_keys_have_ended() => {
            report.fail("tokens", "every key has ended: no client can connect");
        }
        Ok(_) => report.ok("tokens", "clients need one; all keys and files can be read"),
        Err(invalid) => report.fail("tokens", Exit::from(invalid).message(sources)),
    }
    check_remote_keys(report, settings, sources).await;
}

#[cfg(not(feature = "jwt"))]
#[allow(clippy::unused_async, reason = "as with the feature")]
async fn check_keys(report: &mut Report, _: &Settings, sources: &Sources) {
    report.fail("tokens", Exit::without("jwt").message(sources));
}

#[cfg(feature = "jwks")]
async fn check_remote_keys(report: &mut Report, settings: &Settings, sources: &Sources) {
    const CHECK: &str = "jwks";
    let config = match settings.tokens.remote_keys() {
        Ok(None) => return,
        Ok(Some(config)) => config,
        Err(invalid) => return report.fail(CHECK, Exit::from(invalid).message(sources)),
    };
    let url = crate::settings::url_without_secrets(&config.url);
    let start = std::time::Instant::now();
    let fetched = match chat_server::RemoteKeys::start(config) {
        Ok(keys) => keys.fetch().await,
        Err(error) => Err(error),
    };
    match fetched {
        Ok(()) => report.ok(CHECK, format!("{url}: fetched in {:.1?}", start.elapsed())),
        Err(error) => report.fail(CHECK, format!("{url}: {error}")),
    }
}

#[cfg(all(feature = "jwt", not(feature = "jwks")))]
#[allow(clippy::unused_async, reason = "as with the feature")]
async fn check_remote_keys(report: &mut Report, settings: &Settings, sources: &Sources) {
    if settings.tokens.jwks_url().is_some() {
        report.fail("jwks", Exit::without("jwks").message(sources));
    }
}

/// Each connection is an open file.
fn check_files(report: &mut Report, server: &ServerConfig, settings: &Settings) {
    const CHECK: &str = "files";
    let files = match rlimit::Resource::NOFILE.get() {
        Ok((_, hard)) => hard,
        Err(error) => {
            return report.warn(CHECK, format!("the limit of open files is unknown: {error}"));
        }
    };
    let too_few = match settings.limits.connections_by_system() {
        // The server admits as many clients as there are files for.
        true => None,
        false => open_files::too_few(&server.limits, files),
    };
    if let Some(too_few) = too_few {
        report.warn(CHECK, too_few);
    } else if files < FEW_FILES {
        let why = "and each client is one: raise LimitNOFILE";
        report.warn(CHECK, format!("{files} open files at most, {why}"));
    } else {
        report.ok(CHECK, format!("{files} open files at most"));
    }
}

#[cfg(feature = "redis")]
async fn check_redis(
    report: &mut Report,
    server: &ServerConfig,
    settings: &Settings,
    sources: &Sources,
) {
    let Some(url) = settings.redis.url() else { return no_redis(report) };
    match settings.redis.config(url, server.hub.grace) {
        Ok(config) => redis::check(report, &config).await,
        Err(invalid) => report.fail("redis", Exit::from(invalid).message(sources)),
    }
}

#[cfg(not(feature = "redis"))]
#[allow(clippy::unused_async, reason = "as with the feature")]
async fn check_redis(
    report: &mut Report,
    _: &ServerConfig,
    settings: &Settings,
    sources: &Sources,
) {
    match settings.redis.url() {
        None => no_redis(report),
        Some(_) => report.fail("redis", Exit::without("redis").message(sources)),
    }
}

fn no_redis(report: &mut Report) {
    report.warn(
        "redis",
        "redis-url is not set: rooms live in one process, and a restart loses their history",
    );
}
