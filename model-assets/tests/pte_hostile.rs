//! One broken file per check: each takes the good toy model, breaks one thing, and must be caught under the id of the
//! rule that was broken. `hostile/README.md` lists them by abuse.

#[path = "../hostile/builder.rs"]
mod builder;

use std::{cell::Cell, io};

use builder::*;
use model_assets::pte::{self, CheckId, Expect, Level, MetaValue, Operators, Quantization, ReadAt, Severity};

fn expect() -> Expect {
    Expect { kernels: Some(pte::linked_runtime().clone()), ..Expect::default() }
}

fn assert_caught(id: CheckId, severity: Severity, file: &dyn ReadAt, expect: &Expect) {
    let report = pte::verify(file, Level::Hash, expect);
    let caught = report.findings.iter().find(|finding| finding.id == id && finding.severity == severity);
    let caught = caught.unwrap_or_else(|| panic!("{id} was not found among {:#?}", report.findings));
    assert!(!caught.location.is_empty() && !caught.got.is_empty() && !caught.expected.is_empty(), "{caught}");
    assert_eq!(report.is_accepted(), severity == Severity::Warn && report.rejects().next().is_none());
}

/// Each case: id, name of the test, severity, how the file is broken, what is promised about it.
macro_rules! cases {
    ($($id:ident $name:ident $severity:ident $break:expr, $promise:expr;)+) => {
        $(#[test]
        fn $name() {
            let mut pte = Pte::default();
            let mut expect = expect();
            let good = pte::verify(&pte.build(), Level::Hash, &expect);
            assert!(good.findings.is_empty(), "the unbroken file: {:#?}", good.findings);
            let (break_it, promise): (fn(&mut Pte), fn(&mut Expect)) = ($break, $promise);
            break_it(&mut pte);
            promise(&mut expect);
            assert_caught(CheckId::$id, Severity::$severity, &pte.build(), &expect);
        })+
        /// The checks that the cases above trigger.
        const COVERED: &[CheckId] = &[$(CheckId::$id,)+];
    };
}

/// Adds a quantized linear of 3200 parameters, which makes 3456 with the one that is there, and one in f32 with as
/// many rows of 32 as wanted.
fn more_linears(p: &mut Pte, float_rows: u32) {
    let (filter, scale) = (weights(3200), scales(100));
    let float: Vec<u8> = (1..=float_rows * 32).flat_map(|number| (number as f32).to_le_bytes()).collect();
    let keys = [hex(&filter), format!("scale_{}", hex(&scale)), hex(&float)];
    for (key, data) in keys.iter().zip([filter, scale, float]) {
        let size = u64(data.len() as u64);
        p.graph.list(8).push(T::new([(0, u64(u64::MAX)), (1, size), (2, str(key))]));
        p.program.list(7).push(T::new([(0, str(key)), (1, u32(p.segments.len() as u32))]));
        p.segments.push(data);
    }
    let scheme = T::new([(1, i32(0)), (2, u32(4)), (3, u32(100))]);
    p.graph.list(2).extend([
        xquant(xtensor(6, &[100, 32], 3, NO_ID, 0, 4), 1, scheme),
        xvalue(1, &[1, 4, 100], 0, NO_ID, 0, 5),
        xvalue(1, &[float_rows, 32], 5, NO_ID, 0, 6),
        xvalue(1, &[1, 4, float_rows], 0, NO_ID, 0, 7),
    ]);
    p.graph.list(1).extend([xnode(2, &[2, 4, NO_ID, 5, 0]), xnode(2, &[0, 6, NO_ID, 7, 0])]);
}

/// Puts segment 2 into the range of segment 0, which has its bytes too; the verifier allows that.
fn share_bytes(p: &mut Pte) {
    p.segments[0] = p.segments[2].iter().copied().chain(scales(8)).collect();
    p.entry = |i, at, _| {
        if i == 2 {
            *at = 0;
        }
    };
    p.segments.truncate(4);
}

/// Makes a segment the initial state of buffers that the program writes.
fn mutable_state_in(p: &mut Pte, segment: u32) {
    p.program.set(6, Val::Tables(vec![T::new([(0, u32(segment)), (1, u64s(&[0]))])]));
}

/// Calls an operator of the linked runtime whose kernel was not studied.
fn relu(p: &mut Pte) {
    p.plan().list(6).push(T::new([(0, str("aten::relu")), (1, str("out"))]));
    p.plan().list(2).push(value(5, planned(tensor(6, &[1, LENGTH, DIM]), 640)));
    p.plan().set(8, i64s(&[0, 1152]));
    p.plan().item(5, 0).list(2).push(kernel(1, &[7, 14, 14]));
}

fn nothing(_: &mut Expect) {}
fn intact(_: &mut Pte) {}

