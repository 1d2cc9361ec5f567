//! What an export shows: a bar on a terminal, plain lines elsewhere, JSON lines with `--json`.
//!
//! **Invariant:** with `--json`, standard output holds JSON alone; progress goes to standard error. An answer in JSON is one
//! document, so events go to standard error too.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use model_assets::{digest::Digest, manifest::Manifest, reserve::ReserveManifest};
use serde_json::json;

/// The stage of an export that is the engine's, after the worker's.
pub(crate) const ENGINE_STAGE: &str = "engine";

/// Where the progress of an export goes.
#[derive(Debug, Clone)]
pub(crate) enum Console {
    /// A bar on a terminal.
    Bar(ProgressBar),
    /// Lines on standard error.
    Plain,
    /// JSON lines on standard output.
    Json,
    /// Lines on standard error, beside an answer in JSON: that alone goes to standard output.
    Beside,
}

impl Console {
    pub(crate) fn new(json: bool) -> Self {
        if json {
            Self::Json
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::no_length();
            // The template is a constant of ours and parses; the default style would do as well.
            let style = ProgressStyle::with_template("{elapsed_precise} {bar:24} {pos}/{len} {prefix} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(250));
            Self::Bar(bar)
        } else {
            Self::Plain
        }
    }

    /// For a command whose answer is one JSON document with `--json`, and not events.
    pub(crate) fn beside_answer(json: bool) -> Self {
        if json { Self::Beside } else { Self::new(false) }
    }

    pub(crate) fn attempt(&self, model: &str, attempt: u32, of: u32) {
        match self {
            Self::Json => {
                println!("{}", json!({"event": "attempt", "model": model, "attempt": attempt, "of": of}))
            }
            Self::Bar(bar) => bar.println(format!("export {model}: attempt {attempt} of {of}")),
            Self::Plain | Self::Beside => eprintln!("export {model}: attempt {attempt} of {of}"),
        }
    }

    pub(crate) fn attempt_failed(&self, attempt: u32, error: &str) {
        match self {
            Self::Json => {
                println!("{}", json!({"event": "attempt-failed", "attempt": attempt, "error": error}))
            }
            Self::Bar(bar) => bar.println(format!("attempt {attempt}: {error}")),
            Self::Plain | Self::Beside => eprintln!("attempt {attempt}: {error}"),
        }
    }

    /// The worker begins stage `index` of `of`, from 0.
    pub(crate) fn stage(&self, name: &str, index: u64, of: u64) {
        match self {
            Self::Json => println!("{}", json!({"event": "stage", "stage": name, "index": index, "of": of})),
            Self::Bar(bar) => {
                bar.set_length(of);
                bar.set_position(index);
                bar.set_prefix(name.to_owned());
            }
            Self::Plain | Self::Beside => eprintln!("  [{}/{of}] {name}", index + 1),
        }
    }

    /// A step after the worker's stages.
    pub(crate) fn step(&self, name: &str) {
        match self {
            Self::Json => println!("{}", json!({"event": "step", "step": name})),
            Self::Bar(bar) => bar.set_prefix(name.to_owned()),
            Self::Plain | Self::Beside => eprintln!("  {name}"),
        }
    }

    /// Cargo compiled a package, the `count`th of a step.
    pub(crate) fn compiled(&self, package: &str, count: u32) {
        match self {
            Self::Json => println!("{}", json!({"event": "compiled", "package": package, "count": count})),
            Self::Bar(bar) => bar.set_message(format!("{count} compiled, {package}")),
            // One line each would be a hundred.
            Self::Plain | Self::Beside => {}
        }
    }

    /// Nothing more will be shown: leaves the terminal as it was.
    pub(crate) fn done(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }

    pub(crate) fn memory(&self, rss_bytes: u64, peak_bytes: u64) {
        if let Self::Bar(bar) = self {
            bar.set_message(format!("{} MB, peak {} MB", rss_bytes / 1_000_000, peak_bytes / 1_000_000));
        }
    }

    /// `bytes` of `total`, where that is known, of a file are there; `first` when nothing of it was shown before.
    pub(crate) fn download(&self, name: &str, bytes: u64, total: Option<u64>, first: bool) {
        match self {
            Self::Json => {
                println!("{}", json!({"event": "download", "file": name, "bytes": bytes, "of": total}))
            }
            Self::Bar(bar) => {
                bar.set_length(total.unwrap_or(bytes));
                bar.set_position(bytes);
                bar.set_prefix(name.to_owned());
            }
            Self::Plain | Self::Beside if Some(bytes) == total => eprintln!("  {name}: {bytes} bytes"),
            Self::Plain | Self::Beside if first => {
                let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
                eprintln!("  {name}: from byte {bytes}{total}");
            }
            Self::Plain | Self::Beside => {}
        }
    }

    /// An attempt at a fetched file has failed and another one follows.
    pub(crate) fn download_failed(&self, name: &str, why: &str) {
        match self {
            Self::Json => println!("{}", json!({"event": "download-failed", "file": name, "error": why})),
            Self::Bar(bar) => bar.println(why),
            Self::Plain | Self::Beside => eprintln!("  {why}"),
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.reset();
        }
    }

    /// Something is not as one would wish, and the work goes on.
    pub(crate) fn warning(&self, text: &str) {
        match self {
            Self::Json => println!("{}", json!({"event": "warning", "warning": text})),
            Self::Bar(bar) => bar.println(format!("warning: {text}")),
            Self::Plain | Self::Beside => eprintln!("warning: {text}"),
        }
    }

    pub(crate) fn unchanged(&self, file: &str, sha256: Digest) {
        self.done();
        match self {
            Self::Json => println!("{}", json!({"event": "unchanged", "file": file, "sha256": sha256})),
            _ => self.outcome(&format!("{file}: unchanged and proved: sha256 {sha256}")),
        }
    }

    pub(crate) fn published(&self, manifest: &Manifest) {
        let Manifest { file, file_bytes, sha256, prd_reasons, .. } = manifest;
        self.announce(file, *file_bytes, *sha256, Some(prd_reasons));
        if !matches!(self, Self::Json) {
            self.outcome(&took(manifest));
        }
    }

    /// A reserve is not held to the product's demands.
    pub(crate) fn published_reserve(&self, manifest: &ReserveManifest) {
        self.announce(&manifest.file, manifest.file_bytes, manifest.sha256, None);
    }

    fn announce(&self, file: &str, file_bytes: u64, sha256: Digest, prd_reasons: Option<&[String]>) {
        self.done();
        if let Self::Json = self {
            let mut event =
                json!({"event": "published", "file": file, "file_bytes": file_bytes, "sha256": sha256});
            if let Some(reasons) = prd_reasons {
                event["prd_compliant"] = reasons.is_empty().into();
                event["prd_reasons"] = reasons.into();
            }
            println!("{event}");
            return;
        }
        self.outcome(&format!("{file}: published: {file_bytes} bytes, sha256 {sha256}"));
        for reason in prd_reasons.unwrap_or_default() {
            self.outcome(&format!("not prd compliant: {reason}"));
        }
    }

    /// What came of it, in words.
    fn outcome(&self, line: &str) {
        if let Self::Beside = self { eprintln!("{line}") } else { println!("{line}") }
    }
}

/// Time and memory of the export that the manifest records: the worker, and the engine where it was recorded.
fn took(manifest: &Manifest) -> String {
    let record = &manifest.export;
    let (engine, worker): (Vec<_>, Vec<_>) =
        record.stages.iter().partition(|stage| stage.name == ENGINE_STAGE);
    let seconds: f64 = worker.iter().map(|stage| stage.seconds).sum();
    let part = |name: &str, seconds: f64, anonymous: Option<u64>, resident: u64| {
        let anonymous = anonymous.map(|bytes| format!("{} MB anonymous, ", bytes / 1_000_000));
        let (anonymous, resident) = (anonymous.unwrap_or_default(), resident / 1_000_000);
        format!("{name} {seconds:.1} s, at most {anonymous}{resident} MB resident")
    };
    let mut parts = vec![part("worker", seconds, record.peak_anon_bytes, record.peak_rss_bytes)];
    let engine = engine.iter();
    parts
        .extend(engine.map(|it| part(ENGINE_STAGE, it.seconds, Some(it.peak_anon_bytes), it.peak_rss_bytes)));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exports_memory_is_the_workers_and_the_engines() {
        let bytes = include_bytes!("../../model-assets/models/tiny/manifest.json");
        let mut manifest = Manifest::parse(bytes).unwrap();
        let export = &mut manifest.export;
        export.stages.retain(|stage| stage.name != ENGINE_STAGE);
        export.stages.truncate(1);
        export.stages[0].seconds = 58.29;
        (export.peak_anon_bytes, export.peak_rss_bytes) = (Some(880_400_000), 2_459_000_000);
        let worker = "worker 58.3 s, at most 880 MB anonymous, 2459 MB resident";
        assert_eq!(took(&manifest), worker);
        let stage = model_assets::manifest::Stage {
            name: ENGINE_STAGE.to_owned(),
            seconds: 11.0,
            peak_rss_bytes: 2_600_000_000,
            peak_anon_bytes: 1_320_000_000,
        };
        manifest.export.stages.push(stage);
        let both = format!("{worker}; engine 11.0 s, at most 1320 MB anonymous, 2600 MB resident");
        assert_eq!(took(&manifest), both);
    }
}
