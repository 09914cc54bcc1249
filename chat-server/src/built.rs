//! What the program was built from, for its log, its metrics and `--version`.

/// The commit that the variable `ROOMCAST_COMMIT` named at the build.
pub const COMMIT: &str = match option_env!("ROOMCAST_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

/// A debug build takes two to three times the CPU of a release build.
pub const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };
