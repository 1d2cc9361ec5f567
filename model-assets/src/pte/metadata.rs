//! Constant methods, and that what they say agrees with the shapes and with the promise.

use std::collections::BTreeMap;

use super::check_id::CheckId::{I6, K1, K2, K3, P4, P5, P6};
use super::expect::Expect;
use super::program::{ExecutionPlan, Program, Value};
use super::report::{Place, Report, Severity};
use super::summary::{MetaValue, Summary};
use super::value::index;

/// P4 to P6.
pub(super) fn check_names(program: &Program<'_>, expect: &Expect, report: &mut Report) {
    let at = Place::root("program");
    if program.plans.is_empty() {
        report.reject(P4, &at, "no method", 0, "at least 1");
    }
    let mut seen = std::collections::HashSet::new();
    for (number, plan) in program.plans.iter().enumerate() {
        let at = Place::root_at("plan", number);
        match plan.name.filter(|name| !name.is_empty()) {
            None => report.reject(P5, &at, "the method has no name", "none", "a name"),
            Some(name) if !seen.insert(name) => {
                report.reject(P5, &at, "the name stands there twice", name, "unique")
            }
            Some(_) => {}
        }
    }
    if !seen.contains("forward") {
        let severity = if expect.forward { Severity::Reject } else { Severity::Warn };
        report.add(severity, P6, &at, "no method `forward`", seen.len(), "forward among the methods");
    }
}

/// The value of a constant method; `None` when the method computes.
pub(super) fn constant(plan: &ExecutionPlan<'_>) -> Option<MetaValue> {
    let computes = plan.chains.iter().any(|chain| chain.instructions.iter().flatten().next().is_some());
    if computes || !plan.inputs.is_empty() || !plan.delegates.is_empty() || plan.outputs.is_empty() {
        return None;
    }
    let outputs: Vec<_> = plan.outputs.iter().filter_map(|&output| plan.values.get(index(output))).collect();
    let integers: Option<Vec<i64>> =
        outputs.iter().map(|value| if let Value::Int(value) = value { Some(*value) } else { None }).collect();
    Some(match (outputs.as_slice(), integers) {
        ([Value::Int(value)], _) => MetaValue::Int(*value),
        ([Value::Bool(value)], _) => MetaValue::Bool(*value),
        ([Value::Double(value)], _) => MetaValue::Double(*value),
        ([Value::Text(value)], _) => MetaValue::Text((*value).to_owned()),
        (_, Some(values)) => MetaValue::IntList(values),
        (values, None) => {
            MetaValue::Other(values.iter().map(|value| value.kind()).collect::<Vec<_>>().join(", "))
        }
    })
}

/// K1, K2, and equality with the promised values.
pub(super) fn check_promised(summary: &Summary, expect: &Expect, report: &mut Report) {
    let required = expect.metadata_required.iter().chain(expect.metadata.keys());
    for name in required.collect::<std::collections::BTreeSet<_>>() {
        let at = Place::root_named("plan", name);
        if summary.metadata.contains_key(name) {
            continue;
        }
        if summary.plans.iter().any(|plan| plan.name == *name) {
            report.reject(K2, &at, "the metadata method computes", "inputs or instructions", "a constant");
        } else {
            report.reject(K1, &at, "no such metadata method", "none", "a constant method");
        }
    }
    for (name, promised) in &expect.metadata {
        if let Some(value) = summary.metadata.get(name).filter(|value| *value != promised) {
            let at = Place::root_named("plan", name);
            report.reject(K3, &at, "the metadata is not the promised one", value, promised);
        }
    }
    // Runners read these before anything else; one that computes is no metadata.
    for plan in &summary.plans {
        let known = plan.name.starts_with("get_")
            || plan.name.starts_with("use_")
            || plan.name.starts_with("enable_");
        let promised =
            expect.metadata.contains_key(&plan.name) || expect.metadata_required.contains(&plan.name);
        if known && !promised && !summary.metadata.contains_key(&plan.name) {
            let at = Place::root_named("plan", &plan.name);
            report.warn(K2, &at, "looks like metadata, but computes", "inputs or instructions", "a constant");
        }
    }
}

