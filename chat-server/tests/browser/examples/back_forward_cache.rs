//! Pages that the browser keeps for when the user goes back.

use super::{App, SHOWS, keep, say, show_again, started, until_connected};
use crate::server::Server;
use crate::tokens::{KEY, SECRET};
use crate::webdriver::Browser;

/// While the browser shows another page, the user is away as after a tab was closed: gone from the room
/// after the grace, here a long one.
#[test]
fn page_in_the_back_forward_cache_has_no_connection() {
    let server =
        Server::start_with(&["--jwt-secret", SECRET, "--api-key", KEY, "--presence-grace", "60s"]);
    let app = App::start(&server);
    let browser = Browser::start();
    let tab = app.open(&browser, "/");
    until_connected(&[&tab]);
    keep(&tab, &app);
    server.until_metric("chat_connections ", |count| count == 0);
    assert_eq!(member_count(&server), 1);
    server.post("/api/rooms/general/messages", KEY, r#"{"message":"Said meanwhile"}"#);
    show_again(&tab);
    until_connected(&[&tab]);
    tab.until(SHOWS, &["#log", "Said meanwhile"]);
    say(&tab, "Back again");
    tab.until(SHOWS, &["#log", "ann: Back again"]);
    browser.assert_no_errors(&[]);
}

/// The worker goes on, for other tabs.
#[test]
fn tab_of_a_worker_in_the_back_forward_cache_is_in_no_room() {
    let (server, app, browser) = started();
    let (one, two) = (app.open(&browser, "/shared"), app.open(&browser, "/shared?room=other"));
    until_connected(&[&one, &two]);
    server.until_metric("chat_rooms ", |count| count == 2);
    keep(&one, &app);
    server.until_metric("chat_rooms ", |count| count == 1);
    server.until_metric("chat_connections ", |count| count == 1);
    show_again(&one);
    server.until_metric("chat_rooms ", |count| count == 2);
    say(&one, "Back again");
    one.until(SHOWS, &["#log", "ann: Back again"]);
    browser.assert_no_errors(&[]);
}

fn member_count(server: &Server) -> u64 {
    let headers = [&format!("X-Api-Key: {KEY}"), "Host: localhost"];
    let (status, _, body) = server.request("GET /api/rooms/general/members", &headers);
    assert_eq!(status, 200, "{body}");
    let members: serde_json::Value = serde_json::from_str(&body).unwrap();
    members["count"].as_u64().unwrap()
}
