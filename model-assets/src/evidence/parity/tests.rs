//! What is measured, judged and named.

use super::*;

fn layer(off: u32, steps: f64) -> LayerFigures {
    let (median, gain, floor, noise, largest) = (1e-7, 0.0, 2e-7, 1e-2, 1e-2);
    LayerFigures { median, gain, floor, noise, largest, steps, off, token: 5 }
}

fn parity() -> Parity {
    let fed = Fed {
        run: ParityRun { rows: 3, max_abs_diff: 0.0, mean_abs_diff: 0.0, mean_kl: 0.0, top1_agreement: 1.0 },
        floor: Floor { mean_kl: 0.0, standard_error: 0.0, max_abs_diff: 0.0 },
    };
    let blocks = Boundary::ALL.map(|boundary| match boundary {
        Boundary::Logits => BoundaryFigures { boundary, tokens: 4, layers: vec![layer(0, 0.0)] },
        _ => BoundaryFigures { boundary, tokens: 10, layers: vec![layer(0, 0.0); 4] },
    });
    Parity {
        calls: vec![5, 3, 1, 1],
        blocks: blocks.into(),
        prefill_then_decode: fed.clone(),
        chunked_prefill: fed.clone(),
        step_by_step: fed,
    }
}

#[test]
fn an_error_is_relative_to_the_value_and_what_is_no_number_errs_most() {
    let want = [3.0, 4.0];
    let it = Deviation::of(&[3.3, 4.4], &want, (0.5, 0.05), 7);
    assert!((it.error - 0.1).abs() < 1e-7 && (it.gain - 0.1).abs() < 1e-7, "{it:?}");
    assert_eq!((it.noise, it.floor, it.token), (0.1, 0.01, 7));
    let across = Deviation::of(&[3.4, 3.7], &want, (0.0, 0.0), 0);
    assert!((across.error - 0.1).abs() < 1e-7 && across.gain.abs() < 1e-7, "{across:?}");
    assert_eq!(Deviation::of(&[0.0; 2], &[0.0; 2], (0.0, 0.0), 0).error, 0.0);
    for bad in [f32::NAN, f32::INFINITY] {
        assert!(Deviation::of(&[bad, 4.0], &want, (0.5, 0.05), 0).error >= f64::MAX);
    }
    assert!(Deviation::of(&[1.0], &[0.0], (0.0, 0.0), 0).error >= f64::MAX);
}

#[test]
fn a_layer_is_judged_by_rounding_by_the_floor_and_by_the_noise() {
    let of = |errors: &[f64], gain: f64, noise: f64, floor: f64| {
        let tokens = 0..u32::try_from(errors.len()).unwrap();
        let all = errors.iter().zip(tokens);
        let all: Vec<_> =
            all.map(|(error, token)| Deviation { error: *error, gain, noise, floor, token }).collect();
        LayerFigures::of(&all)
    };
    let holds = |it: &LayerFigures| it.holds(5);
    // Nothing is quantized: rounding alone.
    let it = of(&[ROUNDING, 1e-7, 1e-7, 2.3e-5, 0.0], 0.0, 0.0, 0.0);
    assert!(holds(&it) && (it.off, it.token) == (1, 3) && (it.steps - 2.0).abs() < 1e-9, "{it:?}");
    assert!(!holds(&of(&[5e-5, 0.0, 0.0, 0.0, 0.0], 0.0, 0.0, 0.0)));
    // One row of int8: rounding, and a code that flips.
    let it = of(&[1e-7, 2e-7, 2e-2 + ROUNDING, 1e-7, 3e-7], 0.0, 1e-2, 3e-7);
    assert!(holds(&it) && (it.off, it.token) == (1, 2) && (it.steps - 2.0).abs() < 1e-9, "{it:?}");
    assert!(!holds(&of(&[1e-7, 2e-7, 5e-2, 1e-7, 3e-7], 0.0, 1e-2, 3e-7)), "more than a step");
    assert!(!holds(&of(&[1e-5, 1e-5, 1e-5, 1e-7, 3e-7], 0.0, 1e-2, 3e-7)), "most tokens");
    // Two rows: as much as the eager block with rounding errs.
    let it = of(&[1e-4, 2e-4, 3.9e-4, 3e-4, 1e-4], 1e-5, 1e-3, 2e-4);
    assert!(holds(&it) && it.off == 0, "{it:?}");
    assert!(!holds(&of(&[4.2e-4; 5], 0.0, 1e-3, 2e-4)), "more than twice that");
    assert!(!holds(&of(&[2e-4; 5], -1.5e-4, 1e-3, 2e-4)), "every value too small");
    assert!(!holds(&of(&[f64::MAX; 5], f64::MAX, 1e-2, 1e-3)));
    assert!(!LayerFigures::of(&[]).holds(0), "no values");
}

