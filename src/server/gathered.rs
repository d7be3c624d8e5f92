//! Answers that go out together.
//!
//! HTTP/2 hands each answer to the system by itself, and what that costs, with the packet that follows from it, is a quarter of what a
//! small question costs. So while more requests of a connection are being answered, what is written to it waits until everybody who was
//! ready to run has run: the answers to all entries of a batch, or to questions that came in one packet, go out in one piece.
//! There is no timer: where nobody else is ready, an answer goes out, and one that nothing else is asked beside goes out at once.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much waits on one connection before it goes out in any case, in bytes.
const MOST: usize = 32 << 10;
/// What is longer doesn't wait.
const LONG: usize = 8 << 10;

/// A connection whose writes wait; [`in_turns`] sends them.
pub(super) struct Gathered<S>(Arc<Mutex<Outbound<S>>>);

struct Outbound<S> {
    stream: S,
    waiting: Vec<u8>,
    /// Of those, gone out already.
    gone: usize,
}

/// Runs a connection that `over` makes of a stream, and sends what it writes: with what follows, where more `is_due`.
pub(super) async fn in_turns<S, C>(
    stream: S,
    is_due: impl Fn() -> bool,
    over: impl FnOnce(Gathered<S>) -> C,
) -> C::Output
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Future,
{
    let outbound = Arc::new(Mutex::new(Outbound { stream, waiting: Vec::new(), gone: 0 }));
    let mut connection = pin!(over(Gathered(Arc::clone(&outbound))));
    let others = Arc::new(Others::default());
    let after_others = Waker::from(Arc::clone(&others));
    let mut turn = Turn::Begins;
    let ended = std::future::poll_fn(|context| {
        if let Poll::Ready(ended) = connection.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        let mut outbound = lock(&outbound);
        turn = match turn {
            _ if outbound.waiting.is_empty() => Turn::Begins,
            Turn::Begins if is_due() => {
                // Woken when the others have run, and by nobody before.
                others.have_run.store(false, Ordering::Relaxed);
                others.task.register(context.waker());
                let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&after_others));
                Turn::WaitsForOthers
            }
            Turn::WaitsForOthers if !others.have_run.load(Ordering::Acquire) => Turn::WaitsForOthers,
            // An error is told to the connection when it writes again, or reads. What can't be sent yet wakes this when it can.
            Turn::Begins | Turn::WaitsForOthers | Turn::Ends if outbound.send(context).is_pending() => Turn::Ends,
            Turn::Begins | Turn::WaitsForOthers | Turn::Ends => Turn::Begins,
        };
        Poll::Pending
    })
    .await;
    // What it wrote last. Where that can't be sent, nobody is there to be told.
    let _ = std::future::poll_fn(|context| lock(&outbound).send(context)).await;
    ended
}

/// How far what is written is on its way out.
enum Turn {
    Begins,
    WaitsForOthers,
    /// It goes out as far as there is room.
    Ends,
}

