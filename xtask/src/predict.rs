//! Predicts memory and disk of an export from the recipe's shapes, for the preflight and for `doctor`.
//!
//! The constants are fitted to exports measured at tiny and 1B shapes; the manifest records what an export used.

mod cgroup;

use camino::Utf8Path;
use model_assets::{
    policy::Policy,
    recipe::{Delivery, Quantization, Recipe},
};

/// Disk for the venv with PyTorch's default build, its download, and the C++ SDK, bytes.
pub(crate) const SETUP_DISK_BYTES: u64 = 10_000_000_000;

/// Anonymous memory of Python with PyTorch and ExecuTorch imported and of the graph passes, bytes.
const BASE_ANON_BYTES: u64 = 900_000_000;

/// Anonymous memory of the engine beside packed weights and planned memory, bytes: of the 8B, the largest that was measured.
const ENGINE_ANON_BYTES: u64 = 120_000_000;

/// Parameters of the network, the output head of an untied one included.
pub(crate) fn parameters(recipe: &Recipe) -> u64 {
    recipe.architecture.parameters()
}

/// Size of the `.pte`, bytes.
pub(crate) fn file_bytes(recipe: &Recipe) -> u64 {
    let parameters = parameters(recipe);
    match recipe.export.quantization {
        Quantization::Int8 => parameters,
        // Four bits and a 16-bit scale for every group of 32; `v`, `o`, `down` and the embedding, and the
        // head with it, stay at eight.
        Quantization::Int4 => {
            let a = &recipe.architecture;
            let [vocab, dim, ffn, layers, size] =
                [a.vocab, a.dim, a.ffn, a.layers, a.head_dim].map(u64::from);
            let heads = u64::from(a.heads) + u64::from(a.kv_heads);
            let eight = (vocab + (ffn + heads * size) * layers) * dim;
            (parameters - eight) * 9 / 16 + eight
        }
        Quantization::Fp32 => parameters * 4,
    }
}

/// Memory that the file plans for its caches and for one prefill, bytes: measured, it is this to the last megabyte.
pub(crate) fn planned_bytes(recipe: &Recipe) -> u64 {
    let a = &recipe.architecture;
    let [dim, ffn, seq] = [a.dim, a.ffn, recipe.export.seq_len].map(u64::from);
    caches_bytes(recipe) + 4 * seq * (2 * dim + ffn + 128)
}

fn caches_bytes(recipe: &Recipe) -> u64 {
    let a = &recipe.architecture;
    let row = u64::from(a.kv_heads) * u64::from(a.head_dim) * 4;
    2 * u64::from(a.layers) * row * u64::from(recipe.export.seq_len)
}

/// Peak memory of an export that no system can take back, bytes: the worker's or, after it, that of the engine.
pub(crate) fn export_anon_bytes(recipe: &Recipe, policy: &Policy) -> u64 {
    worker_anon_bytes(recipe).max(engine_anon_bytes(recipe, policy))
}

/// Peak anonymous memory of the engine that proves the file, bytes: it packs the whole model, a linked one into a file.
fn engine_anon_bytes(recipe: &Recipe, policy: &Policy) -> u64 {
    let file = file_bytes(recipe);
    let packed = if policy.delivery(recipe, file) == Delivery::Link { 0 } else { file };
    ENGINE_ANON_BYTES + packed + planned_bytes(recipe)
}

/// Peak anonymous memory of the worker, bytes. Weights are streamed and mapped, so it grows with layers and with the
/// widest row block, not with the parameters.
pub(crate) fn worker_anon_bytes(recipe: &Recipe) -> u64 {
    let a = &recipe.architecture;
    let widest = u64::from(a.vocab.max(a.ffn)) * u64::from(a.dim);
    let fp32 = if recipe.export.quantization == Quantization::Fp32 { parameters(recipe) * 4 } else { 0 };
    BASE_ANON_BYTES + u64::from(a.layers) * 12_000_000 + widest + fp32
}

/// Disk that an export needs while it runs, bytes: quantized weights, spilled delegate data, the file, the old file;
/// the engine packs the weights when the first two are gone.
pub(crate) fn export_disk_bytes(recipe: &Recipe) -> u64 {
    4 * file_bytes(recipe) + 100_000_000
}

