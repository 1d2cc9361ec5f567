//! Measures a model as the app runs it: an embedded one packs its weights in memory at every start, a linked one keeps
//! them packed in a file.
//!
//! **Invariant:** the figures of a linked model come from a start that mapped the packed file. A start without it fails the
//! measurement: it loads ten times as slowly, and holds a second copy of the weights that the system cannot free.

use anyhow::{Context as _, bail};
use model_assets::evidence::{Benched, Benchmark, EngineCheck, Load, PackedWeights, Profile};
use serde::Serialize;

use crate::console::Console;

use super::{Engine, Files, ensure_same_model};

/// A benchmark, and in which mode it was taken.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    pub(crate) benchmark: Benchmark,
    /// The packed file of a linked model; absent for an embedded one.
    pub(crate) packed: Option<Packed>,
    /// Where a decoded token's time goes, where it was asked for.
    pub(crate) profile: Option<Profile>,
}

/// The packed file of a linked model.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Packed {
    /// How the measured start found it.
    pub(crate) found: PackedWeights,
    /// The start before, which made it: once per install.
    pub(crate) first_start: Load,
    /// A start that hashed all of it: where a stamp is worth nothing, and once a boot.
    pub(crate) hashed_start: Load,
    /// A start after that: it knows the file by its stamp, where that is worth anything.
    pub(crate) known_start: Load,
}

impl Measured {
    /// What is recorded. Its peak is that of the worst start, which users have too: a phone ends an app that takes too
    /// much once.
    pub(crate) fn into_evidence(self) -> Benchmark {
        let Self { mut benchmark, packed, .. } = self;
        if let (Some(memory), Some(packed)) = (&mut benchmark.memory, packed) {
            memory.peak_bytes = memory.peak_bytes.max(packed.first_start.peak_rss_bytes);
        }
        benchmark
    }
}

impl Engine {
    /// Measures speed and memory, with a sweep over threads and the time to the first token. `threads` is the engine's own
    /// choice when it is `None`.
    ///
    /// # Errors
    /// It does not load or run, or a linked model's packed file was not used.
    pub(crate) fn bench(
        &self,
        files: &Files,
        repeats: u32,
        threads: Option<u32>,
        console: &Console,
    ) -> anyhow::Result<Measured> {
        let first_start = self.first_start(files, threads, console)?;
        let mut more = vec!["--sweep".to_owned()];
        more.extend(files.words());
        let Benched { benchmark, packed, .. } = self.measure(files, repeats, threads, &more, console)?;
        let packed = match packed.zip(first_start) {
            None => None,
            Some((found, first_start)) => {
                console.step("engine: starts with the packed file hashed and known");
                self.forget_stamps()?;
                let (hashed_start, known_start) = (self.start(files, threads)?, self.start(files, threads)?);
                Some(Packed { found, first_start, hashed_start, known_start })
            }
        };
        Ok(Measured { benchmark, packed, profile: None })
    }

