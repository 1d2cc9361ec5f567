//! Our operators against plain Rust, called through the runtime's registry and their own validation.
//!
//! Memory that a kernel must not look at is NaN, memory that it must not touch is checked afterwards: the guards around
//! every tensor, the cache behind the last position.

use std::ffi::CStr;

use proptest::prelude::*;

use crate::error::Code;
use crate::ffi::test_hook::{Argument, Tensor, call};

const SDPA: &CStr = c"llama::custom_sdpa.out";
const UPDATE: &CStr = c"llama::update_cache.out";
const OK: Code = Code(0);
const NOT_SUPPORTED: Code = Code(0x10);
/// Portable, AVX2, AVX-512; the last two answer "not supported" on another architecture or an older CPU.
const VARIANTS: [(i32, &str); 3] = [(1, "portable"), (2, "AVX2"), (3, "AVX-512")];

/// A call of the attention operator.
#[derive(Debug, Clone)]
struct Case {
    positions: usize,
    start: usize,
    /// Positions of the cache behind the last one in use.
    spare: usize,
    kv_heads: usize,
    group: usize,
    dim: usize,
    causal: bool,
    scale: Option<f64>,
    seed: u64,
    /// Largest query element: from an almost flat softmax to an almost certain one.
    loud: f32,
}

impl Case {
    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn cache(&self) -> usize {
        self.start + self.positions + self.spare
    }

    fn seen(&self, position: usize) -> usize {
        self.start + if self.causal { position + 1 } else { self.positions }
    }

    /// Query, key and value; the unused end of the cache is NaN.
    fn inputs(&self) -> [Tensor; 3] {
        let mut random = Random(self.seed);
        let row = self.kv_heads * self.dim;
        let query = random.floats(self.positions * self.heads() * self.dim, self.loud);
        let used = (self.start + self.positions) * row;
        let mut cache = || {
            let mut data = random.floats(used, 1.0);
            data.resize(self.cache() * row, f32::NAN);
            Tensor::new(&[1, self.cache(), self.kv_heads, self.dim], &data)
        };
        let (key, value) = (cache(), cache());
        [Tensor::new(&[1, self.positions, self.heads(), self.dim], &query), key, value]
    }

    fn arguments(&self) -> Vec<Argument> {
        let [query, key, value] = self.inputs();
        let out = Tensor::new(&[1, self.positions, self.heads(), self.dim], &vec![7.0; query.data().len()]);
        vec![
            Argument::Tensor(query),
            Argument::Tensor(key),
            Argument::Tensor(value),
            Argument::Int(i64::try_from(self.start).unwrap()),
            Argument::None,
            Argument::Double(0.0),
            Argument::Bool(self.causal),
            self.scale.map_or(Argument::None, Argument::Double),
            Argument::Tensor(out),
        ]
    }

    /// Softmax attention as a textbook has it, in double precision, and the largest score met.
    fn expected(&self) -> (Vec<f64>, f64) {
        let [query, key, value] = self.inputs();
        let scale = self.scale.unwrap_or(1.0 / (self.dim as f64).sqrt());
        let (mut out, mut loudest) = (Vec::new(), 0.0_f64);
        for (index, q) in query.data().chunks_exact(self.dim).enumerate() {
            let (position, head) = (index / self.heads(), index % self.heads());
            let at = |t: usize| (t * self.kv_heads + head / self.group) * self.dim;
            let scores: Vec<f64> = (0..self.seen(position))
                .map(|t| dot(q, &key.data()[at(t)..][..self.dim]) * scale)
                .inspect(|score| loudest = loudest.max(score.abs()))
                .collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..self.dim).map(|d| {
                let sum: f64 =
                    weights.iter().enumerate().map(|(t, w)| w * f64::from(value.data()[at(t) + d])).sum();
                sum / total
            }));
        }
        (out, loudest)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Numbers that a shape and a seed fix.
struct Random(u64);

impl Random {
    fn floats(&mut self, count: usize, most: f32) -> Vec<f32> {
        (0..count)
            .map(|_| {
                self.0 =
                    self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((self.0 >> 40) as f32 / (1_u32 << 23) as f32 - 1.0) * most
            })
            .collect()
    }
}

fn tensor(argument: &Argument) -> &Tensor {
    match argument {
        Argument::Tensor(tensor) => tensor,
        other => panic!("{other:?} is no tensor"),
    }
}

fn guards_hold(arguments: &[Argument]) -> bool {
    arguments.iter().all(|argument| !matches!(argument, Argument::Tensor(tensor) if !tensor.guards_hold()))
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.data().iter().map(|x| x.to_bits()).collect()
}

