//! The web client: pages and modules, part of the binary.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Path, State as Shared};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

use crate::host;
use crate::origin::Cors;
use crate::state::State;

/// `GET /web/{file}`: what the page is made of, and what other pages import.
pub(crate) fn router() -> Router<Arc<State>> {
    Router::new().route("/web/{file}", get(asset))
}

struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
    etag: String,
}

macro_rules! assets {
    ($($name:literal: $content_type:expr),* $(,)?) => {
        [$((
            $name,
            $content_type,
            include_str!(concat!("../web/", $name)),
        )),*]
    };
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TYPESCRIPT: &str = "text/plain; charset=utf-8";

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let files = assets! {
        "app.js": JAVASCRIPT,
        "announce.js": JAVASCRIPT,
        "chat-answer.js": JAVASCRIPT,
        "chat-client.js": JAVASCRIPT,
        "chat-client.d.ts": TYPESCRIPT,
        "chat-connection.js": JAVASCRIPT,
        "chat-limits.js": JAVASCRIPT,
        "chat-pace.js": JAVASCRIPT,
        "chat-room.js": JAVASCRIPT,
        "chat-sends.js": JAVASCRIPT,
        "chat-signs.js": JAVASCRIPT,
        "chat-time.js": JAVASCRIPT,
        "clock.js": JAVASCRIPT,
        "dom.js": JAVASCRIPT,
        "favicon.svg": SVG,
        "keys.js": JAVASCRIPT,
        "log.js": JAVASCRIPT,
        "older.js": JAVASCRIPT,
        "place.js": JAVASCRIPT,
        "room.js": JAVASCRIPT,
        "share.js": JAVASCRIPT,
        "sides.js": JAVASCRIPT,
        "status.js": JAVASCRIPT,
        "style.css": CSS,
        "unsent.js": JAVASCRIPT,
        "words.js": JAVASCRIPT,
    };
    let asset =
        |(name, content_type, content)| Asset { name, content_type, content, etag: etag(content) };
    files.into_iter().map(asset).collect()
});

/// Names a content, so that a browser that has it need not get it again.
fn etag(content: &str) -> String {
    let digest = Sha256::digest(content);
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

async fn asset(
    Shared(state): Shared<Arc<State>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return (StatusCode::NOT_FOUND, "there is no such file\n").into_response();
    };
    let cors = Cors::of(&headers, &state.config.allow_origin);
    cors.apply(file(asset.content_type, asset.content, &asset.etag, &headers))
}

/// The page. It finds the other files from where the browser thinks that it is, which
/// need not be where this server does: a proxy or an application may lie in between.
pub(crate) fn page(uri: &OriginalUri, headers: &HeaderMap) -> Response {
    let path = uri.path();
    let base = match path.rsplit_once('/') {
        Some((parent, _)) if parent.ends_with("/join-room") => "../".to_owned(),
        Some((_, "")) | None => "./".to_owned(),
        Some((_, folder)) => format!("./{folder}/"),
    };
    let html = include_str!("../web/index.html").replace("{base}", &escape(&base));
    let mut response = file("text/html; charset=utf-8", &html, &etag(&html), headers);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy(host::requested(headers)));
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

fn file(content_type: &'static str, content: &str, etag: &str, headers: &HeaderMap) -> Response {
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|known| {
        let tags = known.to_str().unwrap_or_default().split(',');
        tags.map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == etag)
    });
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Response::new(Body::from(content.to_owned()))
    };
    let fields = [
        (CONTENT_TYPE, content_type),
        (ETAG, etag),
        // Asked for anew each time, so that page and modules are of one version.
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The address of a room may be its only key.
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fields {
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

    fn page_at(path: &str) -> String {
        let uri = OriginalUri(path.parse().unwrap());
        let body = page(&uri, &HeaderMap::new()).into_body();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(axum::body::to_bytes(body, usize::MAX)).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn the_page_finds_its_files_wherever_it_is_mounted() {
        for (path, expected) in [
            ("/", "\"./web/app.js\""),
            ("/?room=a/b", "\"./web/app.js\""),
            ("/join-room/x%2Fy", "\"../web/app.js\""),
            ("/chat", "\"./chat/web/app.js\""),
            ("/chat/", "\"./web/app.js\""),
            ("/chat/join-room/x", "\"../web/app.js\""),
        ] {
            let html = page_at(path);
            assert!(html.contains(expected), "{path}");
            assert!(!html.contains("{base}"), "{path}");
        }
    }

    #[test]
    fn every_module_that_is_imported_is_served() {
        for asset in ASSETS.iter().filter(|asset| asset.content_type == JAVASCRIPT) {
            for line in asset.content.lines() {
                let Some((_, from)) = line.split_once("from \"./") else { continue };
                let name = from.trim_end_matches("\";");
                assert!(ASSETS.iter().any(|other| other.name == name), "{}: {name}", asset.name);
            }
        }
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