    /// The next start hashes the packed file.
    fn forget_stamps(&self) -> anyhow::Result<()> {
        let folder = self.place("packed")?;
        for entry in folder.read_dir_utf8().with_context(|| format!("{folder}: cannot be read"))? {
            let entry = entry?;
            if entry.path().extension() == Some("stamp") {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Where a decoded token's time goes, of a process of its own: recording takes time. [`Self::first_start`] comes before.
    ///
    /// # Errors
    /// As [`Self::bench`].
    pub(crate) fn profile(
        &self,
        files: &Files,
        threads: Option<u32>,
        console: &Console,
    ) -> anyhow::Result<Profile> {
        let benched = self.measure(files, 1, threads, &["--profile".to_owned()], console)?;
        benched.profile.context("the engine recorded no profile")
    }

    /// Makes the packed file of a linked model, as the first start of an app does; an embedded model has none.
    ///
    /// # Errors
    /// It does not load or run.
    pub(crate) fn first_start(
        &self,
        files: &Files,
        threads: Option<u32>,
        console: &Console,
    ) -> anyhow::Result<Option<Load>> {
        if !files.linked {
            return Ok(None);
        }
        console.step("engine: first start, which packs weights into a file");
        self.start(files, threads).map(Some)
    }

    /// A start as the app does it.
    fn start(&self, files: &Files, threads: Option<u32>) -> anyhow::Result<Load> {
        let response = self.place("first.json")?;
        let mut arguments = vec!["--response".to_owned(), response.to_string()];
        arguments.extend(self.packed_words(files)?);
        arguments.extend(threads_words(threads));
        self.run("check", files, &arguments)?;
        let EngineCheck { runtime, pte_sha256, load, .. } = self.answer(&response)?;
        ensure_same_model(files.sha256, &runtime, &pte_sha256)?;
        Ok(load)
    }

    /// As [`Self::bench`], with these arguments more and no others. The packed file of a linked model must be there:
    /// [`Self::first_start`] makes it.
    ///
    /// # Errors
    /// As [`Self::bench`].
    pub(crate) fn measure(
        &self,
        files: &Files,
        repeats: u32,
        threads: Option<u32>,
        more: &[String],
        console: &Console,
    ) -> anyhow::Result<Benched> {
        console.step("engine: benchmark");
        let mut arguments = vec!["--json".to_owned(), "--repeats".to_owned(), repeats.to_string()];
        arguments.extend(threads_words(threads));
        arguments.extend(self.packed_words(files)?);
        arguments.extend_from_slice(more);
        believed(&self.run("bench", files, &arguments)?, files)
    }

    /// Arguments that make it keep packed weights, as the app does with a linked model, for as long as `self` lives.
    fn packed_words(&self, files: &Files) -> anyhow::Result<Vec<String>> {
        let folder = self.place("packed")?;
        Ok(if files.linked { vec!["--packed-cache".to_owned(), folder.into_string()] } else { Vec::new() })
    }
}

fn threads_words(threads: Option<u32>) -> Vec<String> {
    threads.iter().flat_map(|n| ["--threads".to_owned(), n.to_string()]).collect()
}

/// Reads an answer and believes it if it is about these files, and of the mode that the app runs them in.
fn believed(answer: &str, files: &Files) -> anyhow::Result<Benched> {
    let benched: Benched = serde_json::from_str(answer).context("the engine's benchmark cannot be read")?;
    ensure_same_model(files.sha256, &benched.benchmark.runtime, &benched.benchmark.pte_sha256)?;
    let pte = &files.pte;
    let got = match (&benched.packed, files.linked) {
        (None, false) | (Some(PackedWeights::Warm | PackedWeights::Proved), true) => return Ok(benched),
        (None, true) => "no packed weights".to_owned(),
        (Some(PackedWeights::Heap { reason }), true) => format!("packed weights on the heap ({reason})"),
        (Some(PackedWeights::Made { replaced }), true) => {
            let why = replaced.as_deref().unwrap_or("the start before left none");
            format!("packed weights made anew ({why})")
        }
        (Some(_), false) => {
            bail!("{pte}: got packed weights in a file, expected an embedded model's in memory")
        }
    };
    bail!("{pte}: got {got}, expected the packed file that the app maps at every start but the first")
}

#[cfg(test)]
mod tests {
    use model_assets::digest::Digest;

    use super::*;

    fn files(linked: bool) -> Files {
        Files { pte: "x.pte".into(), sha256: Digest::from_bytes([0; 32]), words: None, linked }
    }

    fn answer(packed: Option<PackedWeights>) -> String {
        let benched: Benched = Benched { benchmark: crate::bench::tests::sample(), packed, profile: None };
        serde_json::to_string(&benched).unwrap()
    }

    #[test]
    fn figures_of_another_mode_than_the_apps_are_not_believed() {
        for packed in [PackedWeights::Warm, PackedWeights::Proved] {
            assert_eq!(believed(&answer(Some(packed.clone())), &files(true)).unwrap().packed, Some(packed));
        }
        assert_eq!(believed(&answer(None), &files(false)).unwrap().packed, None);
        let refused = |packed, linked, expected: &str| {
            let error = believed(&answer(packed), &files(linked)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let heap = PackedWeights::Heap { reason: "/cache: no space left".into() };
        refused(Some(heap), true, "x.pte: got packed weights on the heap (/cache: no space left), expected");
        refused(Some(PackedWeights::Made { replaced: Some("got size 0".into()) }), true, "(got size 0)");
        refused(Some(PackedWeights::Made { replaced: None }), true, "the start before left none");
        refused(None, true, "got no packed weights");
        refused(Some(PackedWeights::Warm), false, "expected an embedded model's");
        let bare = serde_json::to_string(&crate::bench::tests::sample()).unwrap();
        assert!(believed(&bare, &files(false)).is_err());
    }

    #[test]
    fn figures_of_another_file_or_runtime_are_not_believed() {
        let error = |spoil: &dyn Fn(&mut Benchmark)| {
            let mut benchmark = crate::bench::tests::sample();
            spoil(&mut benchmark);
            let benched = Benched { benchmark, packed: None, profile: None };
            believed(&serde_json::to_string(&benched).unwrap(), &files(false)).unwrap_err().to_string()
        };
        let other = "11".repeat(32);
        let expected = format!("the engine ran {other}, expected {}", "00".repeat(32));
        assert_eq!(error(&|it| it.pte_sha256 = other.clone()), expected);
        assert_eq!(error(&|it| it.runtime = "1.4.0".into()), "runtime: got 1.4.0, expected 1.5.1");
    }

    #[test]
    fn the_recorded_peak_is_that_of_the_worst_start() {
        let load = |peak_rss_bytes| Load {
            load_ms: 9000.0,
            first_prefill_ms: 400.0,
            prefill_tokens: 16,
            decode_tokens: 8,
            finite: true,
            peak_rss_bytes,
        };
        let peak = |packed: Option<u64>| {
            let packed = packed.map(|peak| Packed {
                found: PackedWeights::Warm,
                first_start: load(peak),
                hashed_start: load(1),
                known_start: load(1),
            });
            let measured = Measured { benchmark: crate::bench::tests::sample(), packed, profile: None };
            measured.into_evidence().memory.unwrap().peak_bytes
        };
        assert_eq!((peak(None), peak(Some(1)), peak(Some(40_000_000))), (20_000_000, 20_000_000, 40_000_000));
    }
}
