//! What is measured, judged and named.

use super::*;

fn layer(off: u32, steps: f64) -> LayerFigures {
    LayerFigures { median: 1e-7, noise: 1e-2, largest: 1e-2, steps, off, token: 5 }
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
fn an_error_is_measured_against_rounding_and_noise() {
    let of = Deviation::of;
    assert_eq!(of(0.0, 0.0, 0.0), Deviation { relative: 0.0, steps: 0.0, off: false });
    assert!(!of(ROUNDING, 1.0, 0.0).off && of(1e-5, 1.0, 0.0).off, "nothing is quantized: rounding alone");
    assert!(!of(9e-5, 1.0, 1e-2).off && of(2e-4, 1.0, 1e-2).off, "one row of int8: a flipped code shows");
    assert!(!of(5e-5, 1.0, 2e-4).off && of(7e-5, 1.0, 2e-4).off, "two rows: a part of their own noise");
    assert!((of(1e-2 + ROUNDING, 1.0, 5e-3).steps - 2.0).abs() < 1e-9);
    for bad in [f64::NAN, f64::INFINITY] {
        let it = of(bad, 1.0, 1e-2);
        assert!(it.off && it.steps >= f64::MAX && it.relative >= f64::MAX, "{it:?}");
    }
    assert!(of(1.0, 0.0, 0.0).steps >= f64::MAX && of(f64::MAX, f64::MAX, 0.0).off);
    assert!((of(2.3e-5, 1.0, 0.0).steps - 2.0).abs() < 1e-9, "no noise: in units of the grain");
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
