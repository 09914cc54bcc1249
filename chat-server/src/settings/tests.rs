//! Settings from the command line and the file, and the configuration that the server runs with.

use std::collections::BTreeMap;
use std::time::Duration;

use chat_core::{Retention, RoomId};
use chat_server::{ApiKey, Rate, Rates, ServerConfig};

use super::*;

fn settings(arguments: &[&str]) -> Settings {
    let arguments = ["chat-server"].iter().chain(arguments);
    Cli::try_parse_from(arguments).unwrap().settings
}

fn file_error(text: &str) -> String {
    match Settings::of_file(text, &[]) {
        Err(Exit::File(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_win_over_the_file() {
    let file = "port = 1\nredis-url = \"redis://a\"\nping-interval = \"0s\"";
    let settings = Settings::of_file(file, &["--port", "2", "--redis-url", ""]).unwrap();
    assert_eq!(settings.listen.port, 2);
    assert_eq!(settings.redis.url(), None, "empty is none, and still wins");
    assert_eq!(settings.server().unwrap().transport.heartbeat, None);
}

/// What the help says of the program is what the documentation of the library says.
#[test]
fn defaults_are_those_of_the_library() {
    let settings = settings(&[]);
    let library = ServerConfig::default();
    let workers = settings.listen.threads().get();
    let library = library.clone().hub(library.hub.workers(workers));
    let server = settings.server().unwrap().shared_settings(String::new());
    assert_eq!(format!("{server:?}"), format!("{library:?}"));
}

#[test]
fn defaults_that_depend_on_trusted_proxies_are_as_the_help_says() {
    let command = Cli::command();
    let help = |setting: &str| {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(setting)).unwrap();
        let help = arg.get_help().unwrap().to_string();
        help.split("; ").last().unwrap().split(' ').next().unwrap().to_owned()
    };
    let limits = settings(&["--trusted-proxies", "10.0.0.0/8"]).server().unwrap().limits;
    let Rates { frames, received_bytes, answer_bytes, kept_bytes, .. } = limits.address;
    for (setting, rate) in [
        ("http-rate-per-address", limits.http_requests_per_address),
        ("rate-per-address", frames),
        ("byte-rate-per-address", received_bytes),
        ("answer-rate-per-address", answer_bytes),
        ("kept-rate-per-address", kept_bytes),
    ] {
        assert_eq!(help(setting).parse().ok(), rate, "{setting}");
    }
    assert_eq!(help("max-connections-per-address").parse().ok(), limits.connections_per_address);
}

/// Behind a proxy that does not tell them apart, all clients have one address.
#[test]
fn addresses_are_limited_only_if_clients_have_their_own() {
    let limits = |file: &str| {
        let limits = Settings::of_file(file, &[]).unwrap().server().unwrap().limits;
        (limits.connections_per_address, limits.address.frames)
    };
    let trusted = "trusted-proxies = [\"10.0.0.0/8\"]\n";
    let values = "max-connections-per-address = 7\nrate-per-address = \"8/9\"\n";
    let given = (Some(7), Some(Rate::new(8, 9)));
    assert_eq!(limits(""), (None, None));
    assert_eq!(limits("trusted-proxies = []"), (None, None));
    assert_eq!(limits("trusted-proxies = [\" \"]"), (None, None));
    assert_eq!(limits(trusted), (Some(100), Some(Rate::new(500, 5000))));
    assert_eq!(limits(values), given);
    assert_eq!(limits(&format!("{trusted}{values}")), given);
    let off = format!("{trusted}rate-per-address = \"off\"");
    assert_eq!(limits(&off), (Some(100), None));
    assert_eq!(limits(&format!("limits = \"off\"\n{trusted}{values}")), (None, None));
}

#[test]
fn every_thread_delivers() {
    for threads in 1..=3 {
        let settings = settings(&["--threads", &threads.to_string()]);
        let workers = settings.server().unwrap().hub.workers;
        assert_eq!((settings.listen.threads().get(), workers), (threads, threads));
    }
}

#[test]
fn lists_are_separated_by_commas_except_in_the_file() {
    let origins = |text: &str| settings(&["--allow-origin", text]).server().unwrap().allow_origin;
    assert_eq!(origins("https://a.example, null"), ["https://a.example", "null"]);
    assert_eq!(origins(""), Vec::<String>::new(), "no origin, not the empty one");
    let file = "jwt-secret = \"s\"\njwt-audience = [\"a,b\", \" c \"]\nallow-host = \"a.example,b.example\"";
    let of_file = Settings::of_file(file, &[]).unwrap();
    assert_eq!(of_file.tokens.audience(), ["a,b", "c"]);
    assert_eq!(of_file.server().unwrap().allow_host, ["a.example", "b.example"]);
    let of_flag = Settings::of_file(file, &["--jwt-audience", "a,b"]).unwrap();
    assert_eq!(of_flag.tokens.audience(), ["a", "b"]);
}

#[test]
fn classes_of_rooms_differ_in_what_they_keep() {
    let file = "history = 10\nhistory-bytes = 5000\n\
                [[rooms]]\nname = \"game-*\"\nhistory = 0\n\
                [[rooms]]\nname = \"files-*\"\nhistory-bytes = 900000\n\
                [[rooms]]\nname = \"*\"\nhistory-ttl = \"1h\"";
    let rules = Settings::of_file(file, &[]).unwrap().server().unwrap().hub.history;
    let of = |name| rules.of(&RoomId::new(name).unwrap());
    assert_eq!(of("game-1"), None);
    let hour = Duration::from_secs(3600);
    assert_eq!(of("general"), Some(Retention::default().messages(10).bytes(5000).ttl(hour)));
    let ttl = Retention::default().ttl;
    assert_eq!(of("files-1"), Some(Retention::default().messages(10).bytes(900_000).ttl(ttl)));
    let none = Settings::of_file("history = 0", &[]).unwrap().server().unwrap().hub.history;
    assert_eq!(none.of(&RoomId::new("r").unwrap()), None);
}

#[test]
fn errors_of_the_file_name_the_line_and_the_key() {
    for (text, error) in [
        ("\n[[rooms]]\nhistory = 1", "line 3, rooms: name is missing"),
        (
            "[[rooms]]\nname = \"a\"\nhistori = 1",
            "line 3, histori: there is no such key; did you mean history?",
        ),
        ("[[rooms]]\nname = \"a\"\nhistory = 100001", "line 3, history: at most 100000"),
        ("[rooms]\nname = \"a\"", "line 1, rooms: expected [[rooms]]"),
        ("api_keys = 1", "line 1, api_keys: expected [[api_keys]]"),
        ("[[api_keys]]\nname = \"a\"", "line 2, api_keys: hash is missing"),
        ("[[api_keys]]\nname = \"a_b\"", "line 2, name: a name has 1 to 32 letters"),
        ("[[api_keys]]\nhash = \"abc\"", "line 2, hash: expected \"sha256:\""),
        ("[[api_keys]]\nscopes = [\"fly\"]", "line 2, scopes: expected send, read, "),
        ("[[api_keys]]\nscopes = [\"sned\"]", "; did you mean send?, in [[api_keys]]"),
        (
            "[[jwt-keys]]\nsecret = \"a\"",
            "line 1, jwt-keys: there is no such table; did you mean [[jwt_keys]]?",
        ),
        ("[[room]]\nname = \"a\"", "line 1, room: there is no such table; did you mean [[rooms]]?"),
        (
            "[[api_keys]]\nhistroy = 3",
            "line 2, histroy: there is no such key, in [[api_keys]]; if you mean the setting history: \
             settings stand before the first table",
        ),
        ("[[api_keys]]\nuntil = \"soon\"", "line 2, until: expected a day"),
        ("\nprot = 1", "line 2, prot: there is no such setting; did you mean port?"),
        ("[[jwt_keys]]\nuntil = \"soon\"", "line 2, until: expected a day"),
        (
            "[[jwt_keys]]\nsecert = \"a\"",
            "line 2, secert: there is no such key; did you mean secret?",
        ),
        ("config = \"a\"", "line 1, config: there is no such setting"),
        ("log = 1.5", "line 1, log: expected a text in quotes"),
        ("limits = true", "line 1, limits: expected \"on\" or \"off\", in quotes"),
        ("api-key = 1.234567890", "line 1, api-key: expected a text in quotes"),
        ("port = 1\nport = 2", "line 2: duplicate key"),
        ("port = [\"1\"]", "line 1, port: expected one value, and no list in brackets"),
        ("\nhost = [\"a\", \"b\"]", "line 2, host: expected one value"),
        ("allow-host = [\"a\", 5]", "line 1, allow-host: expected a list of texts in quotes"),
        ("[server]\nport = 1", "line 1, server: there is no such table; settings stand above"),
        ("server.port = 1", "line 1, server: there is no such table"),
        ("[[rooms]]\nname = \" \"", "line 2, name: expected a pattern of names"),
        ("[[rooms]]\nname = \"a\"\nhistory = [1]", "line 3, history: expected one value"),
        ("[[api_keys]]\nname = \"a\"\nrooms = []", "line 3, rooms: expected a pattern at least"),
        ("[[api_keys]]\nrooms = \"\"", "line 2, rooms: expected a pattern at least"),
        ("[[api_keys]]\nrooms = [\"a\", 1]", "line 2, rooms: expected a list of texts in quotes"),
    ] {
        assert!(file_error(text).contains(error), "{}", file_error(text));
    }
    assert!(!file_error("api-key = 1.234567890").contains("234567890"));
    for wrong in ["history = 100001", "history-ttl = \"10ms\"", "presence-lease = \"0s\""] {
        assert!(matches!(Settings::of_file(wrong, &[]), Err(Exit::Usage(_))), "{wrong}");
    }
}

#[test]
fn white_space_in_the_file_is_not_part_of_a_value() {
    let file = "limits = \" off\\r\"\nlog-format = \"json \"\nlog = []\nport = []";
    let settings = Settings::of_file(file, &[]).unwrap();
    assert!(!settings.limits.enabled && matches!(settings.log.format, LogFormat::Json));
    assert_eq!((settings.log.filter(), settings.listen.port), ("info", 8080));
}

#[test]
fn long_value_is_shown_in_part() {
    let long = "x".repeat(100_000);
    for setting in ["log", "rate", "limits", "ping-interval", "port", "trusted-proxies"] {
        let Err(exit) = Settings::of_file(&format!("{setting} = \"{long}\""), &[]) else {
            panic!("{setting}");
        };
        let message = exit.message(&Sources::default());
        assert!(message.contains(setting) && message.len() < 1000, "{message}");
    }
}

#[test]
fn keys_of_one_name_are_refused_by_the_name_in_the_file() {
    let hash = format!("sha256:{}", "0".repeat(64));
    let table = format!("[[api_keys]]\nname = \"shop\"\nhash = \"{hash}\"\nscopes = [\"send\"]\n");
    let error = Settings::of_file(&table.repeat(2), &[]).unwrap().server().unwrap_err();
    let message = error.message(|setting| Sources::default().name(setting));
    assert_eq!(message, "invalid value 'shop' for [[api_keys]]: two keys have this name");
}

/// The table that `chat-server key` prints is what the file needs.
#[test]
fn printed_table_is_a_key() {
    let rights = [
        "--scopes=send,read",
        "--rooms=shop-*",
        "--rooms=a\\\"b",
        "--rate=500/1000",
        "--until=2027-06-30",
    ];
    let arguments = ["chat-server", "key", "--name=shop"].into_iter().chain(rights);
    let cli = Cli::try_parse_from(arguments).unwrap();
    let Some(Command::Key(key)) = cli.command else { panic!("no key") };
    let NewKey { secret, table } = key.key().unwrap();
    assert!(secret.reveal().starts_with("ck_shop_"), "{}", secret.reveal());
    for line in [
        "scopes = [\"send\", \"read\"]",
        "rooms = [\"shop-*\", \"a\\\\\\\"b\"]",
        "rate = \"500/1000\"",
        "until = \"2027-06-30T00:00:00Z\"",
    ] {
        assert!(table.contains(line), "{table}");
    }
    let server = Settings::of_file(&table, &[]).unwrap().server().unwrap();
    let read = &server.api_keys[0];
    let of_secret = ApiKey::new("shop", &secret).unwrap();
    assert_eq!((read.name(), read.hash()), ("shop", of_secret.hash()));
}

#[test]
fn api_is_on_some_address() {
    let off = |flags: &[&str]| {
        let flags = [&["--api-on-clients-port", "off"], flags].concat();
        settings(&flags).server().map(|server| server.serve_api)
    };
    assert!(off(&[]).is_err());
    assert!(!off(&["--metrics-addr", "127.0.0.1:9100"]).unwrap());
}

#[test]
fn secrets_are_not_shown() {
    let key = "a key for backends";
    let settings = settings(&["--api-key", key, "--jwt-secret", key, "--redis-url", key]);
    assert!(!format!("{settings:?}").contains(key), "{settings:?}");
}

#[cfg(feature = "redis")]
#[test]
fn engine_is_shown_without_its_password() {
    let engine = |url: &str| settings(&["--redis-url", url]).redis.engine();
    assert_eq!(engine(""), "memory");
    for (url, shown) in [
        ("redis://host:6379/1", "redis://host:6379/1"),
        ("rediss://user:p@ss@host", "rediss://host:6379/0"),
        ("unix:///run/redis.sock?pass=hunter2", "unix:///run/redis.sock?db=0"),
    ] {
        assert_eq!(engine(url), shown);
    }
}

#[cfg(feature = "jwt")]
#[test]
fn table_of_tokens_has_one_key() {
    let keys = |file: &str| {
        let settings = Settings::of_file(file, &[]).unwrap();
        assert!(settings.tokens.are_needed().unwrap());
        settings.tokens.keys().map_err(|error| error.message(|name| Sources::default().name(name)))
    };
    let secret = |byte: &str| format!("[[jwt_keys]]\nsecret = \"{}\"\n", byte.repeat(32));
    assert!(keys(&secret("a")).is_ok());
    let one = "invalid value for [[jwt_keys]]: a table has one of secret, secret-file, public-key and \
               jwks-file";
    assert_eq!(keys("[[jwt_keys]]\nuntil = \"2027-06-30\"").unwrap_err(), one);
    assert_eq!(keys(&format!("{}jwks-file = \"x\"", secret("a"))).unwrap_err(), one);
    let two = format!("{}until = \"2027-06-30\"\n{}", secret("a"), secret("b"));
    let settings = Settings::of_file(&two, &[]).unwrap();
    let signs = settings.tokens.secret().unwrap().unwrap();
    assert_eq!(signs.reveal(), "b".repeat(32), "the one that lasts longest");
}

#[cfg(feature = "jwt")]
#[test]
fn ended_secret_signs_no_tokens() {
    let tokens = |file: &str| Settings::of_file(file, &[]).unwrap().tokens;
    let ended = format!("[[jwt_keys]]\nsecret = \"{}\"\nuntil = \"2020-01-01\"\n", "a".repeat(32));
    let all = tokens(&ended);
    assert!(all.are_needed().unwrap() && all.all_keys_have_ended());
    assert!(all.secret().unwrap().is_none());
    let lasting = format!("{ended}[[jwt_keys]]\nsecret = \"{}\"\n", "b".repeat(32));
    assert!(!tokens(&lasting).all_keys_have_ended());
    let other = format!("jwt-jwks-url = \"https://a.example/jwks\"\n{ended}");
    assert!(!tokens(&other).all_keys_have_ended());
}

/// The secrets in the text of a page or of a file, each with its setting: `jwt-secret = "…"`, `api-key: …`,
/// `JWT_SECRET=…`, `redis://chat:…@…`. What a command or a variable gives is none.
#[cfg(all(feature = "jwt", feature = "redis"))]
fn example_secrets(text: &str) -> Vec<(&'static str, &str)> {
    let mut found = Vec::new();
    for (name, setting) in [
        ("jwt-secret", "jwt-secret"),
        ("JWT_SECRET", "jwt-secret"),
        ("\nsecret", "jwt-secret"),
        ("api-key", "api-key"),
        ("API_KEY", "api-key"),
    ] {
        for (at, _) in text.match_indices(name) {
            let assignment = text[at + name.len()..].lines().next().unwrap_or_default();
            let values = written_values(assignment.trim_start());
            found.extend(values.into_iter().map(|value| (setting, value)));
        }
    }
    let urls = text.split([' ', '\n', '"', '\'', '`']).filter(|word| word.contains("redis://"));
    let urls = urls.map(|word| &word[word.find("redis://").unwrap()..]);
    let with_password = urls.filter(|url| url.contains('@') && !url.contains(['$', '…']));
    found.extend(with_password.map(|url| ("redis-url", url)));
    found
}

/// The texts in quotes of a value that begins with one or with a list; else the first word, and in YAML all.
#[cfg(all(feature = "jwt", feature = "redis"))]
fn written_values(assignment: &str) -> Vec<&str> {
    let is_yaml = assignment.starts_with(':');
    let value = assignment.strip_prefix(['=', ':']).map(str::trim).unwrap_or_default();
    let values = if value.starts_with(['"', '\'', '[']) {
        value.split(['"', '\'']).skip(1).step_by(2).collect()
    } else if is_yaml {
        vec![value]
    } else {
        vec![value.split([' ', '`']).next().unwrap_or_default()]
    };
    let is_written = |value: &&str| !value.is_empty() && !value.starts_with(['$', '?']);
    values.into_iter().filter(is_written).collect()
}

#[cfg(all(feature = "jwt", feature = "redis"))]
fn is_accepted(setting: &str, secret: &str) -> bool {
    let Ok(settings) = Settings::of_file(&format!("{setting} = {secret:?}"), &[]) else {
        return false;
    };
    settings.tokens.keys().is_ok() && settings.redis.check_url().is_ok()
}

/// Everybody knows them.
#[cfg(all(feature = "jwt", feature = "redis"))]
#[test]
fn no_secret_of_an_example_is_accepted() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    let mut directories = vec![root.join("docs"), root.join("deploy")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                for (setting, secret) in example_secrets(&text) {
                    assert!(!is_accepted(setting, secret), "{}: {secret}", path.display());
                    found.push((setting, secret.to_owned()));
                }
            }
        }
    }
    for (setting, example) in [
        ("jwt-secret", "<openssl rand -hex 32>"),
        ("jwt-secret", "<the old secret>"),
        ("api-key", "<openssl rand -hex 32>"),
        ("redis-url", "redis://chat:PASSWORD@redis.example:6379"),
    ] {
        assert!(found.contains(&(setting, example.to_owned())), "{example} in {found:?}");
    }
    for (setting, former) in [
        ("jwt-secret", "32 random bytes or more: openssl rand -hex 32"),
        ("jwt-secret", "<a text of more than 32 bytes in brackets>"),
        ("api-key", "16 random bytes or more"),
    ] {
        assert!(!is_accepted(setting, former), "{former}");
    }
    let random = "6b1f0e9d3c5a7788990011223344556677aabbccddeeff001122334455667788";
    assert!(is_accepted("jwt-secret", random) && is_accepted("api-key", random));
    assert!(is_accepted("redis-url", &format!("redis://chat:{random}@redis.example:6379")));
}