/// Disk that an export of the reserve needs while it runs, bytes: one file beside the old one, and the binary that runs it.
pub(crate) fn reserve_disk_bytes(recipe: &Recipe) -> u64 {
    let tensors = model_assets::gguf::plan::tensors(&recipe.architecture);
    tensors.iter().filter_map(|(tensor, _)| tensor.bytes()).sum::<u64>() + 1_000_000_000
}

/// Free disk where `path` is or will be, through links, bytes.
pub(crate) fn free_disk_bytes(path: &Utf8Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(there.as_std_path()).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether the disk, a quota or a limit was in the way, and not what was read.
pub(crate) fn is_disk_full(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let full = |io: &std::io::Error| matches!(io.kind(), StorageFull | QuotaExceeded | FileTooLarge);
    error.chain().any(|cause| cause.downcast_ref().is_some_and(full))
}

/// Memory that can be had without swapping, bytes: the machine's, or what a container's limit leaves, whichever is less. `None`
/// where `/proc` does not tell.
pub(crate) fn free_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
    Some(cgroup::free_bytes().map_or(machine, |container| container.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str) -> Recipe {
        let path = format!("{}/../model-assets/models/{name}/recipe.toml", env!("CARGO_MANIFEST_DIR"));
        Recipe::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn models_have_their_published_parameters() {
        // 1 235 814 400: the sum of the tensor sizes in the published checkpoint.
        assert_eq!(parameters(&recipe("llama3.2-1b")), 1_235_814_400);
        // Two bytes each in 269 060 552, the published checkpoint's file with its header.
        assert_eq!(parameters(&recipe("smollm2-135m")), 134_515_008);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn free_disk_is_that_of_the_disk_where_a_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        // A file system of its own, on which nothing is ever free.
        std::os::unix::fs::symlink("/proc", folder.join(".proofmark")).unwrap();
        assert_eq!(free_disk_bytes(&folder.join(".proofmark/work")), Some(0));
        assert!(free_disk_bytes(&folder.join("work/not/made/yet")) > Some(0));
    }

    #[test]
    fn an_export_needs_what_its_engine_needs() {
        // The shapes of Llama 3.1 8B: the worker streams them, the engine packs all eight billion.
        let mut large = recipe("llama3.2-1b");
        let a = &mut large.architecture;
        (a.dim, a.layers, a.heads, a.head_dim, a.ffn, a.tied) = (4096, 32, 32, 128, 14336, false);
        assert_eq!(parameters(&large), 8_030_261_248);
        assert!(worker_anon_bytes(&large) < 2_000_000_000);
        let text = include_str!("../../model-assets/models/policy.toml");
        let policy = Policy::parse(text).unwrap();
        // A linked model is packed into a file, an embedded one on the heap.
        assert_eq!(export_anon_bytes(&large, &policy), worker_anon_bytes(&large));
        large.delivery = Delivery::Embed;
        assert!(export_anon_bytes(&large, &policy) > parameters(&large));
        let tiny = recipe("tiny");
        assert_eq!(export_anon_bytes(&tiny, &policy), worker_anon_bytes(&tiny));
    }

    #[test]
    fn planned_memory_is_what_the_committed_models_have() {
        for name in ["tiny", "smollm2-135m"] {
            let path = format!("{}/../model-assets/models/{name}/manifest.json", env!("CARGO_MANIFEST_DIR"));
            let manifest = model_assets::manifest::Manifest::parse(&std::fs::read(path).unwrap()).unwrap();
            let (got, planned) = (planned_bytes(&recipe(name)), manifest.structure.planned_bytes);
            assert!(got.abs_diff(planned) < 1_000_000, "{name}: {got}, {planned}");
        }
    }

    #[test]
    fn the_recipe_bounds_hold_the_predicted_file() {
        for name in ["tiny", "smollm2-135m", "llama3.2-1b", "llama3.2-1b-int4"] {
            let recipe = recipe(name);
            let bytes = file_bytes(&recipe);
            assert!(
                (recipe.limits.file_bytes_min..recipe.limits.file_bytes_max).contains(&bytes),
                "{name}: {bytes}"
            );
        }
    }
}
