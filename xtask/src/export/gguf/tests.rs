use std::collections::BTreeMap;

use model_assets::{
    check::{Severity, validate_reserve},
    evidence::{Load, Quality, QualityWindow},
    recipe::EvidenceKind,
};

use safetensors::Dtype;

use model_assets::manifest::SourceRecord;

use super::*;
use crate::export::plan::Target;
use camino::Utf8PathBuf;

/// The model `tiny` as a GGUF in a folder of the test's own, without evidence.
fn tiny(folder: &Utf8Path) -> (ReserveClaim, Utf8PathBuf) {
    let workspace = Workspace::find(None).unwrap();
    let dir = ModelDir::new(workspace.models(), "tiny");
    let (recipe, policy) = (dir.recipe().unwrap(), dir.policy().unwrap());
    let console = Console::new(false);
    let plan = ExportPlan {
        read: Some(Inputs::read(&dir, &recipe, &dir.path(), &console).unwrap()),
        source: recipe.source.clone(),
        checkpoint: Some(dir.path()),
        work: folder.to_owned(),
        force: false,
        target: Target::Gguf,
        dir,
        recipe,
        policy,
    };
    let job = Job { workspace: &workspace, console: &console, plan: &plan };
    let (tokenizer, template) = plan.dir.words(&plan.recipe, None).unwrap();
    let expect = reserve::expect(&plan.recipe, Some(&tokenizer), Some(&template)).unwrap();
    let path = folder.join(WORK_GGUF);
    let files = job.convert(&path, &expect).unwrap();
    let proved = gguf::verify(&fs::File::open(&path).unwrap(), &expect).unwrap();
    let (sha256, summary) = (Digest::from_bytes(proved.sha256), proved.summary);
    let bound = model_assets::claim::bound(&plan.recipe, &plan.policy, Some(&tokenizer), Some(&template));
    let manifest = ReserveManifest {
        schema: RESERVE_SCHEMA,
        model: "tiny".into(),
        file: reserve::file_name(&plan.recipe),
        file_bytes: summary.file_bytes,
        sha256,
        weights: WeightsKind::Checkpoint,
        source: SourceRecord { source: plan.source.clone(), files, gguf: None },
        bound,
        export: ReserveExport { xtask_revision: None, seconds: 1.0, peak_rss_bytes: None },
        structure: summary,
        checks: Vec::new(),
        evidence: None,
        published: now(),
    };
    let ExportPlan { recipe, policy, .. } = plan;
    let claim =
        ReserveClaim { recipe, policy, manifest, tokenizer: Some(tokenizer), chat_template: Some(template) };
    (claim, path)
}

/// Good evidence for a claim.
fn evidence(claim: &ReserveClaim) -> ReserveEvidence {
    let window = |number: u32| QualityWindow {
        id: number.to_string(),
        scored: 500,
        nll_fp32: 50.0,
        nll: 50.1,
        kl: 0.5,
        same_top: 495,
    };
    let text = claim.recipe.quality.as_ref().and_then(|limits| limits.text.as_ref()).unwrap().sha256;
    let quality = Quality { text, tokens: Digest::of(b""), windows: (0..20).map(window).collect() };
    ReserveEvidence {
        bound: ReserveBinding::current(claim.manifest.sha256, claim.bound()),
        load: Load {
            load_ms: 1.0,
            first_prefill_ms: 1.0,
            prefill_tokens: 16,
            decode_tokens: 8,
            finite: true,
            peak_rss_bytes: 1,
        },
        quality: Some(quality),
    }
}

/// What rejects a claim about these bytes.
fn reasons(bytes: &[u8], claim: &ReserveClaim, profile: Profile) -> Vec<String> {
    match validate_reserve(bytes, claim, profile) {
        Ok(proved) => {
            assert!(proved.checks().iter().all(|check| check.passed));
            Vec::new()
        }
        Err(refusal) => {
            assert!(refusal.hint.contains("llamacpp") || profile == Profile::Release, "{}", refusal.hint);
            let rejects = refusal.findings.iter().filter(|finding| finding.severity == Severity::Reject);
            rejects.map(|finding| finding.id.clone()).collect()
        }
    }
}

