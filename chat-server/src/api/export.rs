//! Whole histories, as a stream of lines.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chat_core::wire::PageFrame;
use chat_core::{Epoch, HistoryRange, Position, RoomId};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::names::RoomPath;
use super::query::Params;
use crate::refusal::Refusal;
use crate::service::history;
use crate::state::{MAX_EXPORTS, State};

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct ExportParams {
    /// The offset of the last message of an earlier export: this one begins after it.
    #[cfg_attr(test, param(default = 0))]
    after: Option<u64>,
}

/// The first line: the room, and its position at the beginning of the export.
#[derive(Serialize)]
struct Head<'a> {
    room: &'a RoomId,
    epoch: Epoch,
    offset: u64,
}

/// The last line: without it the export was cut.
#[derive(Serialize)]
struct End {
    end: bool,
    messages: u64,
}

/// The last line of an export that lacks messages.
#[derive(Serialize)]
struct Gap {
    end: bool,
    messages: u64,
    code: &'static str,
    message: String,
}

/// Exports the history of a room, as lines of JSON.
///
/// The first line is `{"room","epoch","offset"}`, each further one a message as members receive it, and
/// the last one `{"end":true,"messages":n}`: without it the export was cut. It is
/// `{"end":false,"messages":n,"code":"gap","message"}` if the history lost messages before they were
/// exported. A server makes two exports at a time.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/rooms/{room}/export", tag = "rooms",
    params(("room" = String, Path, description = "The name of the room"), ExportParams),
    responses((status = 200, description = "The lines.", body = String, content_type = "application/x-ndjson")),
))]
pub(super) async fn export(
    Shared(state): Shared<Arc<State>>,
    RoomPath(room): RoomPath,
    Params(params): Params<ExportParams>,
) -> Result<Response, Refusal> {
    let permit = Arc::clone(&state.exports).try_acquire_owned().map_err(|_| too_many())?;
    let after = params.after.unwrap_or_default();
    // Also finds out whether there is a history before the answer begins.
    let position = history::page(&state, &room, HistoryRange::Latest, 1).await?.position;
    let export = Export {
        state,
        room,
        position,
        next: Some(Next::Head),
        after,
        messages: 0,
        _permit: permit,
    };
    // hyper takes a page when the client has read most of the one before. A client that leaves drops
    // the export, and so does the listener with one that reads too slowly.
    let pages = stream::unfold(export, |mut export| async {
        let page = export.next_page().await?;
        Some((page, export))
    });
    const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(pages)).into_response())
}

fn too_many() -> Refusal {
    let message = format!("A server makes at most {MAX_EXPORTS} exports at a time.");
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
        .retry_after(Duration::from_secs(5))
}

struct Export {
    state: Arc<State>,
    room: RoomId,
    /// The position at the beginning, where the export ends.
    position: Position,
    /// `None` at the end.
    next: Option<Next>,
    /// The offset of the latest exported message.
    after: u64,
    /// The exported messages.
    messages: u64,
    _permit: OwnedSemaphorePermit,
}

enum Next {
    Head,
    Page,
}

impl Export {
    /// The next lines; `None` at the end.
    async fn next_page(&mut self) -> Option<io::Result<Bytes>> {
        let lines = match self.next.take()? {
            Next::Head => {
                let Position { epoch, offset } = self.position;
                self.next = Some(Next::Page);
                line(&Head { room: &self.room, epoch, offset })
            }
            Next::Page => self.read_page().await,
        };
        Some(lines.map(Bytes::from))
    }

    async fn read_page(&mut self) -> io::Result<Vec<u8>> {
        let range = HistoryRange::After(self.after);
        let page = history::page(&self.state, &self.room, range, history::MAX_PAGE).await;
        let page = page.map_err(io::Error::other)?;
        if page.position.epoch != self.position.epoch {
            return Err(io::Error::other("the sequence of the room was lost"));
        }
        let wanted = page.entries.iter().take_while(|entry| entry.offset <= self.position.offset);
        let wanted: Vec<_> = wanted.cloned().collect();
        // While a client reads slowly, messages leave the history. Those that had left before the export are
        // not missed: they precede the first page.
        let expected = self.after + 1;
        if self.messages > 0 && wanted.first().is_none_or(|first| first.offset != expected) {
            return line(&self.gap());
        }
        let mut lines = Vec::new();
        for frame in PageFrame::page(&self.room, self.position.epoch, &wanted) {
            lines.extend(line(&frame)?);
            self.messages += 1;
        }
        match wanted.last() {
            Some(last) if last.offset < self.position.offset && page.more => {
                (self.after, self.next) = (last.offset, Some(Next::Page));
            }
            _ => lines.extend(line(&End { end: true, messages: self.messages })?),
        }
        Ok(lines)
    }

    fn gap(&self) -> Gap {
        let message = format!("Messages after offset {} left the history.", self.after);
        Gap { end: false, messages: self.messages, code: "gap", message }
    }
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    // The `data` of a message is as its sender wrote it, and its white space may have line breaks, which
    // would end the line: the sender could forge lines. Texts have no line breaks, only their escapes.
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.push(b'\n');
    Ok(line)
}
