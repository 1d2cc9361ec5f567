//! The model card: which model is inside, what proved it, when, and by what.

use model_assets::{
    claim::Claim,
    evidence::Evidence,
    manifest::{Manifest, WeightsKind},
};
use serde::Serialize;

use crate::model::Model;

/// What the app shows about its model.
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
        let claim = Claim::parse(model.texts()?)?;
        let proofs = proofs(model.checks, &claim);
        let Claim { recipe, manifest, .. } = claim;
        Ok(Self {
            proofs,
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

fn proofs(checks: usize, claim: &Claim) -> Vec<Proof> {
    let mut proofs =
        vec![Proof { name: "Checks", result: format!("{checks} passed in the build of this app") }];
    if claim.manifest.weights == WeightsKind::Random {
        proofs.push(Proof { name: "Weights", result: "random: a rehearsal".to_owned() });
    }
    for (kind, measured) in claim.manifest.evidence.iter().flat_map(Evidence::measured) {
        let rows = measured.card(&claim.asked()).into_iter();
        proofs.extend(rows.map(|result| Proof { name: kind.facts().name, result }));
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
        let recipe = model_assets::recipe::Recipe::parse(recipe).unwrap();
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
