//! What the checks found, as text and as JSON.

use std::fmt::Write;
use std::path::Path;

use chat_core::printable;
use serde::Serialize;
use serde_json::json;

use super::super::json_text;
use crate::settings::SettingInEffect;

/// What was found, one line for each check.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Finding>);

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    status: Status,
    /// What was found, and what to do unless that is right.
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// A server can run, and should not stay so.
    Warn,
    Fail,
}

impl Report {
    pub(super) fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Status::Ok, detail);
    }

    pub(super) fn warn(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Status::Warn, detail);
    }

    pub(super) fn fail(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Status::Fail, detail);
    }

    fn add(&mut self, check: &'static str, status: Status, detail: impl Into<String>) {
        self.0.push(Finding { check, status, detail: detail.into() });
    }

    pub(super) fn has_failed(&self) -> bool {
        self.0.iter().any(|finding| finding.status == Status::Fail)
    }

    pub(super) fn json(&self, file: Option<&Path>, settings: &[SettingInEffect]) -> String {
        let (ok, checks) = (!self.has_failed(), &self.0);
        let file = file.map(|file| file.display().to_string());
        json_text(&json!({ "ok": ok, "file": file, "settings": settings, "checks": checks }))
    }

    pub(super) fn text(&self, file: Option<&Path>, settings: &[SettingInEffect]) -> String {
        let file = match file {
            Some(file) => format!("file: {}", file.display()),
            None => "file: none was read (--config and CHAT_CONFIG are not set)".to_owned(),
        };
        let settings = settings.iter().map(|setting| {
            let SettingInEffect { name, value, source, .. } = setting;
            [name.as_str(), source, value]
        });
        let settings: Vec<_> = settings.collect();
        let findings = self.0.iter().map(|finding| {
            let status = match finding.status {
                Status::Ok => "ok",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            [status, finding.check, &finding.detail]
        });
        let findings: Vec<_> = findings.collect();
        format!("{file}\n\n{}\n{}", table(&settings), table(&findings).trim_end())
    }
}

/// Lines whose first two columns are aligned.
fn table(rows: &[[&str; 3]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let mut text = String::new();
    for [a, b, c] in rows {
        let _ = writeln!(text, "{a:first$}  {b:second$}  {}", printable(c));
    }
    text
}
