//! Options reach the backend: XNNPACK packs weights into a file, and gives the same answers from it.
//!
//! A process of its own, that starts no other: the backend holds the file open under a lock, without close-on-exec, so
//! a child that any other test starts meanwhile would keep the lock and make the backend pack on the heap instead.

use std::ffi::{CStr, CString};

use camino::{Utf8Path, Utf8PathBuf};
use engine::{BackendOption, Code, Error, LoadOptions, Model, ModelBytes, OptionValue, Session};

fn pte() -> Utf8PathBuf {
    let models = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../model-assets/models");
    let path = models.join("tiny/tiny-int8-seq512.pte");
    assert!(path.is_file(), "{path}: no such file, run: cargo xtask export");
    path
}

fn option(key: &CStr, value: OptionValue) -> BackendOption {
    BackendOption { backend: c"XnnpackBackend".into(), key: key.into(), value }
}

#[test]
fn backend_options_reach_the_backend() {
    let with = |backend| {
        Model::load(ModelBytes::open(&pte()).unwrap(), &LoadOptions { backend, ..LoadOptions::default() })
    };
    let folder = tempfile::tempdir().unwrap();
    let cache = Utf8Path::from_path(folder.path()).unwrap().join("packed.bin");
    let cached = || {
        let text = OptionValue::Text(CString::new(cache.as_str()).unwrap());
        vec![option(c"weight_cache_enabled", OptionValue::Bool(true)), option(c"packed_cache_path", text)]
    };
    let answer = |options| {
        let mut session = Session::new(with(options).unwrap());
        let logits = session.prefill(&[1, 2, 3]).unwrap();
        logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
    };
    let expected = answer(Vec::new());
    for _ in 0..2 {
        assert_eq!(answer(cached()), expected);
    }
    let packed = cache.metadata().unwrap().len();
    assert!(packed > 1_000_000, "the packed weights are in the file: got {packed} bytes");
    let long = CString::new("x".repeat(300)).unwrap();
    let error = with(vec![option(c"packed_cache_path", OptionValue::Text(long.clone()))]).unwrap_err();
    assert!(matches!(&error, Error::Runtime { failure, .. } if failure.log.contains("too long")), "{error}");
    let error = with(vec![option(&long, OptionValue::Int(1))]).unwrap_err();
    assert!(
        matches!(&error, Error::Runtime { failure, .. } if failure.code == Code::INVALID_ARGUMENT),
        "{error}"
    );
}