cases! {
    C1 c1_file_of_60_bytes Reject |p| p.file = |f| f.truncate(60), nothing;
    C2 c2_other_magic Reject |p| p.file = |f| f[4] = b'X', nothing;
    C3 c3_segments_without_header Reject |p| p.file = |f| f[24..32].fill(0), nothing;
    C4 c4_short_header Reject |p| p.file = |f| f[12] = 16, nothing;
    C4 c4_long_header Warn |p| p.header_length = 40, nothing;
    C5 c5_program_longer_than_file Reject |p| p.file = |f| f[16..24].copy_from_slice(&u64::MAX.to_le_bytes()), nothing;
    C5 c5_program_shorter_than_header Reject |p| p.file = |f| f[16..24].copy_from_slice(&16_u64.to_le_bytes()), nothing;
    C6 c6_segments_inside_the_program Reject |p| p.file = |f| f[24..32].copy_from_slice(&64_u64.to_le_bytes()), nothing;
    C7 c7_truncated_by_one_byte Reject |p| p.file = |f| { f.pop(); }, nothing;
    C8 c8_one_trailing_byte Reject |p| p.file = |f| f.push(0), nothing;
    C9 c9_misaligned_base Reject |p| p.file = |f| f[24] = f[24].wrapping_add(1), nothing;
    C10 c10_byte_in_padding Reject |p| p.file = |f| {
        let program = usize::try_from(u64::from_le_bytes(f[16..24].try_into().expect("8"))).expect("small");
        assert!(program % 128 != 0, "there is padding");
        f[program] = 1;
    }, nothing;

    S1 s1_offset_wraps Reject |p| p.entry = |i, at, _| if i == 2 { *at = u64::MAX - 15 }, nothing;
    S2 s2_segment_behind_the_file Reject |p| p.entry = |i, _, size| if i == 3 { *size += 4096 }, nothing;
    S3 s3_partial_overlap Reject |p| p.entry = |i, at, _| if i == 2 { *at -= 128 }, nothing;
    S3 s3_shared_bytes Warn share_bytes, nothing;
    S3 s3_mutable_state_inside_weights Reject |p| { share_bytes(p); mutable_state_in(p, 2); }, nothing;
    S3 s3_weights_inside_mutable_state Reject |p| { share_bytes(p); mutable_state_in(p, 0); }, nothing;
    S4 s4_gap_of_64_kib Reject |p| {
        p.entry = |i, _, size| if i == 0 { *size = 288 };
        p.segments[0].resize(70_000, 0);
    }, nothing;
    S5 s5_misaligned_segment Reject |p| p.entry = |i, at, size| if i == 3 { *at += 1; *size -= 1 }, nothing;
    S6 s6_segments_end_early Reject |p| p.entry = |i, _, size| if i == 3 { *size -= 16 }, nothing;
    S7 s7_constants_in_no_segment Reject |p| { p.program.sub(5).set(0, u32(99)); }, nothing;
    S8 s8_constant_behind_its_segment Reject |p| { p.program.sub(5).set(1, u64s(&[0, 0, 4096])); }, nothing;
    S8 s8_misaligned_constant Reject |p| { p.program.sub(5).set(1, u64s(&[0, 8, 256])); }, nothing;
    S9 s9_two_mutable_tables Reject |p| {
        let table = T::new([(0, u32(0)), (1, u64s(&[0]))]);
        p.program.set(6, Val::Tables(vec![table.clone(), table]));
    }, nothing;
    S10 s10_unused_segment Reject |p| p.segments.push(weights(64)), nothing;
    N1 n1_no_key Reject |p| { p.program.item(7, 0).unset(0); }, nothing;
    N2 n2_no_segment Reject |p| { p.program.item(7, 0).set(1, u32(99)); }, nothing;
    N3 n3_empty_datum Reject |p| p.segments[3].clear(), nothing;
    N4 n4_key_twice Reject |p| {
        let first = p.program.item(7, 0).clone();
        p.program.list(7).push(first);
    }, nothing;
    N5 n5_weight_bit_flipped Reject |p| p.segments[2][100] ^= 1, nothing;
    N5 n5_scale_bit_flipped Reject |p| p.segments[3][1] ^= 1, nothing;
    N6 n6_other_file Reject |p| p.segments[0][0] ^= 1, |e| e.sha256 = Some([7; 32]);
    // With a promise, the weights' own digests are looked at only to find the place.
    N5 n5_places_what_n6_found Reject |p| p.segments[2][100] ^= 1, |e| e.sha256 = Some([7; 32]);

    P1 p1_root_out_of_range Reject |p| p.file = |f| f[0..4].fill(0xff), nothing;
    P1 p1_string_out_of_range Reject |p| { p.plan().set(0, Val::Offset(0x7fff_ffff)); }, nothing;
    P1 p1_null_offset Reject |p| { p.plan().set(0, Val::Offset(0)); }, nothing;
    P1 p1_endless_vector Reject |p| { p.plan().set(3, Val::Offset(4)).set(8, i64s(&[-1])); }, nothing;
    P1 p1_boolean_of_two Reject |p| { p.value(12).set(0, u8(2)); }, nothing;
    P2 p2_version_one Reject |p| { p.program.set(0, u32(1)); }, nothing;
    P3 p3_inline_constants Reject |p| { p.program.set(2, Val::Tables(vec![T::new([(0, bytes(&[1]))])])); }, nothing;
    P4 p4_no_method Reject |p| p.program.list(1).clear(), nothing;
    P5 p5_two_forwards Reject |p| { p.program.item(1, 1).set(0, str("forward")); }, nothing;
    P5 p5_no_name Reject |p| { p.program.item(1, 1).unset(0); }, nothing;
    P6 p6_no_forward_when_promised Reject |p| { p.plan().set(0, str("backward")); }, |e| e.forward = true;
    P6 p6_no_forward Warn |p| { p.plan().set(0, str("backward")); }, nothing;
    P7 p7_hidden_byte Reject |p| p.file = |f| {
        // Alignment between the header and the first vtable is 0 bytes here, so hide it behind the last string.
        let program = usize::try_from(u64::from_le_bytes(f[16..24].try_into().expect("8"))).expect("small");
        let base = usize::try_from(u64::from_le_bytes(f[24..32].try_into().expect("8"))).expect("small");
        f[16..24].copy_from_slice(&(base as u64).to_le_bytes());
        f[program] = 1;
    }, nothing;
    P8 p8_unknown_field Reject |p| { p.program.set(8, u32(1)); }, nothing;
    P9 p9_method_without_inputs Reject |p| { p.plan().unset(3); }, nothing;

    V1 v1_unknown_kind Reject |p| { p.plan().item(2, 12).set(0, u8(12)); }, nothing;
    V2 v2_value_without_table Reject |p| { p.plan().item(2, 4).unset(1); }, nothing;
    V2 v2_list_without_items Reject |p| { p.value(9).unset(0); }, nothing;
    V3 v3_list_out_of_range Reject |p| { p.value(9).set(0, i64s(&[99])); }, nothing;
    V4 v4_integer_list_of_tensors Reject |p| { p.value(9).set(0, i64s(&[7])); }, nothing;
    V5 v5_tensor_list_of_integers Reject |p| { p.value(10).set(0, i32s(&[4])); }, nothing;
    T1 t1_unknown_dtype Reject |p| { p.value(7).set(0, i8(99)); }, nothing;
    T2 t2_storage_offset Reject |p| { p.value(7).set(1, i32(4)); }, nothing;
    T3 t3_negative_size Reject |p| { p.value(7).set(2, i32s(&[1, -4, 32])); }, nothing;
    T4 t4_rank_17 Reject |p| { p.value(7).set(2, i32s(&[1; 17])); }, nothing;
    T5 t5_dim_order_repeats Reject |p| { p.value(7).set(3, bytes(&[0, 0, 2])); }, nothing;
    T5 t5_dim_order_out_of_range Reject |p| { p.value(7).set(3, bytes(&[0, 1, 200])); }, nothing;
    T6 t6_elements_overflow Reject |p| { p.value(7).set(2, i32s(&[i32::MAX; 3])); }, nothing;
    T7 t7_other_layout Reject |p| { p.value(7).set(7, i8(1)); }, nothing;
    T8 t8_unbounded_shape Reject |p| { p.value(7).set(8, i8(2)); }, nothing;
    T9 t9_reserved_memory Reject |p| { p.value(7).sub(6).set(0, u32(0)); }, nothing;
    T9 t9_no_such_memory Reject |p| { p.value(7).sub(6).set(0, u32(2)); }, nothing;
    T10 t10_planned_beyond_the_buffer Reject |p| { p.value(8).sub(6).set(1, u32(528)); }, nothing;
    T10 t10_high_half_of_the_offset Reject |p| { p.value(8).sub(6).set(2, u32(u32::MAX)); }, nothing;
    T10 t10_misaligned_plan Reject |p| { p.value(7).sub(6).set(1, u32(4)); }, nothing;
    T11 t11_other_mutable_table Reject |p| { p.value(7).set(9, Val::Table(T::new([(0, u64(3))]))); }, nothing;
    T12 t12_data_outside_the_file Reject |p| { p.value(1).set(9, Val::Table(T::new([(2, i8(1))]))); }, nothing;
    T13 t13_on_another_device Reject |p| { p.value(7).set(9, Val::Table(T::new([(3, i8(1))]))); }, nothing;
    T14 t14_constant_out_of_range Reject |p| { p.value(1).set(5, u32(99)); }, nothing;
    T15 t15_constant_too_small Reject |p| { p.value(2).set(2, i32s(&[9])); }, nothing;
    T15 t15_constant_too_large Reject |p| { p.value(1).set(2, i32s(&[4, 32])); }, nothing;
    T16 t16_tensor_without_data Reject |p| { p.value(7).unset(6); }, nothing;
    T16 t16_output_that_is_read_first Reject |p| {
        p.plan().set(3, i32s(&[]));
        p.plan().set(4, i32s(&[0]));
    }, nothing;
    M1 m1_negative_plan Reject |p| { p.plan().set(8, i64s(&[0, -1])); }, nothing;
    M1 m1_reserved_plan Reject |p| { p.plan().set(8, i64s(&[16, 640])); }, nothing;
    M2 m2_plan_on_another_device Reject |p| {
        p.plan().set(9, Val::Tables(vec![T::new([(0, i32(1)), (1, i8(1))])]));
    }, nothing;
    M3 m3_oversized_plan Warn |p| { p.plan().set(8, i64s(&[0, 1 << 21])); }, nothing;
    M3 m3_absurd_plan Reject |p| { p.plan().set(8, i64s(&[0, 1 << 40])); }, nothing;
    L3 l3_absurd_memory_without_a_promise Reject |p| { p.plan().set(8, i64s(&[0, 1 << 40])); }, nothing;
    I1 i1_output_out_of_range Reject |p| { p.plan().set(4, i32s(&[99])); }, nothing;
    I1 i1_negative_input Reject |p| { p.plan().set(3, i32s(&[-1])); }, nothing;
    I2 i2_input_twice Reject |p| { p.plan().set(3, i32s(&[0, 0])); }, nothing;
    I3 i3_list_as_output Reject |p| { p.plan().set(4, i32s(&[10])); }, nothing;
    I4 i4_constant_as_input Reject |p| { p.plan().set(3, i32s(&[0, 1])); }, nothing;
    I5 i5_no_output Reject |p| { p.plan().set(4, i32s(&[])); }, nothing;
    I6 i6_other_vocabulary Reject intact, |e| e.vocab = Some(9);
    I6 i6_tokens_are_not_integers Reject |p| { p.value(0).set(0, i8(6)); }, |e| e.vocab = Some(8);

    O1 o1_no_name Reject |p| { p.plan().item(6, 0).unset(0); }, nothing;
    O2 o2_name_of_100_bytes Reject |p| { p.plan().item(6, 0).set(0, str(&"a".repeat(90))); }, nothing;
    O3 o3_unknown_operator Reject |p| { p.plan().item(6, 0).set(0, str("evil::op")); }, nothing;
    X1 x1_two_chains Reject |p| {
        let chain = p.plan().item(5, 0).clone();
        p.plan().list(5).push(chain);
    }, nothing;
    X2 x2_unknown_instruction Reject |p| { p.plan().item(5, 0).item(2, 0).set(0, u8(6)); }, nothing;
    X2 x2_instruction_without_table Reject |p| { p.plan().item(5, 0).item(2, 0).unset(1); }, nothing;
    X3 x3_operator_out_of_range Reject |p| { p.instruction(0).set(0, i32(7)); }, nothing;
    X4 x4_delegate_out_of_range Reject |p| { p.instruction(1).set(0, i32(7)); }, nothing;
    X5 x5_argument_out_of_range Reject |p| { p.instruction(1).set(1, i32s(&[7, -8])); }, nothing;
    X6 x6_move_changes_the_kind Reject |p| {
        let step = T::new([(0, u8(3)), (1, Val::Table(T::new([(0, i32(4)), (1, i32(8))])))]);
        p.plan().item(5, 0).list(2).push(step);
    }, nothing;
    X7 x7_jump_on_an_integer Reject |p| {
        let step = T::new([(0, u8(4)), (1, Val::Table(T::new([(0, i32(4)), (1, i32(0))])))]);
        p.plan().item(5, 0).list(2).push(step);
    }, nothing;
    X8 x8_jump_out_of_the_chain Reject |p| {
        let step = T::new([(0, u8(4)), (1, Val::Table(T::new([(0, i32(12)), (1, i32(99))])))]);
        p.plan().item(5, 0).list(2).push(step);
    }, nothing;
    X9 x9_frees_a_constant Reject |p| {
        let step = T::new([(0, u8(5)), (1, Val::Table(T::new([(0, i32(1))])))]);
        p.plan().item(5, 0).list(2).push(step);
    }, nothing;
    X10 x10_argument_missing Reject |p| { p.instruction(0).set(1, i32s(&[1, 2, 3, 4, 5, 0, 6, 7])); }, nothing;
    X11 x11_integer_as_tensor Reject |p| { p.instruction(0).set(1, i32s(&[4, 2, 3, 4, 5, 0, 6, 7, 7])); }, nothing;
    X11 x11_overwrites_a_tensor_with_a_scalar Reject |p| {
        p.plan().list(6).push(T::new([(0, str("aten::sym_numel")), (1, str(""))]));
        p.plan().item(5, 0).list(2).push(kernel(1, &[7, 8]));
    }, nothing;
    X11 x11_computed_double_as_integer Reject |p| {
        p.plan().list(6).push(T::new([(0, str("executorch_prim::truediv")), (1, str("Scalar"))]));
        p.plan().list(6).push(T::new([(0, str("executorch_prim::floordiv")), (1, str("int"))]));
        p.plan().list(2).extend([int(4), int(2), int(0), int(0)]);
        p.plan().item(5, 0).list(2).extend([kernel(1, &[14, 15, 16]), kernel(2, &[16, 15, 17])]);
    }, nothing;
    X11 x11_arithmetic_on_a_truth_value Reject |p| {
        p.plan().list(6).push(T::new([(0, str("executorch_prim::add")), (1, str("Scalar"))]));
        p.plan().list(2).push(int(0));
        p.plan().item(5, 0).list(2).push(kernel(1, &[12, 4, 14]));
    }, nothing;
    X11 x11_list_of_integers_with_a_computed_double Reject |p| {
        p.plan().list(6).push(T::new([(0, str("executorch_prim::truediv")), (1, str("Scalar"))]));
        p.plan().list(6).push(T::new([(0, str("executorch_prim::et_view")), (1, str("default"))]));
        // Value 9 is a list of values 4 and 5.
        p.plan().item(5, 0).list(2).extend([kernel(1, &[4, 5, 4]), kernel(2, &[7, 9, 7])]);
    }, nothing;
    X12 x12_writes_a_constant Reject |p| { p.instruction(0).set(1, i32s(&[1, 2, 3, 4, 5, 0, 6, 1, 1])); }, nothing;
    X12 x12_returns_something_else Reject |p| { p.instruction(0).set(1, i32s(&[1, 2, 3, 4, 5, 0, 6, 7, 8])); }, nothing;
    X12 x12_in_place_returns_something_else Reject |p| {
        p.plan().list(6).push(T::new([(0, str("aten::copy_")), (1, str(""))]));
        p.plan().item(5, 0).list(2).push(kernel(1, &[7, 7, 12, 8]));
    }, nothing;
    X13 x13_range_that_runs_backwards Reject |p| {
        p.plan().list(6).push(T::new([(0, str("aten::arange")), (1, str("start_out"))]));
        p.plan().item(5, 0).list(2).push(kernel(1, &[5, 4, 6, 7, 7]));
    }, nothing;
    X13 x13_range_from_behind_a_computed_end Reject |p| {
        p.plan().list(6).push(T::new([(0, str("aten::sym_size")), (1, str("int"))]));
        p.plan().list(6).push(T::new([(0, str("aten::arange")), (1, str("start_out"))]));
        p.plan().list(2).extend([int(0), int(0)]);
        p.plan().item(5, 0).list(2).extend([kernel(1, &[7, 14, 15]), kernel(2, &[5, 15, 6, 7, 7])]);
    }, nothing;
    X13 x13_fewer_scales_than_rows Reject |p| { p.value(2).set(2, i32s(&[4, 2])).set(3, bytes(&[0, 1])); }, nothing;
    X13 x13_output_too_narrow Reject |p| { p.value(7).set(2, i32s(&[1, 4, 16])); }, nothing;
    X13 x13_slice_step_of_zero Reject |p| {
        p.plan().item(6, 0).set(0, str("aten::slice_copy")).set(1, str("Tensor_out"));
        p.plan().list(2).push(int(0));
        p.instruction(0).set(1, i32s(&[7, 4, 3, 3, 14, 7, 7]));
    }, nothing;
    X13 x13_indices_are_floats Reject |p| {
        p.plan().item(6, 0).set(0, str("aten::embedding")).set(1, str("out"));
        p.plan().list(2).push(value(3, T::new([(0, u8(0))])));
        p.instruction(0).set(1, i32s(&[7, 8, 4, 14, 14, 7, 7]));
    }, nothing;
    X13 x13_indices_of_32_bits_for_a_kernel_of_64 Reject |p| { p.value(0).set(0, i8(3)); }, nothing;
    X13 x13_bounds_run_backwards Reject |p| { p.value(4).set(0, i64(127)); p.value(5).set(0, i64(-128)); }, nothing;
    X13 x13_static_output_of_dynamic_indices Reject |p| { p.value(7).set(8, i8(0)); }, nothing;
    X13 x13_promised_dtype_of_the_output Reject |p| { p.value(6).set(0, i64(5)); }, nothing;
    X13 x13_zero_points_of_another_shape Reject |p| { p.instruction(0).set(1, i32s(&[1, 2, 7, 4, 5, 0, 6, 7, 7])); }, nothing;
    X13 x13_size_of_a_dimension_behind_the_rank Reject |p| {
        p.plan().list(6).push(T::new([(0, str("aten::sym_size")), (1, str("int"))]));
        p.plan().list(2).extend([int(3), int(0)]);
        p.plan().item(5, 0).list(2).push(kernel(1, &[7, 14, 15]));
    }, nothing;
    X13 x13_size_of_a_computed_dimension Reject |p| {
        p.plan().list(6).push(T::new([(0, str("aten::sym_size")), (1, str("int"))]));
        p.plan().list(2).extend([int(0), int(0), int(0)]);
        p.plan().item(5, 0).list(2).extend([kernel(1, &[7, 14, 15]), kernel(1, &[7, 15, 16])]);
    }, nothing;
    X13 x13_scalar_of_many_elements Reject |p| {
        p.plan().list(6).push(T::new([(0, str("aten::_local_scalar_dense")), (1, str(""))]));
        p.plan().list(2).push(int(0));
        p.plan().item(5, 0).list(2).push(kernel(1, &[7, 14]));
    }, nothing;
    X14 x14_control_flow_when_refused Reject |p| {
        let step = T::new([(0, u8(4)), (1, Val::Table(T::new([(0, i32(12)), (1, i32(0))])))]);
        p.plan().item(5, 0).list(2).push(step);
    }, |e| e.straight_line = true;
    X15 x15_output_shares_bytes Reject |p| { p.value(8).sub(6).set(1, u32(0)); }, nothing;
    X16 x16_operator_that_nobody_judges Warn relu, nothing;
    X16 x16_operator_that_nobody_judges_when_refused Reject relu, |e| e.operators = Operators::Judged;
    X17 x17_integer_beyond_32_bits Reject |p| { p.value(4).set(0, i64(-1 << 32)); }, nothing;
    X17 x17_dtype_that_there_is_not Reject |p| { p.value(6).set(0, i64(6 + (1 << 32))); }, nothing;
    O4 o4_operator_that_no_model_calls Reject intact, |e| {
        e.operators = Operators::Admitted(pte::admitted("no-such-family", "xnnpack"));
    };
    G12 g12_node_that_no_model_has Reject intact, |e| {
        e.operators = Operators::Admitted(pte::admitted("no-such-family", "xnnpack"));
    };

    D1 d1_backend_not_linked Reject |p| { p.delegate().set(0, str("EvilBackend")); }, nothing;
    D1 d1_backend_not_allowed Reject intact, |e| e.backends = vec!["OtherBackend".to_owned()];
    D2 d2_no_reference Reject |p| { p.delegate().unset(1); }, nothing;
    D3 d3_unknown_location Reject |p| { p.delegate().sub(1).set(0, i8(2)); }, nothing;
    D4 d4_no_such_segment Reject |p| { p.delegate().sub(1).set(1, u32(99)); }, nothing;
    D5 d5_empty_spec Reject |p| { p.delegate().item(2, 0).unset(0).unset(1); }, nothing;
    D6 d6_spec_without_key Reject |p| { p.delegate().item(2, 0).unset(0); }, nothing;
    D7 d7_spec_without_value Reject |p| { p.delegate().item(2, 0).unset(1); }, nothing;
    D8 d8_blob_is_also_named_data Reject |p| { p.program.item(7, 0).set(1, u32(1)); }, nothing;
    D9 d9_empty_blob Reject |p| p.entry = |i, _, size| if i == 1 { *size = 0 }, nothing;
    D10 d10_never_called Reject |p| { p.plan().item(5, 0).list(2).pop(); }, nothing;
    D11 d11_fewer_partitions Reject intact, |e| e.partitions = Some(2);
    D12 d12_too_little_delegated Reject intact, |e| e.delegated_weight_share_min = Some(0.9);
    D12 d12_limit_is_not_a_number Reject intact, |e| e.delegated_mac_share_min = Some(f64::NAN);

    H1 h1_no_blob_magic Reject |p| p.blob = |b| b[4] = 0, nothing;
    H2 h2_other_header_length Reject |p| p.blob = |b| b[8] = 31, nothing;
    H3 h3_graph_beyond_the_blob Reject |p| p.blob = |b| b[14..18].fill(0xff), nothing;
    H3 h3_graph_inside_the_header Reject |p| p.blob = |b| b[10] = 16, nothing;
    H4 h4_constants_inside_the_graph Reject |p| p.blob = |b| b[18..22].copy_from_slice(&48_u32.to_le_bytes()), nothing;
    H5 h5_trailing_bytes Reject |p| p.blob = |b| b.extend([0; 16]), nothing;
    H5 h5_constants_overflow Reject |p| p.blob = |b| b[22..30].fill(0xff), nothing;
    H6 h6_byte_in_padding Reject |p| p.blob = |b| b[31] = 1, nothing;
    H7 h7_other_graph_magic Reject |p| p.blob = |b| b[39] = b'9', nothing;
    H8 h8_broken_graph Reject |p| p.blob = |b| b[32..36].fill(0xff), nothing;
    G3 g3_unknown_node Reject |p| { p.graph.item(1, 0).set(0, u8(48)); }, nothing;
    H9 h9_too_many_externs Reject |p| { p.graph.set(3, u32(5000)); }, nothing;
    H10 h10_inline_weights Reject |p| {
        p.graph.set(6, Val::Tables(vec![T::new([(0, bytes(&[1; 16]))])]));
    }, nothing;
    W1 w1_key_and_offset Reject |p| { p.graph.item(8, 1).set(0, u64(0)); }, nothing;
    W2 w2_unknown_key Reject |p| { p.graph.item(8, 1).set(2, str("nothing")); }, nothing;
    W3 w3_weight_replaced_by_a_shorter_one Reject |p| {
        let scale = p.graph.item(8, 2).0.iter().find(|field| field.0 == 2).expect("a key").1.clone();
        p.graph.item(8, 1).set(2, scale);
    }, nothing;
    W4 w4_unused_datum Reject |p| {
        p.segments.push(weights(64));
        let datum = T::new([(0, str("stowaway")), (1, u32(4))]);
        p.program.list(7).push(datum);
    }, nothing;
    W5 w5_reserved_constant_in_use Reject |p| { p.graph.item(8, 0).set(1, u64(16)); }, nothing;
    Q1 q1_unknown_dtype Reject |p| { p.xvalue(0).set(0, i16(15)); }, nothing;
    Q2 q2_rank_and_sizes_differ Reject |p| { p.xvalue(0).set(1, u32(2)); }, nothing;
    Q3 q3_elements_overflow Reject |p| { p.xvalue(0).set(2, u32s(&[u32::MAX; 3])); }, nothing;
    Q4 q4_unknown_flags Reject |p| { p.xvalue(0).set(5, u32(9)); }, nothing;
    Q5 q5_external_id_out_of_range Reject |p| { p.xvalue(3).set(4, u32(2)); }, nothing;
    Q6 q6_external_id_twice Reject |p| { p.xvalue(3).set(4, u32(0)); }, nothing;
    Q7 q7_constant_out_of_range Reject |p| { p.xvalue(1).sub(0).set(3, u32(9)); }, nothing;
    Q8 q8_constant_is_external Reject |p| { p.xvalue(1).sub(0).set(5, u32(1)).set(4, u32(1)); }, nothing;
    Q9 q9_filter_larger_than_its_bytes Reject |p| { p.xvalue(1).sub(0).set(2, u32s(&[8, 64])); }, nothing;
    Q10 q10_fewer_scales_than_channels Reject |p| { p.xvalue(1).sub(2).set(3, u32(7)); }, nothing;
    Q11 q11_scales_too_short Reject |p| {
        p.segments[3] = scales(4);
        let key = format!("scale_{}", hex(&p.segments[3]));
        p.program.item(7, 1).set(0, str(&key));
        p.graph.item(8, 2).set(2, str(&key)).set(1, u64(16));
    }, nothing;
    Q11b q11b_scale_of_zero Reject |p| {
        p.segments[3][..4].fill(0);
        let key = format!("scale_{}", hex(&p.segments[3]));
        p.program.item(7, 1).set(0, str(&key));
        p.graph.item(8, 2).set(2, str(&key));
    }, nothing;
    Q12 q12_inline_scale_is_not_finite Reject |p| {
        let scheme = T::new([(0, f32s(&[f32::NAN; 8])), (1, i32(0))]);
        p.xvalue(1).set(2, Val::Table(scheme));
    }, nothing;
    Q13 q13_other_axis Reject |p| { p.xvalue(1).sub(2).set(1, i32(5)); }, nothing;
    Q14 q14_scheme_does_not_fit Reject |p| { p.xvalue(1).sub(0).set(0, i16(3)); }, nothing;
    Q15 q15_zero_point_out_of_range Reject |p| {
        p.xvalue(2).sub(0).set(0, i16(3));
        p.xvalue(2).set(1, u8(2)).set(2, Val::Table(T::new([(0, f32(0.5)), (1, i32(128))])));
    }, nothing;
    Q15 q15_group_does_not_divide Reject |p| {
        p.xvalue(1).sub(0).set(0, i16(10));
        p.xvalue(1).set(1, u8(4)).set(2, Val::Table(T::new([(1, i32(0)), (2, i32(24)), (4, u32(2)), (5, u32(8))])));
    }, nothing;
    Q16 q16_id_twice Reject |p| { p.xvalue(2).sub(0).set(6, u32(1)); }, nothing;
    Q17 q17_zero_weights Warn |p| {
        p.segments[2].fill(0);
        let key = hex(&p.segments[2]);
        p.program.item(7, 0).set(0, str(&key));
        p.graph.item(8, 1).set(2, str(&key));
    }, nothing;
    Q17 q17_zero_weights_when_refused Reject |p| p.segments[0][..256].fill(0), |e| e.sound_weights = true;
    Q18 q18_infinite_weights Reject |p| {
        // A table of 32-bit floats instead of the quantized one.
        p.plan().item(6, 0).set(0, str("aten::embedding")).set(1, str("out"));
        let table: Vec<u8> = (0..256).flat_map(|i| if i == 9 { f32::INFINITY } else { i as f32 }.to_le_bytes()).collect();
        p.segments[0] = table.into_iter().chain(scales(8)).collect();
        p.program.sub(5).set(1, u64s(&[0, 0, 1024]));
        p.value(1).set(0, i8(6));
        let off = value(3, T::new([(0, u8(0))]));
        p.plan().list(2).push(off);
        p.instruction(0).set(1, i32s(&[1, 0, 4, 14, 14, 7, 7]));
    }, |e| e.sound_weights = true;
    G1 g1_reads_what_is_not_there Reject |p| p.graph.list(1).reverse(), nothing;
    G2 g2_two_writers Reject |p| { p.graph.item(1, 0).sub(1).set(1, u32(0)); }, nothing;
    G4 g4_unknown_id Reject |p| { p.graph.item(1, 0).sub(1).set(0, u32(77)); }, nothing;
    G5 g5_filter_does_not_fit Reject |p| {
        p.xvalue(1).sub(0).set(2, u32s(&[4, 64]));
        p.xvalue(1).sub(2).set(3, u32(4));
    }, nothing;
    G6 g6_bias_does_not_fit Reject |p| {
        // Another value with the scales' bytes as a bias of eight, cut to four.
        p.graph.list(2).push(xvalue(1, &[2, 4], 2, NO_ID, 0, 4));
        p.graph.item(1, 1).sub(1).set(2, u32(0));
    }, nothing;
    G7 g7_clamp_is_empty Reject |p| {
        p.graph.item(1, 1).set(3, Val::Table(T::new([(0, f32(1.0)), (1, f32(1.0))])));
    }, nothing;
    G8 g8_transpose_repeats Reject |p| {
        let node = T::new([(0, u32(3)), (1, u32s(&[0, 0, 2])), (2, u32(0)), (3, u32(2)), (4, u32(0))]);
        p.graph.item(1, 0).set(0, u8(5)).set(1, Val::Table(node));
    }, nothing;
    G8 g8_slice_beyond_its_input Reject |p| {
        let node = [(0, u32(3)), (1, u32s(&[0, 2, 0])), (2, u32s(&[1, 3, 0])), (3, u32(0)), (4, u32(2)), (5, u32(0))];
        p.graph.item(1, 0).set(0, u8(35)).set(1, Val::Table(T::new(node)));
    }, nothing;
    G8 g8_result_larger_than_computed Reject |p| { p.xvalue(2).sub(0).set(2, u32s(&[1, 0x00ff_0004, 32])); }, nothing;
    G8 g8_unknown_flag Reject |p| { p.graph.item(1, 1).sub(1).set(4, u32(0x8000)); }, nothing;
    X13 x13_quantized_dtype_outside Reject |p| { p.plan().item(6, 0).set(0, str("aten::relu")).set(1, str("out")); p.value(7).set(0, i8(12)); p.instruction(0).set(1, i32s(&[7, 7, 7])); }, nothing;
    G9 g9_output_is_never_written Reject |p| { p.graph.list(1).pop(); }, nothing;
    G10 g10_hidden_byte Reject |p| p.blob = |b| {
        // The deprecated word in front of the graph's own padding: grow the graph over it and hide a byte there.
        let size = u32::from_le_bytes(b[14..18].try_into().expect("4"));
        let padded = (size + 32).next_multiple_of(16) - 32 + 16;
        b.extend([0; 16]);
        b[14..18].copy_from_slice(&padded.to_le_bytes());
        b[18..22].copy_from_slice(&(padded + 32).to_le_bytes());
        *b.last_mut().expect("a byte") = 1;
    }, nothing;
    G11 g11_clamp_makes_a_dynamically_quantized_value Reject |p| { p.graph.item(1, 0).set(0, u8(6)); }, nothing;
    G11 g11_product_into_a_quantized_value Reject |p| { p.xvalue(3).set(0, i16(9)); }, nothing;
    A1 a1_external_id_beyond_the_arguments Reject |p| { p.instruction(1).set(1, i32s(&[7])); }, nothing;
    A2 a2_surplus_argument Reject |p| { p.instruction(1).set(1, i32s(&[7, 8, 8])); }, nothing;
    A3 a3_integer_as_argument Reject |p| { p.instruction(1).set(1, i32s(&[4, 8])); }, nothing;
    A4 a4_output_of_bytes Reject |p| { p.value(8).set(0, i8(0)); }, nothing;
    A4 a4_output_too_small Reject |p| { p.value(8).set(2, i32s(&[1, 4, 4])); }, nothing;
    A5 a5_writes_a_constant Reject |p| { p.instruction(1).set(1, i32s(&[7, 1])); }, nothing;

    QC qc_other_quantization Reject intact, |e| e.quantization = Some(Quantization::Int4);
    QC qc_linear_of_one_row Reject intact, |e| e.two_row_linears = Some(1);
    QC qc_missing_linear Reject intact, |e| e.delegated_linears = Some(2);
    QC qc_missing_product Reject intact, |e| {
        e.quantization = Some(Quantization::Int8);
        e.small_linears = Some((1, 1024));
    };
    QC qc_f32_products_that_nobody_declared Reject |p| more_linears(p, 2), |e| e.quantization = Some(Quantization::Int8);
    QC qc_linear_left_in_f32 Reject |p| more_linears(p, 1), |e| {
        e.quantization = Some(Quantization::Int8);
        e.delegated_linears = Some(3);
    };
    K1 k1_method_missing Reject intact, |e| e.metadata_required = vec!["get_n_layers".to_owned()];
    K2 k2_metadata_computes Reject |p| {
        p.program.item(1, 1).set(2, Val::Tables(vec![value(5, tensor(4, &[1]))])).set(3, i32s(&[0]));
    }, |e| e.metadata_required = vec!["get_vocab_size".to_owned()];
    K3 k3_vocabulary_is_not_that_of_the_logits Reject |p| {
        p.program.item(1, 1).item(2, 0).sub(1).set(0, i64(9));
    }, nothing;
    K3 k3_end_token_outside_the_vocabulary Reject |p| {
        p.program.item(1, 4).item(2, 0).sub(1).set(0, i64(8));
    }, nothing;
    K3 k3_other_value_than_promised Reject intact, |e| {
        e.metadata = [("get_max_seq_len".to_owned(), MetaValue::Int(5))].into();
    };
    K3 k3_other_width Reject intact, |e| e.dim = Some(48);
    L3 l3_memory_over_the_limit Reject intact, |e| e.planned_bytes_max = Some(639);
    L4 l4_file_over_the_limit Reject intact, |e| e.file_bytes_max = Some(100);
    L4 l4_file_under_the_limit Reject intact, |e| e.file_bytes_min = Some(1 << 30);
}

