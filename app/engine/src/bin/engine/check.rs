//! `engine check`: the evidence that a model loads, runs and computes what it should.

use std::time::Instant;

use camino::Utf8PathBuf;
use clap::Args;
use engine::measure::{first, parity::Comparison, reference::Reference};
use engine::{Session, runtime};
use model_assets::digest::Digest;
use model_assets::evidence::{EngineCheck, Load, Parity};

use crate::output::{Failed, write_json};
use crate::{ModelArgs, exit};

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Logits of the eager quantized model (safetensors); without it no parity is measured.
    #[arg(long, value_name = "FILE")]
    reference: Option<Utf8PathBuf>,
    /// Where the evidence goes.
    #[arg(long, value_name = "FILE")]
    response: Utf8PathBuf,
}

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failed> {
    let unusable = |message| Failed::new(exit::REFERENCE, message);
    let reference = args.reference.as_deref().map(Reference::read).transpose().map_err(unusable)?;
    args.model.set_threads()?;
    let options = args.model.options(false)?;
    let opened = Instant::now();
    let mut session = crate::load(&args.model.model, &options)?;
    let load_ms = opened.elapsed().as_secs_f64() * 1e3;

    let mut runner = Runner { session: &mut session, finite: true, first_prefill_ms: 0.0 };
    let failed = Failed::run(&args.model.model);
    let (prompt, decode, parity) = match &reference {
        Some(reference) => {
            let model = runner.session.model();
            let fits = reference.fits(model.vocab(), model.context(), model.prefill_max());
            fits.map_err(|message| unusable(format!("reference: {message}")))?;
            let parity = runner.parity(reference).map_err(&failed)?;
            (reference.prompt.len(), reference.decode.len(), Some(parity))
        }
        None => {
            let run = first::run(runner.session).map_err(&failed)?;
            (runner.finite, runner.first_prefill_ms) = (run.finite, run.first_prefill_ms);
            (run.prompt, run.decode, None)
        }
    };
    let (finite, first_prefill_ms) = (runner.finite, runner.first_prefill_ms);
    let peak_rss_bytes = runtime::peak_rss_bytes()
        .ok_or_else(|| Failed::new(exit::RUN, "peak memory: the system does not tell it"))?;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let check = EngineCheck {
        runtime: runtime::VERSION.to_owned(),
        pte_sha256: Digest::of(session.model().bytes()).to_string(),
        load: Load {
            load_ms,
            first_prefill_ms,
            prefill_tokens: count(prompt),
            decode_tokens: count(decode),
            finite,
            peak_rss_bytes,
        },
        parity,
    };
    write_json(&args.response, &check)
}

struct Runner<'a> {
    session: &'a mut Session,
    finite: bool,
    first_prefill_ms: f64,
}

impl Runner<'_> {
    fn parity(&mut self, reference: &Reference) -> engine::Result<Parity> {
        let whole = [reference.prompt.len()];
        let started = Instant::now();
        let prefill_then_decode = self.compare(reference, &whole, Some(started))?;
        Ok(Parity {
            prefill_then_decode,
            chunked_prefill: self.compare(reference, &[1, 2, 3, 5, 8, 13, 21, 34, 55, 89], None)?,
            step_by_step: self.compare(reference, &[1], None)?,
        })
    }

    /// Runs the reference's tokens, the prompt in pieces of the given lengths (repeating), and compares.
    fn compare(
        &mut self,
        reference: &Reference,
        lengths: &[usize],
        first: Option<Instant>,
    ) -> engine::Result<model_assets::evidence::ParityRun> {
        let mut comparison = Comparison::new();
        let mut rows = reference.rows();
        self.session.reset();
        self.session.set_chunk(self.session.model().prefill_max())?;
        let mut rest = reference.prompt.as_slice();
        for length in lengths.iter().copied().cycle() {
            let (piece, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            let logits = self.session.prefill(piece)?;
            if let Some(started) = first {
                self.first_prefill_ms = started.elapsed().as_secs_f64() * 1e3;
            }
            self.finite &= logits.iter().all(|logit| logit.is_finite());
            if rest.is_empty() {
                comparison.add(rows.next().unwrap_or_default(), logits);
                break;
            }
        }
        for (token, row) in reference.decode.iter().zip(rows) {
            comparison.add(row, self.session.decode(*token)?);
        }
        self.finite &= comparison.finite;
        Ok(comparison.finish())
    }
}
