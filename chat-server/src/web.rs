//! The web client: pages and modules, part of the binary.
//!
//! The list of files is by hand, and a test compares it with the folder. `include_dir` would embed
//! the tests of the modules as well, and `rust-embed` brings a walker of folders and a second
//! SHA-256 along.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use ring::digest;

use crate::gzip;
use crate::header_list::elements;
use crate::host;
use crate::refusal::Refusal;
use crate::routes::{mount, readable};
use crate::state::State;

/// `GET /web/{file}`: what the page is made of, and what other pages import. The page itself uses
/// `/web-{version}/{file}`, which a browser need not revalidate.
pub(crate) fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/web/{file}", readable(get(asset)))
        .route("/web-{version}/{file}", readable(get(asset_of_version)))
}

struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
    etag: String,
    /// Made for the first client that wants it: an embedded server may serve no file at all.
    gzip: OnceLock<Bytes>,
}

/// A content as it is sent to a client.
pub(crate) struct Representation {
    content: Bytes,
    /// Differs between the encodings of a content: a cache must not take one for another.
    etag: String,
    encoding: Option<&'static str>,
}

impl Representation {
    pub(crate) fn plain(content: impl Into<Bytes>, etag: &str) -> Self {
        Self { content: content.into(), etag: etag.to_owned(), encoding: None }
    }
}

impl Asset {
    fn representation(&self, headers: &HeaderMap) -> Representation {
        if !gzip::is_preferred(headers) {
            return Representation::plain(self.content, &self.etag);
        }
        let content = self.gzip.get_or_init(|| gzip::compress(self.content.as_bytes())).clone();
        let etag = format!("{}-gzip\"", self.etag.trim_end_matches('"'));
        Representation { content, etag, encoding: Some("gzip") }
    }
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../web/", $name)))),*]
    };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let files = assets![
        "announce.js",
        "app.js",
        "chat-answer.js",
        "chat-client.d.ts",
        "chat-client.js",
        "chat-connection.js",
        "chat-events.js",
        "chat-frames.js",
        "chat-limits.js",
        "chat-numbers.js",
        "chat-pace.js",
        "chat-react-client.js",
        "chat-react.d.ts",
        "chat-react.js",
        "chat-requests.js",
        "chat-room-handle.js",
        "chat-room-use.js",
        "chat-room.js",
        "chat-sends.js",
        "chat-signs.js",
        "chat-testing-checks.js",
        "chat-testing-rules.js",
        "chat-testing-socket.js",
        "chat-testing.d.ts",
        "chat-testing.js",
        "chat-time.js",
        "chat-token.js",
        "chat-vue.d.ts",
        "chat-vue.js",
        "clock.js",
        "dom.js",
        "favicon.svg",
        "keys.js",
        "log.js",
        "place.js",
        "room.js",
        "share.js",
        "sides.js",
        "status.js",
        "style.css",
        "theme.css",
        "unsent.js",
        "words.js",
    ];
    let asset = |(name, content)| Asset {
        name,
        content_type: content_type(name),
        content,
        etag: etag(content),
        gzip: OnceLock::new(),
    };
    files.into_iter().map(asset).collect()
});

/// Names the content of all files together.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let etags: Vec<&str> = ASSETS.iter().map(|asset| &*asset.etag).collect();
    hash(&etags.concat())
});

/// Revalidated by each load, so that page and modules are of one version.
pub(crate) const REVALIDATE: &str = "no-cache";

/// Never asked for again: another content has another address.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

pub(crate) fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "js")) => JAVASCRIPT,
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

/// Names a content, so that a browser that has it need not get it again.
pub(crate) fn etag(content: &str) -> String {
    format!("\"{}\"", hash(content))
}

fn hash(content: &str) -> String {
    let hash = digest::digest(&digest::SHA256, content.as_bytes());
    HEXLOWER.encode(&hash.as_ref()[..8])
}

