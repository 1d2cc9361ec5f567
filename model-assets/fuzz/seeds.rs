//! Writes the corpus that fuzzing starts from: `cargo run --bin seeds -- <corpus directory> [recipe or manifest…]`.
//!
//! The seeds come from the same builder as the hostile tests, so no binary is kept in the repository.

#[path = "../hostile/builder.rs"]
#[expect(dead_code, reason = "shared by several targets")]
mod builder;
#[path = "../hostile/gguf.rs"]
#[expect(dead_code, reason = "shared by several targets")]
mod gguf;

use std::fs;
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use builder::{Pte, T, Val};
use model_assets::bundle;

const SIGNATURE: &[u8] = include_bytes!("../tests/data/model_signing-1.1.1.sig");

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let corpus = args.next().unwrap_or_else(|| "corpus".to_owned());
    let corpus = Path::new(&corpus);
    for target in ["program", "xnnpack", "manifest", "recipe", "block", "bundle", "gguf", "signature"] {
        fs::create_dir_all(corpus.join(target))?;
    }
    let good = Pte::default();
    fs::write(corpus.join("program/good"), good.build())?;
    fs::write(corpus.join("gguf/good"), gguf::Gguf::default().build())?;
    fs::write(corpus.join("xnnpack/good"), good.xnn_blob())?;

    // Every instruction, so that the fuzzer has one of each to change.
    let mut flow = Pte::default();
    let step = |kind: u8, fields: &[i32]| {
        let fields = fields.iter().enumerate().map(|(id, &field)| (id as u16, builder::i32(field)));
        T::new([(0, builder::u8(kind)), (1, Val::Table(T::new(fields)))])
    };
    flow.plan().item(5, 0).list(2).extend([step(3, &[7, 7]), step(4, &[12, 0]), step(5, &[7])]);
    fs::write(corpus.join("program/control_flow"), flow.build())?;

    // One node of each kind, whatever the shapes.
    let mut nodes = Pte::default();
    for kind in 1..=47 {
        let mut node = builder::xnode(kind, &[0; 20]);
        node.sub(1).0.truncate(usize::from(kind % 21));
        nodes.graph.list(1).push(node);
    }
    fs::write(corpus.join("xnnpack/all_nodes"), nodes.xnn_blob())?;
    let mut writer = bundle::Writer::new(Vec::new());
    for (name, bytes) in [("manifest.json", &b"{}"[..]), ("a.pte", &[7; 600]), ("recipe.toml", b"")] {
        writer.entry(name, bytes.len() as u64, &mut &bytes[..]).map_err(std::io::Error::other)?;
    }
    let good = writer.finish().map_err(std::io::Error::other)?;
    let mut archive = fs::File::create(corpus.join("bundle/good"))?;
    std::io::copy(&mut flate2::read::GzDecoder::new(&good[..]), &mut archive)?;
    // What the public tool wrote, and what it signed.
    fs::write(corpus.join("signature/public_tool"), SIGNATURE)?;
    let envelope: serde_json::Value = serde_json::from_slice(SIGNATURE)?;
    let payload = envelope["dsseEnvelope"]["payload"].as_str().unwrap_or_default();
    let statement = Base64::decode_vec(payload).map_err(std::io::Error::other)?;
    fs::write(corpus.join("signature/statement"), statement)?;
    for file in args {
        let path = Path::new(&file);
        let target = if path.extension().is_some_and(|end| end == "toml") { "recipe" } else { "manifest" };
        let parent =
            path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        fs::copy(path, corpus.join(target).join(parent))?;
    }
    Ok(())
}