#[test]
fn negative_number_is_an_error_of_its_setting() {
    let error = |arguments: &[&str]| {
        let arguments = ["chat-server"].iter().chain(arguments);
        let mut sources = Sources::new(arguments.map(Into::into).collect(), BTreeMap::new());
        Task::load(&mut sources).err().map(|exit| exit.message(&sources)).unwrap_or_default()
    };
    let whole = "expected a whole number without a unit";
    assert_eq!(error(&["--history", "-1"]), format!("invalid value '-1' for --history: {whole}"));
    let rooms = error(&["bench", "--rooms", "-1"]);
    assert!(rooms.starts_with("invalid value '-1' for --rooms"), "{rooms}");
    assert_eq!(
        error(&["--history", "--port"]),
        "a value is required for --history but none was supplied"
    );
    assert_eq!(error(&["-1"]), "unexpected argument '-1' found");
    assert_eq!(error(&["check", "-1"]), "unexpected argument '-1' found");
}

#[test]
fn files_of_settings_for_deployments_are_valid() {
    for text in [
        include_str!("../../../deploy/compose/chat.toml"),
        include_str!("../../../deploy/kubernetes/chat.toml"),
    ] {
        // The addresses are variables there.
        let metrics = ["--metrics-addr", "127.0.0.1:9100"];
        Settings::of_file(text, &metrics).unwrap().server().unwrap();
    }
}

