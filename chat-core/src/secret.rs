//! Secrets in `Debug`: whether there is one, and not which.

use std::fmt;

/// Shows a secret that may be absent.
pub(crate) fn hidden<T>(secret: Option<&T>) -> impl fmt::Debug + use<T> {
    secret.map(|_| Hidden)
}

struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}
