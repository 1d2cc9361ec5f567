//! Single calls, right and wrong: each takes the toy model, adds a call that is accepted, and breaks one thing in it.

#[path = "../hostile/builder.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod builder;

use builder::*;
use model_assets::pte::{self, Admitted, CheckId, Expect, Level, Operators, Report, Severity};

/// Values of the toy model's `forward`; a call's own begin here.
const FIRST: i32 = 14;
/// Planned bytes in front of a call's tensors.
const PLANNED: u32 = 640;

const F32: i8 = 6;
const I64: i8 = 4;
const INT8: i8 = 1;

/// One argument of a call.
#[derive(Clone)]
enum Arg {
    Tensor(i8, Vec<i32>),
    /// The same, its data a constant of the toy model: the scales, eight floats.
    Scales,
    Int(i64),
    Double(f64),
    None,
    Ints(Vec<i64>),
    /// Several tensors.
    Tensors(Vec<(i8, Vec<i32>)>),
}

use Arg::{Double, Int, Ints, None as Nothing, Scales, Tensor, Tensors};

fn t(dtype: i8, sizes: &[i32]) -> Arg {
    Tensor(dtype, sizes.to_vec())
}

/// Adds values, and says which one stands for the argument.
fn add(values: &mut Vec<T>, arg: &Arg, at: &mut u32) -> i32 {
    let mut push = |value: T| {
        values.push(value);
        FIRST + i32::try_from(values.len()).expect("few") - 1
    };
    let mut place = |dtype: i8, sizes: &[i32]| {
        let width = if dtype == I64 {
            8
        } else if dtype == INT8 || dtype == 12 {
            1
        } else {
            4
        };
        let bytes = u32::try_from(sizes.iter().product::<i32>()).expect("small") * width;
        let here = *at;
        *at += bytes.next_multiple_of(16);
        value(5, planned(tensor(dtype, sizes), here))
    };
    match arg {
        Tensor(dtype, sizes) => {
            let tensor = place(*dtype, sizes);
            push(tensor)
        }
        Scales => push(value(5, constant(tensor(F32, &[8]), 2))),
        Int(number) => push(int(*number)),
        Double(number) => push(value(4, T::new([(0, Val::Raw(number.to_le_bytes().to_vec()))]))),
        Nothing => push(T::new([(0, u8(1))])),
        Ints(numbers) => {
            let items: Vec<i64> = numbers.iter().map(|&number| i64::from(push(int(number)))).collect();
            push(value(7, T::new([(0, i64s(&items))])))
        }
        Tensors(list) => {
            let tensors: Vec<T> = list.iter().map(|(dtype, sizes)| place(*dtype, sizes)).collect();
            let items: Vec<i32> = tensors.into_iter().map(&mut push).collect();
            push(value(10, T::new([(0, i32s(&items))])))
        }
    }
}

/// The toy model with a call of an operator; the last argument is what it returns.
fn with_call(name: &str, overload: &str, args: &[Arg]) -> Pte {
    let (mut pte, mut values, mut at) = (Pte::default(), Vec::new(), PLANNED);
    let mut numbers: Vec<i32> = args.iter().map(|arg| add(&mut values, arg, &mut at)).collect();
    if name != "executorch_prim::et_view" {
        numbers.extend(numbers.last().copied());
    }
    pte.plan().list(2).extend(values);
    pte.plan().list(6).push(T::new([(0, str(name)), (1, str(overload))]));
    pte.plan().set(8, i64s(&[0, i64::from(at.max(PLANNED))]));
    let call = kernel(1, &numbers);
    pte.plan().item(5, 0).list(2).push(call);
    pte
}

fn report(pte: &Pte, operators: Operators) -> Report {
    let expect = Expect { kernels: Some(pte::linked_runtime().clone()), operators, ..Expect::default() };
    pte::verify(&pte.build(), Level::Structure, &expect)
}

/// The ids that reject the call, when only calls that can be judged are accepted.
fn rejects(name: &str, overload: &str, args: &[Arg]) -> Vec<CheckId> {
    let report = report(&with_call(name, overload, args), Operators::Judged);
    report.rejects().map(|finding| finding.id).collect()
}

/// `args` with one of them replaced.
fn but(args: &[Arg], position: usize, other: Arg) -> Vec<Arg> {
    let mut args = args.to_vec();
    args[position] = other;
    args
}

#[track_caller]
fn accepted(name: &str, overload: &str, args: &[Arg]) {
    assert_eq!(rejects(name, overload, args), [], "{name}");
}

#[track_caller]
fn refused(id: CheckId, name: &str, overload: &str, args: &[Arg]) {
    assert!(rejects(name, overload, args).contains(&id), "{name}: {:?}", rejects(name, overload, args));
}

