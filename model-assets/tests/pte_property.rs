//! No input makes the verifier panic, and what it accepts after a change is still within its own summary.

#[path = "../hostile/builder.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod builder;

use builder::Pte;
use model_assets::pte::{self, Expect, Level};
use proptest::prelude::*;

fn expect() -> Expect {
    Expect { kernels: Some(pte::linked_runtime().clone()), ..Expect::default() }
}

/// A change of a few bytes anywhere.
fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(!pte::verify(&bytes, Level::Hash, &expect()).is_accepted());
    }

    #[test]
    fn arbitrary_bytes_behind_a_good_head_are_refused(bytes in prop::collection::vec(any::<u8>(), 64..4096)) {
        let mut file = Pte::default().build();
        let keep = file.len().min(48);
        file.truncate(keep);
        file.extend(bytes);
        prop_assert!(!pte::verify(&file, Level::Hash, &expect()).is_accepted());
    }

    #[test]
    fn changed_files_are_refused_by_the_promised_digest(edits in edits()) {
        let good = Pte::default().build();
        let sha256 = pte::verify(&good, Level::Hash, &expect()).sha256;
        let mut file = good.clone();
        for (at, value) in edits {
            let at = at.index(file.len());
            file[at] = value;
        }
        let report = pte::verify(&file, Level::Hash, &Expect { sha256, ..expect() });
        prop_assert_eq!(report.is_accepted(), file == good);
        // The structure level must get through the same bytes without a panic, whatever it says.
        let _ = pte::verify(&file, Level::Structure, &expect());
    }

    #[test]
    fn truncated_files_are_refused(cut in any::<prop::sample::Index>()) {
        let mut file = Pte::default().build();
        let length = cut.index(file.len());
        file.truncate(length);
        prop_assert!(!pte::verify(&file, Level::Structure, &expect()).is_accepted());
    }

    #[test]
    fn changed_graphs_never_panic(edits in edits()) {
        let mut pte = Pte::default();
        let mut blob = pte.xnn_blob();
        for (at, value) in edits {
            let at = at.index(blob.len());
            blob[at] = value;
        }
        pte.segments[1] = blob;
        let _ = pte::verify(&pte.build(), Level::Hash, &expect());
    }
}

#[test]
fn every_byte_of_the_head_the_program_and_the_graph_is_looked_at() {
    let good = Pte::default().build();
    let summary = pte::verify(&good, Level::Structure, &expect()).summary.expect("a summary");
    let blob = &summary.segments[1];
    let end = usize::try_from(blob.offset_bytes + blob.size_bytes).expect("small");
    let (mut tried, mut caught) = (0_u32, 0_u32);
    for at in 0..end {
        let mut file = good.clone();
        file[at] ^= 0x80;
        tried += 1;
        caught += u32::from(!pte::verify(&file, Level::Structure, &expect()).findings.is_empty());
    }
    // What structure cannot see: values that stand for themselves, such as metadata, and one segment of weights.
    assert!(caught * 10 > tried * 7, "{caught} of {tried} single-byte changes were noticed");
}