#[test]
fn the_gate_lets_through_what_the_exporter_writes_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (claim, path) = tiny(Utf8Path::from_path(folder.path()).unwrap());
    let bytes = fs::read(path).unwrap();
    assert_eq!(reasons(&bytes, &claim, Profile::Dev), [""; 0]);
    let caught = |id: &str, sabotage: &dyn Fn(&mut ReserveClaim, &mut Vec<u8>)| {
        let (mut claim, mut bytes) = (claim.clone(), bytes.clone());
        sabotage(&mut claim, &mut bytes);
        let reasons = reasons(&bytes, &claim, Profile::Dev);
        assert!(reasons.iter().any(|reason| reason == id), "{id}: {reasons:?}");
    };
    let last = bytes.len() - 100;
    caught("gguf-digest", &|_, bytes| bytes[last] ^= 1);
    caught("gguf-size", &|_, bytes| bytes.truncate(last));
    caught("gguf-metadata", &|claim, _| claim.recipe.architecture.rope_theta = 5e5);
    caught("gguf-metadata", &|claim, _| claim.recipe.tokens.eos = vec![2]);
    caught("gguf-metadata", &|claim, _| {
        // A tokenizer with two tokens in each other's place.
        let text = String::from_utf8(claim.tokenizer.take().unwrap()).unwrap();
        let swapped = text.replace(r##""!":6,"##, r##""!":7,"##).replace(r#""\"":7,"#, r#""\"":6,"#);
        assert_ne!(swapped, text);
        claim.tokenizer = Some(swapped.into_bytes());
    });
    caught("template-digest", &|claim, _| claim.chat_template = Some("{{ messages }}".into()));
    caught("tokenizer", &|claim, _| claim.tokenizer = None);
    caught("gguf-tensors", &|claim, _| claim.recipe.architecture.tied = false);
    caught("reserve-recipe", &|claim, _| {
        claim.recipe.export.quantization = model_assets::recipe::Quantization::Fp32
    });
    caught("policy", &|claim, _| claim.policy.limits.file_bytes_max = 1000);
    caught("gguf-file-bytes", &|claim, _| claim.recipe.limits.file_bytes_max = 2_000_000);
    caught("recipe-digest", &|claim, _| claim.recipe.description = "another".into());
    caught("model-name", &|claim, _| claim.manifest.model = "other".into());
    caught("file-name", &|claim, _| claim.manifest.file = "other.gguf".into());
    caught("file-size", &|claim, _| claim.manifest.file_bytes += 1);
    caught("structure", &|claim, _| claim.manifest.structure.tensors += 1);
    caught("weights-kind", &|claim, _| claim.manifest.weights = WeightsKind::Random);
}

