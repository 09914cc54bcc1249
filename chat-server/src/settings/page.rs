//! docs/settings.md, made from the declarations. To write it again:
//! `UPDATE_DOCS=1 cargo test -p roomcast-server --bin chat-server settings_page`.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use super::Cli;
use super::api::ApiKeyTable;
use super::rooms::RoomClass;
use super::source::Sources;
use super::tokens::JwtKeyTable;
use super::variables::UNPREFIXED;

const TOP: &str = "# Settings

<!-- Made from the declarations in chat-server/src/settings by `UPDATE_DOCS=1 cargo test -p \
roomcast-server --bin chat-server settings_page`. A test fails if this page differs from them. -->

Every setting is a flag, an environment variable, and a key of the TOML file that `--config` names; \
the key is the flag without `--`. A flag wins over the variable, the variable over the file, and the \
file over the default. `chat-server --help` prints the same list.

## How values are written

| value | in a flag or a variable | in the file |
|---|---|---|
| number, such as `--port` and what is counted in bytes | decimal digits, without sign, unit and separator: \
`1048576` | the number: `port = 8080`, or the same in quotes |
| time | a number and a unit: `500ms`, `10s`, `1.5h`; several are added: `1h 30m`. Units are `ms`, `s`, `m` or \
`min`, `h`, `d`, `w`, `y` and their words, such as `days`. Only 0 needs no unit | in quotes |
| rate | `A SECOND/AT ONCE`, such as `50/300`; `50` alone is `50/50`. A number may end in `K` (1024) or `M` \
(1024²), and is 1 at least. `off` is no rate | in quotes; `50` also without them |
| list | separated by commas, with or without spaces; what is empty between two commas counts for nothing, \
and is an error among files. A secret is one value, whatever commas it has | an array of texts, `[\"a\", \"b\"]`, which may have commas; or as in a \
variable |
| choice, such as `on` or `off` | one of the words of the list below, in lower case | in quotes |
| text, such as an address, a URL, a name or a file | as it is | in quotes |
| filter of the log | levels, and modules with a level each: `info,chat_broker=debug`. A level is a word in any \
case, or a number from 0 (`off`) to 5 (`trace`) | in quotes |

An empty variable, and an empty text in the file, are no setting, whatever its kind. `[]` is none either. The `name` \
of `[[rooms]]` and the `rooms` of `[[api_keys]]` may not be empty. White space around the values of variables and of \
the file, and around those of a list, is removed; so is a byte order mark. A setting is given once: a flag that is \
there twice, a key that is there twice, and an array where one value is expected, are errors.
";

const ALIASES: &str = "also count without `CHAT_`, if the variable with it is not set. Before \
0.1.0 no variable had the prefix: the server warns at its start of one that is set and not read.

A variable that begins with `CHAT_` and is no setting ends the program with exit code 2. Those that \
Kubernetes and Docker set for a service whose name begins with `chat` are [not \
read](operating.md#settings).

`chat-server config` prints this list as a file to begin with.";

fn page() -> String {
    let command = Sources::default().with_variables(Cli::command());
    let mut page = TOP.to_owned();
    let names = UNPREFIXED.map(|name| format!("`{name}`"));
    let (last, first) = names.split_last().unwrap();
    writeln!(page, "\nVariables: {} and {last} {ALIASES}", first.join(", ")).unwrap();
    let mut heading = None;
    for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
        let of_arg = arg.get_help_heading();
        if heading != Some(of_arg) {
            heading = Some(of_arg);
            write!(page, "\n## {}\n\n", of_arg.unwrap_or("File")).unwrap();
            page.push_str("| flag, variable | default | what it does |\n|---|---|---|\n");
        }
        page.push_str(&row(arg));
    }
    page.push_str(
        "\n## Rooms that differ\n\nTables `[[rooms]]`, which only the file may have. The first whose \
         `name` matches counts.\n\n| key | default | what it does |\n|---|---|---|\n",
    );
    page.push_str(&keys(&RoomClass::command(), "that of all rooms"));
    page.push_str(
        "\n## Keys for backends\n\nTables `[[api_keys]]`, which only the file may have. `chat-server \
         key` makes a key and prints its table.\n\n| key | default | what it does |\n|---|---|---|\n",
    );
    page.push_str(&keys(&ApiKeyTable::command(), ""));
    page.push_str(
        "\n## Keys of tokens that end\n\nTables `[[jwt_keys]]`, which only the file may have, beside \
         the [keys of all settings](#tokens).\n\n| key | default | what it does |\n|---|---|---|\n",
    );
    page.push_str(&keys(&JwtKeyTable::command(), "none"));
    page
}

/// The keys of a table; `default` is that of a key whose help names none.
fn keys(table: &Command, default: &str) -> String {
    let row = |arg: &Arg| {
        let (help, own) = help(arg);
        let default = match &*own {
            _ if arg.is_required_set() => "none; it is needed",
            "" => default,
            own => own,
        };
        format!("| `{}` | {default} | {help} |\n", arg.get_long().unwrap())
    };
    table.get_arguments().map(row).collect()
}

fn row(arg: &Arg) -> String {
    let flag = arg.get_long().unwrap();
    let variable = arg.get_env().unwrap().to_string_lossy();
    let (help, default) = help(arg);
    format!("| `--{flag}` <br> `{variable}` | {default} | {help} |\n")
}

/// What the setting does, and its default.
fn help(arg: &Arg) -> (String, String) {
    let text = arg.get_help().unwrap().to_string();
    let mut text = text.replace("127.0.0.1 and ::1", "`127.0.0.1` and `::1`").replace('*', "\\*");
    let values: Vec<_> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let mut default = match arg.get_default_values() {
        [value] => format!("`{}`", value.to_string_lossy()),
        _ => String::new(),
    };
    if let Some((what, described)) = text.clone().split_once(" [default: ") {
        default = described.trim_end_matches(']').to_owned();
        text = what.to_owned();
    }
    if !values.is_empty() {
        write!(text, ": {}", values.join(" or ")).unwrap();
    }
    (text, default)
}

#[test]
fn settings_page_is_made_from_the_declarations() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "write it again as the first lines of {} say", file!());
}