#[test]
fn sums_and_products_of_one_float_that_broadcast() {
    let (a, b, out) = (t(F32, &[2, 3]), t(F32, &[3]), t(F32, &[2, 3]));
    let (mul, add) = ([a.clone(), b.clone(), out.clone()], [a, b, Int(1), out]);
    accepted("aten::mul", "out", &mul);
    accepted("aten::add", "out", &add);
    refused(CheckId::X13, "aten::mul", "out", &but(&mul, 1, t(F32, &[4])));
    refused(CheckId::X13, "aten::mul", "out", &but(&mul, 2, t(F32, &[3, 3])));
    refused(CheckId::X16, "aten::mul", "out", &but(&mul, 2, t(I64, &[2, 3])));
    refused(CheckId::X16, "aten::add", "out", &but(&add, 1, t(INT8, &[3])));
}

#[test]
fn products_of_matrices_that_fit() {
    let mm = [t(F32, &[2, 3]), t(F32, &[3, 5]), t(F32, &[2, 5])];
    accepted("aten::mm", "out", &mm);
    refused(CheckId::X13, "aten::mm", "out", &but(&mm, 1, t(F32, &[4, 5])));
    refused(CheckId::X13, "aten::mm", "out", &but(&mm, 2, t(F32, &[2, 4])));
    refused(CheckId::X13, "aten::mm", "out", &but(&mm, 0, t(F32, &[6])));
    refused(CheckId::X16, "aten::mm", "out", &but(&mm, 0, t(I64, &[2, 3])));
    let with_bias = [t(F32, &[5]), t(F32, &[2, 3]), t(F32, &[3, 5]), Int(1), Int(1), t(F32, &[2, 5])];
    accepted("aten::addmm", "out", &with_bias);
    refused(CheckId::X13, "aten::addmm", "out", &but(&with_bias, 0, t(F32, &[4])));
    refused(CheckId::X16, "aten::addmm", "out", &but(&with_bias, 0, t(I64, &[5])));
}

#[test]
fn functions_of_one_float_keep_its_shape() {
    for name in ["aten::rsqrt", "aten::sigmoid"] {
        let args = [t(F32, &[2, 3]), t(F32, &[2, 3])];
        accepted(name, "out", &args);
        refused(CheckId::X13, name, "out", &but(&args, 1, t(F32, &[2, 4])));
        refused(CheckId::X16, name, "out", &but(&args, 0, t(I64, &[2, 3])));
    }
}

#[test]
fn rows_of_a_table_by_integers() {
    let off = Int(0);
    let args = [t(F32, &[8, 4]), t(I64, &[1, 3]), Int(-1), off.clone(), off, t(F32, &[1, 3, 4])];
    // Truth values, not numbers, in the toy's own value of that kind.
    let call = |args: &[Arg]| {
        let mut pte = with_call("aten::embedding", "out", args);
        for switch in [17, 18] {
            *pte.plan().item(2, switch) = value(3, T::new([(0, u8(0))]));
        }
        let report = report(&pte, Operators::Judged);
        report.rejects().map(|finding| finding.id).collect::<Vec<_>>()
    };
    assert_eq!(call(&args), []);
    assert!(call(&but(&args, 5, t(F32, &[1, 3, 5]))).contains(&CheckId::X13));
    assert!(call(&but(&args, 1, t(F32, &[1, 3]))).contains(&CheckId::X13));
    assert!(call(&but(&args, 0, t(F32, &[2, 2, 8]))).contains(&CheckId::X16));
    assert!(call(&but(&args, 2, Int(1 << 32))).contains(&CheckId::X17));
}

#[test]
fn parts_of_a_tensor_lie_inside_it() {
    let select = [t(F32, &[2, 3, 4]), Int(1), Int(-1), t(F32, &[2, 4])];
    accepted("aten::select_copy", "int_out", &select);
    for (position, wrong) in [(1, 3), (1, -4), (2, 3), (2, -4)] {
        refused(CheckId::X13, "aten::select_copy", "int_out", &but(&select, position, Int(wrong)));
    }
    refused(CheckId::X13, "aten::select_copy", "int_out", &but(&select, 3, t(F32, &[3, 4])));
    refused(CheckId::X13, "aten::select_copy", "int_out", &but(&select, 3, t(I64, &[2, 4])));
    let slice = [t(F32, &[2, 8]), Int(1), Int(1), Int(3), Int(1), t(F32, &[2, 2])];
    accepted("aten::slice_copy", "Tensor_out", &slice);
    accepted("aten::slice_copy", "Tensor_out", &but(&slice, 3, Int(i64::MAX)));
    accepted("aten::slice_copy", "Tensor_out", &but(&slice, 2, Nothing));
    refused(CheckId::X13, "aten::slice_copy", "Tensor_out", &but(&slice, 1, Int(2)));
    refused(CheckId::X13, "aten::slice_copy", "Tensor_out", &but(&slice, 4, Int(0)));
    refused(CheckId::X13, "aten::slice_copy", "Tensor_out", &but(&slice, 5, t(F32, &[2, 9])));
    refused(CheckId::X13, "aten::slice_copy", "Tensor_out", &but(&slice, 5, t(F32, &[3, 2])));
    refused(CheckId::X17, "aten::slice_copy", "Tensor_out", &but(&slice, 4, Int(1 << 33)));
}

