//! Values seen on the way, and changed: what block-by-block parity stands on.

use std::collections::BTreeMap;

use super::tiny_pte;
use engine::{LoadOptions, Model, ModelBytes, Record, Session};
use model_assets::pte::{self, Tap};

fn session(record: Record) -> Session {
    let options = LoadOptions { record, ..LoadOptions::default() };
    Session::new(Model::load(ModelBytes::open(&tiny_pte()).unwrap(), &options).unwrap())
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn to_look_changes_no_bit() {
    let (mut plain, mut looked) = (session(Record::Nothing), session(Record::Values));
    let mut seen = 0;
    for tokens in [&[5, 6, 7, 8, 900][..], &[10, 11, 12], &[13], &[14]] {
        let want = bits(plain.prefill(tokens).unwrap());
        assert_eq!(bits(looked.probe(tokens, &mut |_, _| seen += 1).unwrap()), want);
    }
    assert!(seen > 4 * 20, "{seen} values");
    // Without the tracer nothing is shown, and the answer is the same.
    plain.reset();
    looked.reset();
    let unseen = bits(plain.probe(&[5, 6], &mut |_, _| panic!("seen without the tracer")).unwrap());
    assert_eq!(unseen, bits(looked.prefill(&[5, 6]).unwrap()));
}

#[test]
fn the_program_s_taps_are_what_they_are_called() {
    let mut session = session(Record::Values);
    let layers = pte::taps(&session.model().bytes()).unwrap();
    assert_eq!(layers.len(), 5);
    let mut seen: BTreeMap<Tap, Vec<f32>> = BTreeMap::new();
    let tokens = [5, 6, 7];
    session.probe(&tokens, &mut |tap, values| _ = seen.insert(tap, values.to_vec())).unwrap();
    for taps in &layers {
        let size = |tap: &Tap| seen[tap].len() / tokens.len();
        assert_eq!((size(&taps.residual), size(&taps.query), size(&taps.attention)), (192, 192, 192));
        assert_eq!((size(&taps.key), size(&taps.value)), (64, 64));
        // The first token attends to itself alone: its mixture is its value, for every head of the group.
        let (mixed, value) = (&seen[&taps.attention][..192], &seen[&taps.value][..64]);
        for head in 0..6 {
            let (got, want) = (&mixed[32 * head..][..32], &value[32 * (head / 3)..][..32]);
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs() + 1e-6));
        }
        assert_ne!(seen[&taps.key][..64], seen[&taps.value][..64]);
    }
}

#[test]
fn what_is_written_is_what_goes_on() {
    let mut session = session(Record::Values);
    let layers = pte::taps(&session.model().bytes()).unwrap();
    let want = bits(session.prefill(&[5, 6, 7]).unwrap());
    let it = layers[2];
    for tap in [it.residual, it.query, it.key, it.value, it.attention] {
        session.reset();
        let mut found = 0;
        let mut change = |at: Tap, values: &mut [f32]| {
            if at == tap {
                found += 1;
                values.iter_mut().for_each(|value| *value = -*value);
            }
        };
        let got = bits(session.probe(&[5, 6, 7], &mut change).unwrap());
        assert_eq!(found, 1);
        assert_ne!(got, want, "{tap:?}");
    }
    session.reset();
    assert_eq!(bits(session.prefill(&[5, 6, 7]).unwrap()), want, "nothing stays");
}