async fn asset(
    Shared(state): Shared<Arc<State>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Refusal> {
    let Path(name) = name?;
    let address = state.proxies.client_address(&headers, &extensions);
    serve(&state, &name, &headers, address, REVALIDATE)
}

/// The files of another version are this server's: servers of two versions answer one page during an
/// upgrade. A browser does not keep them.
async fn asset_of_version(
    Shared(state): Shared<Arc<State>>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Refusal> {
    let address = state.proxies.client_address(&headers, &extensions);
    let Path((version, name)) = path?;
    let caching = if version == *VERSION { IMMUTABLE } else { REVALIDATE };
    serve(&state, &name, &headers, address, caching)
}

fn serve(
    state: &State,
    name: &str,
    headers: &HeaderMap,
    address: Option<IpAddr>,
    caching: &'static str,
) -> Result<Response, Refusal> {
    let asset = ASSETS.iter().find(|asset| asset.name == name).ok_or_else(Refusal::not_found)?;
    let representation = asset.representation(headers);
    let mut response = file(asset.content_type, representation, caching, headers);
    response.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
    Ok(state.origins.cors(headers, address).apply(response))
}

/// The page at `original`, of which `own` is left below the path that the routes are mounted at.
pub(crate) fn page(state: &State, original: &Uri, own: &Uri, headers: &HeaderMap) -> Response {
    let base = public_base(state, original, own, headers).unwrap_or_else(|| base(original, own));
    let home = home(mount(original, own));
    let html = include_str!("../web/index.html").replace("{web}", &format!("web-{}", *VERSION));
    let html = html.replace("{base}", &escape(&base)).replace("{home}", &escape(&home));
    let etag = etag(&html);
    // Not compressed: it differs with its path, and most of a page is in the files.
    let html = Representation::plain(html, &etag);
    let mut response = file("text/html; charset=utf-8", html, REVALIDATE, headers);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy(host::requested(headers)));
    response
}

/// The path of the public URL, for a browser that uses it. A proxy may have taken that path away:
/// whether the browser is at `/chat` or at `/chat/`, the server does not see.
fn public_base(state: &State, original: &Uri, own: &Uri, headers: &HeaderMap) -> Option<String> {
    let url = state.public_url.as_ref()?;
    let host = headers.get(HOST)?.to_str().ok()?;
    let path = url.path(mount(original, own));
    (!path.is_empty() && url.is_asked_for_by(host)).then(|| format!("{path}/"))
}

/// Where the other files are, from where the browser thinks that it is, which need not be where this
/// server does: a proxy or an application may lie in between.
fn base(original: &Uri, own: &Uri) -> String {
    match (own.path(), original.path().rsplit_once('/')) {
        ("/", Some((_, folder))) if !folder.is_empty() => format!("./{folder}/"),
        ("/", _) => "./".to_owned(),
        (room, _) if room.ends_with('/') => "../../".to_owned(),
        _ => "../".to_owned(),
    }
}

/// Where the page itself is, from where its files are. Routes that an application has nested at `/chat`
/// are not at `/chat/`, unless it did so by `nest_service`.
fn home(mount: &str) -> String {
    mount.rsplit_once('/').map_or_else(|| "./".to_owned(), |(_, folder)| format!("../{folder}"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

pub(crate) fn file(
    content_type: &'static str,
    Representation { content, etag, encoding }: Representation,
    caching: &'static str,
    headers: &HeaderMap,
) -> Response {
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|known| {
        let mut tags = elements(known.to_str().unwrap_or_default());
        tags.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
    });
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Response::new(Body::from(content))
    };
    let fields = [
        (CONTENT_TYPE, content_type),
        (ETAG, &etag),
        (CACHE_CONTROL, caching),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The address of a room may be its only key.
        (REFERRER_POLICY, "no-referrer"),
    ];
    let encoding = encoding.map(|encoding| (CONTENT_ENCODING, encoding));
    for (name, value) in fields.into_iter().chain(encoding) {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// What the page may do: run its own modules, and talk to this host on any port, which
/// `?port=` needs.
fn policy(host: Option<String>) -> HeaderValue {
    // A policy cannot name an IPv6 address: then it is this origin alone.
    let host = host.filter(|host| {
        host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    });
    let any_port = host.map_or_else(String::new, |host| {
        format!(" http://{host}:* https://{host}:* ws://{host}:* wss://{host}:*")
    });
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'{any_port}; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_finds_its_files_wherever_it_is_mounted() {
        for (original, own, expected) in [
            ("/", "/", "./"),
            ("/?room=a/b", "/?room=a/b", "./"),
            ("/join-room/x%2Fy", "/join-room/x%2Fy", "../"),
            ("/join-room/x/", "/join-room/x/", "../../"),
            ("/chat", "/", "./chat/"),
            ("/chat/", "/", "./"),
            ("/a/chat", "/", "./chat/"),
            ("/chat/join-room/x", "/join-room/x", "../"),
            ("/chat/join-room/x/", "/join-room/x/", "../../"),
            ("/join-room/chat", "/", "./chat/"),
        ] {
            assert_eq!(
                base(&original.parse().unwrap(), &own.parse().unwrap()),
                expected,
                "{original}"
            );
        }
        assert!(include_str!("../web/index.html").contains("\"{base}{web}/app.js\""));
        assert_eq!([home(""), home("/chat"), home("/a/chat")], ["./", "../chat", "../chat"]);
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/web")).unwrap();
        let files = folder.map(Result::unwrap).filter(|file| file.path().is_file());
        let mut files: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        // The page is served at other paths, and the others are for npm, which copies the licences
        // here while it packs.
        let unserved = ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "index.html", "package.json"];
        files.retain(|name| !unserved.contains(&name.as_str()));
        files.sort_unstable();
        let served: Vec<_> = ASSETS.iter().map(|asset| asset.name).collect();
        assert_eq!(served, files);
    }

    #[test]
    fn etag_is_the_beginning_of_a_hash() {
        assert_eq!(etag("hello"), "\"2cf24dba5fb0a30e\"");
    }

    #[test]
    fn the_policy_names_the_host_but_nothing_odd() {
        let text = |host: &str| policy(Some(host.to_owned())).to_str().unwrap().to_owned();
        assert!(text("chat.example").contains("connect-src 'self' http://chat.example:* "));
        for odd in ["[::1]", "a; script-src *", "*", "a b"] {
            assert!(text(odd).contains("connect-src 'self';"), "{odd}");
        }
    }
}
