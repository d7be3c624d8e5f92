//! What a client asked for and does not take.
//!
//! An answer is given out in small pieces, each when there is room for it on its way; so nothing large waits where nobody
//! counts it. A piece that waits for the client, in the connection's buffers or before a closed HTTP/2 window, is noted with the time,
//! and forgotten when the next one is asked for. An answer that is made already waits from its beginning. One that waits too long ends the
//! connection: HTTP/2 pings are answered by machines that never read a byte. A quiet stream is none of that: there the client waits.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::listen::Stream;

/// Longest piece of an answer, in bytes: two frames of HTTP/2.
const PIECE: usize = 32 << 10;
/// The connection itself, among its answers.
const CONNECTION: u64 = 0;

/// What waits to be taken on one connection.
#[derive(Clone, Default)]
pub(super) struct Untaken(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// Number of the last answer.
    last: u64,
    /// Requests whose answers have not gone out whole.
    asked: usize,
    since: HashMap<u64, Instant>,
}

impl Untaken {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, answer: u64) {
        self.lock().since.entry(answer).or_insert_with(Instant::now);
    }

    fn end(&self, answer: u64) {
        self.lock().since.remove(&answer);
    }

    /// Completes when something has waited for longer than this.
    pub(super) async fn longer_than(&self, patience: Duration) {
        loop {
            let oldest = self.lock().since.values().min().copied();
            let left = oldest.map_or(patience, |oldest| patience.saturating_sub(oldest.elapsed()));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Counts a request until this is dropped, or the answer that is made with it.
    pub(super) fn asked(&self) -> Asked {
        self.lock().asked += 1;
        Asked(self.clone())
    }

    /// Whether more than one request is being answered.
    pub(super) fn is_asked_more(&self) -> bool {
        self.lock().asked > 1
    }

    /// A connection that notes when it can't be written to.
    pub(super) fn watched(&self, stream: Box<dyn Stream>) -> Watched {
        Watched { stream, is_blocked: false, untaken: self.clone() }
    }
}

/// A request that is being answered.
pub(super) struct Asked(Untaken);

impl Asked {
    /// A body that gives out small pieces, and notes what waits.
    pub(super) fn in_pieces(self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let mut waiting = self.0.lock();
        waiting.last += 1;
        let answer = waiting.last;
        let has_begun = body.size_hint().lower() > 0;
        if has_begun {
            waiting.since.insert(answer, Instant::now());
        }
        drop(waiting);
        Body::new(Pieces { body, rest: Bytes::new(), answer, has_begun, asked: self })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.lock().asked -= 1;
    }
}

struct Pieces {
    body: Body,
    /// Of the frame that is being given out.
    rest: Bytes,
    answer: u64,
    has_begun: bool,
    asked: Asked,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // The last piece is on its way.
        if std::mem::replace(&mut self.has_begun, false) {
            self.asked.0.end(self.answer);
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        self.has_begun = true;
        self.asked.0.begin(self.answer);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// Never said before it is asked for once more: then the last piece has gone out too.
    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.asked.0.end(self.answer);
    }
}

/// A connection.
pub(super) struct Watched {
    stream: Box<dyn Stream>,
    is_blocked: bool,
    untaken: Untaken,
}

impl Watched {
    fn note<T>(&mut self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() != self.is_blocked {
            self.is_blocked = written.is_pending();
            if self.is_blocked { self.untaken.begin(CONNECTION) } else { self.untaken.end(CONNECTION) }
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(context);
        self.note(done)
    }
}
