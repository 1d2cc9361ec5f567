//! What a model's licence demands of whoever hands it on, as far as files can show it.
//!
//! **Invariant:** a model under this repository's own licence needs nothing beside it; any other needs its agreement; a
//! licence that is known to demand more needs that too. A recipe that leaves a fact out is refused, not excused.
//!
//! Not here: whether somebody *may* hand it on. That is read in the agreement, by a person.

use crate::{
    check::{Finding, Refusal, Severity},
    dir::{GateError, ModelDir},
    recipe::{Licence, Recipe},
};

/// The licence of this repository: its text is `LICENSE` at the root.
pub const OWN_LICENCE: &str = "Apache-2.0";

const BUILT_WITH_LLAMA: &str = "Built with Llama";

/// Proves that what the model's licence demands is there.
///
/// # Errors
/// The refusal with every fact and file that is missing.
pub fn check(dir: &ModelDir, recipe: &Recipe) -> Result<(), Refusal> {
    let licence = &recipe.licence;
    if licence.id == OWN_LICENCE {
        return Ok(());
    }
    let mut findings = Vec::new();
    let mut demand = |id: &str, location: &str, (got, expected): (String, String)| {
        let (id, location) = (id.to_owned(), location.to_owned());
        findings.push(Finding { id, severity: Severity::Reject, location, got, expected });
    };
    if let Some(wrong) = text(dir, licence.agreement.as_deref(), "licence.agreement", &licence.id) {
        demand("licence-agreement", licence.agreement.as_deref().unwrap_or("recipe.toml"), wrong);
    }
    if let Some(sentence) = llama_notice(&licence.id) {
        if let Some(wrong) = text(dir, licence.notice.as_deref(), "licence.notice", &sentence) {
            demand("licence-notice", licence.notice.as_deref().unwrap_or("recipe.toml"), wrong);
        }
        if licence.attribution.as_deref() != Some(BUILT_WITH_LLAMA) {
            let got = licence.attribution.as_ref().map_or("none".to_owned(), |words| format!("`{words}`"));
            let expected = format!("`licence.attribution = \"{BUILT_WITH_LLAMA}\"`");
            demand("licence-attribution", "recipe.toml", (got, expected));
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    Err(Refusal { model: recipe.name.clone(), hint: hint(dir, licence), findings, checks: Vec::new() })
}

/// A fact names a file, and the file holds these words; what is wrong otherwise.
fn text(dir: &ModelDir, name: Option<&str>, fact: &str, words: &str) -> Option<(String, String)> {
    let Some(name) = name else {
        return Some(("none".to_owned(), format!("`{fact}`, the name of a file beside the recipe")));
    };
    let expected = format!("a text that says: {words}");
    match dir.licence_text(name) {
        Ok(text) if plain(&text).contains(&plain(words)) => None,
        Ok(text) => Some((format!("{} bytes that do not say it", text.len()), expected)),
        Err(GateError::Missing { .. }) => Some(("no such file".to_owned(), expected)),
        Err(error) => Some((error.to_string(), expected)),
    }
}

/// Whatever breaks the lines, and in capitals or not.
fn plain(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The sentence that copies of a Llama model must keep in their notice: section 1.b.iii of its licence.
pub fn llama_notice(id: &str) -> Option<String> {
    let name = id.strip_suffix(" Community License").filter(|name| name.starts_with("Llama "))?;
    Some(format!("{name} is licensed under the {id}, Copyright © Meta Platforms, Inc. All Rights Reserved."))
}

fn hint(dir: &ModelDir, licence: &Licence) -> String {
    let folder = dir.path();
    match (&licence.agreement, llama_notice(&licence.id)) {
        (Some(agreement), _) => format!(
            "put the licence's own text, which a checkpoint's repository has, at {folder}/{agreement}; see docs/signing.md"
        ),
        (None, Some(notice)) => format!(
            "put the licence's own text beside {folder}/recipe.toml, and a file that says `{notice}`; name them there as \
             `licence.agreement` and `licence.notice`; see docs/signing.md"
        ),
        (None, None) => format!(
            "put the licence's own text beside {folder}/recipe.toml and name it there as `licence.agreement`; see \
             docs/signing.md"
        ),
    }
}

#[cfg(test)]
mod tests;
