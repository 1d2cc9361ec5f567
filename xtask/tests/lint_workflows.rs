//! The workflows are clean, and the linters do find what is not.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::{path::Path, process::Command};

fn lint(folder: &Path) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["dev", "lint-workflows"])
        .arg(folder)
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn the_workflows_are_clean_and_sabotage_is_found() {
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/workflows");
    let (code, text) = lint(&real);
    assert_eq!(code, 0, "{text}");
    let ci = std::fs::read_to_string(real.join("ci.yml")).unwrap();
    let pinned = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1";
    let sabotages = [
        ("action by tag", pinned, "actions/checkout@v7", "zizmor"),
        ("credentials kept", "          persist-credentials: false\n", "          clean: true\n", "zizmor"),
        (
            "all permissions",
            "    permissions:\n      contents: read\n",
            "    permissions: write-all\n",
            "zizmor",
        ),
        ("template injection", "bash .ci/run", "echo ${{ github.event.pull_request.title }}", "zizmor"),
        ("target of strangers", "  pull_request:\n", "  pull_request_target:\n", "zizmor"),
        ("key that is none", "    timeout-minutes: 60\n", "    timeout-minuets: 60\n", "actionlint"),
        ("context that is none", "github.event_name ==", "github.evnt_name ==", "actionlint"),
    ];
    for (name, from, to, finder) in sabotages {
        assert!(ci.contains(from), "{name}: ci.yml has no `{from}`");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ci.yml"), ci.replace(from, to)).unwrap();
        let (code, text) = lint(folder.path());
        assert_eq!(code, 6, "{name}: {text}");
        let verdict = text.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(verdict.contains(finder), "{name}: {text}");
    }
    // Every action is pinned by commit, whatever a linter's settings say.
    for entry in std::fs::read_dir(real).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        for line in text.lines().filter_map(|line| line.split_once("uses: ")) {
            let (_, commit) = line.1.split_once('@').unwrap();
            let (sha, version) =
                commit.split_once(" # v").unwrap_or_else(|| panic!("{}: no version", line.1));
            assert!(
                sha.len() == 40 && sha.bytes().all(|b| b.is_ascii_hexdigit()) && !version.is_empty(),
                "{}",
                line.1
            );
        }
    }
}