#[test]
fn a_view_has_the_elements_of_its_source() {
    let view = [t(F32, &[2, 6]), Ints(vec![3, -1]), t(F32, &[3, 4])];
    let name = "executorch_prim::et_view";
    accepted(name, "default", &view);
    for sizes in [vec![-1, -1], vec![2, -1], vec![3], vec![3, -2], vec![3, 1 << 32]] {
        refused(CheckId::X13, name, "default", &but(&view, 1, Ints(sizes)));
    }
    refused(CheckId::X13, name, "default", &but(&view, 2, t(F32, &[3, 5])));
    refused(CheckId::X13, name, "default", &but(&view, 2, t(I64, &[3, 4])));
    refused(CheckId::X17, name, "default", &but(&view, 1, Ints(vec![3, 1 << 32])));
}

#[test]
fn a_view_with_a_computed_size_needs_a_bound() {
    // The size of a dimension times three, or times a number that may be anything.
    let build = |factor: i64, computed: bool| {
        let mut pte = with_call(
            "executorch_prim::et_view",
            "default",
            &[t(F32, &[2, 6]), Ints(vec![6, -1]), t(F32, &[6, 2])],
        );
        // Values: 14 source, 15 and 16 the sizes, 17 their list, 18 the view.
        pte.plan().list(2).extend([int(0), int(0), int(factor), int(0)]);
        for (name, overload) in [("aten::sym_size", "int"), ("executorch_prim::mul", "Scalar")] {
            pte.plan().list(6).push(T::new([(0, str(name)), (1, str(overload))]));
        }
        let view = pte.plan().item(5, 0).list(2).pop().expect("the view");
        let size = kernel(2, &[14, 19, 20]);
        let factor = if computed { 22 } else { 21 };
        let product = kernel(3, &[20, factor, 15]);
        if computed {
            pte.plan().list(6).push(T::new([(0, str("aten::_local_scalar_dense")), (1, str(""))]));
            pte.plan().list(2).push(value(5, planned(tensor(I64, &[1]), 2048)));
            pte.plan().set(8, i64s(&[0, 4096]));
            pte.plan().item(5, 0).list(2).push(kernel(4, &[23, 22]));
        }
        pte.plan().item(5, 0).list(2).extend([size, product, view]);
        report(&pte, Operators::Judged).rejects().map(|finding| finding.id).collect::<Vec<_>>()
    };
    assert_eq!(build(3, false), []);
    assert!(build(1 << 30, false).contains(&CheckId::X16), "more than the view has");
    assert!(build(3, true).contains(&CheckId::X16), "a factor that is read from a tensor");
}

#[test]
fn nothing_writes_a_constant_through_a_view() {
    let mut pte =
        with_call("executorch_prim::et_view", "default", &[Scales, Ints(vec![2, 4]), t(F32, &[2, 4])]);
    assert!(report(&pte, Operators::Judged).is_accepted());
    // Values: 14 the scales, 15 and 16 the sizes, 17 their list, 18 the view.
    pte.plan().list(2).push(value(5, planned(tensor(F32, &[2, 4]), PLANNED + 512)));
    pte.plan().set(8, i64s(&[0, 2048]));
    pte.plan().list(6).push(T::new([(0, str("aten::sigmoid")), (1, str("out"))]));
    pte.plan().item(5, 0).list(2).push(kernel(2, &[19, 18, 18]));
    assert!(report(&pte, Operators::Judged).has(CheckId::X12));
}

