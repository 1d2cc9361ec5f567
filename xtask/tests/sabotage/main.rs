//! Sabotage of the model itself: real bytes of an exported model are changed, every digest is put right again, and the
//! engine measures the result against the honest reference. Each must be refused, and the message must name the block.
//!
//! Needs `cargo xtask export` first, as `cargo xtask test` does; a missing model fails these tests. The same on a trained
//! model: `cargo xtask export smollm2-135m`, then `cargo test -p xtask --test sabotage -- --ignored --nocapture`.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

mod model;

use std::fmt::Write as _;

use self::model::{Matrix, Model};

const TINY: &str = "tiny";
const TRAINED: &str = "smollm2-135m";

/// What a mistake is called, how it is made, and which layer (of the middle one, `m`) and boundary must be named.
struct Sabotage {
    name: &'static str,
    spoil: fn(&mut Model, usize),
    place: fn(usize) -> String,
    boundary: &'static str,
    points_to: &'static str,
}

fn at_layer(layer: usize) -> String {
    format!("evidence-parity: layer {layer}, ")
}

const SABOTAGES: [Sabotage; 9] = [
    Sabotage {
        name: "swapped layers",
        spoil: swap_layers,
        place: at_layer,
        boundary: "residual",
        points_to: "the layer before",
    },
    Sabotage {
        name: "wrong rope base",
        spoil: rope_base,
        place: |_| at_layer(0),
        boundary: "query",
        points_to: "rope",
    },
    Sabotage {
        name: "positions off by one",
        spoil: |model, _| {
            // Position 0 twice, then 1, 2, …: as when positions are counted before the first token.
            for (at, length) in model.rope() {
                let row = length / model.window();
                model.bytes.copy_within(at..at + length - row, at + row);
            }
        },
        place: |_| at_layer(0),
        boundary: "query",
        points_to: "rope",
    },
    Sabotage {
        name: "a scale doubled in one row",
        spoil: |model, layer| {
            let (_, scale) = model.rows(layer, Matrix::Key)[5];
            model.floats((scale, 4), |_, scale| 2.0 * scale);
        },
        place: at_layer,
        boundary: "key",
        points_to: "the key projection",
    },
    Sabotage {
        name: "one weight row zeroed",
        spoil: |model, layer| {
            let ((at, length), _) = model.rows(layer, Matrix::Value)[7];
            model.bytes[at..at + length].fill(0);
        },
        place: at_layer,
        boundary: "value",
        points_to: "the value projection",
    },
    Sabotage {
        name: "wrong norm epsilon",
        spoil: norm_epsilon,
        place: |_| at_layer(0),
        boundary: "query",
        points_to: "first norm",
    },
    Sabotage {
        name: "a transposed head",
        spoil: transpose_head,
        place: at_layer,
        boundary: "query",
        points_to: "the query projection",
    },
    Sabotage {
        name: "a dropped residual",
        spoil: |model, layer| model.drop_residual(layer),
        place: at_layer,
        boundary: "residual",
        points_to: "a residual sum",
    },
    Sabotage {
        name: "stale cache entries",
        spoil: |model, layer| model.stale_cache(layer),
        place: at_layer,
        boundary: "attention",
        points_to: "the cache",
    },
];

/// The middle delegate's weights and the next one's change places: the rest of one layer and the beginning of the next.
fn swap_layers(model: &mut Model, layer: usize) {
    let (first, second) = (model.constants(layer), model.constants(layer + 1));
    let mut swapped = 0;
    for ((place, (a, length)), (other, (b, same))) in first.into_iter().zip(second) {
        assert_eq!((&place, length), (&other, same));
        // What all layers share (the rotation, the row of the mean) has one place.
        if a != b {
            (0..length).for_each(|index| model.bytes.swap(a + index, b + index));
            swapped += 1;
        }
    }
    assert!(swapped >= 14, "swapped {swapped} constants, expected seven matrices with their scales");
}

fn rope_base(model: &mut Model, _: usize) {
    let [cos, sin] = model.rope();
    let (width, base) =
        (model.claim.recipe.architecture.head_dim as usize, model.claim.recipe.architecture.rope_theta);
    let angle = |index: usize, base: f64| {
        let (position, column) = (index / width, index % (width / 2));
        position as f64 / base.powf(2.0 * column as f64 / width as f64)
    };
    // With the honest base this writes what is there: the change is the base alone.
    let there = f32::from_le_bytes(model.bytes[cos.0 + 4 * (100 * width + 1)..][..4].try_into().unwrap());
    let honest = angle(100 * width + 1, base).cos();
    assert!((f64::from(there) - honest).abs() < 1e-6, "{there} {honest}");
    model.floats(cos, |index, _| angle(index, 0.9 * base).cos() as f32);
    model.floats(sin, |index, _| angle(index, 0.9 * base).sin() as f32);
}

