//! A verifier's report as SARIF 2.1.0, for code scanning.
//!
//! **Invariant:** every rule of the verifier is listed, so that the rule index of each result has its text.

use anyhow::Context as _;
use camino::Utf8Path;
use model_assets::pte::{CheckId, Finding, Report, Severity};
use serde_json::{Value, json};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// Writes the report on `model` to `path`.
pub(crate) fn write(path: &Utf8Path, model: &Utf8Path, report: &Report) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(&log(model, report))?;
    std::fs::write(path, text).with_context(|| format!("{path}: cannot be written"))
}

fn log(model: &Utf8Path, report: &Report) -> Value {
    let rules: Vec<_> = CheckId::ALL
        .iter()
        .map(|id| {
            json!({
                "id": id.as_str(),
                "shortDescription": {"text": id.rule()},
                "help": {"text": format!("A good file satisfies: {}. See docs/pte-format.md.", id.rule())},
            })
        })
        .collect();
    let results: Vec<_> = report.findings.iter().map(|finding| result(model, finding)).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "proofmark", "version": env!("CARGO_PKG_VERSION"), "rules": rules,
            }},
            "artifacts": [{"location": {"uri": uri(model)}, "roles": ["analysisTarget"]}],
            "invocations": [{"executionSuccessful": report.summary.is_some() || !report.findings.is_empty()}],
            "results": results,
        }],
    })
}

fn result(model: &Utf8Path, finding: &Finding) -> Value {
    let Finding { id, severity, location, got, expected, message } = finding;
    let level = match severity {
        Severity::Reject => "error",
        Severity::Warn => "warning",
    };
    json!({
        "ruleId": id.as_str(),
        "ruleIndex": CheckId::ALL.iter().position(|other| other == id),
        "level": level,
        "message": {"text": format!("{location}: {message}: got {got}, expected {expected}")},
        "locations": [{
            "physicalLocation": {"artifactLocation": {"uri": uri(model), "index": 0}},
            "logicalLocations": [{"fullyQualifiedName": location}],
        }],
        // Stable from run to run, so that a finding that was seen before is recognised.
        "partialFingerprints": {"place/v1": format!("{id} {location}")},
    })
}

/// A path as a relative or absolute URI: everything but unreserved characters and slashes is escaped.
fn uri(path: &Utf8Path) -> String {
    let mut text = if path.is_absolute() { "file://".to_owned() } else { String::new() };
    for byte in path.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte.into())
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use model_assets::pte::{self, Expect, Level};

    #[test]
    fn a_refused_file_gives_results_whose_rules_are_listed() {
        let report = pte::verify(&vec![0_u8; 100], Level::Hash, &Expect::default());
        assert!(!report.findings.is_empty());
        let log = log(Utf8Path::new("a model.pte"), &report);
        let run = &log["runs"][0];
        let results = run["results"].as_array().expect("results");
        assert_eq!(results.len(), report.findings.len());
        for result in results {
            let index = usize::try_from(result["ruleIndex"].as_u64().expect("a number")).expect("small");
            assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
            assert_eq!(
                result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
                "a%20model.pte"
            );
        }
        assert_eq!(results[0]["level"], "error");
    }
}
