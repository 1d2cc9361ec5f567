//! How a command ends: its exit code, and the error and hint that it prints.

use model_assets::dir::GateError;

/// One row per code: number, name, meaning. The table in `docs/commands.md` is written from it.
macro_rules! exit_codes {
    ($($code:literal $name:ident $meaning:literal)*) => {
        /// The exit codes of `cargo xtask`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Exit {
            $(#[doc = $meaning] $name = $code,)*
        }

        impl Exit {
            /// Every code, by number.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            pub(crate) fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

exit_codes! {
    0   Success     "success"
    1   Failure     "a failure without a code of its own"
    2   Usage       "wrong command line"
    3   Setup       "the set-up (venv, packages, SDK) could not be made"
    4   Export      "the export was refused (one attempt), or failed twice because of the machine; nothing was published"
    5   Refused     "the model was refused"
    6   Tests       "tests failed, or a linter found faults"
    7   Doctor      "`doctor` found something missing"
    8   Unsupported "`inspect` was given something that holds no model to judge"
    9   Different   "`diff` found differences"
    20  Fetch       "the checkpoint could not be fetched, or is not the promised one"
    21  Access      "the hub demands an accepted licence or a token"
    22  Gh          "the GitHub CLI is missing, too old, or knows no repository"
    23  GhAccess    "the GitHub CLI is not logged in, or lacks a permission"
    24  Run         "the run on GitHub failed"
    25  Signature   "a signature is missing, or a release does not accept it"
    26  Licence     "something that the model's licence demands is missing"
    30  MobileTools "a tool or SDK that a mobile build needs is not installed"
    31  MobileBuild "a mobile build failed"
    32  MobileRun   "on ARM64 the model computes something else than on this machine"
    130 Interrupted "interrupted by Ctrl-C or SIGTERM"
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

/// An error with its exit code and the command that fixes it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Exit,
    pub(crate) error: anyhow::Error,
    pub(crate) hint: Option<String>,
}

/// What every command returns.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    pub(crate) fn new(code: Exit, error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self { code, error: error.into(), hint: Some(hint.into()) }
    }

    /// The error alone, for a caller that has its own code and hint.
    pub(crate) fn into_error(self) -> anyhow::Error {
        self.error
    }

    /// Prints error and hint to standard error, and returns the exit code.
    pub(crate) fn report(self) -> Exit {
        let Self { code, error, hint } = self;
        eprintln!("error: {error:#}");
        if let Some(hint) = hint {
            eprintln!("hint: {hint}");
        }
        code
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: Exit::Failure, error: error.into(), hint: None }
    }
}

/// The failure of a command that a model, or a file of its claim, was refused by.
pub(crate) fn refused(error: impl Into<GateError>) -> Failure {
    let error = error.into();
    let hint = error.hint().to_owned();
    Failure::new(Exit::Refused, error, hint)
}

/// Ends the process: flags that contradict each other are refused, not ignored.
pub(crate) fn usage(message: &str) -> ! {
    eprintln!("error: {message}\n\nFor more information, try '--help'.");
    std::process::exit((Exit::Usage as u8).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_wrong_command_lines_have_the_one_of_clap() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| *exit as u8).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        let clap =
            clap::error::Error::<clap::error::DefaultFormatter>::new(clap::error::ErrorKind::UnknownArgument);
        assert_eq!(clap.exit_code(), i32::from(Exit::Usage as u8));
    }
}