/// Runs a case in one variant and compares every element; `None` where the CPU lacks the variant.
fn compare(case: &Case, variant: i32) -> Option<Result<(), String>> {
    let mut arguments = case.arguments();
    match call(SDPA, &mut arguments, variant) {
        NOT_SUPPORTED => return None,
        OK => {}
        code => return Some(Err(code.to_string())),
    }
    if !guards_hold(&arguments) {
        return Some(Err("wrote outside a tensor".to_owned()));
    }
    let (expected, loudest) = case.expected();
    // Rounding of a dot product of 256 terms moves a score by a few 2^-20 of its size, a weight by as much.
    let tolerance = 4e-6 * (1.0 + loudest);
    let got = tensor(&arguments[8]).data();
    let worst = got
        .iter()
        .zip(&expected)
        .map(|(g, e)| (f64::from(*g) - e).abs())
        .fold(0.0, |worst: f64, diff| if diff.is_nan() { f64::INFINITY } else { worst.max(diff) });
    Some(if worst <= tolerance { Ok(()) } else { Err(format!("off by {worst:e}, tolerance {tolerance:e}")) })
}

/// Head dimensions in use, and such as fit no vector.
fn dims() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => prop::sample::select(vec![16_usize, 32, 48, 64, 80, 96, 128, 256]),
        1 => 1_usize..=256,
    ]
}

prop_compose! {
    fn cases()(
        positions in prop_oneof![2 => Just(1_usize), 2 => 2_usize..8, 1 => 8_usize..70],
        // Beyond 256 positions a part of the keys is more than one block.
        start in prop_oneof![1 => Just(0_usize), 3 => 0_usize..150, 1 => 150_usize..700],
        spare in 0_usize..9,
        kv_heads in 1_usize..=3,
        group in 1_usize..=5,
        dim in dims(),
        causal: bool,
        scale in prop::option::of(0.01_f64..1.0),
        seed: u64,
        loud in prop::sample::select(vec![0.01_f32, 1.0, 8.0]),
    ) -> Case {
        Case { positions, start, spare, kv_heads, group, dim, causal, scale, seed, loud }
    }
}

proptest! {
    #[test]
    fn attention_is_that_of_the_textbook_in_every_variant(case in cases()) {
        for (variant, name) in VARIANTS {
            if let Some(Err(message)) = compare(&case, variant) {
                prop_assert!(false, "{}: {}", name, message);
            }
        }
    }

    #[test]
    fn update_cache_writes_the_new_positions_and_nothing_else(
        new in 0_usize..20, start in 0_usize..60, spare in 0_usize..9, heads in 1_usize..4, dim in 1_usize..70, seed: u64,
    ) {
        let (mut random, row, cache) = (Random(seed), heads * dim, start + new + spare);
        let (value, old) = (random.floats(new * row, 1.0), random.floats(cache * row, 1.0));
        let mut arguments = update(
            Tensor::new(&[1, new, heads, dim], &value),
            Tensor::new(&[1, cache, heads, dim], &old),
            i64::try_from(start).unwrap(),
        );
        prop_assert_eq!(call(UPDATE, &mut arguments, 0), OK);
        let expected = [&old[..start * row], value.as_slice(), &old[(start + new) * row..]].concat();
        prop_assert_eq!(tensor(&arguments[1]).data(), expected.as_slice());
        prop_assert!(guards_hold(&arguments));
    }

    /// No argument list takes the process down, and none that is refused changes anything.
    #[test]
    fn any_arguments_are_run_or_refused(
        sdpa: bool,
        arguments in prop::collection::vec(any_argument(), 0..=10),
    ) {
        let mut arguments = arguments;
        let before = arguments.clone();
        let code = call(if sdpa { SDPA } else { UPDATE }, &mut arguments, 0);
        prop_assert!(code == OK || code == Code::INVALID_ARGUMENT, "{}", code);
        prop_assert!(guards_hold(&arguments));
        if code != OK {
            for (now, before) in arguments.iter().zip(&before) {
                if let (Argument::Tensor(now), Argument::Tensor(before)) = (now, before) {
                    prop_assert_eq!(bits(now), bits(before));
                }
            }
        }
    }
}

