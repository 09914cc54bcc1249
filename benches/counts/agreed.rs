//! The agreed instruction counts.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts/counts.txt");

const HEAD: &str = "\
# Instructions of one turn of each piece, as .ci/counts --update wrote them. A tenth more is
# let pass.
";

/// Instructions by piece.
#[derive(Default)]
pub(crate) struct Agreed(BTreeMap<String, u64>);

pub(crate) enum Verdict {
    Within {
        agreed: u64,
    },
    Above {
        agreed: u64,
    },
    /// Less than four fifths of the agreed count: the table should be updated.
    FarBelow {
        agreed: u64,
    },
    /// There is no agreed count.
    Unknown,
}

impl Agreed {
    /// # Panics
    /// The table is missing, or has an invalid line.
    pub(crate) fn read() -> Self {
        let table = fs::read_to_string(PATH).unwrap_or_else(|error| panic!("{PATH}: {error}"));
        let lines = table.lines().filter(|line| !line.starts_with('#'));
        Self(lines.map(|line| entry(line).unwrap_or_else(|| panic!("{PATH}: {line}"))).collect())
    }

    /// # Panics
    /// The table cannot be written.
    pub(crate) fn write(&self) {
        let lines = self.0.iter().map(|(name, count)| format!("{name} = {count}\n"));
        let table = std::iter::once(HEAD.to_owned()).chain(lines).collect::<String>();
        fs::write(PATH, table).unwrap_or_else(|error| panic!("{PATH}: {error}"));
    }

    pub(crate) fn insert(&mut self, name: &str, count: u64) {
        self.0.insert(name.to_owned(), count);
    }

    pub(crate) fn judge(&self, name: &str, count: u64) -> Verdict {
        match self.0.get(name) {
            None => Verdict::Unknown,
            Some(&agreed) if count * 10 > agreed * 11 => Verdict::Above { agreed },
            Some(&agreed) if count * 10 < agreed * 8 => Verdict::FarBelow { agreed },
            Some(&agreed) => Verdict::Within { agreed },
        }
    }
}

fn entry(line: &str) -> Option<(String, u64)> {
    let (name, count) = line.split_once(" = ")?;
    Some((name.to_owned(), count.parse().ok()?))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within { agreed } => write!(f, " ({agreed} agreed)"),
            Self::Above { agreed } => write!(f, ": MORE than a tenth above the {agreed} agreed"),
            Self::FarBelow { agreed } => {
                write!(f, ": far below the {agreed} agreed; .ci/counts --update keeps it there")
            }
            Self::Unknown => write!(f, ": nothing was agreed; .ci/counts --update adds it"),
        }
    }
}
