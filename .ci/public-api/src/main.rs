//! Lists the public items in the rustdoc JSON files that are given as arguments, one item a line. `Send` and
//! `Sync` are listed; the other traits that the compiler implements by itself, and blanket implementations,
//! are not.

use std::error::Error;

use public_api::Builder;

const UNLISTED: [&str; 4] = [
    "impl core::marker::Freeze for ",
    "impl core::marker::Unpin for ",
    "impl core::panic::unwind_safe::RefUnwindSafe for ",
    "impl core::panic::unwind_safe::UnwindSafe for ",
];

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        let api = Builder::from_rustdoc_json(path).omit_blanket_impls(true).build()?;
        let items = api.items().map(ToString::to_string);
        for item in items.filter(|item| !UNLISTED.iter().any(|prefix| item.starts_with(prefix))) {
            println!("{item}");
        }
    }
    Ok(())
}
