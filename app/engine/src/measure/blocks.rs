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

/// What is known of one value.
struct Pair {
    deviation: Deviation,
    noise: f64,
    token: usize,
}

/// One boundary of one layer.
type Pairs = Vec<Pair>;

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
            let noise = reference.logits_noise.get(row).map_or(0.0, |noise| f64::from(*noise));
            pairs.push(pair(logits, want, noise, last));
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
        let tokens = u32::try_from(wanted).unwrap_or(u32::MAX);
        Ok(BoundaryFigures { boundary: *boundary, tokens, layers: layers.iter().map(figures).collect() })
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
        pairs.push(pair(got, want, values.noise_of(layer, token), token));
    }
}

fn pair(got: &[f32], want: &[f32], noise: f64, token: usize) -> Pair {
    let size = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>().sqrt();
    let error = size(&mut got.iter().zip(want).map(|(got, want)| f64::from(*got) - f64::from(*want)));
    let norm = size(&mut want.iter().map(|want| f64::from(*want)));
    // As JSON can have it: a share of the norm.
    let share = if norm > 0.0 { noise / norm } else { 0.0 };
    Pair { deviation: Deviation::of(error, norm, noise), noise: share, token }
}

fn figures(pairs: &Pairs) -> LayerFigures {
    let median = |figure: &dyn Fn(&Pair) -> f64| {
        let mut all: Vec<_> = pairs.iter().map(figure).collect();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::MAX)
    };
    let most = |figure: &dyn Fn(&Pair) -> f64| pairs.iter().map(figure).fold(0.0, f64::max);
    let worst = pairs.iter().max_by(|a, b| {
        let key = |it: &Pair| (it.deviation.steps, it.deviation.relative);
        key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal)
    });
    LayerFigures {
        median: median(&|it| it.deviation.relative),
        noise: median(&|it| it.noise),
        largest: most(&|it| it.deviation.relative),
        steps: most(&|it| it.deviation.steps),
        off: u32::try_from(pairs.iter().filter(|it| it.deviation.off).count()).unwrap_or(u32::MAX),
        token: worst.map_or(0, |it| u32::try_from(it.token).unwrap_or(u32::MAX)),
    }
}

fn contract(what: impl ToString, got: impl ToString, expected: impl ToString) -> Error {
    Error::Contract { what: what.to_string(), got: got.to_string(), expected: expected.to_string() }
}
