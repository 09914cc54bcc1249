//! A headless Chromium, driven by chromedriver in the WebDriver protocol
//! (<https://www.w3.org/TR/webdriver2/>).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use chat_broker::testing::free_port;
use serde_json::{Value, json};

/// How long anything may take to show.
const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

const INSTALL: &str = "install it with `apt-get install chromium chromium-driver`";

const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--window-size=1280,800",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser of its own, closed when it is dropped.
pub(crate) struct Browser {
    driver: Driver,
    session: String,
    /// Released last, when Chromium has ended.
    _turn: Turn,
}

/// One of the browsers that run at a time: as many as there are cores, however many tests do. More of
/// them slow each other until a page does not show in time what it should.
struct Turn;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

impl Turn {
    fn take() -> Self {
        let cores = available_parallelism().map_or(2, usize::from);
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let running = ENDED.wait_while(running, |running| *running >= cores);
        *running.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

impl Browser {
    pub(crate) fn start() -> Self {
        Self::start_with(&json!({}))
    }

    /// All cookies are blocked, and with them whatever else a page may store.
    pub(crate) fn start_without_storage() -> Self {
        Self::start_with(&json!({"profile.default_content_setting_values.cookies": 2}))
    }

    fn start_with(preferences: &Value) -> Self {
        let turn = Turn::take();
        let driver = Driver::start();
        let profile = format!("--user-data-dir={}", driver.profile.display());
        let arguments: Vec<&str> = ARGUMENTS.into_iter().chain([profile.as_str()]).collect();
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments, "prefs": preferences},
        }}});
        let session = driver.call("POST", "/session", &wanted).unwrap_or_else(|error| {
            panic!("chromedriver cannot start Chromium ({INSTALL}): {error}")
        });
        let session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        Self { driver, session, _turn: turn }
    }

    /// A window with a page in it. Each is a user of its own.
    pub(crate) fn open(&self, url: &str) -> Tab<'_> {
        let tab = self.blank();
        tab.go(url);
        tab
    }

    /// The same in the size of a phone.
    pub(crate) fn open_phone(&self, url: &str) -> Tab<'_> {
        let tab = self.blank();
        let metrics = json!({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true});
        tab.emulate("Emulation.setDeviceMetricsOverride", &metrics);
        tab.go(url);
        tab
    }

    /// The same after a script, before any of the page's own.
    pub(crate) fn open_after(&self, script: &str, url: &str) -> Tab<'_> {
        let tab = self.blank();
        tab.emulate("Page.addScriptToEvaluateOnNewDocument", &json!({"source": script}));
        tab.go(url);
        tab
    }

    fn blank(&self) -> Tab<'_> {
        let window = self.call("POST", "/window/new", &json!({"type": "window"}));
        Tab { browser: self, handle: window["handle"].as_str().unwrap().to_owned() }
    }

    /// Fails if a page has logged an error, a violation of its policy among them, that
    /// holds none of the `expected` words.
    pub(crate) fn assert_no_errors(&self, expected: &[&str]) {
        let log = self.call("POST", "/se/log", &json!({"type": "browser"}));
        let errors = log.as_array().unwrap().iter().filter(|entry| {
            let text = entry["message"].as_str().unwrap();
            entry["level"] == "SEVERE" && !expected.iter().any(|word| text.contains(word))
        });
        assert_eq!(errors.collect::<Vec<_>>(), Vec::<&Value>::new());
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.driver
            .call(method, &format!("{}{path}", self.session), body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}, for {body}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.call("DELETE", &self.session, &Value::Null);
    }
}

/// One window of a [`Browser`].
pub(crate) struct Tab<'a> {
    browser: &'a Browser,
    handle: String,
}