/// 1e-6 for 1e-5, in every norm.
fn norm_epsilon(model: &mut Model, _: usize) {
    let epsilon = model.claim.recipe.architecture.norm_eps as f32;
    let mut changed = 0;
    for delegate in 0..=model.layers() {
        for (_, (at, length)) in model.constants(delegate).into_iter().filter(|(_, (_, length))| *length == 4)
        {
            if f32::from_le_bytes(model.bytes[at..at + 4].try_into().unwrap()) == epsilon {
                model.floats((at, length), |_, epsilon| epsilon / 10.0);
                changed += 1;
            }
        }
    }
    assert!(changed > 0, "no epsilon was found");
}

/// The rows of one head as another checkpoint format has them: pairs side by side instead of halves.
fn transpose_head(model: &mut Model, layer: usize) {
    let size = model.claim.recipe.architecture.head_dim as usize;
    let rows = model.rows(layer, Matrix::Query);
    let before = model.bytes.clone();
    for row in 0..size {
        let from = if row % 2 == 0 { row / 2 } else { size / 2 + row / 2 };
        let (((to, length), to_scale), ((from, _), from_scale)) = (rows[row], rows[from]);
        model.bytes[to..to + length].copy_from_slice(&before[from..from + length]);
        model.bytes[to_scale..to_scale + 4].copy_from_slice(&before[from_scale..from_scale + 4]);
    }
}

/// Makes every mistake, one at a time, and checks what is said about it.
fn all_are_caught(name: &str) {
    let honest = Model::honest(name);
    let (parity, refusal) = honest.judged(&[]);
    assert_eq!(refusal, None);
    let mut table = format!("{name}\nhonest: {}\n", summary(&parity));
    let mut missed = Vec::new();
    for sabotage in SABOTAGES {
        let mut model = Model::honest(name);
        let middle = model.layers() / 2;
        (sabotage.spoil)(&mut model, middle);
        let text = model.verdict().unwrap_or_default();
        let wanted =
            [(sabotage.place)(middle), format!(", {}: got", sabotage.boundary), sabotage.points_to.into()];
        let line = text.lines().find(|line| line.contains("evidence-parity: ")).unwrap_or("accepted");
        let _ = writeln!(table, "{}: {}", sabotage.name, line.trim());
        if !wanted.iter().all(|part| line.contains(part)) {
            missed.push(format!("{}: expected {wanted:?} in: {text}", sabotage.name));
        }
    }
    println!("{table}");
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

fn summary(parity: &model_assets::evidence::Parity) -> String {
    parity.blocks.iter().map(|it| format!("\n  {}: {}", it.boundary.as_str(), it.line())).collect()
}

#[test]
fn every_mistake_is_caught_and_its_block_named() {
    all_are_caught(TINY);
}

#[test]
#[ignore = "needs the trained model: cargo xtask export smollm2-135m"]
fn every_mistake_is_caught_in_a_trained_model() {
    all_are_caught(TRAINED);
}

/// Zeroes the matrices of one delegate, all but some bytes at the start of each.
fn zeroed(but: usize) -> String {
    let mut model = Model::honest(TINY);
    for matrix in
        [Matrix::Output, Matrix::Gate, Matrix::Up, Matrix::Down, Matrix::Query, Matrix::Key, Matrix::Value]
    {
        let ((at, length), _) = model.matrix(2, matrix);
        model.bytes[at + but..at + length].fill(0);
    }
    model.verdict().unwrap()
}

#[test]
fn weights_zeroed_in_one_layer() {
    // The bytes alone say so, and what was measured says it again.
    let text = zeroed(0);
    assert!(text.contains("Q17: plan forward / delegate 2"), "{text}");
    assert!(text.contains("evidence-parity: layer 2, "), "{text}");
    // With a few weights left only the measurement knows.
    let text = zeroed(8);
    assert!(!text.contains("Q17") && text.contains("evidence-parity: layer 2, "), "{text}");
}

/// Another order of sums is no mistake: every number of threads and every instruction set that the processor has.
#[test]
fn another_order_of_sums_passes() {
    for arguments in [["--threads", "1"], ["--threads", "2"], ["--attention", "portable"]] {
        let (_, refusal) = Model::honest(TINY).judged(&arguments);
        assert_eq!(refusal, None, "{arguments:?}");
    }
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        let (_, refusal) = Model::honest(TINY).judged(&["--attention", "avx2"]);
        assert_eq!(refusal, None);
    }
}
