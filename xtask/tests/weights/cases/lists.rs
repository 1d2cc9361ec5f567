//! The list of files and the index of shards.

use super::{Bend, Case, case, entry, honest, list, sharded};
use crate::{hub::Answer, scratch::WEIGHTS};

/// The list and the index.
pub(super) fn lists() -> Vec<Case> {
    let with = |case: Case, bend: Bend| Case { bend, ..case };
    let many: serde_json::Map<_, _> =
        (0..600).map(|i| (i.to_string(), format!("{i}.safetensors").into())).collect();
    vec![
        // The list.
        case(
            "missing revision",
            20,
            &["revision 0123456789abcdef0123456789abcdef01234567 does not exist"],
            |_, _| Answer::new(404, "").with("X-Error-Code", "RevisionNotFound"),
        ),
        case("missing repository", 20, &["no such repository"], |_, _| Answer::new(404, "")),
        case("listed but missing", 20, &["the file does not exist"], |asked, answer| {
            if asked.path.ends_with("/config.json") {
                Answer::new(404, "").with("X-Error-Code", "EntryNotFound")
            } else {
                answer
            }
        }),
        with(
            case(
                "list without weights",
                20,
                &["model.safetensors.index.json: not in the repository"],
                honest,
            ),
            list(|mut entries| {
                entries.as_array_mut().unwrap().retain(|entry| entry["path"] != WEIGHTS);
                entries
            }),
        ),
        with(
            case("list with a file twice", 20, &["twice"], honest),
            list(|mut entries| {
                let first = entries[0].clone();
                entries.as_array_mut().unwrap().push(first);
                entries
            }),
        ),
        case("list that is a page", 20, &["list of files: expected value"], |asked, answer| {
            if asked.wants_list() { Answer::new(200, "<html>sign in</html>") } else { answer }
        }),
        case("endless list", 20, &["got more than 8388608 bytes"], |asked, answer| {
            if asked.wants_list() { Answer::new(200, vec![b' '; 9 << 20]) } else { answer }
        }),
        case("endless pages", 20, &["more than 20 pages"], |asked, answer| {
            if asked.wants_list() {
                Answer::new(200, "[]").with("Link", format!("<{}>; rel=\"next\"", asked.path))
            } else {
                answer
            }
        }),
        case("next page elsewhere", 20, &["next page is on another host"], |asked, answer| {
            if asked.wants_list() {
                Answer::new(200, "[]").with("Link", "<https://192.0.2.1/steal>; rel=\"next\"")
            } else {
                answer
            }
        }),
        with(
            case("huge declared size", 20, &["declares 1000000000000 bytes, expected at most"], honest),
            entry(|entry| entry["lfs"]["size"] = 1_000_000_000_000_u64.into()),
        ),
        with(
            case("size of 2^64", 20, &["list of files"], honest),
            entry(|entry| entry["lfs"]["size"] = 18_446_744_073_709_551_616_f64.into()),
        ),
        with(
            case("empty weights", 20, &["declares 0 bytes"], honest),
            entry(|entry| entry["lfs"]["size"] = 0.into()),
        ),
        with(
            case("digest that is none", 20, &["its lfs oid is not 64 hex digits"], honest),
            entry(|entry| entry["lfs"]["oid"] = "sha256:x".into()),
        ),
        with(
            case("size larger than the file", 20, &["got content length"], honest),
            entry(|entry| entry["lfs"]["size"] = 4_000_000.into()),
        ),
        with(
            case("digest of another file", 20, &["got sha256"], honest),
            entry(|entry| entry["lfs"]["oid"] = "0".repeat(64).into()),
        ),
        // The index.
        sharded(
            "shards",
            0,
            &[],
            serde_json::json!({"a": "a-1.safetensors", "b": "a-2.safetensors", "c": "a-1.safetensors"}),
        ),
        sharded(
            "index names a path outside",
            20,
            &["names \"../../evil.safetensors\""],
            serde_json::json!({"a": "../../evil.safetensors"}),
        ),
        sharded(
            "index names an absolute path",
            20,
            &["names \"/etc/evil.safetensors\""],
            serde_json::json!({"a": "/etc/evil.safetensors"}),
        ),
        sharded(
            "index names a hidden file",
            20,
            &["names \".evil.safetensors\""],
            serde_json::json!({"a": ".evil.safetensors"}),
        ),
        sharded(
            "index names a pickle",
            20,
            &["names \"pytorch_model.bin\""],
            serde_json::json!({"a": "pytorch_model.bin"}),
        ),
        sharded(
            "index names a query",
            20,
            &["names \"a?b.safetensors\""],
            serde_json::json!({"a": "a?b.safetensors"}),
        ),
        sharded(
            "index names what is not listed",
            20,
            &["b.safetensors: not in the repository"],
            serde_json::json!({"a": "b.safetensors"}),
        ),
        sharded("index names nothing", 20, &["names no file"], serde_json::json!({})),
        sharded("index names 600 files", 20, &["names 600 files, expected at most 512"], many.into()),
        sharded("index that is none", 20, &["not an index"], serde_json::json!("x")),
    ]
}
