//! The head of any GGUF: metadata of every type, and where tensors are.
//!
//! **Invariant:** no count or length is trusted: each is compared with a limit before anything is allocated for it.

use std::{
    fs::File,
    io::{BufReader, Read},
    os::unix::fs::FileExt as _,
};

use anyhow::{Context as _, bail, ensure};
use camino::Utf8Path;
use serde_json::{Value, json};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_BYTES: u64 = 32;
/// Llama 3's vocabulary and merges take 8 MB.
const HEAD_BYTES_MAX: u64 = 64 << 20;
const KEYS_MAX: u64 = 1024;
const TENSORS_MAX: u64 = 1 << 16;
const NAME_BYTES_MAX: u64 = 256;
const TEXT_BYTES_MAX: u64 = 1 << 20;
const ELEMENTS_MAX: u64 = 1 << 22;
const EXTENTS_MAX: u32 = 4;
const F32: u32 = 0;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// A tensor as it lies in the file; `shape` is rows first.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    name: String,
    pub(super) shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// What comes before the weights.
pub(super) struct Head {
    pub(super) metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
    file: File,
}

impl Head {
    pub(super) fn read(path: &Utf8Path) -> anyhow::Result<Self> {
        let file = model_assets::regular::open(path).context("cannot be opened")?;
        let mut cursor = Cursor { reader: BufReader::new(&file), at: 0 };
        let magic = cursor.array::<4>("magic")?;
        ensure!(magic == *MAGIC, "got a file that begins with {magic:02x?}, expected `GGUF`");
        let version = u32::from_le_bytes(cursor.array("version")?);
        ensure!(version == VERSION, "got version {version}, expected {VERSION}: convert it again");
        let tensors = cursor.count("number of tensors", TENSORS_MAX)?;
        let keys = cursor.count("number of keys", KEYS_MAX)?;
        let mut metadata: Vec<(String, Value)> = Vec::new();
        for index in 0..keys {
            let key = cursor.text(&format!("key {index}"), NAME_BYTES_MAX)?;
            let kind = cursor.u32(&key)?;
            let value = cursor.value(&key, kind, false)?;
            ensure!(metadata.iter().all(|(known, _)| *known != key), "{key}: got a second one, expected one");
            metadata.push((key, value));
        }
        let mut table = Vec::new();
        for index in 0..tensors {
            table.push(cursor.tensor(index)?);
        }
        let end = cursor.at;
        let mut head = Self { metadata, tensors: table, file };
        let alignment = head.get(ALIGNMENT_KEY).map_or(Some(ALIGNMENT_BYTES), Value::as_u64);
        let alignment = alignment.filter(|it| it.is_power_of_two() && *it <= 1 << 16);
        let base =
            end.next_multiple_of(alignment.with_context(|| format!("{ALIGNMENT_KEY}: not a power of two"))?);
        for tensor in &mut head.tensors {
            tensor.offset = tensor.offset.saturating_add(base);
        }
        Ok(head)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    pub(super) fn has(&self, tensor: &str) -> bool {
        self.tensor(tensor).is_ok()
    }

    pub(super) fn tensor(&self, name: &str) -> anyhow::Result<&Tensor> {
        let found = self.tensors.iter().find(|it| it.name == name);
        found.with_context(|| format!("{name}: missing, with {} tensors there", self.tensors.len()))
    }

    /// The numbers of a small vector.
    pub(super) fn floats(&self, name: &str) -> anyhow::Result<Vec<f64>> {
        let Tensor { shape, kind, offset, .. } = self.tensor(name)?;
        let [count] = shape.as_slice() else { bail!("{name}: got shape {shape:?}, expected a vector") };
        ensure!(*kind == F32 && *count <= 1 << 16, "{name}: got {count} of type {kind}, expected F32");
        let mut bytes = vec![0; usize::try_from(*count)? * 4];
        self.file.read_exact_at(&mut bytes, *offset).with_context(|| format!("{name}: cannot be read"))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|it| f64::from(f32::from_le_bytes(*it))).collect())
    }
}

struct Cursor<R> {
    reader: R,
    at: u64,
}

impl<R: Read> Cursor<R> {
    fn take(&mut self, len: u64, what: &str) -> anyhow::Result<Vec<u8>> {
        let at = self.at;
        ensure!(
            at + len <= HEAD_BYTES_MAX,
            "{what}: got {len} bytes at {at}, expected a head below {HEAD_BYTES_MAX}"
        );
        let mut bytes = vec![0; usize::try_from(len)?];
        self.reader.read_exact(&mut bytes).with_context(|| format!("{what}: the file ends at byte {at}"))?;
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> anyhow::Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(&self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> anyhow::Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn count(&mut self, what: &str, max: u64) -> anyhow::Result<u64> {
        let count = u64::from_le_bytes(self.array(what)?);
        ensure!(count <= max, "{what}: got {count}, expected at most {max}");
        Ok(count)
    }

    fn text(&mut self, what: &str, max: u64) -> anyhow::Result<String> {
        let len = self.count(what, max)?;
        String::from_utf8(self.take(len, what)?).with_context(|| format!("{what}: is not UTF-8"))
    }

    fn value(&mut self, key: &str, kind: u32, nested: bool) -> anyhow::Result<Value> {
        Ok(match kind {
            0 => json!(u8::from_le_bytes(self.array(key)?)),
            1 => json!(i8::from_le_bytes(self.array(key)?)),
            2 => json!(u16::from_le_bytes(self.array(key)?)),
            3 => json!(i16::from_le_bytes(self.array(key)?)),
            4 => json!(self.u32(key)?),
            5 => json!(i32::from_le_bytes(self.array(key)?)),
            6 => decimal(f32::from_le_bytes(self.array(key)?)),
            7 => json!(self.array::<1>(key)? != [0]),
            TEXT => json!(self.text(key, TEXT_BYTES_MAX)?),
            ARRAY if !nested => {
                let (kind, len) = (self.u32(key)?, self.count(key, ELEMENTS_MAX)?);
                (0..len).map(|_| self.value(key, kind, true)).collect::<anyhow::Result<_>>()?
            }
            10 => json!(u64::from_le_bytes(self.array(key)?)),
            11 => json!(i64::from_le_bytes(self.array(key)?)),
            12 => json!(f64::from_le_bytes(self.array(key)?)),
            other => bail!("{key}: got a value of type {other}, expected a known one"),
        })
    }

    fn tensor(&mut self, index: u64) -> anyhow::Result<Tensor> {
        let name = self.text(&format!("name of tensor {index}"), NAME_BYTES_MAX)?;
        let extents = self.u32(&name)?;
        ensure!(
            (1..=EXTENTS_MAX).contains(&extents),
            "{name}: got {extents} dimensions, expected 1 to {EXTENTS_MAX}"
        );
        let mut shape = Vec::new();
        for _ in 0..extents {
            shape.insert(0, u64::from_le_bytes(self.array(&name)?));
        }
        let kind = self.u32(&name)?;
        Ok(Tensor { kind, offset: u64::from_le_bytes(self.array(&name)?), name, shape })
    }
}

/// The shortest number that is this one in single precision: 1e-05, not 9.99999974e-06.
fn decimal(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, |it| json!(it))
}
