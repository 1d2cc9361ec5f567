//! Parity over held-out texts: every token forced, every scored place judged.
//!
//! **Invariant:** the texts are fed as the eager model was fed them, token by token; whether the tokenizer and the
//! template that ship would have given these tokens is a figure of its own.

use model_assets::evidence::Heldout;

use crate::chat::Message;
use crate::decoder::Decoder;
use crate::error::Result;
use crate::measure::parity::{Comparison, max_abs_diff, nll};
use crate::measure::reference::HeldoutTexts;

/// Places per text at which one prefill of all before is compared with the steps.
const PREFILLS: usize = 4;

/// Feeds every text and compares; `encode` is the tokenizer and template that ship.
///
/// # Errors
/// When the runtime fails.
pub fn measure(
    session: &mut dyn Decoder,
    encode: &dyn Fn(&[Message]) -> Result<Vec<u32>>,
    heldout: &HeldoutTexts,
    vocab: usize,
) -> Result<Heldout> {
    let mut run = Run {
        place: 0,
        next: 0,
        row: 0,
        vocab,
        heldout,
        quantized: Comparison::new(),
        fp32: Comparison::new(),
        nll: 0.0,
        prefill_step_diff: 0.0,
    };
    let mut same_tokens = 0;
    for (messages, tokens) in heldout.texts.iter().zip(&heldout.tokens) {
        // A text that was cut to the window still begins with these tokens.
        let own = encode(messages);
        same_tokens += u32::from(own.is_ok_and(|own| own.starts_with(tokens)));
        run.text(session, tokens)?;
    }
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let perplexity = |sum: f64| (sum / heldout.scored.len().max(1) as f64).exp().min(f64::MAX);
    let recorded = |values: &[f32]| perplexity(values.iter().copied().map(f64::from).sum());
    Ok(Heldout {
        texts: count(heldout.texts.len()),
        same_tokens,
        tokens: count(heldout.tokens.iter().map(Vec::len).sum()),
        scored: count(heldout.scored.len()),
        quantized: run.quantized.finish(),
        fp32: run.fp32.finish(),
        perplexity: perplexity(run.nll),
        perplexity_quantized: recorded(&heldout.quantized.nll),
        perplexity_fp32: recorded(&heldout.fp32.nll),
        prefill_step_diff: run.prefill_step_diff,
    })
}

struct Run<'a> {
    /// Tokens of all texts before the one at hand.
    place: usize,
    /// Next scored place and next row, as indices.
    next: usize,
    row: usize,
    vocab: usize,
    heldout: &'a HeldoutTexts,
    quantized: Comparison,
    fp32: Comparison,
    nll: f64,
    prefill_step_diff: f64,
}

impl Run<'_> {
    fn text(&mut self, session: &mut dyn Decoder, tokens: &[u32]) -> Result<()> {
        session.reset();
        let mut kept = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            let logits = session.decode(*token)?;
            if self.heldout.scored.get(self.next) == Some(&(self.place + index)) {
                self.next += 1;
                self.nll += nll(logits, tokens.get(index + 1).copied().unwrap_or(u32::MAX));
                self.compare(self.place + index, logits);
            }
            // Quarters of the text, its end among them.
            if ((index + 1) * PREFILLS).is_multiple_of(tokens.len()) || index + 1 == tokens.len() {
                kept.push((index + 1, logits.to_vec()));
            }
        }
        for (length, steps) in kept {
            session.reset();
            let prefilled = session.prefill(tokens.get(..length).unwrap_or(tokens))?;
            self.prefill_step_diff = self.prefill_step_diff.max(max_abs_diff(&steps, prefilled));
        }
        self.place += tokens.len();
        Ok(())
    }

    fn compare(&mut self, place: usize, logits: &[f32]) {
        if self.heldout.rows.get(self.row) != Some(&place) {
            return;
        }
        let row = |all: &[f32]| all.chunks_exact(self.vocab).nth(self.row).map(<[f32]>::to_vec);
        let (quantized, fp32) = (row(&self.heldout.quantized.logits), row(&self.heldout.fp32.logits));
        self.quantized.add(&quantized.unwrap_or_default(), logits);
        self.fp32.add(&fp32.unwrap_or_default(), logits);
        self.row += 1;
    }
}
