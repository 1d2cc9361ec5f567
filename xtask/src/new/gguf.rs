//! What the head of a GGUF says of its model, as the small files of a checkpoint.
//!
//! The worker converts the file later, with a reader of its own: it holds every setting against the recipe that came of this.
//!
//! **Invariant:** a setting of the architecture that is not known is refused: it could change the arithmetic.

mod head;

use std::fs;

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::Utf8Path;
use model_assets::gguf::plan::llama3_factors;
use serde_json::{Map, Value, json};

use self::head::Head;

/// `general.architecture`, and the `model_type` of the same network. Mistral's files call themselves Llama's.
const ARCHITECTURES: [(&str, &str); 5] = [
    ("llama", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma3", "gemma3_text"),
    ("smollm3", "smollm3"),
];
/// Settings of an architecture that are read, or say nothing of the arithmetic.
const KNOWN: [&str; 16] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
];
const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";
const FACTORS: &str = "rope_freqs.weight";
const FACTORS_TOLERANCE: f64 = 1e-5;
/// Kinds of a token that a text is searched for before it is cut into words.
const ADDED: [u64; 2] = [3, 4];
/// Gemma 3 27B, whose scores are scaled by another number than those of the smaller ones.
const GEMMA_27B_LAYERS: u64 = 62;

/// Writes the files into an empty folder, and says which licence the model names.
pub(super) fn describe(path: &Utf8Path, folder: &Utf8Path) -> anyhow::Result<Option<String>> {
    let head = Head::read(path)?;
    let settings = Settings::of(&head)?;
    let put = |name: &str, value: &Value| {
        let place = folder.join(name);
        fs::write(&place, value.to_string()).with_context(|| format!("{place}: cannot be written"))
    };
    let config = settings.config()?;
    put("config.json", &Value::Object(config))?;
    put("tokenizer.json", &vocabulary(&head)?)?;
    let template = head.get("tokenizer.chat_template").unwrap_or(&Value::Null);
    put("tokenizer_config.json", &json!({"chat_template": template}))?;
    Ok(head.get("general.license").and_then(Value::as_str).map(str::to_owned))
}

struct Settings<'h> {
    head: &'h Head,
    /// `general.architecture`.
    prefix: &'h str,
    /// `model_type`.
    kind: &'static str,
}

