//! Block by block: every delegate and every attention gets the eager model's inputs, and its outputs are compared.
//!
//! The runtime's event tracer shows each value after it was computed and before it is read. It is compared there, and then
//! overwritten with the eager model's, so that the next block is judged on the same input and no block on another's errors.
//!
//! **Invariant:** which value is which follows from the program's instructions (`pte::taps`), never from the numbers.

use std::collections::HashMap;

use model_assets::evidence::{Boundary, BoundaryFigures, Deviation, LayerFigures};
use model_assets::pte::{self, Tap};

use crate::error::{Error, Result};
use crate::measure::reference::{Reference, Values};
use crate::session::Session;

/// One boundary of one layer.
type Pairs = Vec<Deviation>;

/// Runs the reference's text through the program and compares every boundary.
///
/// # Errors
/// When the program's layers cannot be told, are not those of the reference, are not all seen, or the runtime fails.
pub fn measure(session: &mut Session, reference: &Reference) -> Result<Vec<BoundaryFigures>> {
    let taps = taps(session, reference)?;
    let mut seen: Vec<Vec<Pairs>> = Boundary::ALL
        .iter()
        .map(|boundary| {
            let layers = if *boundary == Boundary::Logits { 1 } else { reference.layers };
            (0..layers).map(|_| Pairs::new()).collect()
        })
        .collect();
    session.reset();
    let mut first = 0;
    for count in &reference.calls {
        let mut wrong = None;
        let tokens = reference.tokens.get(first..first + count).unwrap_or_default();
        let mut probe = |tap: Tap, got: &mut [f32]| {
            let Some((kind, layer)) = taps.get(&tap) else { return };
            let (Some(values), Some(pairs)) = (
                reference.boundaries.get(*kind),
                seen.get_mut(*kind).and_then(|layers| layers.get_mut(*layer)),
            ) else {
                return;
            };
            let want = values.of(*layer, first, *count);
            if want.len() == got.len() {
                compare(pairs, values, *layer, first, got);
                got.copy_from_slice(want);
            } else {
                wrong = Some((values.boundary, *layer, got.len(), want.len()));
            }
        };
        let logits = session.probe(tokens, &mut probe)?;
        if let Some((boundary, layer, got, want)) = wrong {
            let what = format!("{} of layer {layer}", boundary.as_str());
            return Err(contract(what, format!("{got} numbers"), format!("the reference's {want}")));
        }
        let last = first + count - 1;
        if let (Some((row, want)), Some(pairs)) =
            (reference.logits_after(last), seen.last_mut().and_then(|layers| layers.first_mut()))
        {
            let at = |sizes: &[f32]| sizes.get(row).copied().map_or(0.0, f64::from);
            let sizes = (at(&reference.logits_noise), at(&reference.logits_floor));
            pairs.push(Deviation::of(logits, want, sizes, place(last)));
        }
        first += count;
    }
    let figures = Boundary::ALL.iter().zip(seen).map(|(boundary, layers)| {
        let wanted =
            if *boundary == Boundary::Logits { reference.calls.len() } else { reference.tokens.len() };
        if let Some(layer) = layers.iter().position(|pairs| pairs.len() != wanted) {
            let got = layers.get(layer).map_or(0, Vec::len);
            let what = format!("{} of layer {layer}", boundary.as_str());
            return Err(contract(what, format!("{got} values"), format!("{wanted}, one per token")));
        }
        let layers = layers.iter().map(|pairs| LayerFigures::of(pairs)).collect();
        Ok(BoundaryFigures { boundary: *boundary, tokens: place(wanted), layers })
    });
    figures.collect()
}

/// Kind and layer by tap.
fn taps(session: &Session, reference: &Reference) -> Result<HashMap<Tap, (usize, usize)>> {
    let layers = pte::taps(&session.model().bytes())
        .map_err(|message| contract("layers of the program", message, "attention over a key/value cache"))?;
    if layers.len() != reference.layers {
        let got = format!("{} layers", layers.len());
        return Err(contract("layers of the program", got, format!("the reference's {}", reference.layers)));
    }
    let all = layers.iter().enumerate().flat_map(|(layer, taps)| {
        let kinds = [taps.residual, taps.query, taps.key, taps.value, taps.attention];
        kinds.into_iter().enumerate().map(move |(kind, tap)| (tap, (kind, layer)))
    });
    Ok(all.collect())
}

/// Compares the tokens of a call, of which `first` is the first.
fn compare(pairs: &mut Pairs, values: &Values, layer: usize, first: usize, got: &[f32]) {
    let count = got.len() / values.width;
    let want = values.of(layer, first, count).chunks_exact(values.width);
    for (index, (got, want)) in got.chunks_exact(values.width).zip(want).enumerate() {
        let token = first + index;
        pairs.push(Deviation::of(got, want, values.sizes_of(layer, token), place(token)));
    }
}

/// A count or a position as evidence has it.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn contract(what: impl ToString, got: impl ToString, expected: impl ToString) -> Error {
    Error::Contract { what: what.to_string(), got: got.to_string(), expected: expected.to_string() }
}
