//! What a `.pte` holds, as a person or a manifest wants it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything the verifier learned about a file while checking it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// Length of the program flatbuffer, bytes.
    pub program_bytes: u64,
    /// Offset of the first segment, bytes; 0 when the file has none.
    pub segment_base_bytes: u64,
    /// Data segments, in table order.
    pub segments: Vec<Segment>,
    /// Methods, in file order.
    pub plans: Vec<MethodSummary>,
    /// Operators called outside delegates in any method, as `namespace::name.overload`, sorted and unique.
    pub operators: Vec<String>,
    /// Backend ids used, sorted and unique.
    pub backends: Vec<String>,
    /// Delegates in `forward`.
    pub partitions: u32,
    /// Fully connected nodes inside the delegates of `forward`.
    pub delegated_linears: u32,
    /// Of these, the ones that take their input in two int8 rows.
    #[serde(default)]
    pub two_row_linears: u32,
    /// Linear operators of `forward` outside any delegate: the weight's name where the file has one, else its
    /// place and shape.
    pub undelegated_linears: Vec<String>,
    /// Weights by place, role and dtype.
    pub weights: Vec<WeightRow>,
    /// Weight bytes inside delegates.
    pub delegated_weight_bytes: u64,
    /// Weight bytes anywhere.
    pub weight_bytes: u64,
    /// Weight bytes that a call of `forward` reads: all but the tables of which an embedding reads single rows. Of
    /// another backend than XNNPACK nothing is known and nothing counted.
    #[serde(default)]
    pub forward_read_bytes: u64,
    /// Multiply-accumulates of `forward` at its declared (largest) shapes, inside delegates.
    pub delegated_macs: u64,
    /// The same, anywhere.
    pub macs: u64,
    /// Planned memory over all methods, bytes.
    pub planned_bytes: u64,
    /// Constant methods: name to value.
    pub metadata: BTreeMap<String, MetaValue>,
}

impl Summary {
    /// Share of weight bytes inside delegates, 0 to 1; 1 when there are no weights.
    #[must_use]
    pub fn delegated_weight_share(&self) -> f64 {
        share(self.delegated_weight_bytes, self.weight_bytes)
    }

    /// Share of multiply-accumulates inside delegates, 0 to 1; 1 when there are none.
    #[must_use]
    pub fn delegated_mac_share(&self) -> f64 {
        share(self.delegated_macs, self.macs)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// One entry of the segment table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Absolute offset in the file, bytes.
    pub offset_bytes: u64,
    /// Length, bytes.
    pub size_bytes: u64,
    /// What refers to it: `constants`, `mutable state`, `delegate forward/3`, or `named` and the key.
    pub users: Vec<String>,
    /// The segment whose range contains this one, when bytes are shared.
    pub inside: Option<u32>,
}

/// One method.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodSummary {
    /// Method name.
    pub name: String,
    /// Inputs in order.
    pub inputs: Vec<Io>,
    /// Outputs in order.
    pub outputs: Vec<Io>,
    /// Operators called, as `namespace::name.overload`, sorted, with the number of calls.
    pub operators: BTreeMap<String, u32>,
    /// Instructions of all kinds.
    pub instructions: u32,
    /// Values.
    pub values: u32,
    /// Delegates in table order.
    pub delegates: Vec<Delegate>,
    /// Planned buffers without the reserved one, bytes.
    pub planned_bytes: Vec<u64>,
}

/// One input or output of a method.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Io {
    /// Kind of the value: `tensor`, `int`, `bool`, …
    pub kind: String,
    /// Dtype of a tensor.
    pub dtype: Option<String>,
    /// Sizes of a tensor; the upper bound when the shape is dynamic.
    pub shape: Vec<u64>,
    /// Whether the shape may be smaller at run time.
    pub dynamic: bool,
}

/// One delegate of a method.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegate {
    /// Backend id.
    pub backend: String,
    /// Length of the blob, bytes.
    pub blob_bytes: u64,
    /// Nodes by kind; empty when the backend's format is not known.
    pub nodes: BTreeMap<String, u32>,
    /// Weights, bytes.
    pub weight_bytes: u64,
    /// Multiply-accumulates at the declared shapes.
    pub macs: u64,
}

/// Weights of one place, role and dtype.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightRow {
    /// Whether they are inside a delegate.
    pub delegated: bool,
    /// `linear`, `convolution`, `embedding`, `scale`, `bias` or `other`.
    pub role: String,
    /// Dtype as the delegate or the program names it: `qcint8`, `qbint4`, `f32`, `i8`, …
    pub dtype: String,
    /// Tensors.
    pub tensors: u32,
    /// Elements.
    pub params: u64,
    /// Stored bytes; a range that two tensors share counts once per tensor.
    pub bytes: u64,
}

/// What a constant method returns.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetaValue {
    /// An integer.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A floating-point number.
    Double(f64),
    /// A text.
    Text(String),
    /// Several outputs, all integers.
    IntList(Vec<i64>),
    /// Several outputs of mixed kinds, or a tensor: shown, not interpreted.
    Other(String),
}

impl std::fmt::Display for MetaValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Double(value) => write!(f, "{value:?}"),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::IntList(values) => write!(f, "{values:?}"),
            Self::Other(value) => write!(f, "{value}"),
        }
    }
}