/// Every command line of the program in the blocks of the documentation: a flag that was renamed, or a value that
/// is not accepted any more, would stay there.
#[test]
fn command_lines_of_the_documentation_are_valid() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|page| page.unwrap().path());
    let mut count = 0;
    for page in pages.chain(["README.md", "chat-server/README.md"].map(|page| root.join(page))) {
        let Ok(text) = std::fs::read_to_string(&page) else { continue };
        let text = text.replace("\\\n", " ");
        let blocks = text.split("```").skip(1).step_by(2);
        for words in blocks.flat_map(str::lines).filter_map(arguments_in) {
            count += 1;
            let outcome = Cli::command().try_get_matches_from(&words);
            let error = outcome.err().filter(clap::Error::use_stderr);
            assert!(error.is_none(), "{}: {words:?}: {}", page.display(), error.unwrap());
        }
    }
    assert!(count > 30, "{count} command lines: are they written in another form now?");
}

/// The words of a line from the program's name on, if the line runs it.
fn arguments_in(line: &str) -> Option<Vec<String>> {
    let words = words(line.trim_start_matches([' ', '$']));
    let at =
        words.iter().position(|word| word == "chat-server" || word.ends_with("/chat-server"))?;
    let (before, command) = words.split_at(at);
    let is_assignment = |word: &String| word.contains('=') && !word.starts_with('-');
    let runs_others = ["docker", "kubectl", "runuser"];
    let is_run = before.iter().all(is_assignment)
        || before.first().is_some_and(|word| runs_others.contains(&&**word));
    is_run.then(|| command.to_vec())
}

/// The words of the first command in a line of a shell: up to a comment, a redirection or another command.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for next in line.chars().chain([' ']) {
        match (quote, next) {
            (Some(open), _) if open == next => quote = None,
            (Some(_), _) => word.push(next),
            (None, '"' | '\'') => quote = Some(next),
            (None, ' ') if word.is_empty() => {}
            (None, ' ') => words.push(std::mem::take(&mut word)),
            (None, '#' | '|' | '&' | ';' | '>' | '<' | ')') if word.is_empty() => break,
            _ => word.push(next),
        }
    }
    words
}
