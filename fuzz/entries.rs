//! Each place where untrusted bytes are read, as a function of any bytes.
//!
//! A target of libFuzzer calls one of them without end; a test calls them all with the corpus and
//! with what proptest makes up (`chat-server/tests/decoders.rs`). Whatever is wrong is a panic.
//! A new entry is a function here, a line of [`ALL`], and a target in `fuzz_targets`.

#[path = "entries/frames.rs"]
mod frames_entry;
#[path = "entries/http.rs"]
mod http_entry;
#[path = "entries/lists.rs"]
mod lists_entry;
#[path = "entries/session.rs"]
mod session_entry;
#[allow(dead_code, unused_imports, reason = "the program uses the rest")]
mod settings;
#[path = "entries/token.rs"]
mod token_entry;

pub use frames_entry::{envelope, frames};
pub use http_entry::{handshake, request};
pub use lists_entry::forwarded;
pub use session_entry::session;
pub use token_entry::{jwks, token};
use tokio::runtime::{Builder, Runtime};

/// The name of a target and of its part of the corpus, and what it does.
pub type Entry = (&'static str, fn(&[u8]));

/// Every entry.
pub const ALL: &[Entry] = &[
    ("frames", frames),
    ("envelope", envelope),
    ("wire", wire),
    ("session", session),
    ("handshake", handshake),
    ("request", request),
    ("forwarded", forwarded),
    ("settings", settings),
    ("token", token),
    ("jwks", jwks),
];

/// A message in a Redis channel.
pub fn wire(input: &[u8]) {
    if let Some(payload) = chat_broker::testing::redis_payload(bytes::Bytes::copy_from_slice(input))
    {
        assert!(input.ends_with(&payload), "what it carries is its end");
        envelope(&payload);
    }
}

/// A configuration file.
pub fn settings(input: &[u8]) {
    let Ok(file) = std::str::from_utf8(input) else { return };
    match settings::Settings::of_file(file, &[]) {
        Ok(settings) => {
            let _ = settings.server();
        }
        Err(settings::Exit::File(wrong)) => assert!(wrong.contains(", line "), "{wrong}"),
        Err(settings::Exit::Usage(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
}

/// Runs to the end, on a runtime that the thread keeps.
fn block_on<F: Future>(work: F) -> F::Output {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}