#[test]
fn what_crashed_the_runtime_is_refused_whatever_the_operator() {
    // Four programs of upstream's exporter with one number changed, and their kin: each was accepted once.
    let linked = |name: &str, overload: &str, args: &[Arg]| {
        let report = report(&with_call(name, overload, args), Operators::Linked);
        assert!(report.has(CheckId::X16), "{name} is judged by now");
        report.rejects().map(|finding| finding.id).collect::<Vec<_>>()
    };
    let pool = [t(F32, &[1, 4, 8, 8]), Ints(vec![2, 2]), t(F32, &[1, 4, 2, 2])];
    assert_eq!(linked("aten::_adaptive_avg_pool2d", "out", &pool), []);
    for size in [2 + (1 << 33), 1 << 31, i64::MAX, -1 << 32] {
        let args = but(&pool, 1, Ints(vec![2, size]));
        assert_eq!(linked("aten::_adaptive_avg_pool2d", "out", &args), [CheckId::X17], "{size}");
    }
    let pad = [t(F32, &[1, 2, 8]), Ints(vec![1, 2]), t(F32, &[1, 2, 11])];
    assert_eq!(linked("aten::reflection_pad1d", "out", &pad), []);
    let huge = but(&pad, 1, Ints(vec![1, 1 << 32]));
    assert_eq!(linked("aten::reflection_pad1d", "out", &huge), [CheckId::X17]);
    let parts = |dtype| Tensors(vec![(F32, vec![2, 2]), (dtype, vec![2, 2]), (F32, vec![2, 2])]);
    let split = [t(F32, &[2, 6]), Ints(vec![2, 2, 2]), Int(1), parts(F32)];
    assert_eq!(linked("aten::split_with_sizes_copy", "out", &split), []);
    for dtype in [12, 4, 1, 7] {
        let args = but(&split, 3, parts(dtype));
        let found = linked("aten::split_with_sizes_copy", "out", &args);
        assert!(found.contains(&CheckId::X13), "dtype {dtype}: {found:?}");
    }
}

#[test]
fn an_index_that_shares_its_bytes_is_refused_and_a_float_is_a_warning() {
    // Two results that live until a third call, moved to one place or apart.
    let build = |dtype: i8, at: u32| {
        let mut pte = Pte::default();
        let place = |offset: u32| value(5, planned(tensor(dtype, &[4]), PLANNED + offset));
        pte.plan().list(2).extend([place(0), place(at), place(256), place(512)]);
        pte.plan().set(8, i64s(&[0, 2048]));
        for name in ["aten::abs", "aten::maximum"] {
            pte.plan().list(6).push(T::new([(0, str(name)), (1, str("out"))]));
        }
        let calls = [kernel(1, &[16, 14, 14]), kernel(1, &[16, 15, 15]), kernel(2, &[14, 15, 17, 17])];
        pte.plan().item(5, 0).list(2).extend(calls);
        let report = report(&pte, Operators::Linked);
        let found = report.findings.iter().find(|finding| finding.id == CheckId::X15);
        found.map(|finding| finding.severity)
    };
    assert_eq!(build(I64, 64), None);
    assert_eq!(build(I64, 0), Some(Severity::Reject), "the very same bytes, and both are written");
    assert_eq!(build(I64, 16), Some(Severity::Reject));
    assert_eq!(build(F32, 0), Some(Severity::Warn));
}

#[test]
fn the_gate_admits_calls_by_their_pattern() {
    let pte = with_call("aten::mul", "out", &[t(F32, &[2]), t(F32, &[2]), t(F32, &[2])]);
    let calls = report(&pte, Operators::Linked).calls;
    assert!(calls.operators.contains("aten::mul.out(f32[1], f32[1], f32[1])"), "{calls:?}");
    assert!(calls.nodes.contains("fully_connected(qdint8, constant qcint8) f32"), "{calls:?}");
    let verdict = |table: Admitted| {
        let report = report(&pte, Operators::Admitted(Box::leak(Box::new(table))));
        report.rejects().map(|finding| finding.id).collect::<Vec<_>>()
    };
    assert_eq!(verdict(calls.clone()), []);
    // The same operator over other dtypes, and another node, are others.
    let other = |text: &String| text.replace("aten::mul.out(f32[1]", "aten::mul.out(f16[1]");
    let operators = calls.operators.iter().map(other).collect();
    assert_eq!(verdict(Admitted { operators, ..calls.clone() }), [CheckId::O4]);
    let nodes = calls.nodes.iter().filter(|node| !node.starts_with("convert")).cloned().collect();
    assert_eq!(verdict(Admitted { nodes, ..calls }), [CheckId::G12]);
}

#[test]
fn numbers_of_doubles_are_no_integers() {
    // A factor of a sum may be a number of any kind; a count may not.
    let add = [t(F32, &[2]), t(F32, &[2]), Double(1.0), t(F32, &[2])];
    accepted("aten::add", "out", &add);
    let select = [t(F32, &[2, 3]), Double(1.0), Int(0), t(F32, &[2])];
    refused(CheckId::X11, "aten::select_copy", "int_out", &select);
}