#[test]
fn the_first_block_that_diverges_is_named_with_its_operators() {
    let with = |changes: &[(usize, usize)]| {
        let mut parity = parity();
        changes.iter().for_each(|(kind, at)| parity.blocks[*kind].layers[*at] = layer(5, 1.0));
        parity.divergence()
    };
    assert_eq!(with(&[]), None);
    let named = |changes: &[(usize, usize)], place: &str, operator: &str| {
        let it = with(changes).unwrap();
        assert!(it.place == place && it.got.contains(operator), "{it:?}");
    };
    named(&[(1, 2), (0, 3)], "layer 2, token 5, query", "the query projection");
    named(&[(1, 2), (2, 2)], "layer 2, token 5, query", "rope");
    named(&[(1, 0), (2, 0), (3, 0)], "layer 0, token 5, query", "first norm");
    named(&[(3, 1), (0, 2)], "layer 1, token 5, value", "value projection");
    named(&[(4, 3)], "layer 3, token 5, attention", "the cache");
    named(&[(0, 0)], "layer 0, token 5, residual", "the embedding");
    named(&[(0, 1), (1, 1)], "layer 1, token 5, residual", "the layer before");
    named(&[(5, 0)], "after the last layer, token 5, logits", "the head");
}

#[test]
fn a_layer_fails_by_its_median_or_its_worst_token_and_a_kind_by_its_share() {
    let with = |change: &dyn Fn(&mut Parity)| {
        let mut parity = parity();
        change(&mut parity);
        parity.divergence().map(|it| it.place)
    };
    assert_eq!(with(&|it| it.blocks[1].layers[0] = layer(1, 3.4)), None);
    assert_eq!(with(&|it| it.blocks[1].layers[0] = layer(1, f64::NAN)).unwrap(), "layer 0, token 5, query");
    assert_eq!(with(&|it| it.blocks[1].layers[0] = layer(1, 7.0)).unwrap(), "layer 0, token 5, query");
    assert_eq!(with(&|it| it.blocks[2].layers = vec![layer(3, 1.0); 4]).unwrap(), "all layers, key");
}

#[test]
fn what_was_not_compared_is_no_parity() {
    let complete = |change: &dyn Fn(&mut Parity)| {
        let mut parity = parity();
        change(&mut parity);
        parity.is_complete(4)
    };
    assert!(complete(&|_| ()));
    assert!(!complete(&|it| it.blocks.truncate(5)));
    assert!(!complete(&|it| it.blocks[1].layers.truncate(3)));
    assert!(!complete(&|it| it.blocks[3].tokens = 9));
    assert!(!complete(&|it| it.blocks[5].tokens = 3));
    assert!(!complete(&|it| it.calls = vec![8, 1, 1]), "no position past the end of a call");
    assert!(!complete(&|it| it.calls = vec![5, 5]), "no single step");
}

#[test]
fn the_floor_bounds_what_is_quantized_and_what_is_not() {
    let floor = |mean_kl, standard_error, max_abs_diff| Floor { mean_kl, standard_error, max_abs_diff };
    assert!((floor(0.0, 0.0, 0.0).kl_max() - 1e-9).abs() < 1e-15);
    assert!((floor(0.02, 0.002, 4.0).kl_max() - 0.036).abs() < 1e-12);
    assert!((floor(0.0, 0.0, 0.0).diff_max() - 1e-3).abs() < 1e-12);
    assert!(floor(f64::NAN, 0.0, 0.0).kl_max() < 1e-8, "no floor: as if nothing were quantized");
}
