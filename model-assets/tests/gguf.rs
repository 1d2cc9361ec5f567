//! GGUF: one broken file per rule, and no input that panics. `hostile/README.md` lists the abuses.

#[path = "../hostile/gguf.rs"]
mod builder;

use std::{cell::Cell, collections::BTreeSet, io};

use builder::Gguf;
use model_assets::{
    gguf::{self, Expect, Kind, Rule, Value},
    pte::ReadAt,
};
use proptest::prelude::*;

fn rule(file: &dyn ReadAt, expect: &Expect) -> Option<Rule> {
    gguf::verify(file, expect).err().map(|fault| {
        assert!(!fault.location.is_empty() && !fault.got.is_empty() && !fault.expected.is_empty(), "{fault}");
        fault.rule
    })
}

/// What is broken, the rule that catches it, and how.
type Case = (&'static str, Rule, Box<dyn Fn(&mut Gguf, &mut Expect) -> Vec<u8>>);

fn case(
    what: &'static str,
    rule: Rule,
    break_it: impl Fn(&mut Gguf, &mut Expect) -> Vec<u8> + 'static,
) -> Case {
    (what, rule, Box::new(break_it))
}

/// The good file with these bytes at `offset`.
fn patched(file: &Gguf, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.build();
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

/// The good file with these bytes where `needle` is.
fn swapped(file: &Gguf, needle: &[u8], bytes: &[u8]) -> Vec<u8> {
    patched(file, file.find(needle), bytes)
}

const HUGE: [u8; 8] = u64::MAX.to_le_bytes();

fn heads() -> Vec<Case> {
    vec![
        case("nothing", Rule::Truncated, |_, _| Vec::new()),
        case("another magic", Rule::Magic, |it, _| patched(it, 0, b"GGML")),
        case("a big-endian version", Rule::Version, |it, _| patched(it, 4, &3_u32.to_be_bytes())),
        case("version 2", Rule::Version, |it, _| patched(it, 4, &[2])),
        case("tensors without number", Rule::Count, |it, _| patched(it, 8, &HUGE)),
        case("keys without number", Rule::Count, |it, _| patched(it, 16, &HUGE)),
        case("more keys than there are", Rule::Type, |it, _| patched(it, 16, &[8])),
        case("a key of 2^64 bytes", Rule::Count, |it, _| patched(it, 24, &HUGE)),
        case("a text of 2^64 bytes", Rule::Count, |it, _| swapped(it, b"\x05\0\0\0\0\0\0\0llama", &HUGE)),
        case("an array of 2^64 texts", Rule::Count, |it, _| {
            let array = it.find(b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a");
            patched(it, array, &HUGE)
        }),
        case("an array that outgrows the head", Rule::Count, |it, _| {
            // Each of the texts is within its limit, all together are not.
            it.metadata = (0..200).map(|n| (format!("k{n}"), Value::Text("x".repeat(1 << 18)))).collect();
            it.build()
        }),
        case("a head cut short", Rule::Truncated, |it, _| it.head()[..100].to_vec()),
        case("a key that is no text", Rule::Text, |it, _| swapped(it, b"general.arch", &[0xff])),
        case("a value that is no text", Rule::Text, |it, _| swapped(it, b"llama\x11", &[0xff])),
        case("a value of unknown type", Rule::Type, |it, _| {
            let place = it.find(b"llama.block_count") + "llama.block_count".len();
            patched(it, place, &[13])
        }),
        case("arrays of arrays", Rule::Type, |it, _| {
            let place = it.find(b"tokenizer.ggml.tokens") + "tokenizer.ggml.tokens".len() + 4;
            patched(it, place, &[9])
        }),
        case("a truth value of 2", Rule::Type, |it, _| {
            let place = it.find(b"add_bos_token") + "add_bos_token".len() + 4;
            patched(it, place, &[2])
        }),
        case("a key twice", Rule::Duplicate, |it, _| {
            let first = it.metadata[0].clone();
            it.metadata.push(first);
            it.build()
        }),
        case("hidden bytes behind the head", Rule::Padding, |it, _| {
            it.metadata[0].1 = Value::Text("llam".to_owned());
            let head = it.head();
            assert_eq!(head.last(), Some(&0), "the head should have padding");
            patched(it, head.len() - 1, &[1])
        }),
    ]
}

fn tensors() -> Vec<Case> {
    vec![
        case("a tensor twice", Rule::Duplicate, |it, _| {
            it.tensors[1].name = it.tensors[0].name.clone();
            it.build()
        }),
        case("a quantization that is not allowed", Rule::Type, |it, _| {
            let place = it.find(b"token_embd.weight") + "token_embd.weight".len() + 4 + 16;
            patched(it, place, &[2])
        }),
        case("no dimensions", Rule::Shape, |it, _| {
            let place = it.find(b"token_embd.weight") + "token_embd.weight".len();
            patched(it, place, &[0])
        }),
        case("four dimensions", Rule::Shape, |it, _| {
            let place = it.find(b"token_embd.weight") + "token_embd.weight".len();
            patched(it, place, &[4])
        }),
        case("a dimension of 0", Rule::Shape, |it, _| {
            it.tensors[0].rows = Some(0);
            it.build()
        }),
        case("elements that overflow", Rule::Shape, |it, _| {
            (it.tensors[0].width, it.tensors[0].rows) = (1 << 40, Some(1 << 40));
            it.build()
        }),
        case("bytes that overflow", Rule::Shape, |it, _| {
            it.tensors[1].width = u64::MAX / 2;
            it.build()
        }),
        case("sums that overflow", Rule::Shape, |it, _| {
            // Each can be counted, both together cannot.
            it.tensors[0].kind = Kind::F32;
            (it.tensors[0].width, it.tensors[0].rows) = (1 << 60, Some(3));
            (it.tensors[1].width, it.tensors[1].offset) = (1 << 61, 3 << 62);
            it.build()
        }),
        case("a row of half a block", Rule::Shape, |it, _| {
            it.tensors[0].width = 48;
            it.build()
        }),
        case("tensors that overlap", Rule::Place, |it, _| {
            it.tensors[1].offset = 0;
            it.build()
        }),
        case("a gap between tensors", Rule::Place, |it, _| {
            it.tensors[1].offset += 32;
            it.build()
        }),
        case("an odd place", Rule::Place, |it, _| {
            it.tensors[1].offset += 4;
            it.build()
        }),
        case("an alignment of its own", Rule::Place, |it, _| {
            it.metadata.push(("general.alignment".to_owned(), Value::U32(64)));
            it.build()
        }),
        case("an offset near 2^64", Rule::Place, |it, _| {
            it.tensors[1].offset = u64::MAX - 31;
            it.build()
        }),
    ]
}

fn weights() -> Vec<Case> {
    vec![
        case("a file cut short", Rule::Size, |it, _| {
            let mut file = it.build();
            file.pop();
            file
        }),
        case("a stowaway behind the weights", Rule::Size, |it, _| {
            let mut file = it.build();
            file.extend([0; 32]);
            file
        }),
        case("hidden bytes behind a tensor", Rule::Padding, |it, _| {
            let last = it.build().len() - 1;
            patched(it, last, &[7])
        }),
        case("a scale that is infinite", Rule::Finite, |it, _| patched(it, it.head().len(), &[0, 0x7c])),
        case("a scale that is no number", Rule::Finite, |it, _| {
            patched(it, it.head().len() + 34, &[1, 0xfe])
        }),
        case("a weight that is no number", Rule::Finite, |it, _| {
            let place = it.head().len() + it.weights[0].len();
            patched(it, place, &f32::NAN.to_le_bytes())
        }),
        case("weights that were lost", Rule::Zero, |it, _| {
            it.weights[0].fill(0);
            it.build()
        }),
        case("scales without weights", Rule::Zero, |it, _| {
            it.weights[0]
                .chunks_mut(34)
                .filter(|block| block.len() == 34)
                .for_each(|block| block[2..].fill(0));
            it.build()
        }),
        case("norms that were lost", Rule::Zero, |it, _| {
            it.weights[1].fill(0);
            it.build()
        }),
    ]
}

fn promises() -> Vec<Case> {
    vec![
        case("larger than the recipe allows", Rule::FileBytes, |it, expect| {
            expect.file_bytes = Some((1, 100));
            it.build()
        }),
        case("smaller than the recipe allows", Rule::FileBytes, |it, expect| {
            expect.file_bytes = Some((1 << 20, 1 << 30));
            it.build()
        }),
        case("another value", Rule::Metadata, |it, _| {
            it.metadata[1].1 = Value::U32(2);
            it.build()
        }),
        case("a value of another type", Rule::Metadata, |it, _| {
            it.metadata[1].1 = Value::I32(1);
            it.build()
        }),
        case("another vocabulary", Rule::Metadata, |it, _| {
            it.metadata[4].1 = Value::Texts(vec!["a".to_owned(), "b".to_owned()]);
            it.build()
        }),
        case("a key more", Rule::Metadata, |it, _| {
            it.metadata.push(("llama.rope.scaling.factor".to_owned(), Value::F32(8.0)));
            it.build()
        }),
        case("a key less", Rule::Metadata, |it, _| {
            it.metadata.pop();
            it.build()
        }),
        case("another name", Rule::Tensors, |it, _| {
            it.tensors[0].name = "output.weight".to_owned();
            it.build()
        }),
        case("another shape of as many bytes", Rule::Tensors, |it, _| {
            (it.tensors[0].width, it.tensors[0].rows) = (96, Some(1));
            it.build()
        }),
        case("a tensor less", Rule::Tensors, |it, _| {
            it.tensors.pop();
            it.weights.pop();
            it.build()
        }),
        case("a flipped bit in a weight", Rule::Digest, |it, _| {
            let place = it.head().len() + 5;
            patched(it, place, &[3])
        }),
    ]
}

#[test]
fn every_abuse_is_caught_by_its_rule_and_every_rule_has_one() {
    let mut covered = BTreeSet::from([Rule::Read, Rule::Changed]);
    for (what, expected, break_it) in heads().into_iter().chain(tensors()).chain(weights()).chain(promises())
    {
        let mut file = Gguf::default();
        let proved = gguf::verify(&file.build(), &Expect::default()).unwrap();
        let mut expect = Expect {
            file_bytes: None,
            metadata: Some(file.metadata.clone()),
            tensors: Some(file.tensors.clone()),
            sha256: Some(proved.sha256),
        };
        assert_eq!(rule(&file.build(), &expect), None, "the unbroken file");
        let bytes = break_it(&mut file, &mut expect);
        assert_eq!(rule(&bytes, &expect), Some(expected), "{what}");
        covered.insert(expected);
    }
    assert_eq!(covered, BTreeSet::from(Rule::ALL));
}

#[test]
fn a_source_that_cannot_be_read_is_an_error() {
    /// Fails once it is read beyond `good`.
    struct Failing(Vec<u8>, u64);
    impl ReadAt for Failing {
        fn len(&self) -> io::Result<u64> {
            if self.1 == u64::MAX { Err(io::Error::other("no length")) } else { Ok(self.0.len() as u64) }
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            if offset >= self.1 { Err(io::Error::other("gone")) } else { self.0.read_exact_at(buf, offset) }
        }
    }
    let file = Gguf::default();
    for good in [0, file.head().len() as u64, u64::MAX] {
        assert_eq!(rule(&Failing(file.build(), good), &Expect::default()), Some(Rule::Read), "{good}");
    }
}

#[test]
fn a_head_that_changes_between_parsing_and_hashing_is_caught() {
    /// Gives the first file for so many reads, and the second one afterwards.
    struct Changing([Vec<u8>; 2], Cell<u32>);
    impl ReadAt for Changing {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0[0].len() as u64)
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let left = self.1.get();
            self.1.set(left.saturating_sub(1));
            self.0[usize::from(left == 0)].read_exact_at(buf, offset)
        }
    }
    let good = Gguf::default().build();
    let mut other = good.clone();
    // In the text of the first key.
    other[33] ^= 1;
    let mut caught = 0;
    for reads in 1..20 {
        let file = Changing([good.clone(), other.clone()], Cell::new(reads));
        match rule(&file, &Expect::default()) {
            Some(rule) => {
                assert_eq!(rule, Rule::Changed, "after {reads} reads");
                caught += 1;
            }
            // Nothing of the head was read after the change.
            None => assert!(caught > 0, "after {reads} reads"),
        }
    }
}

#[test]
fn a_summary_counts_what_is_there() {
    let file = Gguf::default();
    let summary = gguf::verify(&file.build(), &Expect::default()).unwrap().summary;
    assert_eq!((summary.keys, summary.tensors, summary.elements), (7, 2, 101));
    assert_eq!(summary.weights.into_iter().collect::<Vec<_>>(), [(Kind::F32, 20), (Kind::Q8_0, 102)]);
    assert_eq!(summary.file_bytes, file.build().len() as u64);
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        (-1e9_f32..1e9).prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        "\\PC{0,20}".prop_map(Value::Text),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(Value::I32s),
        prop::collection::vec("\\PC{0,9}", 0..9).prop_map(Value::Texts),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(metadata in prop::collection::btree_map("[a-z.]{1,20}", value(), 0..9)) {
        let file = Gguf { metadata: metadata.into_iter().collect(), ..Gguf::default() };
        let (head, _) = gguf::structure(&file.build(), &Expect::default()).unwrap();
        prop_assert_eq!(&head.metadata, &file.metadata);
        prop_assert_eq!(&head.tensors, &file.tensors);
        prop_assert_eq!(head.bytes, file.head().len() as u64);
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(gguf::verify(&bytes, &Expect::default()).is_err());
    }

    #[test]
    fn arbitrary_bytes_behind_a_good_start_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), keep in 8..200_usize) {
        let mut file = Gguf::default().build();
        file.truncate(keep);
        file.extend(bytes);
        let _ = gguf::verify(&file, &Expect::default());
    }

    #[test]
    fn changed_files_are_refused_by_the_promised_digest(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let good = Gguf::default().build();
        let sha256 = gguf::verify(&good, &Expect::default()).unwrap().sha256;
        let mut file = good.clone();
        for (at, value) in edits {
            let at = at.index(file.len());
            file[at] = value;
        }
        let accepted = gguf::verify(&file, &Expect { sha256: Some(sha256), ..Expect::default() }).is_ok();
        prop_assert_eq!(accepted, file == good);
        let _ = gguf::verify(&file, &Expect::default());
    }

    #[test]
    fn truncated_files_are_refused(cut in any::<prop::sample::Index>()) {
        let mut file = Gguf::default().build();
        let length = cut.index(file.len());
        file.truncate(length);
        prop_assert!(gguf::verify(&file, &Expect::default()).is_err());
    }
}
