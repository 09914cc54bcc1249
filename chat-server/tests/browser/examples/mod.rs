//! The examples of docs/recipes.md, in an application that logs its users in.

mod back_forward_cache;
mod log_out;
mod pages;
mod unsent;

use crate::package::{Node, socket};
use crate::server::Server;
use crate::tokens::{self, SECRET};
use crate::webdriver::{Browser, Tab};

/// Whether an element shows a text.
const SHOWS: &str = "document.querySelector(arguments[0])?.innerText.includes(arguments[1])";

/// The application, and Ann in a browser.
struct App {
    _process: Node,
    address: String,
}

impl App {
    fn start(server: &Server) -> Self {
        Self::start_with(server, &[])
    }

    fn start_with(server: &Server, variables: &[(&str, &str)]) -> Self {
        let url = socket(server);
        let own = [("CHAT_URL", url.as_str()), ("CHAT_SECRET", SECRET)];
        let variables = [&own[..], variables].concat();
        let mut process = Node::start_with(&["examples-app.js"], &variables);
        let address = process.line();
        Self { _process: process, address }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Logs in, and opens a page.
    fn open<'a>(&self, browser: &'a Browser, path: &str) -> Tab<'a> {
        self.open_as("ann", browser, path)
    }

    /// The same for another user, whose id is encoded.
    fn open_as<'a>(&self, user: &str, browser: &'a Browser, path: &str) -> Tab<'a> {
        let tab = browser.open(&self.url(&format!("/login?user={user}")));
        tab.go(&self.url(path));
        tab
    }
}

/// A server with tokens, the application, and a browser.
fn started() -> (Server, App, Browser) {
    let server = tokens::start();
    let app = App::start(&server);
    (server, app, Browser::start())
}

fn until_connected(tabs: &[&Tab<'_>]) {
    for tab in tabs {
        tab.until(SHOWS, &["#state", "Connected"]);
    }
}

fn say(tab: &Tab<'_>, text: &str) {
    let script = "document.querySelector('#text').value = arguments[0];
        document.querySelector('#form').requestSubmit();";
    tab.run(script, &[text]);
}

fn press(tab: &Tab<'_>, selector: &str) {
    tab.run("document.querySelector(arguments[0]).click()", &[selector]);
}

/// Leaves a page for another one.
fn keep(tab: &Tab<'_>, app: &App) {
    tab.run("window.isTheSame = true", &[]);
    tab.go(&app.url("/login"));
}

/// Goes back to the page, which the browser has kept as it was.
fn show_again(tab: &Tab<'_>) {
    tab.run("history.back()", &[]);
    tab.until("window.isTheSame === true", &[]);
}
