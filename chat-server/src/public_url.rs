//! The URL of a server in links.

use axum::http::Uri;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::host::host_of_url;
use crate::origin::serialized;

/// What the path of a URL has in escaped form only (URL standard, section 1.3).
const ESCAPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'^').add(b'`').add(b'{').add(b'}');

/// An HTTP URL that can be shared: without a user, a query and a fragment.
#[derive(Debug, Clone)]
pub(crate) struct PublicUrl {
    /// The scheme, the host, and the port unless it is the default of the scheme.
    origin: String,
    host: String,
    /// Without a slash at its end.
    path: String,
}

impl PublicUrl {
    /// # Errors
    /// What is wrong with the URL.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const INVALID: &str = "it is not a URL like https://chat.example";
        let (scheme, rest) = text.trim().split_once("://").ok_or(INVALID)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web)) {
            return Err("it must begin with http:// or https://");
        }
        if authority.contains('@') {
            return Err("it must not have a user or a password");
        }
        if path.contains(['?', '#']) {
            return Err("it must not have a query or a fragment");
        }
        let origin = serialized(&format!("{scheme}://{authority}")).map_err(|_| INVALID)?;
        let host = host_of_url(&origin).ok_or(INVALID)?;
        let path = utf8_percent_encode(path.trim_end_matches('/'), ESCAPED).to_string();
        // Parsed only to check it.
        format!("{origin}{path}").parse::<Uri>().map_err(|_| INVALID)?;
        Ok(Self { origin, host, path })
    }

    /// The host in lower case and in its ASCII form, without the dot at the end of an absolute name.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether `host`, the value of a `Host` header, is the host and port of this URL.
    pub(crate) fn is_asked_for_by(&self, host: &str) -> bool {
        self.origin.split_once("://").is_some_and(|(_, own)| own.eq_ignore_ascii_case(host))
    }

    /// The URL of the routes that an application has mounted at `mount`, without a slash at its end.
    /// The path of this URL may end in `mount`, or may be that of the application.
    pub(crate) fn base(&self, mount: &str) -> String {
        format!("{}{}", self.origin, self.path(mount))
    }

    /// The path of [`base`](Self::base).
    pub(crate) fn path(&self, mount: &str) -> String {
        let path = &self.path;
        let mount = if path.ends_with(mount) { "" } else { mount };
        format!("{path}{mount}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_has_the_mount_once() {
        for (url, mount, base) in [
            ("https://chat.example", "", "https://chat.example"),
            ("https://chat.example/", "", "https://chat.example"),
            ("https://chat.example/chat/", "", "https://chat.example/chat"),
            ("https://app.example", "/chat", "https://app.example/chat"),
            ("https://app.example/chat", "/chat", "https://app.example/chat"),
            ("https://app.example/base", "/chat", "https://app.example/base/chat"),
            ("HTTPS://Chat.Example:443", "", "https://chat.example"),
            ("https://m\u{fc}nchen.example:444", "", "https://xn--mnchen-3ya.example:444"),
            (" http://[::1]:8080 ", "", "http://[::1]:8080"),
            ("https://chat.example/a b/\u{fc}", "", "https://chat.example/a%20b/%C3%BC"),
        ] {
            assert_eq!(PublicUrl::parse(url).unwrap().base(mount), base, "{url} {mount}");
        }
    }

    #[test]
    fn host_header_includes_the_port() {
        let is_asked_for =
            |url: &str, host: &str| PublicUrl::parse(url).unwrap().is_asked_for_by(host);
        assert!(is_asked_for("https://chat.example/chat", "Chat.Example"));
        assert!(is_asked_for("http://chat.example:8080", "chat.example:8080"));
        assert!(!is_asked_for("http://chat.example:8080", "chat.example"));
        assert!(!is_asked_for("https://chat.example", "localhost"));
    }

    #[test]
    fn unshareable_urls_are_rejected() {
        for url in [
            "chat.example",
            "https://",
            "ftp://chat.example",
            "wss://chat.example",
            "https://user@chat.example",
            "https://user:secret@chat.example",
            "https://chat.example?room=x",
            "https://chat.example/#x",
            "https://a b",
            "//chat.example",
        ] {
            assert!(PublicUrl::parse(url).is_err(), "{url}");
        }
    }
}
