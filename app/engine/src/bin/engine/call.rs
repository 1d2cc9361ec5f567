//! `engine call`: programs of any signature, run once on made-up inputs.
//!
//! Takes one file per input line and answers one JSON line per file, as `engine run --stdin-loop` does: a file that
//! takes the process down ends the loop at its line.

use std::io::BufRead;

use camino::Utf8Path;
use engine::ModelBytes;
use model_assets::digest::Digest;
use serde::Serialize;

use crate::exit;
use crate::output::{Failed, print_json};

/// What came of one file.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Ran { model: &'a Utf8Path, outputs_sha256: String },
    Refused { model: &'a Utf8Path, error: String },
}

pub(crate) fn run() -> Result<(), Failed> {
    // One: a study compares digests, and starts a process for each crash.
    engine::runtime::set_threads(1).map_err(|error| Failed::from_engine(exit::RUN, "", error))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Failed::new(exit::RUN, format!("standard input: {e}")))?;
        let model = Utf8Path::new(&line);
        let outputs = ModelBytes::open(model).and_then(engine::call);
        print_json(&match outputs {
            Ok(bytes) => Answer::Ran { model, outputs_sha256: Digest::of(&bytes).to_string() },
            Err(error) => Answer::Refused { model, error: error.to_string() },
        })?;
    }
    Ok(())
}
