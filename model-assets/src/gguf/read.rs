//! Reads a head: metadata and the tensor table.
//!
//! **Invariant:** no length or count is trusted: each is compared with a limit before anything is allocated for it, and
//! memory grows only with bytes that were read.

use std::collections::HashSet;

use super::{
    fault::{Fault, Rule},
    limits,
    value::{self, ALIGNMENT_BYTES, Head, Kind, Tensor, Value},
};
use crate::pte::ReadAt;

const CHUNK_BYTES: usize = 1 << 18;

type Result<T> = std::result::Result<T, Fault>;

/// Reads the head of a file of `file_bytes`.
pub(super) fn head(file: &dyn ReadAt, file_bytes: u64) -> Result<Head> {
    let mut cursor = Cursor { file, file_bytes, buffer: Vec::new(), at: 0 };
    let magic: [u8; 4] = cursor.array("magic")?;
    if magic != value::MAGIC {
        return Err(Fault::new(Rule::Magic, "byte 0", format!("{magic:02x?}"), "`GGUF`"));
    }
    let version = cursor.u32("version")?;
    if version != value::VERSION {
        return Err(Fault::new(Rule::Version, "byte 4", version, value::VERSION));
    }
    let tensors = cursor.count("number of tensors", limits::TENSORS_MAX)?;
    let keys = cursor.count("number of keys", limits::KEYS_MAX)?;
    let mut metadata = Vec::new();
    let mut seen = HashSet::new();
    for index in 0..keys {
        let key = cursor.text(&format!("key {index}"), limits::NAME_BYTES_MAX)?;
        let value = cursor.value(&key)?;
        unique(&mut seen, &key, "key")?;
        metadata.push((key, value));
    }
    let mut table = Vec::new();
    seen.clear();
    for index in 0..tensors {
        let tensor = cursor.tensor(index)?;
        unique(&mut seen, &tensor.name, "tensor")?;
        table.push(tensor);
    }
    let end = cursor.at as u64;
    let bytes = end.next_multiple_of(ALIGNMENT_BYTES);
    // Trailing padding may be cut off with the file's end; a head without tensors is refused later.
    let padding =
        cursor.take("padding of the head", usize::try_from(bytes.abs_diff(end)).unwrap_or_default())?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Fault::new(Rule::Padding, format!("byte {end}"), "hidden bytes", "zeros"));
    }
    Ok(Head { metadata, tensors: table, bytes })
}

fn unique(seen: &mut HashSet<String>, name: &str, what: &str) -> Result<()> {
    if seen.insert(name.to_owned()) {
        return Ok(());
    }
    Err(Fault::new(Rule::Duplicate, format!("{what} `{name}`"), "a second one", "one"))
}

struct Cursor<'a> {
    file: &'a dyn ReadAt,
    file_bytes: u64,
    /// The file from its start, as far as it was read.
    buffer: Vec<u8>,
    at: usize,
}

impl Cursor<'_> {
    fn take(&mut self, what: &str, len: usize) -> Result<&[u8]> {
        let start = self.at;
        let end = start.saturating_add(len);
        if end as u64 > limits::HEAD_BYTES_MAX {
            let expected = format!("a head of at most {} bytes", limits::HEAD_BYTES_MAX);
            return Err(Fault::new(Rule::Count, what, format!("{len} bytes at {start}"), expected));
        }
        if end as u64 > self.file_bytes {
            let expected = format!("{len} bytes at {start}");
            return Err(Fault::new(
                Rule::Truncated,
                what,
                format!("a file of {} bytes", self.file_bytes),
                expected,
            ));
        }
        while self.buffer.len() < end {
            let from = self.buffer.len();
            let rest = usize::try_from(self.file_bytes).unwrap_or(usize::MAX).saturating_sub(from);
            self.buffer.resize(from.saturating_add(rest.min(CHUNK_BYTES)), 0);
            let chunk = self.buffer.get_mut(from..).unwrap_or_default();
            let read = self.file.read_exact_at(chunk, from as u64);
            read.map_err(|error| Fault::new(Rule::Read, format!("byte {from}"), error, "a readable file"))?;
        }
        self.at = end;
        Ok(self.buffer.get(start..end).unwrap_or_default())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str, max: u64) -> Result<u64> {
        let count = self.u64(what)?;
        if count > max {
            return Err(Fault::new(Rule::Count, what, count, format!("at most {max}")));
        }
        Ok(count)
    }

    fn text(&mut self, what: &str, max: u64) -> Result<String> {
        let len = self.count(what, max)?;
        let bytes = self.take(what, usize::try_from(len).unwrap_or(usize::MAX))?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Fault::new(Rule::Text, what, "bytes that are not UTF-8", "a text")),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        Ok(match kind {
            value::TYPE_U32 => Value::U32(self.u32(key)?),
            value::TYPE_I32 => Value::I32(self.array(key).map(i32::from_le_bytes)?),
            value::TYPE_F32 => Value::F32(self.array(key).map(f32::from_le_bytes)?),
            value::TYPE_BOOL => match self.array::<1>(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(Fault::new(Rule::Type, key, other, "0 or 1")),
            },
            value::TYPE_TEXT => Value::Text(self.text(key, limits::TEXT_BYTES_MAX)?),
            value::TYPE_ARRAY => self.elements(key)?,
            other => {
                let expected = "u32, i32, f32, bool, str, or an array of i32 or str";
                return Err(Fault::new(Rule::Type, key, format!("type {other}"), expected));
            }
        })
    }

    fn elements(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        let len = self.count(key, limits::ELEMENTS_MAX)?;
        match kind {
            value::TYPE_I32 => {
                let bytes = self.take(key, usize::try_from(len).unwrap_or(usize::MAX).saturating_mul(4))?;
                Ok(Value::I32s(bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()))
            }
            value::TYPE_TEXT => {
                let texts = (0..len).map(|_| self.text(key, limits::TEXT_BYTES_MAX));
                texts.collect::<Result<_>>().map(Value::Texts)
            }
            other => {
                Err(Fault::new(Rule::Type, key, format!("an array of type {other}"), "one of i32 or str"))
            }
        }
    }

    fn tensor(&mut self, index: u64) -> Result<Tensor> {
        let name = self.text(&format!("tensor {index}"), limits::NAME_BYTES_MAX)?;
        let dimensions = self.u32(&name)?;
        let width = if (1..=2).contains(&dimensions) { self.u64(&name)? } else { 0 };
        let rows = if dimensions == 2 { Some(self.u64(&name)?) } else { None };
        if width == 0 || rows == Some(0) {
            let got = format!("{dimensions} dimensions, {width} by {}", rows.unwrap_or(1));
            return Err(Fault::new(Rule::Shape, name, got, "one or two dimensions above 0"));
        }
        let number = self.u32(&name)?;
        let Some(kind) = Kind::from_number(number) else {
            return Err(Fault::new(Rule::Type, name, format!("type {number}"), "f32 or q8_0"));
        };
        let tensor = Tensor { name, width, rows, kind, offset: self.u64("offset")? };
        if tensor.bytes().is_none() {
            let got = tensor.shape();
            return Err(Fault::new(
                Rule::Shape,
                tensor.name,
                got,
                "whole blocks and a size that can be counted",
            ));
        }
        Ok(tensor)
    }
}
