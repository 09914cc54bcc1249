//! Devices that differ from those of developers: storage that is blocked, clocks that are wrong,
//! and input methods.

use serde_json::json;

use crate::server::Server;
use crate::tokens::{HOUR, start as start_with_tokens, token};
use crate::webdriver::{Browser, Tab};

#[test]
fn page_works_with_all_storage_blocked() {
    let server = Server::start();
    let browser = Browser::start_without_storage();
    let tab = browser.open(&server.url("/"));
    let blocked = "return ['sessionStorage', 'localStorage'].map((name) => {
        try { return String(window[name]) } catch ({ name }) { return name }
    })";
    assert_eq!(tab.run(blocked, &[]), json!(["SecurityError", "SecurityError"]));
    tab.fill("name", "Ann");
    tab.click("join");
    tab.until_shows("log", "You joined the room.");
    tab.fill("message", "Nothing is stored");
    tab.click("send");
    tab.until_shows("log", "Nothing is stored");
    tab.go(&server.url("/?user=Ann&room=general"));
    tab.until_shows("log", "Nothing is stored");

    let server = start_with_tokens();
    tab.go(&server.url("/join-room/general"));
    tab.until_shows("room", "");
    tab.run("location.hash = `token=${arguments[0]}`", &[&token("*", HOUR)]);
    tab.until_shows("log", "You joined the room.");
    assert_eq!(tab.run("return location.hash", &[]), "");
    browser.assert_no_errors(&[]);
}

/// One list has one clock, that of the server, whatever the device's says.
#[test]
fn clock_that_is_days_off_makes_no_headings() {
    let server = Server::start();
    let browser = Browser::start();
    let writer = browser.open(&server.url("/?user=Bob&room=general"));
    writer.until_shows("log", "You joined the room.");
    say(&writer, "before");
    for days in [2, -2] {
        let name = format!("Ann{days}").replace('-', "x");
        let tab =
            browser.open_after(&clock(days), &server.url(&format!("/?user={name}&room=general")));
        tab.until_shows("log", "You joined the room.");
        say(&writer, &format!("after {days}"));
        tab.until_shows("log", &format!("after {days}"));
        // It is set once more while the page is open.
        tab.run(&clock(1), &[]);
        let visitor = browser.open(&server.url(&format!("/?user=Cid{name}&room=general")));
        tab.until_shows("log", &format!("Cid{name} joined the room."));
        visitor.close();
        say(&tab, "mine");
        tab.until_shows("log", "mine");
        let days = "return [...document.querySelectorAll('#log .day')].map((day) => day.innerText)";
        assert_eq!(tab.run(days, &[]), json!(["Today"]));
        let times = "return [...document.querySelectorAll('#log time')]
            .map((time) => Date.parse(time.dateTime))
            .every((at, n, all) => Math.abs(at - all[0]) < 60_000)";
        assert_eq!(tab.run(times, &[]), true);
    }
    browser.assert_no_errors(&[]);
}

/// A clock that is so many days ahead.
fn clock(days: i64) -> String {
    format!(
        "const ahead = {days} * 86_400_000;
        const Real = Date;
        window.Date = class extends Real {{
            constructor(...parts) {{
                super(...(parts.length > 0 ? parts : [Real.now() + ahead]));
            }}
            static now() {{ return Real.now() + ahead; }}
        }};"
    )
}

fn say(tab: &Tab<'_>, text: &str) {
    tab.fill("message", text);
    tab.click("send");
}

/// Keys as input methods report them.
#[test]
fn enter_that_ends_a_composition_sends_nothing() {
    let server = Server::start();
    let browser = Browser::start();
    let open = |device: &str| {
        let script =
            format!("Object.defineProperty(navigator, 'userAgent', {{ value: '{device}' }})");
        let tab = browser.open_after(&script, &server.url("/?user=Ann&room=general"));
        tab.until_shows("log", "You joined the room.");
        tab
    };
    let (tab, phone) = (open("Macintosh"), open("Linux; Android 15"));
    let sent_on = |tab: &Tab<'_>, events: &str| {
        let script = format!(
            "const field = document.getElementById('message');
            field.focus();
            field.value = 'half a sentence';
            const fire = (type, options) => field.dispatchEvent(
                type.startsWith('key')
                    ? new KeyboardEvent(type, {{ key: 'Enter', bubbles: true, cancelable: true, ...options }})
                    : new CompositionEvent(type, {{ bubbles: true, data: 'x', ...options }}),
            );
            {events}
            const isSent = field.value === '';
            fire('keyup');
            field.value = '';
            return isSent;"
        );
        tab.run_async(&script, &[])
    };
    let sent = |events: &str| sent_on(&tab, events);
    let chrome = "fire('compositionstart');
        fire('keydown', { keyCode: 229, isComposing: true });
        fire('compositionend');";
    let firefox = "fire('compositionstart'); fire('keydown', { keyCode: 13, isComposing: true });";
    let safari = "fire('compositionstart');
        fire('compositionend');
        fire('keydown', { keyCode: 229 });";
    let safari_of_old = "fire('compositionstart');
        fire('compositionend');
        fire('keydown', { keyCode: 13 });";
    for events in [chrome, firefox, safari, safari_of_old] {
        assert_eq!(sent(events), false, "{events}");
    }
    // The next one is meant for the page, and so is one after a composition that another key, or
    // the mouse, has ended.
    let next = [chrome, firefox, safari, safari_of_old]
        .map(|events| format!("{events} fire('keyup'); fire('keydown', {{ keyCode: 13 }});"));
    let space = "fire('compositionstart');
        fire('keydown', { key: ' ', keyCode: 229, isComposing: true });
        fire('compositionend');
        fire('keyup', { key: ' ' });
        fire('keydown', { keyCode: 13 });";
    let mouse = "fire('compositionstart');
        fire('compositionend');
        await new Promise((resolve) => setTimeout(resolve, 150));
        fire('keydown', { keyCode: 13 });";
    let korean = &*format!("{chrome} fire('keydown', {{ keyCode: 13 }});");
    for events in next.iter().map(String::as_str).chain([space, mouse, korean]) {
        assert_eq!(sent(events), true, "{events}");
    }
    // A keyboard of Android ends the word before Enter.
    assert_eq!(sent_on(&phone, safari_of_old), true);
    assert_eq!(sent_on(&phone, safari), false);
    browser.assert_no_errors(&[]);
}
