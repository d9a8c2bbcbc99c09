//! The bytes between us and PostgreSQL, with an end to every wait.
//!
//! The synchronous client waits for an answer for as long as the other kernel keeps the connection alive, and has no
//! setting for that: it would hang at connecting, in a call, even in its own destructor. But it lets a TLS
//! implementation bring its own stream. So ours is one also where there is no TLS: `sslnegotiation = direct` makes the
//! client hand over the bare socket, and this file does the SSLRequest itself, if there is to be TLS, and puts a
//! [`Deadline`] under everything. Unix sockets don't come through here: the client allows no TLS on them.
//!
//! The `async` block is the client's interface, and is driven by the runtime inside the client.

use super::authentication::Guard;
use super::failure::Refused;
use crate::fault::Fault;
use postgres::Socket;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Asks the server for TLS: the length and a number that is no protocol version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// When one connection stops waiting for the server. All copies are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Deadline(Arc<Mutex<Option<Instant>>>);

impl Deadline {
    /// Waits end after `limit` from now on.
    pub(super) fn set(&self, limit: Duration) {
        *self.lock() = Some(Instant::now() + limit);
    }

    /// Waits have no end.
    pub(super) fn clear(&self) {
        *self.lock() = None;
    }

    fn get(&self) -> Option<Instant> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes streams: with TLS where `tls` is set, and with a deadline that starts when the connection is begun.
#[derive(Clone)]
pub(super) struct Dialer {
    /// Verified TLS, or plain text.
    pub(super) tls: Option<MakeRustlsConnect>,
    /// The deadline of what is dialled.
    pub(super) deadline: Deadline,
    /// How long connecting may take.
    pub(super) limit: Duration,
}

impl MakeTlsConnect<Socket> for Dialer {
    type Stream = Wire;
    type TlsConnect = Dial;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Dial> {
        self.deadline.set(self.limit);
        let tls =
            self.tls.as_mut().map(|tls| <MakeRustlsConnect as MakeTlsConnect<Timed>>::make_tls_connect(tls, host));
        let tls = tls.transpose().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Dial { tls, deadline: self.deadline.clone() })
    }
}

type RustlsDial = <MakeRustlsConnect as MakeTlsConnect<Timed>>::TlsConnect;
type RustlsStream = <MakeRustlsConnect as MakeTlsConnect<Timed>>::Stream;

/// One stream in the making.
pub(super) struct Dial {
    tls: Option<RustlsDial>,
    deadline: Deadline,
}

impl TlsConnect<Socket> for Dial {
    type Stream = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let mut stream = Timed { socket, deadline: self.deadline, sleep: None };
        Box::pin(async move {
            let Some(tls) = self.tls else { return Ok(Wire::Plain(stream, Guard::default())) };
            let mut sent = 0;
            while sent < SSL_REQUEST.len() {
                sent += poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &SSL_REQUEST[sent..])).await?;
            }
            poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await?;
            // Exactly one byte: whatever an attacker sends after it in plain text must stay unread.
            let mut answer = [0];
            let mut read = ReadBuf::new(&mut answer);
            poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut read)).await?;
            match read.filled() {
                b"S" => tls.connect(stream).await.map(|stream| Wire::Tls(Box::new(stream))),
                [] => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {
                    let message =
                        "the server offers no TLS; enable it there (ssl = on), or set database.tls".to_owned();
                    Err(Refused { fault: Fault::Schema, message }.into())
                }
            }
        })
    }
}

/// A socket whose waits end.
pub(super) struct Timed {
    socket: Socket,
    deadline: Deadline,
    // Made when a wait first needs it.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    /// Called while the socket isn't ready: an error once the deadline has passed, else a waker for it.
    fn overdue<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let Some(at) = self.deadline.get().map(tokio::time::Instant::from_std) else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from the server in time")))
    }
}

impl AsyncRead for Timed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.socket).poll_read(cx, buf) {
            Poll::Pending => self.overdue(cx),
            ready => ready,
        }
    }
}

impl AsyncWrite for Timed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.socket).poll_write(cx, bytes) {
            Poll::Pending => self.overdue(cx),
            ready => ready,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Pending => self.overdue(cx),
            ready => ready,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.socket).poll_shutdown(cx) {
            Poll::Pending => self.overdue(cx),
            ready => ready,
        }
    }
}

/// What the client reads and writes.
pub(super) enum Wire {
    /// Plain text, in which no password is given away.
    Plain(Timed, Guard),
    /// TLS, above the deadline, so that handshakes end too.
    Tls(Box<RustlsStream>),
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Plain(stream, guard) => {
                let n_before = buf.filled().len();
                ready!(Pin::new(stream).poll_read(cx, buf))?;
                Poll::Ready(guard.look(&buf.filled()[n_before..]).map_err(io::Error::from))
            }
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Wire::Plain(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Plain(stream, _) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Plain(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        match self {
            Wire::Plain(..) => ChannelBinding::none(),
            Wire::Tls(stream) => stream.channel_binding(),
        }
    }
}
