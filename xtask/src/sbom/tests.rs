use super::*;

/// Validates with the schema that CycloneDX publishes, in its own Python package; formats (URLs, dates, UUIDs) too.
const VALIDATE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(None if error is None else str(error)[:2000])
";

fn tiny() -> (ModelDir, Claim, Digest) {
    let workspace = Workspace::find(None).unwrap();
    let dir = ModelDir::new(workspace.models(), "tiny");
    let (claim, texts) = dir.open().expect("run: cargo xtask export");
    (dir, claim, Digest::of(&texts.manifest))
}

fn valid(bill: &Value) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bill.to_string()).unwrap();
    let python = crate::pinned_venv::interop().join("bin/python");
    let mut command = std::process::Command::new(python);
    let output = command.args(["-I", "-c", VALIDATE]).arg(file.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    // A validator that cannot be loaded must not pass for one that refuses.
    assert!(!message.contains("Traceback"), "{message}");
    if !output.status.success() {
        eprintln!("{message}");
    }
    output.status.success()
}

#[test]
fn the_bill_of_tiny_is_valid_and_says_what_it_is_made_of() {
    let (dir, claim, manifest) = tiny();
    let bill_of_tiny = bill(&dir, &claim, manifest);
    assert!(valid(&bill_of_tiny));
    assert_eq!(bill(&dir, &claim, manifest), bill_of_tiny, "the same model twice");
    let model = &bill_of_tiny["metadata"]["component"];
    assert_eq!(model["hashes"][0]["content"], claim.manifest.sha256.to_string());
    assert_eq!(model["licenses"][0]["license"]["id"], "Apache-2.0");
    let training = &model["modelCard"]["modelParameters"]["datasets"][0]["contents"]["properties"];
    assert!(training.to_string().contains("text_sha256"), "{training}");
    let metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"].to_string();
    assert!(metrics.contains("EQ score") && metrics.contains("perplexity"), "{metrics}");
    let names: Vec<_> = bill_of_tiny["components"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    for name in ["manifest.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"] {
        assert!(names.iter().any(|it| *it == name), "{name}: {names:?}");
    }
    let tools = bill_of_tiny["metadata"]["tools"]["components"].to_string();
    assert!(tools.contains("pkg:pypi/executorch@1.5.1"), "{tools}");
}

#[test]
fn the_bill_of_a_hub_model_names_its_ancestor_and_its_licence() {
    let (dir, mut claim, manifest) = tiny();
    let llama = include_str!("../../../model-assets/models/llama3.2-1b/recipe.toml");
    let llama = model_assets::recipe::Recipe::parse(llama).unwrap();
    claim.manifest.source.source = llama.source;
    claim.recipe.licence = llama.licence;
    let bill = bill(&dir, &claim, manifest);
    assert!(valid(&bill));
    let model = &bill["metadata"]["component"];
    assert_eq!(model["licenses"][0]["license"]["name"], "Llama 3.2 Community License");
    assert_eq!(model["pedigree"]["ancestors"][0]["name"], "meta-llama/Llama-3.2-1B-Instruct");
    assert_eq!(model["copyright"], "Built with Llama");
}

#[test]
fn the_validator_refuses_what_is_no_bill() {
    let (dir, claim, manifest) = tiny();
    let good = bill(&dir, &claim, manifest);
    for (place, new) in [
        ("/serialNumber", json!("urn:uuid:nonsense")),
        ("/metadata/timestamp", json!("yesterday")),
        ("/metadata/component/type", json!("model")),
        ("/metadata/component/hashes/0/content", json!("abc")),
        ("/components/0/licenses/0", json!({"licence": "Apache-2.0"})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = new;
        assert!(!valid(&bad), "{place}");
    }
}