/// A source that claims a length and fails or answers zeros.
struct Claims {
    head: Vec<u8>,
    length: u64,
    fails_from: u64,
}

impl ReadAt for Claims {
    fn len(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buf.len() as u64 > self.fails_from {
            return Err(io::Error::other("unplugged"));
        }
        for (index, byte) in buf.iter_mut().enumerate() {
            let at = usize::try_from(offset).expect("small") + index;
            *byte = self.head.get(at).copied().unwrap_or(0);
        }
        Ok(())
    }
}

#[test]
fn c0_reading_fails_midway() {
    let head = Pte::default().build();
    let length = head.len() as u64;
    for fails_from in [0, 64, length - 1] {
        let file = Claims { head: head.clone(), length, fails_from };
        assert_caught(CheckId::C0, Severity::Reject, &file, &expect());
    }
}

/// Gives the first file for so many reads, and the second one afterwards.
struct Changing([Vec<u8>; 2], Cell<i64>);

impl ReadAt for Changing {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0[0].len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.set(self.1.get() - 1);
        self.0[usize::from(self.1.get() < 0)].read_exact_at(buf, offset)
    }
}

#[test]
fn c11_the_file_changes_between_any_two_reads() {
    let good = Pte::default().build();
    // The name of a method: a sound file, but not the one that was checked.
    let name = b"get_vocab_size";
    let at = good.windows(name.len()).position(|window| window == name).expect("the name");
    let mut other = good.clone();
    other[at] = b'G';
    let verified = |reads| {
        let file = Changing([good.clone(), other.clone()], Cell::new(reads));
        let report = pte::verify(&file, Level::Hash, &expect());
        (report, file.1.get() >= 0)
    };
    assert!(verified(0).0.is_accepted(), "the other file is sound");
    let mut reads = 1;
    loop {
        let (report, unchanged) = verified(reads);
        if unchanged {
            assert!(report.is_accepted() && reads > 3, "{reads}: {:#?}", report.findings);
            break;
        }
        let caught = report.findings.iter().any(|finding| finding.id == CheckId::C11);
        // What changes before the program is read is checked as it is.
        let summary = report.summary.as_ref().expect("both can be read");
        assert!(caught || summary.metadata.contains_key("Get_vocab_size"), "{reads}: {:#?}", report.findings);
        reads += 1;
    }
}