fn int(metadata: &BTreeMap<String, MetaValue>, name: &str) -> Option<i64> {
    match metadata.get(name) {
        Some(MetaValue::Int(value)) => Some(*value),
        _ => None,
    }
}

fn ints(metadata: &BTreeMap<String, MetaValue>, name: &str) -> Vec<i64> {
    match metadata.get(name) {
        Some(MetaValue::Int(value)) => vec![*value],
        Some(MetaValue::IntList(values)) => values.clone(),
        _ => Vec::new(),
    }
}

/// K3: the metadata agree among themselves, with the logits, and with the promised figures.
pub(super) fn check_figures(summary: &Summary, expect: &Expect, report: &mut Report) {
    let at = Place::root("metadata");
    let metadata = &summary.metadata;
    let vocab = int(metadata, "get_vocab_size");
    let same = |name: &str, got: Option<i64>, expected: Option<i64>, report: &mut Report| {
        if let (Some(got), Some(expected)) = (got, expected)
            && got != expected
        {
            report.reject(K3, &at, name, got, expected);
        }
    };
    let promised = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
    same("vocabulary", vocab, promised(expect.vocab), report);
    same("longest sequence", int(metadata, "get_max_seq_len"), promised(expect.seq_len), report);
    same("first token", int(metadata, "get_bos_id"), expect.bos, report);
    let eos = ints(metadata, "get_eos_ids");
    if !expect.eos.is_empty() && !eos.is_empty() && eos != expect.eos {
        report.reject(K3, &at, "last tokens", format!("{eos:?}"), format!("{:?}", expect.eos));
    }
    let logits =
        summary.plans.iter().find(|plan| plan.name == "forward").and_then(|plan| plan.outputs.first());
    let logits = logits.and_then(|output| output.shape.last().copied());
    same("vocabulary against the logits", vocab, promised(logits), report);
    let (longest, context) = (int(metadata, "get_max_seq_len"), int(metadata, "get_max_context_len"));
    if let (Some(longest), Some(context)) = (longest, context)
        && longest > context
    {
        report.reject(K3, &at, "longest sequence", longest, format!("≤ {context}"));
    }
    let tokens = ints(metadata, "get_bos_id").into_iter().chain(eos);
    for token in tokens {
        if vocab.is_some_and(|vocab| !(0..vocab).contains(&token)) {
            report.reject(K3, &at, "token id outside the vocabulary", token, format!("< {vocab:?}"));
        }
    }
}

/// I6: the app feeds one row of token ids and a position, and reads logits.
pub(super) fn check_contract(summary: &Summary, expect: &Expect, report: &mut Report) {
    let Some(vocab) = expect.vocab else { return };
    let at = Place::root_named("plan", "forward");
    let Some(forward) = summary.plans.iter().find(|plan| plan.name == "forward") else { return };
    for (number, input) in forward.inputs.iter().enumerate() {
        let at = at.at("input", number);
        if input.dtype.as_deref() != Some("i64") {
            report.reject(I6, &at, "the app feeds 64-bit integers", format!("{:?}", input.dtype), "i64");
        }
    }
    let tokens = forward.inputs.first().map(|input| input.shape.as_slice());
    if !matches!(tokens, Some(&[1, length]) if length > 0) || !matches!(forward.inputs.len(), 1 | 2) {
        let got = format!("{} inputs, tokens {tokens:?}", forward.inputs.len());
        report.reject(I6, &at, "inputs", got, "tokens [1, n], and a position if there is a cache");
    }
    let logits = forward.outputs.first();
    let fits = logits
        .is_some_and(|logits| logits.dtype.as_deref() == Some("f32") && logits.shape.last() == Some(&vocab));
    if !fits {
        let got = logits.map(|logits| format!("{:?} {:?}", logits.dtype, logits.shape)).unwrap_or_default();
        report.reject(I6, &at, "logits", got, format!("f32 ending in {vocab}"));
    }
}
