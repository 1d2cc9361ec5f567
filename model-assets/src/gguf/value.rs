//! What a GGUF's head holds, and its bytes.

use crate::digest::Digest;

/// Every tensor begins at a multiple of this, counted from the end of the padded head.
pub const ALIGNMENT_BYTES: u64 = 32;
/// Weights that share a scale.
pub const BLOCK_WEIGHTS: u64 = 32;
/// A half-precision scale and the weights.
pub const BLOCK_BYTES: u64 = 2 + BLOCK_WEIGHTS;

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
pub(super) const VERSION: u32 = 3;

/// A metadata value, of the types that a Llama model needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `u32`
    U32(u32),
    /// `i32`
    I32(i32),
    /// `f32`
    F32(f32),
    /// `bool`
    Bool(bool),
    /// `str`
    Text(String),
    /// Array of `i32`.
    I32s(Vec<i32>),
    /// Array of `str`.
    Texts(Vec<String>),
}

pub(super) const TYPE_U32: u32 = 4;
pub(super) const TYPE_I32: u32 = 5;
pub(super) const TYPE_F32: u32 = 6;
pub(super) const TYPE_BOOL: u32 = 7;
pub(super) const TYPE_TEXT: u32 = 8;
pub(super) const TYPE_ARRAY: u32 = 9;

/// How a tensor's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Single precision.
    F32,
    /// Blocks of 32 `i8` with one half-precision scale, symmetric.
    Q8_0,
}

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::F32),
            8 => Some(Self::Q8_0),
            _ => None,
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Q8_0 => 8,
        }
    }

    /// The name used in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Q8_0 => "q8_0",
        }
    }
}

/// A line of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Elements of a row.
    pub width: u64,
    /// Rows; `None` for a vector.
    pub rows: Option<u64>,
    /// How the elements are stored.
    pub kind: Kind,
    /// First byte, counted from the end of the padded head.
    pub offset: u64,
}

impl Tensor {
    /// Elements; `None` when there are more than can be counted.
    pub fn elements(&self) -> Option<u64> {
        self.width.checked_mul(self.rows.unwrap_or(1))
    }

    /// Bytes; `None` when they cannot be counted or a row is no whole number of blocks.
    pub fn bytes(&self) -> Option<u64> {
        match self.kind {
            Kind::F32 => self.elements()?.checked_mul(4),
            Kind::Q8_0 if self.width.is_multiple_of(BLOCK_WEIGHTS) => {
                self.elements()?.checked_div(BLOCK_WEIGHTS)?.checked_mul(BLOCK_BYTES)
            }
            Kind::Q8_0 => None,
        }
    }

    pub(super) fn shape(&self) -> String {
        let rows = self.rows.map(|rows| format!(", {rows}")).unwrap_or_default();
        format!("{} [{}{rows}]", self.kind.as_str(), self.width)
    }
}

/// A head, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Metadata in order.
    pub metadata: Vec<(String, Value)>,
    /// Tensors in order.
    pub tensors: Vec<Tensor>,
    /// Length with its padding, bytes: where the first tensor begins.
    pub bytes: u64,
}

/// The bytes of a head, padding included: what the exporter writes before the weights.
pub fn head_bytes(metadata: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat();
    count(&mut out, tensors.len());
    count(&mut out, metadata.len());
    for (key, value) in metadata {
        text(&mut out, key);
        put(&mut out, value);
    }
    for tensor in tensors {
        text(&mut out, &tensor.name);
        let sizes = std::iter::once(tensor.width).chain(tensor.rows);
        out.extend((sizes.clone().count() as u32).to_le_bytes());
        sizes.for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(tensor.kind.number().to_le_bytes());
        out.extend(tensor.offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT_BYTES as usize), 0);
    out
}

fn count(out: &mut Vec<u8>, count: usize) {
    out.extend((count as u64).to_le_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    count(out, text.len());
    out.extend(text.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &Value) {
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    match value {
        Value::U32(number) => {
            kind(out, TYPE_U32);
            out.extend(number.to_le_bytes());
        }
        Value::I32(number) => {
            kind(out, TYPE_I32);
            out.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            kind(out, TYPE_F32);
            out.extend(number.to_le_bytes());
        }
        Value::Bool(truth) => {
            kind(out, TYPE_BOOL);
            out.push(u8::from(*truth));
        }
        Value::Text(it) => {
            kind(out, TYPE_TEXT);
            text(out, it);
        }
        Value::I32s(numbers) => {
            kind(out, TYPE_ARRAY);
            kind(out, TYPE_I32);
            count(out, numbers.len());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Value::Texts(texts) => {
            kind(out, TYPE_ARRAY);
            kind(out, TYPE_TEXT);
            count(out, texts.len());
            texts.iter().for_each(|it| text(out, it));
        }
    }
}

impl Value {
    /// A value in a message: long ones by their size and digest.
    pub(super) fn describe(&self) -> String {
        const SHOWN_CHARS: usize = 48;
        let brief = |text: String| {
            if text.len() <= SHOWN_CHARS {
                return text;
            }
            format!("{} bytes of sha256 {}", text.len(), Digest::of(text.as_bytes()).short())
        };
        match self {
            Self::U32(number) => number.to_string(),
            Self::I32(number) => number.to_string(),
            Self::F32(number) => number.to_string(),
            Self::Bool(truth) => truth.to_string(),
            Self::Text(text) => brief(format!("`{text}`")),
            Self::I32s(numbers) => format!("{} numbers, {}", numbers.len(), brief(format!("{numbers:?}"))),
            Self::Texts(texts) => format!("{} texts, {}", texts.len(), brief(format!("{texts:?}"))),
        }
    }
}
