//! What a recipe promised about the whole file: quantization, delegation, sizes.

use super::check_id::CheckId::{D11, D12, K3, L3, L4, QC};
use super::expect::{Expect, Quantization};
use super::limits;
use super::report::{Place, Report};
use super::summary::{Summary, WeightRow};

pub(super) fn check(summary: &Summary, embeddings: &[(Vec<u64>, i8)], expect: &Expect, report: &mut Report) {
    check_sizes(summary, expect, report);
    check_delegation(summary, expect, report);
    if let Some(quantization) = expect.quantization {
        check_quantization(summary, embeddings, quantization, expect, report);
    }
    check_embedding(embeddings, expect, report);
}

/// L3 and L4.
fn check_sizes(summary: &Summary, expect: &Expect, report: &mut Report) {
    let at = Place::root("file");
    if let Some(min) = expect.file_bytes_min.filter(|&min| summary.file_bytes < min) {
        report.reject(
            L4,
            &at,
            "the file is smaller than promised",
            summary.file_bytes,
            format!("≥ {min} bytes"),
        );
    }
    if let Some(max) = expect.file_bytes_max.filter(|&max| summary.file_bytes > max) {
        report.reject(
            L4,
            &at,
            "the file is larger than promised",
            summary.file_bytes,
            format!("≤ {max} bytes"),
        );
    }
    let planned_max = expect.planned_bytes_max.unwrap_or(limits::PLANNED_BYTES_MAX);
    if summary.planned_bytes > planned_max {
        let at = Place::root("planned memory");
        report.reject(
            L3,
            &at,
            "more memory than promised",
            summary.planned_bytes,
            format!("≤ {planned_max} bytes"),
        );
    }
}

/// D11 and D12.
fn check_delegation(summary: &Summary, expect: &Expect, report: &mut Report) {
    let at = Place::root_named("plan", "forward");
    if let Some(partitions) = expect.partitions.filter(|&partitions| partitions != summary.partitions) {
        report.reject(D11, &at, "delegates", summary.partitions, partitions);
    }
    if summary.partitions == 0 && expect.delegated_linears.is_some_and(|linears| linears > 0) {
        report.reject(D11, &at, "nothing is delegated", 0, "at least one delegate");
    }
    let shares = [
        ("weight bytes", summary.delegated_weight_share(), expect.delegated_weight_share_min),
        ("multiply-accumulates", summary.delegated_mac_share(), expect.delegated_mac_share_min),
    ];
    for (what, share, min) in shares {
        // The comparison is written so that a limit that is not a number refuses.
        if let Some(min) = min.filter(|min| share.partial_cmp(min).is_none_or(std::cmp::Ordering::is_lt)) {
            let message = format!("delegated share of {what}");
            report.reject(D12, &at, message, format!("{share:.4}"), format!("≥ {min:.4}"));
        }
    }
    let delegated = match expect.quantization {
        // The network's linears are the quantized ones: rotations and means are small f32 products beside them.
        Some(quantization @ (Quantization::Int8 | Quantization::Int4)) => {
            let rows = summary.weights.iter().filter(|row| row.delegated && row.role == "linear");
            let promised = |row: &&WeightRow| {
                row.dtype == filter_dtype(quantization) || is_declared(row, quantization, expect)
            };
            rows.filter(promised).map(|row| row.tensors).sum()
        }
        Some(Quantization::Fp32) | None => summary.delegated_linears,
    };
    if let Some(linears) = expect.delegated_linears.filter(|&linears| linears != delegated) {
        report.reject(QC, &at, "delegated linears", delegated, linears);
    } else {
        check_small(summary, delegated, expect, report);
    }
    let two_rows = summary.two_row_linears;
    if let Some(linears) = expect.two_row_linears.filter(|&linears| linears != two_rows) {
        report.reject(QC, &at, "linears with two rows of activations", two_rows, linears);
    }
}

/// QC: what is not one of the `delegated` quantized linears is as many products as declared.
fn check_small(summary: &Summary, delegated: u32, expect: &Expect, report: &mut Report) {
    let small = summary.delegated_linears.saturating_sub(delegated);
    if let Some((products, _)) = expect.small_linears.filter(|&(products, _)| products != small)
        && expect.quantization.is_some_and(|quantization| quantization != Quantization::Fp32)
    {
        let at = Place::root_named("plan", "forward");
        report.reject(QC, &at, "unquantized products beside the linears", small, products);
    }
}

/// The dtype of a linear's filter under a scheme.
fn filter_dtype(quantization: Quantization) -> &'static str {
    match quantization {
        Quantization::Fp32 => "f32",
        Quantization::Int8 => "qcint8",
        Quantization::Int4 => "qbint4",
    }
}

/// Whether a row is the 8-bit linears that a 4-bit model declares, no more and no less.
fn is_declared(row: &WeightRow, quantization: Quantization, expect: &Expect) -> bool {
    quantization == Quantization::Int4
        && row.dtype == filter_dtype(Quantization::Int8)
        && expect.eight_bit_linears == Some((row.tensors, row.params))
}

