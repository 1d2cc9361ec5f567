//! Writes zips, honest and otherwise: every number that a zip says twice can be said differently.

use std::io::Write as _;

/// A file of the zip.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) deflated: bool,
    /// The data begin at a multiple of this.
    pub(crate) align: usize,
    /// What the central directory says, where it differs from the truth.
    pub(crate) lie: Lie,
}

/// Differences between what is and what is said.
#[derive(Clone, Default)]
pub(crate) struct Lie {
    pub(crate) local_name: Option<String>,
    pub(crate) local_method: Option<u16>,
    pub(crate) local_bytes: Option<u32>,
    pub(crate) central_bytes: Option<u32>,
    pub(crate) crc: Option<u32>,
    pub(crate) flags: u16,
    pub(crate) central_extra: Vec<u8>,
    pub(crate) mode: u32,
    /// The local header that is pointed to is this file's.
    pub(crate) offset_of: Option<usize>,
}

impl File {
    pub(crate) fn stored(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), bytes: bytes.to_vec(), deflated: false, align: 1, lie: Lie::default() }
    }

    pub(crate) fn deflated(name: &str, bytes: &[u8]) -> Self {
        Self { deflated: true, ..Self::stored(name, bytes) }
    }

    pub(crate) fn aligned(self, align: usize) -> Self {
        Self { align, ..self }
    }

    pub(crate) fn lying(self, lie: Lie) -> Self {
        Self { lie, ..self }
    }
}

/// The end record, where it lies.
#[derive(Clone, Default)]
pub(crate) struct End {
    pub(crate) entries: Option<u16>,
    pub(crate) disk: u16,
    pub(crate) directory_bytes: Option<u32>,
    pub(crate) comment: Vec<u8>,
    pub(crate) before: Vec<u8>,
}

pub(crate) fn zip(files: &[File]) -> Vec<u8> {
    zip_with(files, &End::default())
}

pub(crate) fn zip_with(files: &[File], end: &End) -> Vec<u8> {
    let mut out = Vec::new();
    let mut offsets = Vec::new();
    let mut packed = Vec::new();
    for file in files {
        offsets.push(u32::try_from(out.len()).unwrap());
        let data = if file.deflated { deflate(&file.bytes) } else { file.bytes.clone() };
        packed.push(u32::try_from(data.len()).unwrap());
        let name = file.lie.local_name.as_ref().unwrap_or(&file.name);
        let start = out.len() + 30 + name.len();
        let padding = start.next_multiple_of(file.align) - start;
        let bytes = file.lie.local_bytes.unwrap_or(u32::try_from(file.bytes.len()).unwrap());
        let method = file.lie.local_method.unwrap_or(if file.deflated { 8 } else { 0 });
        out.extend(b"PK\x03\x04");
        out.extend([20, 0]);
        out.extend(file.lie.flags.to_le_bytes());
        out.extend(method.to_le_bytes());
        out.extend([0; 4]);
        out.extend(crc(file).to_le_bytes());
        out.extend(packed.last().unwrap().to_le_bytes());
        out.extend(bytes.to_le_bytes());
        out.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        out.extend(u16::try_from(padding).unwrap().to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(vec![0; padding]);
        out.extend(data);
    }
    let directory = out.len();
    for (index, file) in files.iter().enumerate() {
        let bytes = file.lie.central_bytes.unwrap_or(u32::try_from(file.bytes.len()).unwrap());
        out.extend(b"PK\x01\x02");
        out.extend([20, 3, 20, 0]);
        out.extend(file.lie.flags.to_le_bytes());
        out.extend([if file.deflated { 8 } else { 0 }, 0, 0, 0, 0, 0]);
        out.extend(crc(file).to_le_bytes());
        let data =
            if file.deflated { packed[index] } else { file.lie.central_bytes.unwrap_or(packed[index]) };
        out.extend(data.to_le_bytes());
        out.extend(bytes.to_le_bytes());
        out.extend(u16::try_from(file.name.len()).unwrap().to_le_bytes());
        out.extend(u16::try_from(file.lie.central_extra.len()).unwrap().to_le_bytes());
        out.extend([0; 6]);
        out.extend((file.lie.mode << 16).to_le_bytes());
        out.extend(offsets[file.lie.offset_of.unwrap_or(index)].to_le_bytes());
        out.extend(file.name.as_bytes());
        out.extend(&file.lie.central_extra);
    }
    let directory_bytes = u32::try_from(out.len() - directory).unwrap();
    out.extend(&end.before);
    let entries = end.entries.unwrap_or(u16::try_from(files.len()).unwrap());
    out.extend(b"PK\x05\x06");
    out.extend(end.disk.to_le_bytes());
    out.extend(end.disk.to_le_bytes());
    out.extend(entries.to_le_bytes());
    out.extend(entries.to_le_bytes());
    out.extend(end.directory_bytes.unwrap_or(directory_bytes).to_le_bytes());
    out.extend(u32::try_from(directory).unwrap().to_le_bytes());
    out.extend(u16::try_from(end.comment.len()).unwrap().to_le_bytes());
    out.extend(&end.comment);
    out
}

fn crc(file: &File) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(&file.bytes);
    file.lie.crc.unwrap_or_else(|| crc.sum())
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
