//! Shows the progress of a download, a few times a second at most.

use std::time::{Duration, Instant};

use crate::console::Console;

const EVERY: Duration = Duration::from_millis(250);

/// The progress of files that are fetched.
pub(crate) struct Progress<'a> {
    console: &'a Console,
    name: String,
    drawn_at: Instant,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(console: &'a Console) -> Self {
        Self { console, name: String::new(), drawn_at: Instant::now() }
    }

    /// `bytes` of `total`, where that is known, of a file are there, or an attempt at it has failed.
    pub(crate) fn seen(&mut self, name: &str, bytes: u64, total: Option<u64>, failed: Option<&str>) {
        if let Some(why) = failed {
            self.console.download_failed(name, why);
        } else if self.name != name || Some(bytes) == total || self.drawn_at.elapsed() >= EVERY {
            let first = self.name != name;
            self.console.download(name, bytes, total, first);
            (self.name, self.drawn_at) = (name.to_owned(), Instant::now());
        }
    }

    pub(crate) fn finish(&self) {
        self.console.clear();
    }
}