/// A folder of models with an old reserve in it, bound to another tokenizer than the new one.
fn old_reserve(folder: &Utf8Path, claim: &ReserveClaim) -> (ModelDir, Vec<u8>) {
    let (real, dir) = (Workspace::find(None).unwrap().models(), ModelDir::new(folder, "tiny"));
    fs::create_dir(dir.path()).unwrap();
    fs::copy(real.join("policy.toml"), dir.policy_path()).unwrap();
    for name in ["recipe.toml", "chat_template.jinja"] {
        fs::copy(real.join("tiny").join(name), dir.path().join(name)).unwrap();
    }
    let mut old = claim.manifest.clone();
    (old.sha256, old.bound.tokenizer) = (Digest::of(b"old gguf"), Some(Digest::of(b"old tokenizer")));
    let record = old.to_bytes();
    for (name, bytes) in
        [(RESERVE_FILE, record.as_slice()), (&old.file, b"old gguf"), ("tokenizer.json", b"old tokenizer")]
    {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    (dir, record)
}

/// What a reader of the directory gets: the record, the tokenizer and the file that belong to each other.
fn read_reserve(dir: &ModelDir) -> (ReserveManifest, Vec<u8>, Vec<u8>) {
    let claim = dir.reserve_claim().unwrap();
    let (path, _) = dir.open_gguf(&claim.manifest).unwrap();
    let gguf = fs::read(path).unwrap();
    assert_eq!(claim.manifest.bound.tokenizer, claim.tokenizer.as_deref().map(Digest::of));
    assert_eq!(claim.manifest.sha256, Digest::of(&gguf));
    (claim.manifest, claim.tokenizer.unwrap(), gguf)
}

#[test]
fn a_publish_that_fails_before_its_commit_point_leaves_the_old_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let (mut claim, path) = tiny(folder);
    claim.manifest.evidence = Some(evidence(&claim));
    let (dir, record) = old_reserve(folder, &claim);
    let validated = validate_reserve(fs::File::open(&path).unwrap(), &claim, Profile::Dev).unwrap();
    // The last step before the renames fails: there is no file to publish.
    publish(&dir, &validated, &claim, &folder.join("gone")).unwrap_err();
    assert_eq!(fs::read(dir.path().join("tokenizer.json")).unwrap(), b"old tokenizer");
    assert_eq!(fs::read(dir.reserve_path()).unwrap(), record);
    assert_eq!(read_reserve(&dir).1, b"old tokenizer");
    publish(&dir, &validated, &claim, &path).unwrap();
    let (manifest, tokenizer, _) = read_reserve(&dir);
    assert_eq!((manifest, Some(tokenizer)), (claim.manifest, claim.tokenizer));
    // Recipe, template, tokenizer, record and model: nothing waits any more.
    assert_eq!(dir.path().read_dir_utf8().unwrap().count(), 5);
}

#[test]
fn each_state_of_a_publish_is_one_reserve() {
    let scratch = tempfile::tempdir().unwrap();
    let scratch = Utf8Path::from_path(scratch.path()).unwrap();
    let (claim, path) = tiny(scratch);
    let (gguf, tokenizer) = (fs::read(path).unwrap(), claim.tokenizer.clone().unwrap());
    let files = [("tokenizer.json", tokenizer), (&claim.manifest.file, gguf)];
    // Two moves, the commit, two moves.
    for state in 0..=5 {
        let folder = tempfile::tempdir().unwrap();
        let (dir, _) = old_reserve(Utf8Path::from_path(folder.path()).unwrap(), &claim);
        let place = |name: &str| dir.path().join(name);
        for (name, bytes) in files.iter().take(state) {
            fs::write(place(&pending_name(name, Digest::of(bytes))), bytes).unwrap();
        }
        if state > 2 {
            fs::write(dir.reserve_path(), claim.manifest.to_bytes()).unwrap();
        }
        for (name, bytes) in files.iter().take(state.saturating_sub(3)) {
            fs::rename(place(&pending_name(name, Digest::of(bytes))), place(name)).unwrap();
        }
        let (manifest, tokenizer, _) = read_reserve(&dir);
        assert_eq!(manifest == claim.manifest, state > 2, "state {state}");
        assert_eq!(tokenizer == files[0].1, state > 2, "state {state}");
    }
}

