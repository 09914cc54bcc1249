//! The URL of a server in links.

use url::{Position, Url};

/// An HTTP URL that can be shared: without a user, a query and a fragment.
#[derive(Debug, Clone)]
pub(crate) struct PublicUrl(Url);

impl PublicUrl {
    /// # Errors
    /// What is wrong with the URL.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let url =
            Url::parse(text.trim()).map_err(|_| "it is not a URL like https://chat.example")?;
        if !matches!(url.scheme(), "http" | "https") {
            Err("it must begin with http:// or https://")
        } else if !url.username().is_empty() || url.password().is_some() {
            Err("it must not have a user or a password")
        } else if url.query().is_some() || url.fragment().is_some() {
            Err("it must not have a query or a fragment")
        } else {
            Ok(Self(url))
        }
    }

    /// The host in lower case and in its ASCII form, without the dot at the end of an absolute name.
    pub(crate) fn host(&self) -> &str {
        let host = self.0.host_str().unwrap_or_default();
        host.strip_suffix('.').unwrap_or(host)
    }

    /// Whether `host`, the value of a `Host` header, is the host and port of this URL.
    pub(crate) fn is_asked_for_by(&self, host: &str) -> bool {
        self.0[Position::BeforeHost..Position::AfterPort].eq_ignore_ascii_case(host)
    }

    /// The URL of the routes that an application has mounted at `mount`, without a slash at its end.
    /// The path of this URL may end in `mount`, or may be that of the application.
    pub(crate) fn base(&self, mount: &str) -> String {
        format!("{}{}", &self.0[..Position::BeforePath], self.path(mount))
    }

    /// The path of [`base`](Self::base).
    pub(crate) fn path(&self, mount: &str) -> String {
        let path = self.0.path().trim_end_matches('/');
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