impl<'h> Settings<'h> {
    fn of(head: &'h Head) -> anyhow::Result<Self> {
        let key = "general.architecture";
        let got = head.get(key).unwrap_or(&Value::Null);
        let prefix = got.as_str().unwrap_or_default();
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == prefix).with_context(|| {
            let known: Vec<_> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
            format!(
                "{key}: got {got}, expected one of {}; others need their own checkpoint",
                known.join(", ")
            )
        })?;
        let it = Self { head, prefix, kind: known.1 };
        for (key, got) in &head.metadata {
            let own = key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
            if let Some(own) = own.filter(|own| !KNOWN.contains(own)) {
                bail!(
                    "{prefix}.{own}: got {got}, expected no such setting: the export does not implement it"
                );
            }
        }
        Ok(it)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.head.get(&format!("{}.{key}", self.prefix))
    }

    fn whole(&self, key: &str, default: Option<u64>) -> anyhow::Result<u64> {
        let Some(got) = self.get(key) else {
            return default.with_context(|| format!("{}.{key}: got none, expected a number", self.prefix));
        };
        let number = got.as_u64().filter(|number| *number > 0);
        number.with_context(|| format!("{}.{key}: got {got}, expected a whole number above 0", self.prefix))
    }

    /// A `config.json` of the same network, as the worker writes it.
    fn config(&self) -> anyhow::Result<Map<String, Value>> {
        let (heads, dim) = (self.whole("attention.head_count", None)?, self.whole("embedding_length", None)?);
        let head_dim = self.whole("attention.key_length", dim.checked_div(heads))?;
        for key in ["attention.value_length", "rope.dimension_count"] {
            let got = self.whole(key, Some(head_dim))?;
            ensure!(got == head_dim, "{}.{key}: got {got}, expected the key length, {head_dim}", self.prefix);
        }
        let layers = self.whole("block_count", None)?;
        let rows = self.head.tensor(EMBEDDING)?.shape.first().copied();
        let theta = self.get("rope.freq_base").cloned().unwrap_or_else(|| json!(10000.0));
        let eps = self.get("attention.layer_norm_rms_epsilon").cloned().unwrap_or_default();
        let window = self.get("attention.sliding_window").cloned();
        let mut config = json!({
            "model_type": if self.kind == "llama" && window.is_some() { "mistral" } else { self.kind },
            "hidden_size": dim,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self.whole("attention.head_count_kv", Some(heads))?,
            "head_dim": head_dim,
            "intermediate_size": self.whole("feed_forward_length", None)?,
            "vocab_size": rows,
            "tie_word_embeddings": !self.head.has(HEAD),
            "rms_norm_eps": eps,
            "rope_theta": theta,
            "rope_scaling": self.scaling(head_dim, &theta)?,
            "max_position_embeddings": self.whole("context_length", Some(2048))?,
            "use_sliding_window": window.is_some(),
            "max_window_layers": 0,
        });
        config["sliding_window"] = window.unwrap_or_default();
        if self.kind == "gemma3_text" {
            config["hidden_activation"] = json!("gelu_pytorch_tanh");
            let of_27b = layers == GEMMA_27B_LAYERS;
            config["query_pre_attn_scalar"] = json!(if of_27b { dim / heads } else { head_dim });
        }
        for name in ["bos", "eos"] {
            self.id(name)?
                .with_context(|| format!("tokenizer.ggml.{name}_token_id: got none, expected a token"))?;
        }
        config["bos_token_id"] = json!(self.id("bos")?);
        let ends = ["eos", "eot", "eom"].map(|name| self.id(name));
        config["eos_token_id"] =
            ends.into_iter().filter_map(Result::transpose).collect::<anyhow::Result<_>>()?;
        match config {
            Value::Object(config) => Ok(config),
            _ => bail!("config.json: not an object"),
        }
    }

    fn id(&self, name: &str) -> anyhow::Result<Option<u64>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(got) = self.head.get(&key) else { return Ok(None) };
        got.as_u64().map(Some).with_context(|| format!("{key}: got {got}, expected a token"))
    }

    /// One factor for all frequencies is a setting; Llama 3's are in a tensor.
    fn scaling(&self, head_dim: u64, theta: &Value) -> anyhow::Result<Value> {
        let key = format!("{}.rope.scaling.type", self.prefix);
        let kind = self.get("rope.scaling.type").and_then(Value::as_str).unwrap_or("none");
        let factor = self.get("rope.scaling.factor");
        match (kind, factor, self.head.has(FACTORS)) {
            ("none", None, false) => Ok(Value::Null),
            ("none", None, true) => self.llama3(head_dim, theta),
            ("linear", Some(factor), false) => Ok(json!({"rope_type": "linear", "factor": factor})),
            _ => {
                bail!("{key}: got {kind:?} with factor {factor:?}, expected none, linear, or {FACTORS} alone")
            }
        }
    }

    /// The file has the factors themselves: the settings that they came from are those of every Llama 3, if they give the same.
    fn llama3(&self, head_dim: u64, theta: &Value) -> anyhow::Result<Value> {
        let stored = self.head.floats(FACTORS)?;
        let theta = theta.as_f64().unwrap_or_default();
        let factor = stored.iter().copied().fold(1.0, f64::max).round();
        // Not computed for a length that the file does not have: it is the file that names it.
        let fits = stored.len() as u64 == head_dim / 2;
        let head_dim = u32::try_from(head_dim).ok().filter(|_| fits).unwrap_or_default();
        let wanted = llama3_factors(head_dim, theta, factor, (LOW, HIGH), ORIGINAL);
        let near = |(got, wanted): (&f64, &f64)| (got - wanted).abs() <= FACTORS_TOLERANCE * wanted.abs();
        ensure!(
            fits && stored.iter().zip(&wanted).all(near),
            "{FACTORS}: got {} factors up to {factor}, expected those of Llama 3",
            stored.len()
        );
        Ok(json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
            "original_max_position_embeddings": ORIGINAL,
        }))
    }
}

const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
const ORIGINAL: u32 = 8192;

/// The tokens with their ids, as a tokenizer that looks words up: enough to name tokens by. The worker makes the real one.
fn vocabulary(head: &Head) -> anyhow::Result<Value> {
    let listed = |key: &str| {
        let list = head.get(key).and_then(Value::as_array);
        list.ok_or_else(|| anyhow!("{key}: got none, expected a list"))
    };
    let (tokens, kinds) = (listed("tokenizer.ggml.tokens")?, listed("tokenizer.ggml.token_type")?);
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        let text =
            token.as_str().with_context(|| format!("tokenizer.ggml.tokens: got {token}, expected texts"))?;
        if kind.as_u64().is_some_and(|kind| ADDED.contains(&kind)) {
            added.push(json!({"id": id, "content": text}));
        }
        vocab.insert(text.to_owned(), json!(id));
    }
    Ok(json!({"added_tokens": added, "model": {"type": "WordLevel", "vocab": vocab}}))
}

#[cfg(test)]
mod tests;
