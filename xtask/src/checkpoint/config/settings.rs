//! Reads settings of a `config.json` as `transformers` does: null is as good as absent.

use anyhow::{Context as _, bail};
use model_assets::recipe::{Activation, LayerKind};
use serde_json::Value;

use super::Object;

/// A configuration, and the longest text of the export.
pub(super) struct Settings<'c> {
    pub(super) config: &'c Object,
    pub(super) seq_len: u32,
}

impl Settings<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key).filter(|got| !got.is_null())
    }

    pub(super) fn integer(&self, key: &str, default: Option<u32>) -> anyhow::Result<u32> {
        let Some(got) = self.get(key) else {
            return default.with_context(|| format!("{key}: got none, expected a number"));
        };
        // 64 and 64.0 are one number.
        let whole = got.as_f64().filter(|it| it.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(it));
        whole
            .map(|it| it as u32)
            .with_context(|| format!("{key}: got {got}, expected a whole number above 0"))
    }

    pub(super) fn number(&self, key: &str, default: f64) -> anyhow::Result<f64> {
        self.get(key).map_or(Ok(default), |got| positive(key, got))
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> anyhow::Result<bool> {
        let Some(got) = self.get(key) else { return Ok(default) };
        got.as_bool().with_context(|| format!("{key}: got {got}, expected true or false"))
    }

    /// One entry for each layer, if there are any.
    pub(super) fn list(&self, key: &str, layers: u32) -> anyhow::Result<Option<Vec<Value>>> {
        let Some(got) = self.get(key) else { return Ok(None) };
        let list = got.as_array().filter(|list| list.len() >= layers as usize);
        let list = list.with_context(|| format!("{key}: got {got}, expected a list of {layers}"))?;
        Ok(Some(list.iter().take(layers as usize).cloned().collect()))
    }

    /// The window of the layers that have one; `default` where the key is left out, none where it is null.
    pub(super) fn window(&self, default: Option<u32>) -> anyhow::Result<Option<u32>> {
        let key = "sliding_window";
        let window = match self.config.get(key) {
            None => default,
            Some(Value::Null) => None,
            Some(_) => Some(self.integer(key, None)?),
        };
        if let Some(window) = window.filter(|window| *window < self.seq_len) {
            let seq_len = self.seq_len;
            bail!(
                "{key}: got {window}, expected none below the {seq_len} tokens of the export: windows are not implemented"
            );
        }
        Ok(window)
    }

    /// Every layer sees everything before, as far as `layer_types` says.
    pub(super) fn all_global(&self) -> anyhow::Result<()> {
        let kinds = self.get("layer_types").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        match kinds.iter().find(|kind| *kind != "full_attention") {
            Some(kind) => bail!("layer_types: got {kind}, expected \"full_attention\" in every layer"),
            None => Ok(()),
        }
    }

    pub(super) fn activation(&self, key: &str, known: &[(&str, Activation)]) -> anyhow::Result<Activation> {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        let got = self.get(key).cloned().unwrap_or_else(|| names.first().copied().unwrap_or_default().into());
        let found = known.iter().find(|(name, _)| got == *name);
        found.map(|(_, it)| *it).with_context(|| format!("{key}: got {got}, expected one of {names:?}"))
    }
}

/// None where all are global.
pub(super) fn kinds(found: Vec<LayerKind>) -> Vec<LayerKind> {
    if found.iter().all(|kind| *kind == LayerKind::Global) { Vec::new() } else { found }
}

/// A finite number above 0.
pub(super) fn positive(key: &str, got: &Value) -> anyhow::Result<f64> {
    let number = got.as_f64().filter(|it| it.is_finite() && *it > 0.0);
    number.with_context(|| format!("{key}: got {got}, expected a number above 0"))
}
