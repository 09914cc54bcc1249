//! The page for operators, part of the binary. It calls `/api` with the key that the operator gives it,
//! and may do what that key may: this module grants nothing.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use axum::response::{Redirect, Response};
use axum::routing::get;

use crate::refusal::Refusal;
use crate::routes::readable;
use crate::state::State;
use crate::web::{REVALIDATE, Representation, content_type, etag, file};

/// `/admin/`, what the page is made of, and `/`, which leads to it.
pub(crate) fn router() -> Router<Arc<State>> {
    Router::new()
        // Temporary: browsers keep a permanent one, and the address may serve another page later.
        .route("/", readable(get(async || Redirect::temporary("/admin/"))))
        .route("/admin", readable(get(async || Redirect::permanent("/admin/"))))
        .route("/admin/", readable(get(page)))
        .route("/admin/{file}", readable(get(asset)))
}

macro_rules! assets {
    ($($name:literal in $folder:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../web/", $folder, $name)))),*]
    };
}

const ASSETS: [(&str, &str); 16] = assets![
    "admin.css" in "admin/",
    "api.js" in "admin/",
    "app.js" in "admin/",
    "bans.js" in "admin/",
    "elements.js" in "admin/",
    "overview.js" in "admin/",
    "plots.js" in "admin/",
    "room.js" in "admin/",
    "rooms.js" in "admin/",
    "samples.js" in "admin/",
    "sanctions.js" in "admin/",
    "servers.js" in "admin/",
    "traffic.js" in "admin/",
    "user.js" in "admin/",
    "favicon.svg" in "",
    "theme.css" in "",
];

/// The page runs its own modules and asks this address alone.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
);

async fn page(headers: HeaderMap) -> Response {
    let html = include_str!("../web/admin/index.html");
    let html = Representation::plain(html, &etag(html));
    let mut response = file("text/html; charset=utf-8", html, REVALIDATE, &headers);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    response
}

async fn asset(
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path(name) = name?;
    let (name, content) =
        ASSETS.iter().find(|(file, _)| *file == name).ok_or_else(Refusal::not_found)?;
    let content = Representation::plain(*content, &etag(content));
    Ok(file(content_type(name), content, REVALIDATE, &headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/web/admin")).unwrap();
        let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<_> = names.filter(|name| name != "index.html").collect();
        files.extend(["favicon.svg", "theme.css"].map(str::to_owned));
        files.sort_unstable();
        let mut served = ASSETS.map(|(name, _)| name);
        served.sort_unstable();
        assert_eq!(served[..], files[..]);
    }
}
