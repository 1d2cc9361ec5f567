//! Good files pass, and the summary says what they hold.

#[path = "../hostile/builder.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod builder;

use builder::Pte;
use model_assets::pte::{self, Expect, Level, MetaValue, Operators, Quantization};

/// Everything that the toy model can promise.
fn promise() -> Expect {
    Expect {
        forward: true,
        straight_line: true,
        sound_weights: true,
        quantization: Some(Quantization::Int8),
        delegated_linears: Some(1),
        two_row_linears: Some(0),
        eight_bit_linears: None,
        small_linears: Some((0, 0)),
        partitions: Some(1),
        backends: vec!["XnnpackBackend".to_owned()],
        kernels: Some(pte::linked_runtime().clone()),
        operators: Operators::Judged,
        delegated_weight_share_min: Some(0.4),
        delegated_mac_share_min: Some(1.0),
        metadata_required: vec!["get_max_seq_len".to_owned()],
        metadata: [("get_vocab_size".to_owned(), MetaValue::Int(8))].into(),
        vocab: Some(8),
        seq_len: Some(4),
        dim: Some(32),
        bos: Some(1),
        eos: vec![2],
        planned_bytes_max: Some(640),
        file_bytes_min: Some(1000),
        file_bytes_max: Some(100_000),
        sha256: None,
    }
}

#[test]
fn the_toy_model_keeps_every_promise() {
    let file = Pte::default().build();
    let report = pte::verify(&file, Level::Hash, &promise());
    assert!(report.is_accepted(), "{:#?}", report.findings);
    assert_eq!(report.findings, []);
    assert_eq!(
        report.sha256.map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect()),
        Some(builder::hex(&file))
    );

    let summary = report.summary.expect("an accepted file has a summary");
    assert_eq!(summary.file_bytes, file.len() as u64);
    assert_eq!((summary.partitions, summary.delegated_linears), (1, 1));
    assert_eq!(summary.operators, ["quantized_decomposed::embedding_byte.dtype_out"]);
    assert_eq!(summary.macs, 4 * 32 * 8);
    assert_eq!(summary.planned_bytes, 640);
    // The head with its scales; of the embedding, which is a tensor of its own here, a token reads one row.
    assert_eq!((summary.forward_read_bytes, summary.weight_bytes), (256 + 32, 2 * (256 + 32)));
    let rows: Vec<_> = summary
        .weights
        .iter()
        .map(|row| (row.delegated, row.role.as_str(), row.dtype.as_str(), row.params, row.bytes))
        .collect();
    let expected = [
        (false, "embedding", "i8", 256, 256),
        (false, "scale", "f32", 8, 32),
        (true, "linear", "qcint8", 256, 256),
        (true, "scale", "f32", 8, 32),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_file_and_its_bytes_get_the_same_report() {
    let bytes = Pte::default().build();
    let mut file = tempfile::tempfile().expect("a temporary file");
    std::io::Write::write_all(&mut file, &bytes).expect("written");
    let from_file = pte::verify(&file, Level::Hash, &promise());
    assert_eq!(from_file, pte::verify(&bytes, Level::Hash, &promise()));
}

#[test]
fn the_structure_level_does_not_read_weights() {
    /// Refuses to read the last segments.
    struct Guarded(Vec<u8>, u64);
    impl pte::ReadAt for Guarded {
        fn len(&self) -> std::io::Result<u64> {
            Ok(self.0.len() as u64)
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            assert!(offset + buf.len() as u64 <= self.1, "weights were read");
            pte::ReadAt::read_exact_at(&self.0, buf, offset)
        }
    }
    let file = Pte::default().build();
    let summary = pte::verify(&file, Level::Structure, &promise()).summary.expect("a summary");
    // Segment 2 is the first one of weights behind the blob; the padding before it may be read.
    let guarded = Guarded(file, summary.segments[2].offset_bytes + summary.segments[2].size_bytes - 1);
    struct NoTail<'g>(&'g Guarded, u64);
    impl pte::ReadAt for NoTail<'_> {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            // Padding between the two weight segments is less than a segment's alignment.
            if offset >= self.1 && buf.len() < 128 {
                return pte::ReadAt::read_exact_at(&self.0.0, buf, offset);
            }
            pte::ReadAt::read_exact_at(self.0, buf, offset)
        }
    }
    let end = summary.segments[2].offset_bytes + summary.segments[2].size_bytes;
    assert!(pte::verify(&NoTail(&guarded, end), Level::Structure, &promise()).is_accepted());
}

#[test]
fn a_program_without_segments_needs_no_header() {
    let mut pte = Pte::default();
    let methods = pte.program.list(1).split_off(1);
    let mut program = builder::T::new([(1, builder::Val::Tables(methods))]);
    program.set(0, builder::u32(0));
    let file = builder::flatbuffer(&program, b"\0\0\0\0ET12");
    let report = pte::verify(&file, Level::Hash, &Expect::default());
    assert!(report.is_accepted(), "{:#?}", report.findings);
    assert_eq!(report.summary.expect("a summary").metadata.len(), 4);
}

#[test]
fn an_empty_segment_at_the_end_of_any_file_is_no_data() {
    // As the exporter lists one for a program without constants, wherever the file happens to end.
    let mut pte = Pte::default();
    let methods = pte.program.list(1).split_off(1);
    let mut ends = std::collections::BTreeSet::new();
    for plans in 1..=methods.len() {
        let mut program = builder::T::new([(1, builder::Val::Tables(methods[..plans].to_vec()))]);
        program.set(0, builder::u32(0));
        let empty = builder::T::new([(0, builder::u64(0)), (1, builder::u64(0))]);
        program.set(4, builder::Val::Tables(vec![empty]));
        let constants = builder::T::new([(0, builder::u32(0)), (1, builder::u64s(&[0]))]);
        program.set(5, builder::Val::Table(constants));
        let file = builder::flatbuffer(&program, b"\0\0\0\0ET12");
        ends.insert(file.len() % 16);
        let report = pte::verify(&file, Level::Hash, &Expect::default());
        assert!(report.is_accepted(), "{:#?}", report.findings);
    }
    assert!(ends.iter().any(|end| *end != 0), "no file ends off the alignment: {ends:?}");
}

#[test]
fn the_documentation_lists_every_check() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pte-format.md");
    let text = std::fs::read_to_string(&path).expect("docs/pte-format.md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    for id in pte::CheckId::ALL {
        let row = format!("| {id} | {} |", id.rule());
        assert!(rows.contains(&row.as_str()), "{} lacks the line: {row}", path.display());
    }
}