/// QC: every filter, and every embedding, has the promised dtype.
fn check_quantization(
    summary: &Summary,
    embeddings: &[(Vec<u64>, i8)],
    quantization: Quantization,
    expect: &Expect,
    report: &mut Report,
) {
    let at = Place::root("weights");
    let filter = filter_dtype(quantization);
    let embedding = if quantization == Quantization::Fp32 { "f32" } else { "i8" };
    let auxiliary_max = expect.small_linears.map_or(0, |(_, params)| params);
    for row in &summary.weights {
        let expected = match (row.delegated, row.role.as_str()) {
            (true, "linear") => filter,
            (false, "embedding") => embedding,
            _ => continue,
        };
        let auxiliary = row.delegated && row.dtype == "f32" && row.params <= auxiliary_max;
        let declared = row.delegated && is_declared(row, quantization, expect);
        if row.dtype != expected && !auxiliary && !declared {
            let got = format!("{} {} parameters in {} {}s", row.params, row.dtype, row.tensors, row.role);
            report.reject(QC, &at, "weights without the promised quantization", got, expected);
        }
    }
    let linears: u64 = summary
        .weights
        .iter()
        .filter(|row| row.delegated && row.role == "linear")
        .map(|row| row.params)
        .sum();
    if linears == 0 {
        report.reject(QC, &at, "no linear weight is delegated", 0, "all of them");
    }
    for name in &summary.undelegated_linears {
        report.reject(QC, &at, "a linear layer was left outside the delegates", name, "delegated");
    }
    if embeddings.is_empty() {
        report.reject(QC, &at, "no embedding table", 0, "one");
    }
}

/// Columns of a matrix that embedding and head share: a head that takes two rows of activations has one more.
fn stored_width(dim: u64, expect: &Expect) -> u64 {
    dim.saturating_add(u64::from(expect.two_row_linears.is_some_and(|linears| linears > 0)))
}

/// K3 for the embedding: rows are the vocabulary, columns the width of the model.
fn check_embedding(embeddings: &[(Vec<u64>, i8)], expect: &Expect, report: &mut Report) {
    let at = Place::root("embedding");
    for (sizes, _) in embeddings {
        if let (Some(vocab), Some(&rows)) = (expect.vocab, sizes.first())
            && rows != vocab
        {
            report.reject(K3, &at, "rows against the vocabulary", rows, vocab);
        }
        if let (Some(dim), Some(&columns)) = (expect.dim, sizes.get(1))
            && columns != dim
            && columns != stored_width(dim, expect)
            && columns.checked_mul(2) != Some(dim)
        {
            report.reject(K3, &at, "columns against the width of the model", columns, dim);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(dtype: &str, tensors: u32, params: u64) -> WeightRow {
        let (role, dtype) = ("linear".to_owned(), dtype.to_owned());
        WeightRow { delegated: true, role, dtype, tensors, params, bytes: params }
    }

    /// Findings of QC for a 4-bit model of two layers' linears and these rows; three of 8 bits are declared.
    fn int4(rows: Vec<WeightRow>, linears: u32) -> usize {
        let expect = Expect {
            quantization: Some(Quantization::Int4),
            delegated_linears: Some(linears),
            eight_bit_linears: Some((3, 900)),
            small_linears: Some((2, 40)),
            vocab: Some(100),
            dim: Some(8),
            ..Expect::default()
        };
        let mut weights = vec![linear("qbint4", 12, 10_000)];
        weights.extend(rows);
        let delegated_linears = linears.saturating_add(2);
        let summary = Summary { weights, delegated_linears, ..Summary::default() };
        let mut report = Report::default();
        check(&summary, &[(vec![100, 8], 1)], &expect, &mut report);
        report.rejects().filter(|finding| finding.id == QC).count()
    }

    #[test]
    fn a_4_bit_model_may_have_the_8_bit_linears_that_it_declares() {
        assert_eq!(int4(vec![linear("qcint8", 3, 900)], 15), 0);
    }

    #[test]
    fn nothing_else_of_it_may_have_8_bits() {
        // Of another size or number, and therefore not counted either.
        assert_eq!(int4(vec![linear("qcint8", 3, 892)], 15), 2);
        assert_eq!(int4(vec![linear("qcint8", 4, 900)], 16), 2);
        assert_eq!(int4(vec![linear("f32", 3, 900)], 15), 2);
    }

    #[test]
    fn unquantized_products_are_as_many_and_as_small_as_declared() {
        let declared = linear("qcint8", 3, 900);
        assert_eq!(int4(vec![declared.clone(), linear("f32", 2, 40)], 15), 0);
        assert_eq!(int4(vec![declared, linear("f32", 2, 41)], 15), 1);
    }

    /// Findings of K3 for an embedding of so many columns, width 8.
    fn columns(columns: u64, two_row_linears: u32) -> usize {
        let expect = Expect { dim: Some(8), two_row_linears: Some(two_row_linears), ..Expect::default() };
        let mut report = Report::default();
        check_embedding(&[(vec![100, columns], 1)], &expect, &mut report);
        report.rejects().filter(|finding| finding.id == K3).count()
    }

    #[test]
    fn only_a_matrix_for_two_rows_has_a_spare_column() {
        assert_eq!((columns(8, 0), columns(8, 7), columns(9, 7)), (0, 0, 0));
        assert_eq!((columns(9, 0), columns(10, 7), columns(7, 7)), (1, 1, 1));
    }
}
