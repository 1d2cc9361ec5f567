//! What the worker is asked: one type for every request, and the schema that is committed from it.
//!
//! `xtask/python/schemas/worker-request.json` is written from these types by `cargo xtask dev schemas`; a test of the worker
//! holds its reader against that file, key by key and bound by bound.
//!
//! **Invariant:** nothing else in this workspace writes a request. Limits are those of `model_assets::limits`.

mod architecture;

use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    evidence::AnswerRequest,
    limits,
    recipe::{Activations, Backend, Quantization, Recipe},
};
use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use self::architecture::Architecture;

/// Version of the protocol, `PROTOCOL` of the worker.
pub(crate) const PROTOCOL: u32 = 1;
/// Where the schema is committed, below the Python sources.
pub(crate) const SCHEMA: &str = "schemas/worker-request.json";

/// Where weights come from.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Source {
    /// A checkpoint.
    Safetensors {
        #[schemars(with = "String")]
        dir: Utf8PathBuf,
    },
    /// Random numbers.
    Random {
        #[schemars(range(max = limits::COUNT_MAX))]
        seed: u64,
    },
}

/// A message of a conversation.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: String,
}

/// A prompt that the app makes of a conversation: the worker must come to the same.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prompt {
    pub(crate) messages: Vec<Message>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) prompt: String,
}

/// What turns conversations into tokens.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Words {
    #[schemars(with = "String")]
    pub(crate) tokenizer: Utf8PathBuf,
    #[schemars(with = "String")]
    pub(crate) chat_template: Utf8PathBuf,
    pub(crate) bos_token: String,
    pub(crate) eos_token: String,
    pub(crate) reference: Vec<Prompt>,
}

/// An export.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Export {
    #[schemars(range(min = PROTOCOL, max = PROTOCOL))]
    pub(crate) protocol: u32,
    #[schemars(length(min = 1))]
    pub(crate) model: String,
    pub(crate) source: Source,
    pub(crate) architecture: Architecture,
    pub(crate) quantization: Quantization,
    pub(crate) activations: Activations,
    #[schemars(range(min = limits::SEQ_LEN_TOKENS_MIN, max = limits::SEQ_LEN_TOKENS_MAX))]
    pub(crate) seq_len: u32,
    pub(crate) backend: Backend,
    /// Below the vocabulary, as all tokens.
    pub(crate) bos_id: u32,
    #[schemars(length(min = 1))]
    pub(crate) eos_ids: Vec<u32>,
    /// `null` leaves it to the architecture.
    pub(crate) expected_partitions: Option<u32>,
    pub(crate) expected_delegated_linears: Option<u32>,
    #[schemars(range(min = 1, max = limits::COUNT_MAX))]
    pub(crate) file_bytes_min: u64,
    #[schemars(range(min = 1, max = limits::COUNT_MAX))]
    pub(crate) file_bytes_max: u64,
    #[schemars(range(min = 1, max = limits::WORKER_THREADS_MAX))]
    pub(crate) threads: u32,
    #[schemars(with = "String")]
    pub(crate) work_dir: Utf8PathBuf,
    #[schemars(with = "String")]
    pub(crate) pte: Utf8PathBuf,
    #[schemars(with = "String")]
    pub(crate) reference: Utf8PathBuf,
    #[schemars(with = "String")]
    pub(crate) response: Utf8PathBuf,
    #[schemars(length(min = 1))]
    pub(crate) reference_prompt: Vec<u32>,
    pub(crate) reference_decode: Vec<u32>,
    /// Absent for random weights, which have no tokenizer.
    pub(crate) words: Option<Words>,
}

impl Export {
    /// What a recipe and a folder for the results decide: the rest is the caller's, by struct update.
    pub(crate) fn of(recipe: &Recipe, source: Source, folder: &Utf8Path) -> Self {
        let Recipe { architecture, export, tokens, limits, .. } = recipe;
        Self {
            protocol: PROTOCOL,
            model: recipe.name.clone(),
            source,
            architecture: architecture.into(),
            quantization: export.quantization,
            activations: export.activations().unwrap_or_default(),
            seq_len: export.seq_len,
            backend: export.backend,
            bos_id: tokens.bos,
            eos_ids: tokens.eos.clone(),
            expected_partitions: export.partitions,
            expected_delegated_linears: export.delegated_linears,
            file_bytes_min: limits.file_bytes_min,
            file_bytes_max: limits.file_bytes_max,
            threads: 2,
            work_dir: folder.to_owned(),
            pte: folder.join("model.pte"),
            reference: folder.join("reference.safetensors"),
            response: folder.join("response.json"),
            reference_prompt: Vec::new(),
            reference_decode: Vec::new(),
            words: None,
        }
    }
}

/// A checkpoint, and how it reads and writes: what every question to the eager model begins with.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Model {
    pub(crate) source: Source,
    pub(crate) architecture: Architecture,
    #[schemars(range(min = limits::SEQ_LEN_TOKENS_MIN, max = limits::SEQ_LEN_TOKENS_MAX))]
    pub(crate) seq_len: u32,
    pub(crate) bos_id: u32,
    #[schemars(length(min = 1))]
    pub(crate) eos_ids: Vec<u32>,
    #[schemars(with = "String")]
    pub(crate) tokenizer: Utf8PathBuf,
    #[schemars(with = "String")]
    pub(crate) chat_template: Utf8PathBuf,
    #[schemars(range(min = 1, max = limits::WORKER_THREADS_MAX))]
    pub(crate) threads: u32,
    #[schemars(with = "String")]
    pub(crate) work_dir: Utf8PathBuf,
}