#[test]
fn evidence_is_judged_whoever_demands_it_and_a_release_demands_all() {
    let folder = tempfile::tempdir().unwrap();
    let (mut claim, path) = tiny(Utf8Path::from_path(folder.path()).unwrap());
    let bytes = fs::read(path).unwrap();
    claim.manifest.evidence = Some(evidence(&claim));
    assert_eq!(reasons(&bytes, &claim, Profile::Dev), [""; 0]);
    let judged = |id: &str, spoil: &dyn Fn(&mut ReserveEvidence)| {
        let mut claim = claim.clone();
        spoil(claim.manifest.evidence.as_mut().unwrap());
        let mut found = reasons(&bytes, &claim, Profile::Dev);
        // A window without a number fails more than one figure of its kind.
        found.dedup();
        assert_eq!(found, [id], "{id}");
    };
    judged("evidence-load", &|it| it.load.finite = false);
    judged("evidence-quality", &|it| it.quality.as_mut().unwrap().windows[0].nll = f64::NAN);
    judged("evidence-quality", &|it| it.quality.as_mut().unwrap().windows[3].same_top = 501);
    judged("evidence-quality", &|it| it.quality.as_mut().unwrap().text = Digest::of(b"another"));
    // tiny's recipe wants more of a release than is measured on the reserve.
    let missing = ["evidence-benchmark", "evidence-eq", "evidence-grammar"];
    assert_eq!(reasons(&bytes, &claim, Profile::Release), missing);
    claim.recipe.evidence.release = vec![EvidenceKind::Load];
    (claim.manifest.bound, claim.manifest.evidence) = (claim.bound(), Some(evidence(&claim)));
    assert_eq!(reasons(&bytes, &claim, Profile::Release), [""; 0]);
    claim.manifest.evidence.as_mut().unwrap().bound.runtime = "llama-cpp-sys-2 0.0.0".into();
    assert_eq!(reasons(&bytes, &claim, Profile::Release), ["evidence-binding"]);
    claim.manifest.evidence = None;
    assert_eq!(
        reasons(&bytes, &claim, Profile::Release),
        ["evidence-load", "evidence-parity", "evidence-quality"]
    );
}

#[test]
fn the_quantized_weights_are_the_checkpoint_s() {
    let folder = tempfile::tempdir().unwrap();
    let (claim, path) = tiny(Utf8Path::from_path(folder.path()).unwrap());
    let file = fs::File::open(path).unwrap();
    let (head, _) = gguf::structure(&file, &claim.expect().unwrap()).unwrap();
    let workspace = Workspace::find(None).unwrap();
    let mut checkpoint = Checkpoint::read(&workspace.models().join("tiny")).unwrap();
    let read = |tensor: &Tensor| {
        let mut bytes = vec![0; usize::try_from(tensor.bytes().unwrap()).unwrap()];
        model_assets::pte::ReadAt::read_exact_at(&file, &mut bytes, head.bytes + tensor.offset).unwrap();
        gguf::from_q8_0(&bytes)
    };
    let find = |name: &str| head.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    for (name, source, turned) in [
        ("token_embd.weight", "model.embed_tokens.weight", false),
        ("blk.4.ffn_down.weight", "model.layers.4.mlp.down_proj.weight", false),
        ("blk.2.attn_k.weight", "model.layers.2.self_attn.k_proj.weight", true),
    ] {
        let tensor = find(name);
        let (rows, width) = (tensor.rows.unwrap(), tensor.width);
        let mut expected = vec![0.0; usize::try_from(rows * width).unwrap()];
        checkpoint.rows(source, &[rows, width], 0, &mut expected).unwrap();
        if turned {
            expected = gguf::interleave(&expected, 32, usize::try_from(width).unwrap());
        }
        let got = read(tensor);
        let error = got.iter().zip(&expected).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let power = expected.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>();
        // Eight bits with a scale for every 32 weights: a few per mille of the signal.
        assert!((error / power).sqrt() < 0.01, "{name}: {}", (error / power).sqrt());
    }
}

#[test]
fn a_checkpoint_that_is_not_the_recipe_s_is_refused() {
    let workspace = Workspace::find(None).unwrap();
    let mut checkpoint = Checkpoint::read(&workspace.models().join("tiny")).unwrap();
    let mut out = [0.0; 4];
    let error = checkpoint.rows("model.norm.weight", &[193], 0, &mut out).unwrap_err().to_string();
    assert!(error.contains("got shape [192], expected [193]"), "{error}");
    let error = checkpoint.rows("nothing.weight", &[4], 0, &mut out).unwrap_err().to_string();
    assert!(error.contains("nothing.weight: not in the checkpoint"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap();
    let error = |bytes: &[u8]| {
        fs::write(path.join("model.safetensors"), bytes).unwrap();
        Checkpoint::read(path).err().map(|error| format!("{error:#}")).unwrap_or_default()
    };
    assert!(error(b"abc").contains("no safetensors header"));
    assert!(error(&u64::MAX.to_le_bytes()).contains("got a header of"));
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 3]].concat();
    assert!(error(&file).contains("truncated"), "{}", error(&file));
}

