//! Templates in the worker's half, in `transformers`, and as the contract's tests expect them of the app's half.

use std::process::Command;

use serde::Deserialize;

use crate::{pinned_venv, workspace::Workspace};

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    transformers: Option<String>,
    worker: Option<String>,
    expected: Option<String>,
}

#[test]
fn both_halves_render_as_transformers_does() {
    let workspace = Workspace::find(None).unwrap();
    let script = workspace.python_sources().join("compare/templates.py");
    let folder = workspace.models().parent().unwrap().join("templates");
    let venv = pinned_venv::transformers(&workspace).unwrap();
    let mut command = Command::new(venv.join("bin/python"));
    let output = command.args(["-B", script.as_str(), folder.as_str()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cases: Vec<Case> = serde_json::from_slice(&output.stdout).unwrap();
    let wrong: Vec<_> = cases
        .iter()
        .filter(|it| it.worker != it.transformers || it.expected != it.transformers)
        .map(|it| format!("{it:?}"))
        .collect();
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    // A script that renders nothing must not pass.
    let rendered = cases.iter().filter(|it| it.transformers.is_some());
    assert!(rendered.count() >= 200, "{} cases", cases.len());
    assert!(
        cases.iter().any(|it| it.name == "generation") && cases.iter().any(|it| it.name.starts_with("qwen3"))
    );
}
