//! Lists the public items in the rustdoc JSON files that are given as arguments, one item a line. Of the traits
//! that the compiler implements by itself it lists `Send` and `Sync`; it lists no blanket implementations.

use std::error::Error;

use public_api::Builder;

const UNLISTED: [&str; 5] = [
    "core::marker::Freeze for ",
    "core::marker::StructuralPartialEq for ",
    "core::marker::Unpin for ",
    "core::panic::unwind_safe::RefUnwindSafe for ",
    "core::panic::unwind_safe::UnwindSafe for ",
];

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        let api = Builder::from_rustdoc_json(path).omit_blanket_impls(true).build()?;
        for item in api.items().map(ToString::to_string) {
            let is_impl = item.starts_with("impl");
            if !(is_impl && UNLISTED.iter().any(|unlisted| item.contains(unlisted))) {
                println!("{item}");
            }
        }
    }
    Ok(())
}
