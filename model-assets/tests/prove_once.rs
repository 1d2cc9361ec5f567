//! However often a claim is judged, the file is read once: nothing is hashed again.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

#[path = "../hostile/builder.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod builder;

use std::{cell::Cell, io};

use builder::Pte;
use model_assets::{
    check::{Expectation, Profile, prove, validate},
    claim::{Claim, ClaimTexts},
    digest::Digest,
    pte::ReadAt,
};

/// Counts what is read of it.
#[derive(Debug)]
struct Counted<'a> {
    bytes: &'a [u8],
    read: Cell<usize>,
    /// How often its last byte was: a pass over all of it ends there.
    ends: Cell<usize>,
}

impl ReadAt for Counted<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.set(self.read.get() + buf.len());
        if offset + buf.len() as u64 == self.bytes.len() as u64 {
            self.ends.set(self.ends.get() + 1);
        }
        ReadAt::read_exact_at(self.bytes, buf, offset)
    }
}

/// What is claimed of a file: tiny's claim, with this file's length and digest.
fn claim(file: &[u8]) -> Claim {
    let mut claim = Claim::parse(ClaimTexts {
        recipe: include_str!("../models/tiny/recipe.toml"),
        policy: include_str!("../models/policy.toml"),
        manifest: include_bytes!("../models/tiny/manifest.json"),
        tokenizer: Some(include_bytes!("../models/tiny/tokenizer.json")),
        chat_template: Some(include_str!("../models/tiny/chat_template.jinja")),
    })
    .unwrap();
    (claim.manifest.file_bytes, claim.manifest.sha256) = (file.len() as u64, Digest::of(file));
    claim
}

#[test]
fn a_file_is_read_once_however_often_it_is_judged() {
    let file = Pte::default().build();
    let claim = claim(&file);
    let counted = || Counted { bytes: &file, read: Cell::new(0), ends: Cell::new(0) };
    let alone = prove(counted(), &Expectation::claimed(&claim));
    let refusal = validate(file.clone(), &claim, Profile::Dev).unwrap_err();
    for expectation in [Expectation::claimed(&claim), Expectation::made_by(&claim.recipe)] {
        let proved = prove(counted(), &expectation);
        assert_eq!(proved.sha256(), Some(claim.manifest.sha256));
        // As `verify` does: without evidence, with the recorded one, with the new one, for either profile.
        let mut bare = claim.clone();
        bare.manifest.evidence = None;
        for claim in [&bare, &claim, &claim] {
            assert!(
                proved.judge(claim, Profile::Dev).is_err() && proved.judge(claim, Profile::Release).is_err()
            );
        }
        assert_eq!(
            proved.judge(&claim, Profile::Dev).unwrap_err(),
            refusal,
            "the same verdict as the door's"
        );
        assert_eq!((proved.source().ends.get(), proved.source().read.get()), (1, alone.source().read.get()));
    }
}

#[test]
fn a_proof_is_of_one_recipe_and_a_digest_is_of_what_was_read() {
    let file = Pte::default().build();
    let claim = claim(&file);
    let proved = prove(file.clone(), &Expectation::made_by(&claim.recipe));
    let ids = |claim: &Claim| {
        let refusal = proved.judge(claim, Profile::Dev).unwrap_err();
        refusal.reasons().map(|it| it.id.clone()).collect::<Vec<_>>()
    };
    let mut other = claim.clone();
    other.recipe.limits.planned_bytes_max -= 1;
    assert!(
        ids(&other).iter().any(|id| id == "proved-by") && !ids(&claim).iter().any(|id| id == "proved-by")
    );
    let mut other = claim.clone();
    other.manifest.sha256 = Digest::of(b"another");
    assert!(ids(&other).iter().any(|id| id == "sha256") && !ids(&claim).iter().any(|id| id == "sha256"));
}