impl Tab<'_> {
    pub(crate) fn go(&self, url: &str) {
        self.call("POST", "/url", &json!({"url": url}));
    }

    pub(crate) fn close(self) {
        self.call("DELETE", "/window", &Value::Null);
    }

    /// Ends the process of the page as a crash does.
    pub(crate) fn crash(self) {
        self.browser.call("POST", "/window", &json!({"handle": self.handle}));
        let path = format!("{}/goog/cdp/execute", self.browser.session);
        let crash = json!({"cmd": "Page.crash", "params": {}});
        self.browser.driver.call("POST", &path, &crash).expect_err("the page answers");
    }

    /// `light` or `dark`
    pub(crate) fn set_theme(&self, theme: &str) {
        let theme = json!({"name": "prefers-color-scheme", "value": theme});
        self.emulate("Emulation.setEmulatedMedia", &json!({"features": [theme]}));
    }

    fn emulate(&self, command: &str, params: &Value) {
        self.call("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": params}));
    }

    /// Runs the body of a function in the page, and returns what it returns.
    pub(crate) fn run(&self, script: &str, arguments: &[&str]) -> Value {
        self.call("POST", "/execute/sync", &json!({"script": script, "args": arguments}))
    }

    /// The same with a body that may `await`.
    pub(crate) fn run_async(&self, script: &str, arguments: &[&str]) -> Value {
        let script = format!("return (async () => {{ {script} }})();");
        self.run(&script, arguments)
    }

    /// Waits until an expression about the page holds, and returns its value.
    pub(crate) fn until(&self, expression: &str, arguments: &[&str]) -> Value {
        let deadline = Instant::now() + DEADLINE;
        let script = format!("return {expression};");
        loop {
            let value = self.run(&script, arguments);
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            if Instant::now() > deadline {
                let page = self.run("return `${location}:\n${document.body.innerText}`", &[]);
                panic!("never: {expression} {arguments:?}; the page {}", page.as_str().unwrap());
            }
            sleep(POLL);
        }
    }

    /// Waits until the element with this test id is seen and shows `text`.
    pub(crate) fn until_shows(&self, id: &str, text: &str) {
        let seen = "[document.querySelector(`[data-testid=${arguments[0]}]`)]
            .some((it) => it?.checkVisibility() && it.innerText.includes(arguments[1]))";
        self.until(seen, &[id, text]);
    }

    pub(crate) fn until_hidden(&self, id: &str) {
        let hidden = "!document.querySelector(`[data-testid=${arguments[0]}]`)?.checkVisibility()";
        self.until(hidden, &[id]);
    }

    pub(crate) fn click(&self, id: &str) {
        let element = self.element(id);
        self.call("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Puts a text into an empty field.
    pub(crate) fn fill(&self, id: &str, text: &str) {
        let element = self.element(id);
        self.call("POST", &format!("/element/{element}/value"), &json!({"text": text}));
    }

    /// Waits until the element is there to be used.
    fn element(&self, id: &str) -> String {
        self.until_shows(id, "");
        let selector = json!({"using": "css selector", "value": format!("[data-testid={id}]")});
        let element = self.call("POST", "/element", &selector);
        element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    /// Presses keys one after the other, whatever has the focus.
    pub(crate) fn press(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| [("keyDown", key), ("keyUp", key)]);
        self.strike(strokes);
    }

    /// Presses a key while another is held.
    pub(crate) fn press_with(&self, held: char, key: char) {
        self.strike([("keyDown", held), ("keyDown", key), ("keyUp", key), ("keyUp", held)]);
    }

    fn strike(&self, strokes: impl IntoIterator<Item = (&'static str, char)>) {
        let actions: Vec<_> = strokes
            .into_iter()
            .map(|(kind, key)| json!({"type": kind, "value": key.to_string()}))
            .collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.call("POST", "/actions", &json!({"actions": [keyboard]}));
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.browser.call("POST", "/window", &json!({"handle": self.handle}));
        self.browser.call(method, path, body)
    }
}

/// Keys without a character, as WebDriver names them.
pub(crate) mod key {
    pub(crate) const TAB: char = '\u{e004}';
    pub(crate) const ENTER: char = '\u{e007}';
    pub(crate) const SHIFT: char = '\u{e008}';
    pub(crate) const ALT: char = '\u{e00a}';
    pub(crate) const ESCAPE: char = '\u{e00c}';
    pub(crate) const UP: char = '\u{e013}';
}

/// The process `chromedriver`.
struct Driver {
    process: Child,
    port: u16,
    profile: PathBuf,
}

impl Driver {
    fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let profile = format!("chat-browser-{}-{number}", std::process::id());
        let profile = std::env::temp_dir().join(profile);
        std::fs::create_dir_all(&profile).unwrap();
        let port = free_port();
        let process = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver ({INSTALL}): {error}"));
        let driver = Self { process, port, profile };
        let deadline = Instant::now() + DEADLINE;
        while driver.call("GET", "/status", &Value::Null).is_err() {
            assert!(Instant::now() < deadline, "chromedriver does not answer");
            sleep(POLL);
        }
        driver
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = self.exchange(&head, &body).map_err(|error| error.to_string())?;
        let mut answer: Value =
            serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        match answer["value"].take() {
            value if value["error"].is_string() => Err(value["message"].to_string()),
            value => Ok(value),
        }
    }

    fn exchange(&self, head: &str, body: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(2 * DEADLINE))?;
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(body)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
