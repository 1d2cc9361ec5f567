//! `engine check`: the evidence that a model loads, runs and computes what it should.

use std::time::Instant;

use camino::Utf8PathBuf;
use clap::Args;
use engine::{Session, runtime};
use model_assets::digest::Digest;
use model_assets::evidence::{EngineCheck, Load, Parity};

use crate::output::{Failed, write_json};
use crate::parity::Comparison;
use crate::reference::Reference;
use crate::writer::Writer;
use crate::{ModelArgs, exit, heldout};

/// Tokens of the run that needs no reference.
const SYNTHETIC_PROMPT_TOKENS: usize = 16;
const SYNTHETIC_DECODE_TOKENS: usize = 8;

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Logits of the eager quantized model (safetensors); without it no parity is measured.
    #[arg(long, value_name = "FILE")]
    reference: Option<Utf8PathBuf>,
    /// The tokenizer that ships with the model; held-out texts need it.
    #[arg(long, value_name = "FILE", requires = "template")]
    tokenizer: Option<Utf8PathBuf>,
    /// The chat template that ships with the model.
    #[arg(long, value_name = "FILE", requires = "tokenizer")]
    template: Option<Utf8PathBuf>,
    /// Where the evidence goes.
    #[arg(long, value_name = "FILE")]
    response: Utf8PathBuf,
}

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failed> {
    let reference = args.reference.as_deref().map(Reference::read).transpose()?;
    args.model.set_threads()?;
    let options = args.model.options(false)?;
    let opened = Instant::now();
    let mut session = crate::load(&args.model.model, &options)?;
    let load_ms = opened.elapsed().as_secs_f64() * 1e3;

    let mut runner = Runner { session: &mut session, finite: true, first_prefill_ms: 0.0 };
    let failed = Failed::run(&args.model.model);
    let (prompt, decode, parity) = match &reference {
        Some(reference) => {
            runner.fits(reference)?;
            let mut parity = runner.parity(reference).map_err(&failed)?;
            if let (Some(texts), Some(tokenizer), Some(template)) =
                (&reference.heldout, &args.tokenizer, &args.template)
            {
                let writer = Writer::open(runner.session.model(), tokenizer, template)?;
                let heldout = heldout::measure(runner.session, &writer, texts, reference.vocab);
                parity.heldout = Some(heldout.map_err(&failed)?);
            }
            (reference.prompt.len(), reference.decode.len(), Some(parity))
        }
        None => {
            let (prompt, decode) = runner.synthetic().map_err(&failed)?;
            (prompt, decode, None)
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
    /// A reference of another model is a mistake in the call, not a failure of the model.
    fn fits(&self, reference: &Reference) -> Result<(), Failed> {
        let model = self.session.model();
        let wrong = |message: String| Err(Failed::new(exit::REFERENCE, format!("reference: {message}")));
        let tokens = reference.prompt.len() + reference.decode.len();
        if reference.vocab != model.vocab() as usize {
            return wrong(format!(
                "got rows of {} logits, expected the model's {}",
                reference.vocab,
                model.vocab()
            ));
        }
        let foreign = |token: &&u32| **token >= model.vocab();
        let texts = reference.heldout.iter().flat_map(|heldout| &heldout.tokens);
        if let Some(text) = texts.clone().find(|text| text.len() > model.context()) {
            return wrong(format!(
                "got a text of {} tokens, expected at most {}",
                text.len(),
                model.context()
            ));
        }
        let mut all = reference.prompt.iter().chain(&reference.decode).chain(texts.flatten());
        if let Some(token) = all.find(foreign) {
            return wrong(format!("got token {token}, expected less than {}", model.vocab()));
        }
        if reference.prompt.len() > model.prefill_max() || tokens > model.context() {
            return wrong(format!(
                "got {} prompt tokens and {tokens} in all, expected at most {} and {}",
                reference.prompt.len(),
                model.prefill_max(),
                model.context()
            ));
        }
        Ok(())
    }

    fn parity(&mut self, reference: &Reference) -> engine::Result<Parity> {
        let whole = [reference.prompt.len()];
        let started = Instant::now();
        let prefill_then_decode = self.compare(reference, &whole, Some(started))?;
        Ok(Parity {
            prefill_then_decode,
            chunked_prefill: self.compare(reference, &[1, 2, 3, 5, 8, 13, 21, 34, 55, 89], None)?,
            step_by_step: self.compare(reference, &[1], None)?,
            heldout: None,
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

    /// A run without reference: tokens spread over the vocabulary, then greedy ones.
    fn synthetic(&mut self) -> engine::Result<(usize, usize)> {
        let model = self.session.model();
        let prompt = SYNTHETIC_PROMPT_TOKENS.min(model.prefill_max()).min(model.context() / 2);
        let decode = SYNTHETIC_DECODE_TOKENS.min(model.context() - prompt);
        let tokens = spread(prompt, model.vocab());
        self.session.set_chunk(prompt)?;
        let started = Instant::now();
        let mut logits = self.session.prefill(&tokens)?;
        self.first_prefill_ms = started.elapsed().as_secs_f64() * 1e3;
        for _ in 0..decode {
            self.finite &= logits.iter().all(|logit| logit.is_finite());
            // Without a finite logit any token will do: the verdict is already in.
            let token = engine::sample::greedy(logits).unwrap_or(0);
            logits = self.session.decode(token)?;
        }
        self.finite &= logits.iter().all(|logit| logit.is_finite());
        Ok((prompt, decode))
    }
}

/// `count` token ids spread over a vocabulary.
pub(crate) fn spread(count: usize, vocab: u32) -> Vec<u32> {
    // An odd multiplier close to the golden ratio of 2^32 scatters consecutive numbers.
    (1..=count as u64).map(|i| (i.wrapping_mul(2_654_435_761) % u64::from(vocab)) as u32).collect()
}
