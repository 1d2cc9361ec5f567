//! `engine check`: the evidence that a model loads, runs and computes what it should.

use std::time::Instant;

use camino::Utf8PathBuf;
use clap::Args;
use engine::measure::parity::{Comparison, floor};
use engine::measure::{blocks, first, reference::Reference};
use engine::runtime::Attention;
use engine::{Record, Session, runtime};
use model_assets::digest::Digest;
use model_assets::evidence::{EngineCheck, Fed, Load, Parity};

use crate::output::{Failed, write_json};
use crate::{ModelArgs, exit};

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Logits of the eager quantized model (safetensors); without it no parity is measured.
    #[arg(long, value_name = "FILE")]
    reference: Option<Utf8PathBuf>,
    /// Instruction set of attention: `portable`, `avx2` or `avx512`; the widest there is unless given.
    #[arg(long, value_name = "NAME")]
    attention: Option<Attention>,
    /// Where the evidence goes.
    #[arg(long, value_name = "FILE")]
    response: Utf8PathBuf,
}

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failed> {
    let unusable = |message| Failed::new(exit::REFERENCE, message);
    let reference = args.reference.as_deref().map(Reference::read).transpose().map_err(unusable)?;
    args.model.set_threads()?;
    if let Some(attention) = args.attention {
        runtime::set_attention(attention).map_err(Failed::model(&args.model.model))?;
    }
    // The tracer changes values only in the measurement of blocks.
    let options = args.model.options(Record::Values)?;
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
            (reference.prompt().len(), reference.tokens.len() - reference.prompt().len(), Some(parity))
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
    let check = EngineCheck {
        runtime: runtime::VERSION.to_owned(),
        pte_sha256: Digest::of(session.model().bytes()).to_string(),
        load: Load {
            load_ms,
            first_prefill_ms,
            prefill_tokens: count_of(prompt),
            decode_tokens: count_of(decode),
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
        let prompt = reference.prompt().len();
        let steps = vec![1; reference.tokens.len() - prompt];
        let whole = [[prompt].as_slice(), &steps].concat();
        let started = Instant::now();
        let prefill_then_decode = self.compare(reference, &whole, Some(started))?;
        Ok(Parity {
            prefill_then_decode,
            chunked_prefill: self.compare(reference, &reference.calls, None)?,
            step_by_step: self.compare(reference, &vec![1; reference.tokens.len()], None)?,
            calls: reference.calls.iter().map(|count| count_of(*count)).collect(),
            // Last: it leaves a cache that the program did not compute.
            blocks: blocks::measure(self.session, reference)?,
        })
    }

    /// Runs the reference's text in calls of these lengths, and compares where logits were recorded.
    fn compare(
        &mut self,
        reference: &Reference,
        calls: &[usize],
        first: Option<Instant>,
    ) -> engine::Result<Fed> {
        let (mut comparison, mut rows) = (Comparison::new(), Vec::new());
        self.session.reset();
        self.session.set_chunk(self.session.model().prefill_max())?;
        let mut rest = reference.tokens.as_slice();
        for count in calls {
            let (piece, after) = rest.split_at((*count).min(rest.len()));
            rest = after;
            let logits = self.session.prefill(piece)?;
            if let Some(started) = first.filter(|_| rows.is_empty()) {
                self.first_prefill_ms = started.elapsed().as_secs_f64() * 1e3;
            }
            self.finite &= logits.iter().all(|logit| logit.is_finite());
            let last = reference.tokens.len() - rest.len() - 1;
            if let Some((row, expected)) = reference.logits_after(last) {
                comparison.add(expected, logits);
                rows.push(row);
            }
        }
        self.finite &= comparison.finite;
        Ok(Fed { run: comparison.finish(), floor: floor(reference, &rows) })
    }
}

fn count_of(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
