//! The bodies of requests and answers, as the guard lets them through: counted, and not for ever.
//!
//! A request's body counts as held memory from its first byte until the request is answered, and has to be there in time. An
//! answer is made before it is asked for, so that it counts however long nobody takes it, and until its last byte was taken; a stream
//! counts piece by piece. Where the caller set a deadline (`grpc-timeout`), the answer ends with it.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::limits::{InFlight, Limits, Room};
use super::status;

/// The body of a request that is read as a whole.
pub(super) struct Counted {
    pub(super) body: Body,
    pub(super) limits: Limits,
    pub(super) request: Arc<InFlight>,
    /// How much of it is still to be counted; what comes after that is not kept.
    pub(super) kept: usize,
    /// By when it has to be there, unless whoever reads it sees to that.
    pub(super) patience: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let Some(patience) = &mut self.patience else { return Poll::Pending };
            ready!(patience.as_mut().poll(context));
            return Poll::Ready(Some(Err(axum::Error::new(status::too_slow()))));
        };
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            let counts = data.len().min(self.kept);
            if counts > 0
                && let Err(error) = self.limits.hold(&self.request, counts)
            {
                return Poll::Ready(Some(Err(axum::Error::new(status::of_limit(&error)))));
            }
            self.kept -= counts;
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

/// The body of an answer.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) limits: Limits,
    pub(super) request: Arc<InFlight>,
    /// What was made of it before it was asked for: the first piece, and further ones, the last first.
    pub(super) first: Option<Result<Frame<Bytes>, axum::Error>>,
    pub(super) further: Vec<Result<Frame<Bytes>, axum::Error>>,
    /// The piece of a stream that was given out last.
    pub(super) piece: Option<Room>,
    /// When nobody waits for it any more.
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    pub(super) is_over: bool,
}

impl Answer {
    /// Makes all of it that can be made at once; its length in bytes. Over gRPC an answer that is no stream is one piece, and what
    /// follows it is small.
    pub(super) fn make(&mut self, is_grpc: bool) -> usize {
        let mut is_last = self.body.is_end_stream();
        while !is_last && let Some(Some(made)) = self.body.frame().now_or_never() {
            is_last = is_grpc || made.is_err() || self.body.is_end_stream();
            match self.first {
                None => self.first = Some(made),
                Some(_) => self.further.push(made),
            }
        }
        self.further.reverse();
        self.made()
    }

    /// Bytes that were made and not taken.
    fn made(&self) -> usize {
        let made = self.first.iter().chain(&self.further).filter_map(|made| made.as_ref().ok()?.data_ref());
        made.map(Bytes::len).sum()
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        // It was made in time, and is counted.
        if let Some(made) = self.first.take().or_else(|| self.further.pop()) {
            return Poll::Ready(Some(made));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            self.is_over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(status::in_trailers(&status::deadline_exceeded())))));
        }
        self.piece = None;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            self.piece = Some(self.limits.note_held(&self.request, data.len()));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || (self.first.is_none() && self.further.is_empty() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // With a deadline it can end early, but for what was made.
        let rest = if self.deadline.is_some() { SizeHint::default() } else { self.body.size_hint() };
        let made = self.made() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(made + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(made + upper);
        }
        hint
    }
}

/// How long the caller waits, if it said so: at most eight digits and a unit (gRPC over HTTP/2, "Requests"). What is written
/// otherwise says nothing.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Instant> {
    Instant::now().checked_add(timeout(headers.get("grpc-timeout")?.to_str().ok()?)?)
}

/// The same, as it is written.
pub fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_grpc_writes_it() {
        let wait = |text: &str| {
            let headers = [("grpc-timeout".parse().expect("a name"), text.parse().expect("a value"))];
            let begin = Instant::now();
            deadline(&headers.into_iter().collect()).map(|at| at.duration_since(begin).as_millis())
        };
        assert!(wait("1S").is_some_and(|ms| (1000..1100).contains(&ms)));
        assert!(wait("250m").is_some_and(|ms| (250..350).contains(&ms)));
        assert!(wait("0n").is_some_and(|ms| ms < 100));
        assert!(wait("99999999H").is_some());
        for odd in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S", "\u{661}S"] {
            assert_eq!(wait(odd), None, "{odd:?}");
        }
    }
}