/// Whether everybody who was ready has run since.
#[derive(Default)]
struct Others {
    have_run: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Others {
    fn wake(self: Arc<Self>) {
        self.have_run.store(true, Ordering::Release);
        self.task.wake();
    }
}

fn lock<S>(outbound: &Mutex<Outbound<S>>) -> MutexGuard<'_, Outbound<S>> {
    outbound.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Outbound<S> {
    /// Sends what waits.
    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.waiting.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.waiting[self.gone..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                gone => self.gone += gone,
            }
        }
        // A connection at rest holds no memory for it.
        (self.waiting, self.gone) = (Vec::new(), 0);
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting.len() >= MOST || length >= LONG {
            ready!(self.send(context))?;
        }
        if length >= LONG {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        slices.iter().for_each(|slice| self.waiting.extend_from_slice(slice));
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).write(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What waits goes out at the end of the turn; what doesn't is flushed.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outbound = lock(&self.0);
        if outbound.waiting.is_empty() {
            Pin::new(&mut outbound.stream).poll_flush(context)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outbound = lock(&self.0);
        ready!(outbound.send(context))?;
        Pin::new(&mut outbound.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// Counts what goes out.
    struct Counted(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let written = Pin::new(&mut self.0).poll_write(context, bytes);
            self.1.fetch_add(usize::from(written.is_ready()), Ordering::Relaxed);
            written
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    /// A connection that answers each of so many questions, one after the other, each after others have run; what the client reads, and
    /// in how many pieces it went out.
    async fn answers(count: usize, length: usize, room: usize, is_due: bool) -> (Vec<u8>, usize) {
        let (server, mut client) = duplex(room);
        let pieces = Arc::<AtomicUsize>::default();
        let stream = Counted(server, Arc::clone(&pieces));
        let serving = tokio::spawn(in_turns(
            stream,
            move || is_due,
            move |mut stream| async move {
                for number in 0..count {
                    stream.write_all(&vec![u8::try_from(number % 251).expect("small"); length]).await.expect("written");
                    stream.flush().await.expect("flushed");
                    if !is_due {
                        tokio::task::yield_now().await;
                    }
                }
                stream.shutdown().await.expect("shut down");
            },
        ));
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.expect("read");
        serving.await.expect("no panic");
        (read, pieces.load(Ordering::Relaxed))
    }

    fn expected(count: usize, length: usize) -> Vec<u8> {
        (0..count).flat_map(|number| vec![u8::try_from(number % 251).expect("small"); length]).collect()
    }

    #[tokio::test]
    async fn what_is_written_in_a_turn_goes_out_in_one_piece() {
        let (read, pieces) = answers(20, 100, 1 << 20, true).await;
        assert_eq!((read, pieces), (expected(20, 100), 1));
        // As far as there is room for it.
        let (read, pieces) = answers(100, 1000, 1 << 20, true).await;
        assert!(read == expected(100, 1000) && (3..=5).contains(&pieces), "{pieces} pieces");
    }

    #[tokio::test]
    async fn alone_it_goes_out_at_once() {
        let (read, pieces) = answers(20, 100, 1 << 20, false).await;
        assert_eq!((read, pieces), (expected(20, 100), 20));
    }

    #[tokio::test]
    async fn a_client_that_takes_little_gets_all_of_it_in_order() {
        for length in [1, 100, LONG - 1, LONG, MOST, 3 * MOST + 1] {
            for is_due in [false, true] {
                let (read, _) = answers(30, length, 700, is_due).await;
                assert!(read == expected(30, length), "{length} {is_due}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_written_last_goes_out_though_the_connection_ends_with_it() {
        let (server, mut client) = duplex(10);
        let serving = tokio::spawn(in_turns(
            server,
            || true,
            |mut stream| async move {
                stream.write_all(b"no, and that was all").await.expect("written");
            },
        ));
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("it came");
        serving.await.expect("no panic");
        assert_eq!(answer, "no, and that was all");
    }

    #[tokio::test]
    async fn what_waits_goes_out_though_the_connection_rests() {
        for (room, is_due) in [(1000, true), (1000, false), (4, true), (4, false)] {
            let (server, mut client) = duplex(room);
            let serving = tokio::spawn(in_turns(
                server,
                move || is_due,
                |mut stream| async move {
                    stream.write_all(b"answer").await.expect("written");
                    stream.read_u8().await.expect("the client's word")
                },
            ));
            // The server runs first, and may find no room for all of it.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mut answer = [0; 6];
            let read = tokio::time::timeout(Duration::from_secs(10), client.read_exact(&mut answer)).await;
            assert!(read.is_ok_and(|read| read.is_ok()), "{room} {is_due}");
            client.write_u8(7).await.expect("written");
            assert_eq!((&answer, serving.await.expect("no panic")), (b"answer", 7));
        }
    }
}
