//! Counts the bytes of a large file while they are read or written.
//!
//! **Invariant:** Ctrl-C ends the work at the next block, not at the end of the file.

use std::io::{self, Read, Write};

use crate::{console::Console, supervise};

const SHOW_EVERY_BYTES: u64 = 16 << 20;

/// A reader or writer whose bytes are shown.
pub(crate) struct Meter<'a, T> {
    inner: T,
    name: String,
    bytes: u64,
    total: u64,
    console: &'a Console,
}

impl<'a, T> Meter<'a, T> {
    pub(crate) fn new(inner: T, name: &str, total: u64, console: &'a Console) -> Self {
        Self { inner, name: name.to_owned(), bytes: 0, total, console }
    }

    fn passed(&mut self, count: usize) {
        let (before, now) = (self.bytes, self.bytes.saturating_add(count as u64));
        if before / SHOW_EVERY_BYTES != now / SHOW_EVERY_BYTES || (now == self.total && count > 0) {
            self.console.download(&self.name, now, Some(self.total), false);
        }
        self.bytes = now;
    }
}

fn go_on() -> io::Result<()> {
    if supervise::interrupted() {
        // `Interrupted` itself means that the call is to be tried again.
        return Err(io::Error::other("interrupted"));
    }
    Ok(())
}

impl<T: Read> Read for Meter<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        go_on()?;
        let count = self.inner.read(buffer)?;
        self.passed(count);
        Ok(count)
    }
}

impl<T: Write> Write for Meter<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        go_on()?;
        let count = self.inner.write(bytes)?;
        self.passed(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
