//! `cargo xtask ci` against a recorded double of `gh`: a script on PATH that takes the same arguments, records them and
//! its standard input, and answers from files. The work tree is a real git repository with a bare one as its remote.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod github;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

const TOKEN: &str = "hf_ThisTokenMustNeverBeSeenAnywhere";
const DOUBLE: &str = r#"#!/bin/sh
# Answers as gh 2.23 does, as far as `cargo xtask ci` asks.
{ for word in "$@"; do printf '%s\t' "$word"; done; echo; } >> "$DOUBLE/argv"
env >> "$DOUBLE/environment"
fail() { echo "$1" >&2; exit "${2:-1}"; }
case "$*" in
  --version) echo "gh version ${DOUBLE_VERSION:-2.23.0} (2023-02-27)" ;;
  "api user --jq .login") [ -z "$DOUBLE_LOGGED_OUT" ] || fail "To get started with GitHub CLI, please run:  gh auth login" 4; echo acme ;;
  "api repos/acme/proof") [ -e "$DOUBLE/hosted" ] || fail "gh: Not Found (HTTP 404)"; echo '{}' ;;
  "api repos/acme/proof/commits/"*) git --git-dir "$DOUBLE/bare" rev-parse --verify HEAD 2>/dev/null || fail "gh: Not Found (HTTP 404)" ;;
  "api repos/acme/proof/actions/secrets/HF_TOKEN") [ -e "$DOUBLE/secret" ] || fail "gh: Not Found (HTTP 404)"; echo '{}' ;;
  "repo create acme/proof"*) [ -z "$DOUBLE_DENIED" ] || fail "HTTP 403: Resource not accessible by personal access token"
    git init --quiet --bare --initial-branch main "$DOUBLE/bare"; touch "$DOUBLE/hosted"
    case "$*" in *"--remote origin") git remote add origin "$DOUBLE/bare" ;; esac ;;
  "secret set HF_TOKEN"*) [ -z "$DOUBLE_DENIED" ] || fail "HTTP 403: Resource not accessible by personal access token"
    cat > "$DOUBLE/secret" ;;
  "workflow run"*) for word in "$@"; do case "$word" in request=*) echo "${word#request=}" > "$DOUBLE/request" ;; esac; done ;;
  "api repos/acme/proof/actions/workflows/export-llama-pte.yml/runs"*)
    printf '{"workflow_runs": [{"id": 6, "status": "completed", "conclusion": "failure", "html_url": "u", "display_title": "export tiny (by-hand)"},
      {"id": 7, "status": "queued", "conclusion": null, "html_url": "https://github.com/acme/proof/actions/runs/7", "display_title": "export tiny (%s)"}]}' "$(cat "$DOUBLE/request")" ;;
  "api repos/acme/proof/actions/runs/7")
    looks=$(cat "$DOUBLE/looks" 2>/dev/null || echo 0); echo $((looks + 1)) > "$DOUBLE/looks"
    if [ "$looks" -lt 3 ]; then [ "$looks" != 1 ] || fail "error connecting to api.github.com"; status='"in_progress", "conclusion": null'
    else status="\"completed\", \"conclusion\": \"${DOUBLE_CONCLUSION:-success}\""; fi
    echo "{\"id\": 7, \"status\": $status, \"html_url\": \"https://github.com/acme/proof/actions/runs/7\"}" ;;
  "api repos/acme/proof/actions/runs/7/jobs"*)
    echo "{\"jobs\": [{\"name\": \"export tiny\", \"status\": \"in_progress\", \"conclusion\": \"${DOUBLE_CONCLUSION:-success}\", \"steps\": [
      {\"name\": \"Set up\", \"status\": \"completed\", \"conclusion\": \"success\"},
      {\"name\": \"Export and prove\", \"status\": \"in_progress\", \"conclusion\": \"${DOUBLE_CONCLUSION:-success}\"}]}]}" ;;
  "run download 7 --repo acme/proof --name export-tiny --dir "*)
    for word in "$@"; do last=$word; done; mkdir -p "$last"; cp -a "$DOUBLE/artifact/." "$last" ;;
  "attestation verify "*) [ -z "$DOUBLE_FORGED" ] || fail "Error: verifying with issuer failed" ;;
  *) fail "the double knows no: $*" 64 ;;
esac
"#;

struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["bin", "double/artifact", "tree/model-assets/models/tiny"] {
            fs::create_dir_all(stage.path(folder)).unwrap();
        }
        fs::write(stage.path("bin/gh"), DOUBLE).unwrap();
        fs::set_permissions(stage.path("bin/gh"), fs::Permissions::from_mode(0o755)).unwrap();
        let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models");
        let models = stage.path("tree/model-assets/models");
        fs::copy(real.join("policy.toml"), models.join("policy.toml")).unwrap();
        for name in ["recipe.toml", "tokenizer.json", "chat_template.jinja"] {
            fs::copy(real.join("tiny").join(name), models.join("tiny").join(name)).unwrap();
        }
        for name in [
            "manifest.json",
            "tiny-int8-seq512.pte",
            "tiny-int8-seq512.reference",
            "export_pte_log.txt",
            "tokenizer.json",
        ] {
            let from = real.join("tiny").join(name);
            fs::copy(&from, stage.path("double/artifact").join(name))
                .unwrap_or_else(|error| panic!("{from:?}: {error}; run: cargo xtask export"));
        }
        fs::write(stage.path("tree/README.md"), "a work tree").unwrap();
        stage
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn ci(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String) {
        let ours = ["ci", "--interval", "0", "--repo", "acme/proof"];
        self.xtask(&[&ours, arguments].concat(), environment)
    }

    fn xtask(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String) {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("--root")
            .arg(self.path("tree"))
            .args(arguments)
            .env("PATH", path)
            .env("DOUBLE", self.path("double"))
            .env("HF_TOKEN", TOKEN)
            .env("HOME", self.folder.path())
            .envs([
                ("GIT_AUTHOR_NAME", "a"),
                ("GIT_AUTHOR_EMAIL", "a@b"),
                ("GIT_COMMITTER_NAME", "a"),
                ("GIT_COMMITTER_EMAIL", "a@b"),
            ])
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains(TOKEN), "the output shows the token:\n{text}");
        (output.status.code().unwrap_or(-1), text)
    }

    fn argv(&self) -> String {
        fs::read_to_string(self.path("double/argv")).unwrap_or_default()
    }

    /// The token is in no file but the one that recorded the secret's standard input.
    fn token_is_only_the_secret(&self) {
        for entry in walkdir::WalkDir::new(self.folder.path()) {
            let entry = entry.unwrap();
            if entry.file_type().is_file() && entry.path() != self.path("double/secret") {
                let bytes = fs::read(entry.path()).unwrap();
                let found = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
                assert!(!found, "{} holds the token", entry.path().display());
            }
        }
    }

    fn published(&self) -> bool {
        self.path("tree/model-assets/models/tiny/manifest.json").exists()
    }
}

