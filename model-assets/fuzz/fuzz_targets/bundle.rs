//! The archive inside a bundle; what is accepted is written again to the same bytes.
#![no_main]

use std::io::Read as _;

use libfuzzer_sys::fuzz_target;
use model_assets::bundle;

fuzz_target!(|bytes: &[u8]| {
    // Compressed noise is seldom more than noise: the archive is what has structure.
    let mut contents: Vec<Vec<u8>> = Vec::new();
    let mut rest = bytes;
    let entries = bundle::read_tar(&mut rest, &mut |_| Ok(std::io::sink()));
    let Ok(entries) = entries else { return };
    let used = bytes.len() - rest.len();
    let mut at = 0;
    for entry in &entries {
        at += 512;
        let length = usize::try_from(entry.bytes).expect("read from memory");
        contents.push(bytes[at..at + length].to_vec());
        at += length.next_multiple_of(512);
    }
    let mut writer = bundle::Writer::new(Vec::new());
    for (entry, content) in entries.iter().zip(&contents) {
        writer.entry(&entry.name, entry.bytes, &mut &content[..]).expect("what was read can be written");
    }
    let mut written = Vec::new();
    let bundle = writer.finish().expect("memory holds it");
    flate2::read::GzDecoder::new(&bundle[..]).read_to_end(&mut written).expect("our own stream");
    assert_eq!(written, bytes[..used]);
});
