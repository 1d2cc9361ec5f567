use std::fs;

use camino::Utf8Path;

use super::*;

const TINY: &str = include_str!("../../models/tiny/recipe.toml");
const LLAMA: &str = include_str!("../../models/llama3.2-1b/recipe.toml");
const NOTICE: &str = include_str!("../../models/llama3.2-1b/NOTICE");
const AGREEMENT: &str = "LLAMA 3.2 COMMUNITY\nLICENSE AGREEMENT\n...";

/// The rules that a recipe breaks with these files beside it, and the hint.
fn broken(recipe: &str, files: &[(&str, &str)]) -> (Vec<String>, String) {
    let folder = tempfile::tempdir().unwrap();
    let models = Utf8Path::from_path(folder.path()).unwrap();
    let recipe = Recipe::parse(recipe).unwrap();
    let dir = ModelDir::new(models, &recipe.name);
    fs::create_dir(dir.path()).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    match check(&dir, &recipe) {
        Ok(()) => (Vec::new(), String::new()),
        Err(refusal) => (refusal.findings.iter().map(|f| f.id.clone()).collect(), refusal.hint),
    }
}

#[test]
fn the_repositorys_own_licence_needs_nothing() {
    assert!(broken(TINY, &[]).0.is_empty());
}

#[test]
fn a_llama_needs_agreement_notice_and_attribution() {
    let both = [("LICENSE.txt", AGREEMENT), ("NOTICE", NOTICE)];
    assert!(broken(LLAMA, &both).0.is_empty());
    let (ids, hint) = broken(LLAMA, &[]);
    assert_eq!(ids, ["licence-agreement", "licence-notice"]);
    assert!(hint.contains("llama3.2-1b/LICENSE.txt"), "{hint}");
    assert_eq!(broken(LLAMA, &both[..1]).0, ["licence-notice"]);
    assert_eq!(broken(LLAMA, &both[1..]).0, ["licence-agreement"]);
    assert_eq!(broken(LLAMA, &[both[0], ("NOTICE", "Llama")]).0, ["licence-notice"]);
    assert_eq!(broken(LLAMA, &[("LICENSE.txt", "MIT"), both[1]]).0, ["licence-agreement"]);
    for (from, to, id) in [
        ("agreement = \"LICENSE.txt\"\n", "", "licence-agreement"),
        ("notice = \"NOTICE\"\n", "", "licence-notice"),
        ("attribution = \"Built with Llama\"\n", "", "licence-attribution"),
        ("\"Built with Llama\"", "\"with Llama\"", "licence-attribution"),
    ] {
        assert!(LLAMA.contains(from), "{from}");
        assert_eq!(broken(&LLAMA.replace(from, to), &both).0, [id]);
    }
}

#[test]
fn any_other_licence_needs_its_text() {
    let mit = TINY.replace("id = \"Apache-2.0\"", "id = \"MIT License\"");
    let (ids, hint) = broken(&mit, &[]);
    assert_eq!(ids, ["licence-agreement"]);
    assert!(hint.contains("`licence.agreement`"), "{hint}");
    let named = mit.replace("id = \"MIT License\"", "id = \"MIT License\"\nagreement = \"MIT.txt\"");
    assert_eq!(broken(&named, &[]).0, ["licence-agreement"]);
    assert!(broken(&named, &[("MIT.txt", "MIT License ...")]).0.is_empty());
}

#[test]
fn a_fact_names_a_file_beside_the_recipe() {
    for name in ["../LICENSE", "/etc/passwd", ".hidden", ""] {
        let recipe = LLAMA.replace("\"LICENSE.txt\"", &format!("\"{name}\""));
        assert!(Recipe::parse(&recipe).is_err(), "{name}");
    }
}

/// Facts that a recipe leaves out are no part of its digest, to which evidence is bound.
#[test]
fn a_recipe_without_the_facts_has_the_digest_that_it_had() {
    let digest = Recipe::parse(TINY).unwrap().digest();
    let manifest = crate::manifest::Manifest::parse(include_bytes!("../../models/tiny/manifest.json"));
    assert_eq!(digest, manifest.unwrap().bound.recipe);
}
