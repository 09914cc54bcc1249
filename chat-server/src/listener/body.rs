//! The bodies of a request and its response, which notify the clock of their ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};

use super::clock::Clock;

/// The body of a request, which records whether it was read to its end.
#[derive(Debug)]
pub(super) struct RequestBody {
    body: Incoming,
    is_unread: Arc<AtomicBool>,
    clock: Arc<Clock>,
}

impl RequestBody {
    /// `is_unread` is valid once the body is dropped, or has been read to its end.
    pub(super) fn new(body: Incoming, clock: Arc<Clock>) -> (Self, Arc<AtomicBool>) {
        let is_unread = Arc::new(AtomicBool::new(!body.is_end_stream()));
        (Self { body, is_unread: Arc::clone(&is_unread), clock }, is_unread)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.clock.took_body();
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.is_unread.store(false, Ordering::Relaxed);
            self.clock.took_body();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response, which notifies the clock when hyper has all of it.
#[derive(Debug)]
pub(super) struct ResponseBody {
    body: Body,
    clock: Arc<Clock>,
}

impl ResponseBody {
    pub(super) fn new(body: Body, clock: Arc<Clock>) -> Self {
        Self { body, clock }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.clock.sent_part();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.clock.responded();
    }
}