/// Mostly small tensors of shapes that often agree, so that many lists get past the first checks.
fn any_argument() -> impl Strategy<Value = Argument> {
    let size = || prop::sample::select(vec![0_usize, 1, 1, 1, 2, 2, 4]);
    let like_a_cache = (size(), size(), size()).prop_map(|(a, b, c)| vec![1, a, b, c]);
    let shape = prop_oneof![3 => like_a_cache, 1 => prop::collection::vec(size(), 0..=6)];
    let tensor = (shape, prop::sample::select(vec![6_i32, 6, 6, 4, 7]), prop::bool::weighted(0.1));
    prop_oneof![
        6 => tensor.prop_map(|(sizes, scalar_type, null)| {
            let mut tensor = Tensor::new(&sizes, &vec![0.5; sizes.iter().product()]);
            (tensor.scalar_type, tensor.null) = (scalar_type, null);
            Argument::Tensor(tensor)
        }),
        1 => Just(Argument::None),
        2 => prop_oneof![-2_i64..4, any::<i64>()].prop_map(Argument::Int),
        1 => any::<bool>().prop_map(Argument::Bool),
        1 => prop_oneof![Just(0.0), any::<f64>()].prop_map(Argument::Double),
    ]
}

fn update(value: Tensor, cache: Tensor, start: i64) -> Vec<Argument> {
    let out = Argument::Tensor(cache.clone());
    vec![Argument::Tensor(value), Argument::Tensor(cache), Argument::Int(start), out]
}

fn case() -> Case {
    Case {
        positions: 3,
        start: 5,
        spare: 2,
        kv_heads: 2,
        group: 3,
        dim: 64,
        causal: true,
        scale: None,
        seed: 1,
        loud: 1.0,
    }
}

#[test]
fn every_variant_of_this_cpu_was_compared() {
    // Otherwise the property above could hold because nothing ran.
    let ran = |variant| compare(&case(), variant).inspect(|result| assert_eq!(*result, Ok(()))).is_some();
    assert!(ran(0) && ran(1));
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = ["avx512f", "avx512vl", "avx512dq", "avx512bw"];
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        assert_eq!(ran(2), avx2);
        if !cpu.is_empty() {
            let flags: Vec<_> = cpu.split_whitespace().collect();
            assert_eq!(ran(3), avx2 && avx512.iter().all(|flag| flags.contains(flag)));
        }
    }
    assert_eq!(compare(&case(), 4), None);
}

#[test]
fn work_shared_among_threads_is_the_same_work() {
    // Far above the size from which the pool is used; every tile shape occurs.
    let big = Case { positions: 200, start: 300, kv_heads: 4, group: 4, ..case() };
    let decode = Case { positions: 1, start: 611, kv_heads: 8, group: 4, dim: 64, ..case() };
    for (variant, name) in VARIANTS {
        for case in [&big, &decode] {
            assert!(matches!(compare(case, variant), None | Some(Ok(()))), "{name}");
        }
    }
}

#[test]
fn as_many_rows_as_lanes_and_one_more_are_the_same_attention() {
    // Up to as many rows as a vector has lanes the keys are divided; a Llama of four heads a group decodes just there on ARM64.
    for lanes in [4, 8, 16] {
        for (positions, group) in [(1, lanes), (lanes / 2, 2), (lanes, 1), (1, lanes + 1), (lanes + 1, 1)] {
            let case = Case { positions, start: 611, group, ..case() };
            for (variant, name) in VARIANTS {
                let result = compare(&case, variant);
                assert!(matches!(result, None | Some(Ok(()))), "{name}, {positions} x {group}: {result:?}");
            }
        }
    }
}

#[test]
fn a_visible_nan_is_not_smoothed_over() {
    for (positions, poisoned) in [(1, 1), (40, 1)] {
        let case = Case { positions, ..case() };
        for (variant, name) in VARIANTS {
            let mut arguments = case.arguments();
            let Argument::Tensor(key) = &arguments[poisoned] else { unreachable!() };
            let mut data = key.data().to_vec();
            data[case.dim] = f32::NAN; // position 0 of the second key/value head
            let sizes: Vec<usize> = key.sizes.iter().map(|size| usize::try_from(*size).unwrap()).collect();
            arguments[poisoned] = Argument::Tensor(Tensor::new(&sizes, &data));
            if call(SDPA, &mut arguments, variant) == NOT_SUPPORTED {
                continue;
            }
            for (index, head) in tensor(&arguments[8]).data().chunks_exact(case.dim).enumerate() {
                let hit = index % case.heads() >= case.group;
                assert!(
                    head.iter().all(|x| x.is_nan() == hit),
                    "{name}: {positions} positions, head {index}"
                );
            }
        }
    }
}

