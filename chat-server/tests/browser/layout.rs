//! The page on a phone, and what can be read on it.

use crate::server::Server;
use crate::webdriver::{Browser, Tab};

#[test]
fn nothing_scrolls_sideways_on_a_phone() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open_phone(&server.url("/"));
    tab.until_shows("name", "");
    assert_fits(&tab);
    let long = "an-unusually-long-name-without-a-single-space-in-it-anywhere";
    tab.fill("name", long);
    tab.fill("room", long);
    tab.click("join");
    tab.until_shows("log", "You joined the room.");
    for _ in 0..3 {
        tab.fill("message", &format!("{long}{long}{long} https://example.com/{long}{long}"));
        tab.click("send");
    }
    tab.until("document.querySelectorAll('#log .message').length === 3", &[]);
    assert_fits(&tab);
    tab.click("people");
    tab.until_shows("members", long);
    assert_fits(&tab);
    browser.assert_no_errors(&[]);
}

/// No part of the page lies beyond the edge, unless it scrolls by itself.
pub(crate) fn assert_fits(tab: &Tab<'_>) {
    let beyond = "const width = document.documentElement.clientWidth;
        const parts = [...document.querySelectorAll('main, header, form, input, p, button')];
        return parts
            .filter((part) => part.checkVisibility() && !part.closest('#rooms'))
            .filter((part) => part.getBoundingClientRect().right > width + 1)
            .map((part) => part.outerHTML);";
    assert_eq!(tab.run(beyond, &[]), serde_json::json!([]));
    let scrolls = "return ['html', 'body', '#scroller', '#start']
        .flatMap((name) => document.querySelector(name) ?? [])
        .some((part) => part.scrollWidth > part.clientWidth)";
    assert_eq!(tab.run(scrolls, &[]), false);
}

#[test]
fn what_a_screen_reader_needs() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/?user=Reader&room=general"));
    tab.until_shows("log", "You joined the room.");
    let unnamed = "return [...document.querySelectorAll('button, input, textarea, nav, aside')]
        .filter((part) => part.checkVisibility())
        .filter((part) => !(part.innerText?.trim() || part.ariaLabel || part.labels?.length))
        .map((part) => part.outerHTML)";
    assert_eq!(tab.run(unnamed, &[]), serde_json::json!([]));
    assert_eq!(tab.run("return document.querySelectorAll('[aria-live]').length", &[]), 1);
    let writer = browser.open(&server.url("/?user=Writer&room=general"));
    tab.until("document.querySelector('#live').textContent === 'Writer joined the room.'", &[]);
    writer.fill("message", "Is this heard?");
    writer.click("send");
    tab.until("document.querySelector('#live').textContent === 'Writer: Is this heard?'", &[]);
    browser.assert_no_errors(&[]);
}

#[test]
fn names_can_be_read_in_every_colour_and_theme() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/?user=Reader&room=general"));
    tab.fill("message", "Mine, with https://example.com");
    tab.click("send");
    tab.until_shows("log", "Mine");
    let other = browser.open(&server.url("/?user=Other&room=general"));
    other.fill("message", "Theirs, with https://example.com");
    other.click("send");
    tab.until_shows("log", "Theirs");
    tab.until_shows("members", "Other");
    for theme in ["light", "dark"] {
        tab.set_theme(theme);
        let worst = tab.run(WORST_CONTRAST, &[]).as_f64().unwrap();
        assert!(worst >= 4.5, "{worst}:1 in the {theme} theme");
    }
    browser.assert_no_errors(&[]);
}

/// The least contrast (WCAG 2.2) of any text colour to what it stands on, with the name in
/// each colour of the palette.
const WORST_CONTRAST: &str = r"
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgb = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const below = (part) => {
        const color = rgb(getComputedStyle(part).backgroundColor);
        return color[3] === 255 || !part.parentElement ? color : below(part.parentElement);
    };
    const contrast = (part) => {
        const [a, b] = [luminance(rgb(getComputedStyle(part).color)), luminance(below(part))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    };
    const hasText = (part) => [...part.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const seen = [...document.querySelectorAll('#chat *')].filter((part) => part.checkVisibility());
    let worst = Math.min(...seen.filter(hasText).map(contrast));
    const colors = '#FF6B6B #F28C38 #D4A017 #8FB339 #3DBB6E #2BB8A3 #35A7D8 #5B8DEF #8C7AE6 #B56AD9 #E05FB0 #E85D86';
    for (const color of colors.split(' ')) {
        for (const part of document.querySelectorAll('#members .name, #members .avatar')) {
            part.style.setProperty('--user', color);
            worst = Math.min(worst, contrast(part));
        }
    }
    return worst;";
