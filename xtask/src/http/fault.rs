//! Why a download stopped, and whether to try again.

use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::{
    exit::{Exit, Failure},
    predict,
    supervise::interrupted,
};

/// What helps when the disk is full.
pub(crate) const DISK_HINT: &str =
    "free space on this disk, then run the command again; what has arrived is kept";

/// Why one attempt failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The server demands an accepted licence or a token.
    Access { error: anyhow::Error, hint: String },
    /// Trying again changes nothing.
    Fatal { error: anyhow::Error, hint: Option<String> },
    /// May pass: cut connections, timeouts, busy servers.
    Passing { error: anyhow::Error, wait: Option<Duration> },
    /// Ctrl-C.
    Interrupted,
}

impl Fault {
    pub(crate) fn fatal(error: anyhow::Error) -> Self {
        Self::Fatal { error, hint: None }
    }

    pub(crate) fn passing(error: anyhow::Error) -> Self {
        Self::Passing { error, wait: None }
    }

    /// As an error of the command, which `again` runs once more.
    pub(crate) fn into_failure(self, again: &str) -> Failure {
        match self {
            Self::Access { error, hint } => Failure::new(Exit::Access, error, hint),
            Self::Fatal { error, hint } => {
                let hint = hint.or_else(|| predict::is_disk_full(&error).then(|| DISK_HINT.to_owned()));
                Failure::new(Exit::Fetch, error, hint.unwrap_or_else(|| format!("run: {again}")))
            }
            Self::Passing { error, .. } => Failure::new(Exit::Fetch, error, format!("run: {again}")),
            Self::Interrupted => {
                let hint = format!("what has arrived is kept; go on with: {again}");
                Failure::new(Exit::Interrupted, anyhow!("interrupted"), hint)
            }
        }
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::fatal(error)
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::fatal(error.into())
    }
}

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Between two bytes; also the window of the rate floor.
    pub(crate) stall: Duration,
    /// Failed attempts in a row.
    pub(crate) attempts_max: u32,
    /// Before the second attempt; doubled before each further one.
    pub(crate) backoff: Duration,
    /// The longest `Retry-After` that is honoured.
    pub(crate) retry_after_max: Duration,
}

const BACKOFF_MAX: Duration = Duration::from_secs(30);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);

impl Patience {
    pub(crate) fn new(stall: Duration, attempts_max: u32) -> Self {
        // A rehearsal of failures with a short stall timeout does not want to wait for the real backoff either.
        let backoff = Duration::from_secs(1).min(stall);
        Self { stall, attempts_max, backoff, retry_after_max: RETRY_AFTER_MAX }
    }
}

/// The attempts at one thing.
pub(crate) struct Attempts {
    failures: u32,
}

impl Attempts {
    pub(crate) fn new() -> Self {
        Self { failures: 0 }
    }

    /// Waits before the next attempt, or returns why there is none. An attempt that brought something counts anew.
    pub(crate) fn next(
        &mut self,
        fault: Fault,
        progressed: bool,
        patience: &Patience,
    ) -> Result<String, Fault> {
        let Fault::Passing { error, wait } = fault else { return Err(fault) };
        self.failures = if progressed { 1 } else { self.failures + 1 };
        if self.failures >= patience.attempts_max {
            return Err(Fault::passing(error.context(format!("gave up after {} attempts", self.failures))));
        }
        if let Some(wait) = wait.filter(|wait| *wait > patience.retry_after_max) {
            let max = patience.retry_after_max.as_secs();
            let text = format!("the server asks to wait {} s, expected at most {max}", wait.as_secs());
            return Err(Fault::passing(error.context(text)));
        }
        let doubled = patience.backoff.saturating_mul(1 << (self.failures - 1).min(10)).min(BACKOFF_MAX);
        let wait = wait.unwrap_or(doubled);
        sleep(wait)?;
        Ok(format!("{error:#}; tried again after {:.1} s", wait.as_secs_f32()))
    }
}

/// Sleeps, unless interrupted.
fn sleep(time: Duration) -> Result<(), Fault> {
    let start = Instant::now();
    while start.elapsed() < time {
        if interrupted() {
            return Err(Fault::Interrupted);
        }
        std::thread::sleep(POLL.min(time.saturating_sub(start.elapsed())));
    }
    Ok(())
}
