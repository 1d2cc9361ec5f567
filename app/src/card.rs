//! The model card: which model is inside, what proved it, when, and by what.

use model_assets::{
    claim::Claim,
    eq,
    manifest::{Manifest, WeightsKind},
    recipe::Recipe,
};
use serde::Serialize;

use crate::model::Model;

/// What a person should be able to see of the model that they talk to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Card {
    /// Model name.
    pub model: String,
    /// What the recipe says about it.
    pub description: String,
    /// `embedded` or `linked`.
    pub place: &'static str,
    /// Length of the `.pte`, bytes.
    pub file_bytes: u64,
    /// SHA-256 of the `.pte`.
    pub sha256: String,
    /// Parameters of the network.
    pub parameters: u64,
    /// Weight scheme.
    pub quantization: String,
    /// Context window, tokens.
    pub window_tokens: u32,
    /// Licence of the weights.
    pub licence: String,
    /// Words that the licence requires to be shown, such as `Built with Llama`.
    pub attribution: Option<String>,
    /// What the licence requires to be distributed with the model: its agreement and notice.
    pub licence_texts: Vec<LicenceText>,
    /// When it was exported and proved, RFC 3339.
    pub published: String,
    /// What exported and proved it.
    pub made_by: String,
    /// `dev` or `release`: what the build demanded.
    pub proved_for: &'static str,
    /// By whom the model is signed, or why it is not, as the gate found it.
    pub signature: &'static str,
    /// Verdicts: what was checked, and how it went.
    pub proofs: Vec<Proof>,
}

/// A file that goes where the model goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LicenceText {
    /// Its name beside the recipe, such as `NOTICE`.
    pub name: &'static str,
    /// What it says.
    pub text: &'static str,
}

/// One line of proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// What was proved.
    pub name: &'static str,
    /// The figure behind it.
    pub result: String,
}

impl Card {
    /// The card of the model that this binary was built for.
    ///
    /// # Errors
    /// What the binary carries cannot be read: it was altered.
    pub(crate) fn of(model: &Model) -> anyhow::Result<Self> {
        let Claim { recipe, manifest, .. } = Claim::parse(model.texts()?)?;
        Ok(Self {
            proofs: proofs(model.checks, &recipe, &manifest),
            made_by: made_by(&manifest),
            model: manifest.model,
            description: recipe.description,
            place: if model.embedded().is_some() { "embedded" } else { "linked" },
            file_bytes: model.file_bytes,
            sha256: model.sha256.to_owned(),
            parameters: manifest.export.parameters,
            quantization: manifest.export.quantization.as_str().to_owned(),
            window_tokens: manifest.export.seq_len,
            licence: recipe.licence.id,
            attribution: recipe.licence.attribution,
            licence_texts: model
                .licence_texts
                .iter()
                .map(|&(name, text)| LicenceText { name, text })
                .collect(),
            published: manifest.published,
            proved_for: model.proved_for,
            signature: model.signature,
        })
    }
}

fn made_by(manifest: &Manifest) -> String {
    let tools = &manifest.toolchain;
    let revision = tools.xtask_revision.as_deref().unwrap_or("an unknown revision");
    let short = revision.get(..12).unwrap_or(revision);
    let dirty = if revision.ends_with("-dirty") { " with local changes" } else { "" };
    format!("cargo xtask at {short}{dirty}, ExecuTorch {}, PyTorch {}", tools.executorch, tools.torch)
}

fn proofs(checks: usize, recipe: &Recipe, manifest: &Manifest) -> Vec<Proof> {
    let mut proofs = Vec::new();
    let mut proof = |name, result| proofs.push(Proof { name, result });
    proof("Checks", format!("{checks} passed in the build of this app"));
    if manifest.weights == WeightsKind::Random {
        proof("Weights", "random: a rehearsal".to_owned());
    }
    let Some(evidence) = &manifest.evidence else { return proofs };
    if let Some(load) = &evidence.load {
        let finite = if load.finite { "finite" } else { "not finite" };
        proof("Load", format!("ran in ExecuTorch {}, logits {finite}", evidence.bound.runtime));
    }
    if let Some(parity) = &evidence.parity {
        let layers = parity.blocks.iter().map(|it| it.layers.len()).max().unwrap_or_default();
        let result = match parity.divergence() {
            None => format!("each of {layers} layers computes what the eager model's does"),
            Some(found) => format!("diverges at {}", found.place),
        };
        proof("Parity", result);
    }
    if let Some(benchmark) = &evidence.benchmark {
        let speed = |name: &str| benchmark.speeds.iter().find(|speed| speed.name == name).map(|s| s.mean);
        if let (Some(prefill), Some(decode)) = (speed("pp64"), speed("tg32")) {
            let machine = &benchmark.machine.processor;
            proof("Benchmark", format!("{prefill:.0} tok/s in, {decode:.0} tok/s out on {machine}"));
        }
    }
    let items = recipe.eq.items.items().unwrap_or_default();
    if let Some(verdict) = evidence.eq.as_ref().and_then(|eq| eq::judge(&items, &eq.items)) {
        let eq::Verdict { items, readable, scores, .. } = verdict;
        let result = match scores {
            Some(it) => {
                format!("{:.1} of 100 over {} items (eager model {:.1})", it.score, it.items, it.eager)
            }
            None => format!("readable {readable} of {items}, the score means nothing"),
        };
        proof("EQ test", result);
    }
    if let Some(quality) = &evidence.quality {
        let it = quality.figures();
        let kept = it.top1.value * 100.0;
        let result = format!("perplexity × {:.4} of the original, same next token in {kept:.1} %", it.ratio);
        proof("Quality", result);
    }
    for it in evidence.yardstick.iter().flatten() {
        proof("Yardstick", it.to_string());
    }
    if let Some(grammar) = &evidence.grammar {
        proof("Grammar", format!("accepts {:.1} % of replies", grammar.pte.share() * 100.0));
    }
    proofs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MODEL;

    #[test]
    fn the_card_tells_of_the_model_inside_and_of_its_proofs() {
        let card = Card::of(&MODEL).unwrap();
        assert_eq!((card.sha256.as_str(), card.file_bytes), (MODEL.sha256, MODEL.file_bytes));
        let names: Vec<_> = card.proofs.iter().map(|proof| proof.name).collect();
        assert!(names.contains(&"Checks") && names.contains(&"Parity"), "{names:?}");
        assert!(card.made_by.contains("ExecuTorch"), "{}", card.made_by);
        // The default model, in builds of any kind.
        assert_eq!(card.signature, "unsigned: signers.toml names tiny as such");
    }

    #[test]
    fn a_licence_that_wants_words_shown_has_them_on_the_card() {
        let recipe = include_str!("../../model-assets/models/llama3.2-1b/recipe.toml");
        let recipe = Recipe::parse(recipe).unwrap();
        assert_eq!(recipe.licence.attribution.as_deref(), Some("Built with Llama"));
        let texts = MODEL.texts().unwrap();
        let with = texts.recipe.replace("[licence]\n", "[licence]\nattribution = \"Built with Llama\"\n");
        let licence_texts = &[("NOTICE", "Llama 3.2 is licensed under the Llama 3.2 Community License")];
        let model = Model { recipe: with.leak().as_bytes(), licence_texts, ..MODEL };
        let card = Card::of(&model).unwrap();
        assert_eq!(card.attribution.as_deref(), Some("Built with Llama"));
        assert_eq!((card.licence_texts[0].name, card.licence_texts[0].text), licence_texts[0]);
    }
}