#[test]
fn l1_program_of_65_mib() {
    let mut head = Pte::default().build();
    head[16..24].copy_from_slice(&(65_u64 << 20).to_le_bytes());
    let file = Claims { head, length: 1 << 40, fails_from: 1 << 20 };
    assert_caught(CheckId::L1, Severity::Reject, &file, &expect());
}

#[test]
fn l2_blob_of_a_terabyte_is_not_read() {
    let pte = Pte {
        entry: |index, _, size| {
            if index == 1 {
                *size = 1 << 39
            }
        },
        ..Pte::default()
    };
    let head = pte.build();
    let file = Claims { fails_from: head.len() as u64, head, length: 1 << 40 };
    assert_caught(CheckId::L2, Severity::Reject, &file, &expect());
}

#[test]
fn every_check_has_a_hostile_file() {
    let elsewhere = [CheckId::C0, CheckId::C11, CheckId::L1, CheckId::L2];
    let missing: Vec<_> =
        CheckId::ALL.iter().filter(|id| !COVERED.contains(id) && !elsewhere.contains(id)).collect();
    assert!(missing.is_empty(), "checks without a hostile file: {missing:?}");
}

#[test]
fn declared_f32_products_count_as_no_linear() {
    let mut pte = Pte::default();
    more_linears(&mut pte, 1);
    let promise = Expect {
        quantization: Some(Quantization::Int8),
        delegated_linears: Some(2),
        small_linears: Some((1, 32)),
        ..expect()
    };
    let report = pte::verify(&pte.build(), Level::Hash, &promise);
    assert!(report.is_accepted(), "{:#?}", report.findings);
    let summary = report.summary.expect("an accepted file has a summary");
    let params = |dtype: &str| {
        let rows = summary.weights.iter().filter(|row| row.role == "linear" && row.dtype == dtype);
        rows.map(|row| row.params).sum::<u64>()
    };
    assert_eq!((params("qcint8"), params("f32")), (3456, 32));
}

#[test]
fn aliased_tables_do_not_multiply_work() {
    // Every plan entry points at the same long vector: the visits budget ends it.
    let mut pte = Pte::default();
    pte.plan().set(8, i64s(&[0; 4096]));
    let mut file = pte.build();
    let report = pte::verify(&file, Level::Structure, &expect());
    assert!(report.summary.is_some());
    let root = u32::from_le_bytes(file[0..4].try_into().expect("4")) as usize;
    file[root] ^= 0x80;
    assert!(!pte::verify(&file, Level::Structure, &expect()).is_accepted());
}