/// A question to the eager model.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    #[schemars(range(min = PROTOCOL, max = PROTOCOL))]
    pub(crate) protocol: u32,
    #[serde(flatten)]
    pub(crate) model: Model,
    #[serde(flatten)]
    pub(crate) question: Question,
    #[schemars(with = "String")]
    pub(crate) response: Utf8PathBuf,
}

/// What is asked of it, by the worker's task.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub(crate) enum Question {
    /// Replies to prompts.
    Answers { runs: Vec<EagerRun> },
    /// Likelihoods of texts, beside those of an engine that is started.
    Quality {
        #[schemars(range(min = 2, max = limits::SEQ_LEN_TOKENS_MAX))]
        window: u32,
        #[schemars(range(min = 2, max = limits::COUNT_MAX))]
        tokens_max: u64,
        #[schemars(with = "String")]
        texts: Utf8PathBuf,
        engine: Vec<String>,
        #[schemars(with = "String")]
        tokens_file: Utf8PathBuf,
    },
    /// Which of some continuations is the likeliest, beside an engine's choice.
    Choice {
        #[schemars(range(min = 2, max = limits::SEQ_LEN_TOKENS_MAX))]
        window: u32,
        #[schemars(with = "String")]
        texts: Utf8PathBuf,
        engine: Vec<String>,
    },
}

/// One run of a model over prompts.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EagerRun {
    #[schemars(length(min = 1))]
    pub(crate) name: String,
    pub(crate) quantization: Quantization,
    pub(crate) activations: Activations,
    pub(crate) temperature: f64,
    #[schemars(range(max = limits::COUNT_MAX))]
    pub(crate) seed: u64,
    #[schemars(range(min = 1, max = limits::SEQ_LEN_TOKENS_MAX))]
    pub(crate) tokens_max: u32,
    #[schemars(with = "Vec<serde_json::Value>")]
    pub(crate) prompts: Vec<model_assets::evidence::Prompt>,
}

impl EagerRun {
    pub(crate) fn new(
        name: &str,
        quantization: Quantization,
        recipe: &Recipe,
        asked: &AnswerRequest,
    ) -> Self {
        let AnswerRequest { prompts, temperature, seed, tokens_max } = asked.clone();
        Self {
            name: name.to_owned(),
            quantization,
            activations: recipe.export.activations().unwrap_or_default(),
            temperature: f64::from(temperature),
            seed,
            tokens_max,
            prompts,
        }
    }
}

/// A checkpoint made from a GGUF.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FromGguf {
    #[schemars(range(min = PROTOCOL, max = PROTOCOL))]
    pub(crate) protocol: u32,
    #[schemars(extend("const" = "from-gguf"))]
    pub(crate) task: String,
    #[schemars(with = "String")]
    pub(crate) gguf: Utf8PathBuf,
    pub(crate) architecture: Architecture,
    pub(crate) bos_id: u32,
    #[schemars(length(min = 1))]
    pub(crate) eos_ids: Vec<u32>,
    #[schemars(length(min = 1))]
    pub(crate) tokenizer: String,
    #[schemars(with = "String")]
    pub(crate) dir: Utf8PathBuf,
    #[schemars(with = "String")]
    pub(crate) response: Utf8PathBuf,
}

/// All requests, for the schema alone.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the schema describes it, nobody makes one")]
enum Request {
    /// An export.
    Export(Export),
    /// A question to the eager model.
    Ask(Ask),
    /// A checkpoint made from a GGUF.
    FromGguf(FromGguf),
}

/// The committed schema's text.
///
/// # Errors
/// It cannot be written as JSON.
pub(crate) fn schema() -> anyhow::Result<String> {
    // As it is written: what may be null is there all the same.
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    let schema = settings.into_generator().into_root_schema_for::<Request>();
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn the_committed_schema_is_that_of_the_types() {
        let path = Workspace::find(None).unwrap().python_sources().join(SCHEMA);
        let same = fs::read_to_string(&path).unwrap() == schema().unwrap();
        assert!(same, "{path}: run: cargo xtask dev schemas");
    }

    #[test]
    fn a_head_is_as_large_as_the_engines_attention_takes() {
        let path = Workspace::find(None).unwrap().root().join("app/engine/cpp/attention.h");
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(&format!("ENGINE_HEAD_DIM_MAX = {} ", limits::HEAD_DIM_MAX)), "{text}");
    }

    #[test]
    fn a_request_says_every_feature_that_a_recipe_leaves_out() {
        let text = include_str!("../../model-assets/models/tiny/recipe.toml");
        let recipe = Recipe::parse(text).unwrap();
        let source = Source::Random { seed: 1 };
        let request = serde_json::to_value(Export::of(&recipe, source, Utf8Path::new("/w"))).unwrap();
        let written: serde_json::Value = serde_json::from_str(&schema().unwrap()).unwrap();
        for (part, value) in [("Export", &request), ("Architecture", &request["architecture"])] {
            let keys = value.as_object().unwrap().keys();
            let said = written["$defs"][part]["properties"].as_object().unwrap().keys();
            assert!(keys.eq(said), "{part}");
        }
        assert_eq!(request["architecture"]["rotary_dim"], 32);
        assert_eq!(request["architecture"]["rope_scaling"], serde_json::Value::Null);
    }
}