/// A copy of tiny's checkpoint whose tensors were changed.
fn changed(folder: &Utf8Path, change: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<u8>)>)) {
    let dir = Workspace::find(None).unwrap().models().join("tiny");
    fs::copy(dir.join("config.json"), folder.join("config.json")).unwrap();
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let owned = tensors.iter().map(|(name, view)| {
        assert_eq!(view.dtype(), Dtype::BF16);
        (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))
    });
    let mut owned: BTreeMap<_, _> = owned.collect();
    change(&mut owned);
    let views = owned.iter().map(|(name, (shape, data))| {
        (name, safetensors::tensor::TensorView::new(Dtype::BF16, shape.clone(), data).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn a_checkpoint_is_held_to_what_the_worker_holds_it_to() {
    let recipe = ModelDir::new(Workspace::find(None).unwrap().models(), "tiny").recipe().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap();
    let embedding = "model.embed_tokens.weight";
    let head = |tensors: &mut BTreeMap<String, (Vec<usize>, Vec<u8>)>| {
        tensors.insert("lm_head.weight".into(), tensors[embedding].clone());
    };
    let opened = || Checkpoint::open(path, &recipe);
    let error = || opened().err().map(|error| format!("{error:#}")).unwrap_or_default();
    changed(path, |_| {});
    opened().unwrap().finish().unwrap();
    changed(path, head);
    opened().unwrap().finish().unwrap();
    changed(path, |tensors| {
        head(tensors);
        // The last weight: all of it is compared.
        *tensors.get_mut("lm_head.weight").unwrap().1.last_mut().unwrap() ^= 1;
    });
    assert!(error().contains("lm_head.weight differs from model.embed_tokens.weight"), "{}", error());
    changed(path, |tensors| {
        let (shape, data) = tensors[embedding].clone();
        tensors.insert("lm_head.weight".into(), (vec![shape[1], shape[0]], data));
    });
    assert!(error().contains("lm_head.weight: got shape [192, 1024]"), "{}", error());
    let bias = "model.layers.0.self_attn.q_proj.bias";
    changed(path, |tensors| drop(tensors.insert(bias.into(), (vec![1], vec![0, 0]))));
    assert!(error().contains(&format!("{bias}: unexpected")), "{}", error());
    let layer = "model.layers.5.input_layernorm.weight";
    changed(path, |tensors| drop(tensors.insert(layer.into(), (vec![192], vec![0; 384]))));
    assert!(error().contains(&format!("{layer}: unexpected")), "{}", error());
    changed(path, |tensors| drop(tensors.remove("model.norm.weight")));
    assert!(error().contains("model.norm.weight: not in the checkpoint"), "{}", error());
    let table = "model.layers.0.self_attn.rotary_emb.inv_freq";
    changed(path, |tensors| drop(tensors.insert(table.into(), (vec![1], vec![0, 0]))));
    opened().unwrap().finish().unwrap();

    let mut untied = recipe.clone();
    untied.architecture.tied = false;
    changed(path, head);
    let config = path.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    assert!(format!("{:#}", Checkpoint::open(path, &untied).err().unwrap()).contains("tie_word_embeddings"));
    fs::write(&config, text.replace(r#""rms_norm_eps": 1e-05"#, r#""rms_norm_eps": 1e-06"#)).unwrap();
    assert!(error().contains("rms_norm_eps: got 1e-6, expected 0.00001"), "{}", error());
    fs::remove_file(&config).unwrap();
    assert!(error().contains("config.json: cannot be read"), "{}", error());
}

#[test]
fn an_index_of_another_checkpoint_is_refused() {
    let recipe = ModelDir::new(Workspace::find(None).unwrap().models(), "tiny").recipe().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap();
    let mut names = BTreeMap::new();
    changed(path, |tensors| {
        names = tensors.keys().map(|name| (name.clone(), "model.safetensors")).collect();
    });
    let mut write = |spoil: &dyn Fn(&mut BTreeMap<String, &'static str>)| {
        spoil(&mut names);
        let index = serde_json::json!({"weight_map": names}).to_string();
        fs::write(path.join("model.safetensors.index.json"), index).unwrap();
        Checkpoint::open(path, &recipe).map(drop).map_err(|error| format!("{error:#}"))
    };
    assert_eq!(write(&|_| {}), Ok(()));
    let error = write(&|names| _ = names.remove("model.norm.weight")).unwrap_err();
    assert!(error.contains("model.norm.weight: listed in None"), "{error}");
    let error = write(&|names| _ = names.insert("model.norm.weight".into(), "other.safetensors"));
    assert!(error.unwrap_err().contains(r#"listed in Some("other.safetensors")"#));
    fs::write(path.join("model.safetensors.index.json"), "[]").unwrap();
    assert!(Checkpoint::open(path, &recipe).is_err());
}

#[test]
fn a_checkpoint_that_changes_after_it_was_hashed_is_refused() {
    let recipe = ModelDir::new(Workspace::find(None).unwrap().models(), "tiny").recipe().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap();
    changed(path, |_| {});
    let file = path.join("model.safetensors");
    let error = |change: &dyn Fn(&fs::File)| {
        let checkpoint = Checkpoint::open(path, &recipe).unwrap();
        change(&fs::File::options().read(true).write(true).open(&file).unwrap());
        checkpoint.finish().unwrap_err().to_string()
    };
    let longer = error(&|file| file.set_len(file.metadata().unwrap().len() + 1).unwrap());
    assert!(longer.ends_with("model.safetensors: changed while it was read"), "{longer}");
    changed(path, |_| {});
    // The same size, and the old time put back: the inode's own time tells.
    error(&|file| {
        let before = file.metadata().unwrap().modified().unwrap();
        std::os::unix::fs::FileExt::write_all_at(file, b"\0", file.metadata().unwrap().len() - 1).unwrap();
        // A clock that ticks every few milliseconds must have ticked.
        std::thread::sleep(std::time::Duration::from_millis(50));
        file.set_modified(before).unwrap();
    });
}

#[test]
fn a_conversion_is_interrupted_within_a_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap();
    // Two chunks and a half.
    let (rows, width) = (CHUNK_WEIGHTS / 1024 * 5 / 2, 1024);
    let data = vec![0; usize::try_from(rows * width * 2).unwrap()];
    let shape = [rows, width].map(|size| usize::try_from(size).unwrap()).to_vec();
    let view = safetensors::tensor::TensorView::new(Dtype::BF16, shape, &data).unwrap();
    fs::write(path.join("model.safetensors"), safetensors::serialize([("t", view)], None).unwrap()).unwrap();
    let tensor = Tensor { name: "t".into(), width, rows: Some(rows), kind: Kind::F32, offset: 0 };
    let written = |chunks: u32| {
        let mut weights = Weights::Checkpoint(Checkpoint::read(path).unwrap());
        let (mut out, asked) = (Vec::new(), std::cell::Cell::new(0));
        let interrupted = || asked.replace(asked.get() + 1) >= chunks;
        let done =
            write_tensor(&mut out, &tensor, &Origin::Checkpoint("t".into()), &mut weights, &interrupted);
        (out.len() as u64 / 4, done.map_err(|error| error.to_string()))
    };
    assert_eq!(written(3), (rows * width, Ok(())));
    assert_eq!(written(2), (CHUNK_WEIGHTS * 2, Err("interrupted".into())));
    assert_eq!(written(0), (0, Err("interrupted".into())));
}