#[test]
fn from_an_empty_folder_to_a_published_model_and_again() {
    let stage = Stage::new();
    // A plan has no effects.
    let (code, text) = stage.ci(&["setup", "--dry-run"], &[]);
    assert_eq!(code, 0, "{text}");
    let steps: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(steps.len(), 6, "{text}");
    assert!(!stage.path("tree/.git").exists() && !stage.path("double/hosted").exists());
    assert!(!stage.argv().contains("secret\tset"), "{}", stage.argv());

    let (code, text) = stage.ci(&["setup"], &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(fs::read_to_string(stage.path("double/secret")).unwrap(), TOKEN);
    let count = |words: &str| stage.argv().matches(words).count();
    assert_eq!(count("repo\tcreate"), 1);

    // Again: nothing is left but the secret.
    let (code, text) = stage.ci(&["setup", "--dry-run"], &[]);
    assert_eq!(code, 0, "{text}");
    let steps: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(steps.len(), 1, "{text}");
    let (code, text) = stage.ci(&["setup"], &[]);
    assert_eq!((code, count("repo\tcreate")), (0, 1), "{text}");

    let (code, text) = stage.ci(&["run", "tiny", "--dry-run"], &[]);
    assert!(code == 0 && text.contains("model=tiny") && count("workflow\trun") == 0, "{text}");
    let (code, text) = stage.ci(&["run", "tiny"], &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("run 7") && text.contains("export tiny: Export and prove [1/2]"), "{text}");
    assert!(text.contains("tiny-int8-seq512.pte: published") && stage.published(), "{text}");
    assert!(!stage.path("tree/.proofmark/work/tiny-import").exists());
    // What was published passes the gate's own check.
    let models = stage.path("tree/model-assets/models");
    let dir = model_assets::dir::ModelDir::new(models.to_str().unwrap(), "tiny");
    let (claim, _) = dir.open().unwrap();
    let (_, pte) = dir.open_pte(&claim.manifest).unwrap();
    model_assets::check::validate(pte, &claim, model_assets::check::Profile::Dev).unwrap();
    let (code, text) = stage.ci(&["fetch", "7", "tiny"], &[]);
    assert_eq!(code, 0, "{text}");
    // The same by the number alone.
    let models = stage.path("tree/model-assets/models/tiny");
    fs::remove_file(models.join("manifest.json")).unwrap();
    let (code, text) = stage.xtask(&["fetch", "7", "--model", "tiny"], &[("GH_REPO", "acme/proof")]);
    assert!(code == 0 && text.contains("tiny-int8-seq512.pte: published") && stage.published(), "{text}");
    stage.token_is_only_the_secret();
}

#[test]
fn each_trouble_has_its_own_error_hint_and_code() {
    let stage = Stage::new();
    let trouble = |arguments: &[&str], environment: &[(&str, &str)], code: i32, says: &[&str]| {
        let (got, text) = stage.ci(arguments, environment);
        assert_eq!(got, code, "{arguments:?}: {text}");
        for says in says {
            assert!(text.contains(says), "{arguments:?}: `{says}` is not in:\n{text}");
        }
        assert!(text.contains("hint: "), "{arguments:?}: {text}");
    };
    trouble(&["setup"], &[("PATH", "/nowhere")], 22, &["gh", "apt-get install gh"]);
    trouble(&["setup"], &[("DOUBLE_VERSION", "2.4.0")], 22, &["got version 2.4, expected 2.20"]);
    trouble(&["setup"], &[("DOUBLE_VERSION", "nonsense")], 22, &["got no version"]);
    trouble(&["setup"], &[("DOUBLE_LOGGED_OUT", "1")], 23, &["gh is not logged in", "gh auth login"]);
    trouble(&["setup"], &[("DOUBLE_DENIED", "1")], 23, &["HTTP 403", "gh auth refresh"]);
    assert!(!stage.path("double/hosted").exists());
    let (code, text) = stage.ci(&["setup"], &[]);
    assert_eq!(code, 0, "{text}");
    trouble(
        &["watch", "7"],
        &[("DOUBLE_CONCLUSION", "failure")],
        24,
        &["ended with `failure`", "`export tiny`, step `Export and prove`", "gh run view 7"],
    );
    trouble(&["fetch", "7", "tiny"], &[("DOUBLE_CONCLUSION", "failure")], 24, &["ended with `failure`"]);
    trouble(&["fetch", "7", "tiny", "--attested"], &[], 22, &["cannot check attestations"]);
    let forged = [("DOUBLE_VERSION", "2.60.0"), ("DOUBLE_FORGED", "1")];
    trouble(&["fetch", "7", "tiny", "--attested"], &forged, 5, &["verifying with issuer failed"]);
    assert!(!stage.published());
    fs::remove_file(stage.path("double/secret")).unwrap();
    // tiny needs no secret; a hub model does.
    let hub = fs::read_to_string(stage.path("tree/model-assets/models/tiny/recipe.toml")).unwrap().replace(
        "kind = \"path\"\npath = \".\"",
        "kind = \"hub\"\nrepo = \"a/b\"\nrevision = \"0123456789abcdef0123456789abcdef01234567\"",
    );
    fs::write(stage.path("tree/model-assets/models/tiny/recipe.toml"), hub).unwrap();
    trouble(&["run", "tiny"], &[], 23, &["the runner needs HF_TOKEN: run: cargo xtask ci setup"]);
}

#[test]
fn hostile_artifacts_are_refused_and_change_nothing() {
    type Spoil = fn(&Path);
    let table: &[(&str, i32, &str, Spoil)] = &[
        ("no manifest", 1, "is not in the artifact", |at| fs::remove_file(at.join("manifest.json")).unwrap()),
        ("no model", 1, "is not in the artifact", |at| {
            fs::remove_file(at.join("tiny-int8-seq512.pte")).unwrap()
        }),
        ("no log", 1, "is not in the artifact", |at| fs::remove_file(at.join("export_pte_log.txt")).unwrap()),
        ("model is a link", 1, "expected a regular file", |at| {
            fs::remove_file(at.join("tiny-int8-seq512.pte")).unwrap();
            symlink("/etc/passwd", at.join("tiny-int8-seq512.pte")).unwrap();
        }),
        ("manifest is a link", 1, "expected a regular file", |at| {
            fs::rename(at.join("manifest.json"), at.join("m")).unwrap();
            symlink("m", at.join("manifest.json")).unwrap();
        }),
        ("a flipped bit", 5, "sha256", |at| {
            let path = at.join("tiny-int8-seq512.pte");
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 100;
            bytes[last] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("cut short", 1, "expected the manifest's", |at| {
            let file = fs::OpenOptions::new().write(true).open(at.join("tiny-int8-seq512.pte")).unwrap();
            file.set_len(1000).unwrap();
        }),
        ("another reference", 1, "got sha256", |at| {
            let path = at.join("tiny-int8-seq512.reference");
            let mut bytes = fs::read(&path).unwrap();
            bytes[50] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("a manifest that names a path", 1, "manifest.json", |at| {
            let text = fs::read_to_string(at.join("manifest.json")).unwrap();
            fs::write(
                at.join("manifest.json"),
                text.replace("\"tiny-int8-seq512.pte\"", "\"../../tiny-int8-seq512.pte\""),
            )
            .unwrap();
        }),
        ("a manifest of another model", 5, "model-name", |at| {
            let text = fs::read_to_string(at.join("manifest.json")).unwrap();
            fs::write(at.join("manifest.json"), text.replace("\"model\": \"tiny\"", "\"model\": \"other\""))
                .unwrap();
        }),
        ("a huge manifest", 1, "expected at most", |at| {
            fs::write(at.join("manifest.json"), vec![b' '; 9 << 20]).unwrap()
        }),
    ];
    for (name, code, says, spoil) in table {
        let stage = Stage::new();
        assert_eq!(stage.ci(&["setup"], &[]).0, 0);
        fs::write(stage.path("double/looks"), "9").unwrap();
        spoil(&stage.path("double/artifact"));
        let (got, text) = stage.ci(&["fetch", "7", "tiny"], &[]);
        assert!(
            got == *code && text.contains(says),
            "{name}: exit code {got}, expected {code} and `{says}`:\n{text}"
        );
        assert!(!stage.published(), "{name} was published");
    }
    println!("{} hostile artifacts", table.len());
}

/// The same way with the real `gh`, where it is installed (`.ci/run` installs it): its arguments, its sealing of the
/// secret, its unpacking. The repository and the push are made beforehand: the local API serves no git.
#[test]
fn the_real_gh_against_a_local_api() {
    if Command::new("gh").arg("--version").output().is_err() {
        println!("gh is not installed here: only its double was used");
        return;
    }
    let stage = Stage::new();
    fs::remove_file(stage.path("bin/gh")).unwrap();
    let tree = stage.path("tree");
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
        let output = Command::new("git").args(identity).args(arguments).current_dir(&tree).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for arguments in [
        &["init", "--quiet", "--initial-branch", "main"][..],
        &["add", "--all"],
        &["commit", "--quiet", "--message", "first"],
        &["remote", "add", "origin", "https://github.localhost/acme/proof.git"],
    ] {
        git(arguments);
    }
    let names = [
        "manifest.json",
        "tiny-int8-seq512.pte",
        "tiny-int8-seq512.reference",
        "export_pte_log.txt",
        "tokenizer.json",
    ];
    let files = names.map(|name| (name, fs::read(stage.path("double/artifact").join(name)).unwrap()));
    let state = github::State {
        head: git(&["rev-parse", "HEAD"]),
        artifact: github::zip(&files),
        ..github::State::default()
    };
    let (proxy, state) = github::start(state);
    let config = stage.path("gh");
    let environment = [
        ("GH_HOST", "github.localhost"),
        ("GH_TOKEN", "gho_of_this_test"),
        ("GH_CONFIG_DIR", config.to_str().unwrap()),
        ("HTTP_PROXY", &proxy),
        ("http_proxy", &proxy),
        ("NO_PROXY", ""),
        ("no_proxy", ""),
    ];
    let (code, text) = stage.ci(&["setup"], &environment);
    assert_eq!(code, 0, "{text}");
    let (code, text) = stage.ci(&["run", "tiny"], &environment);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("tiny-int8-seq512.pte: published") && stage.published(), "{text}");
    let asked = state.lock().unwrap();
    let sealed =
        asked.asked.iter().find(|(line, _)| line.starts_with("PUT ")).map(|(_, body)| body.clone()).unwrap();
    assert!(sealed.contains("encrypted_value"), "{sealed}");
    assert!(
        asked.asked.iter().all(|(line, body)| !line.contains(TOKEN) && !body.contains(TOKEN)),
        "the token went out unsealed"
    );
    stage.token_is_only_the_secret();
}
