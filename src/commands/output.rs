//! What commands that print much have in common: an output with a buffer, and a reader who may go.

use crate::exit::{ExitCode, Stop};
use crate::source::SourceFault;
use crate::startup::NotStarted;
use anstyle::{AnsiColor, Style};
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

/// What is as it should be.
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What somebody should look at.
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What is worth knowing.
pub(super) const NOTE: Style = AnsiColor::Cyan.on_default();
/// The names of columns.
pub(super) const HEADING: Style = Style::new().bold();

/// Why there is no more to do.
pub(super) enum Halt {
    /// Nobody reads any more (a closed pipe): that is an ordinary end.
    ReaderGone,
    Stop(Stop),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Halt::Stop(stop)
    }
}

impl From<SourceFault> for Halt {
    fn from(fault: SourceFault) -> Self {
        Halt::Stop(fault.into())
    }
}

impl From<NotStarted> for Halt {
    fn from(not_started: NotStarted) -> Self {
        match not_started {
            NotStarted::Stop(stop) => Halt::Stop(stop),
            NotStarted::Asked => unreachable!("nobody triggers a one-shot command's shutdown"),
        }
    }
}

/// Results go there.
pub(super) fn stdout() -> Result<BufWriter<File>, Stop> {
    let out = duplicate(io::stdout().as_fd()).map_err(|error| stdout_failed(&error))?;
    Ok(BufWriter::new(out))
}

/// The standard streams of the library are buffered by the line; these are not buffered at all.
pub(super) fn duplicate(stream: BorrowedFd<'_>) -> io::Result<File> {
    Ok(File::from(stream.try_clone_to_owned()?))
}

/// Why something could not be written.
pub(super) fn halt(error: io::Error) -> Halt {
    match error.kind() {
        ErrorKind::BrokenPipe => Halt::ReaderGone,
        _ => Halt::Stop(stdout_failed(&error)),
    }
}

fn stdout_failed(error: &io::Error) -> Stop {
    Stop::new(ExitCode::Corruption, format!("writing to stdout: {error}"))
}
