//! `cargo xtask dev fuzz`: the fuzz targets of `model-assets/fuzz`, with coverage feedback, on the pinned compiler.
//!
//! The instrumentation is that of `cargo fuzz` without sanitizers, which need a nightly compiler and find nothing in code
//! without `unsafe`.

use anyhow::{Context as _, anyhow};
use camino::Utf8PathBuf;

use crate::{
    child::{self, cmd, network_cmd},
    exit::{Exit, Failure, Outcome},
    workspace::Workspace,
};

/// Every target, in order.
const TARGETS: [&str; 8] =
    ["program", "xnnpack", "manifest", "recipe", "block", "bundle", "gguf", "signature"];
const RUNS_SHORT: u64 = 50_000;

/// Coverage counters for libFuzzer.
const RUSTFLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cdebug-assertions -Cpasses=sancov-module \
                         -Cllvm-args=-sanitizer-coverage-level=4 \
                         -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                         -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// Executions of each target
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
    /// Stop each target after this many seconds; 0 is never
    #[arg(long, default_value_t = 0)]
    seconds: u64,
}

impl Args {
    /// As the tests want it.
    pub(crate) fn short() -> Self {
        Self { target: None, runs: RUNS_SHORT, seconds: 0 }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let folder = workspace.root().join("model-assets/fuzz");
    let (built, corpus) = (workspace.state().join("fuzz/target"), workspace.state().join("fuzz/corpus"));
    let shell = child::shell(&folder)?;
    let host = host(&shell)?;
    // With a target named, the flags stay away from build scripts, which have no fuzzer to call.
    let bins = TARGETS.iter().flat_map(|target| ["--bin", target]);
    network_cmd!(shell, "cargo build --quiet --release --target {host} --target-dir {built} {bins...}")
        .env("RUSTFLAGS", RUSTFLAGS)
        .run()
        .context("the fuzz targets do not build")?;
    let binary = |name: &str| -> Utf8PathBuf { built.join(&host).join("release").join(name) };
    let tiny = workspace.models().join("tiny");
    let (recipe, manifest) = (tiny.join("recipe.toml"), tiny.join("manifest.json"));
    // An ordinary program: built without the flags, because their counters need a fuzzer to register with.
    network_cmd!(shell, "cargo run --quiet --target-dir {built} --bin seeds -- {corpus} {recipe} {manifest}")
        .quiet()
        .run()?;
    for target in TARGETS.iter().filter(|name| args.target.as_deref().is_none_or(|only| only == **name)) {
        let artifacts = workspace.state().join("fuzz/artifacts").join(target);
        std::fs::create_dir_all(&artifacts)?;
        let (program, corpus) = (binary(target), corpus.join(target));
        let (runs, seconds) = (args.runs.to_string(), args.seconds.to_string());
        // What a target says is long; its last lines count the executions, or name the input that broke it.
        let output = child::command(program.as_str())
            .arg(format!("-artifact_prefix={artifacts}/"))
            .args([format!("-runs={runs}"), format!("-max_total_time={seconds}"), corpus.into_string()])
            .output()
            .with_context(|| format!("{program}: cannot be started"))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            let tail: Vec<_> = text.lines().rev().take(30).collect();
            eprintln!("{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            let hint = format!("the input is in {artifacts}; run: cargo xtask dev fuzz {target}");
            return Err(Failure::new(Exit::Tests, anyhow!("fuzz target `{target}` failed"), hint));
        }
        let last =
            |mark: &str| text.lines().rev().find(|line| line.contains(mark)).unwrap_or_default().to_owned();
        println!("fuzz {target}: {} ({})", last("Done ").trim(), last("DONE").trim());
    }
    Ok(())
}

fn host(shell: &xshell::Shell) -> anyhow::Result<String> {
    let text = cmd!(shell, "rustc --version --verbose").quiet().read()?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}