#[test]
fn attention_refuses_every_broken_argument() {
    let shaped = |sizes: &[usize]| Argument::Tensor(Tensor::new(sizes, &vec![0.5; sizes.iter().product()]));
    let long = |mut argument: Argument| {
        if let Argument::Tensor(tensor) = &mut argument {
            tensor.scalar_type = 4;
        }
        argument
    };
    // The sound call: query [1, 3, 6, 64], caches [1, 10, 2, 64], start 5.
    let broken: [(usize, Argument, &str); 22] = [
        (0, shaped(&[3, 6, 64]), "rank 3"),
        (0, shaped(&[2, 3, 6, 64]), "a batch"),
        (0, shaped(&[1, 3, 5, 64]), "heads that are no multiple"),
        (0, shaped(&[1, 3, 0, 64]), "no heads"),
        (0, shaped(&[1, 6, 6, 64]), "one position too many"),
        (0, shaped(&[1, 3, 6, 32]), "another head dimension"),
        (0, long(shaped(&[1, 3, 6, 128])), "integers"),
        (0, Argument::None, "no query"),
        (1, shaped(&[1, 10, 2, 32]), "keys of another dimension"),
        (1, shaped(&[1, 9, 2, 64]), "caches of two lengths"),
        (1, shaped(&[1, 10, 0, 64]), "no key heads"),
        (2, shaped(&[1, 10, 1, 64]), "caches of two widths"),
        (2, Argument::Int(0), "an integer for the values"),
        (3, Argument::Int(-1), "a negative position"),
        (3, Argument::Int(8), "a position past the cache"),
        (3, Argument::Int(i64::MAX), "the last integer"),
        (3, Argument::Double(5.0), "a fractional position"),
        (4, shaped(&[3, 10]), "a mask"),
        (5, Argument::Double(0.1), "dropout"),
        (6, Argument::Int(1), "an integer for a truth value"),
        (7, Argument::Bool(true), "a truth value for the scale"),
        (8, shaped(&[1, 3, 2, 64]), "an out of another shape"),
    ];
    for (index, argument, what) in broken {
        let mut arguments = case().arguments();
        arguments[index] = argument;
        let before = bits(tensor(&arguments[8]));
        assert_eq!(call(SDPA, &mut arguments, 0), Code::INVALID_ARGUMENT, "{what}");
        assert_eq!(bits(tensor(&arguments[8])), before, "{what}");
    }
    let mut few = case().arguments();
    few.pop();
    assert_eq!(call(SDPA, &mut few, 0), Code::INVALID_ARGUMENT);
    let wide = Case { dim: 257, ..case() };
    assert_eq!(call(SDPA, &mut wide.arguments(), 0), Code::INVALID_ARGUMENT);
    let mut null = case().arguments();
    if let Argument::Tensor(out) = &mut null[8] {
        out.null = true;
    }
    assert_eq!(call(SDPA, &mut null, 0), Code::INVALID_ARGUMENT);
}

#[test]
fn update_cache_refuses_every_broken_argument() {
    let filled = |sizes: &[usize], x: f32| Tensor::new(sizes, &vec![x; sizes.iter().product()]);
    let mut integers = filled(&[1, 2, 2, 8], 1.0);
    integers.scalar_type = 4;
    let mut nowhere = filled(&[1, 2, 2, 4], 1.0);
    nowhere.null = true;
    for (value, start, what) in [
        (filled(&[1, 2, 2, 4], 1.0), 9, "one position too many"),
        (filled(&[1, 2, 2, 4], 1.0), -1, "a negative position"),
        (filled(&[1, 2, 2, 4], 1.0), i64::MAX, "the last integer"),
        (filled(&[1, 2, 2, 4], 1.0), i64::MIN, "the first integer"),
        (filled(&[1, 2, 1, 8], 1.0), 0, "as many elements in another shape"),
        (filled(&[2, 2, 4], 1.0), 0, "rank 3"),
        (filled(&[2, 1, 2, 4], 1.0), 0, "a batch"),
        (integers, 0, "integers"),
        (nowhere, 0, "no memory"),
    ] {
        let mut arguments = update(value, filled(&[1, 10, 2, 4], 3.0), start);
        assert_eq!(call(UPDATE, &mut arguments, 0), Code::INVALID_ARGUMENT, "{what}");
        assert!(tensor(&arguments[1]).data().iter().all(|x| *x == 3.0), "{what}");
    }
}

#[test]
fn an_operator_that_is_not_registered_is_not_found() {
    assert_eq!(call(c"llama::no_such_operator.out", &mut [], 0), Code::OPERATOR_MISSING);
}

#[test]
fn evidence_is_bound_to_these_sources() {
    let sources = concat!(
        include_str!("../cpp/attention.h"),
        include_str!("../cpp/lanes.h"),
        include_str!("../cpp/attention.cpp"),
        include_str!("../cpp/llama_ops.cpp"),
    );
    assert_eq!(
        model_assets::digest::Digest::of(sources.as_bytes()).to_string(),
        model_assets::manifest::KERNELS_SHA256,
        "the operators changed: put the left digest into evidence/binding.rs, then: cargo xtask verify --level release"
    );
}
