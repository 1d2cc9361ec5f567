//! How weights are quantized: what recipe, policy, verifier and evidence all speak of.

use serde::{Deserialize, Serialize};

/// Weight quantization schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Quantization {
    /// Linears 8da8w (int8 per channel, dynamic int8 activations), embedding 8-bit per row.
    Int8,
    /// Linears 8da4w in groups of 32, embedding 8-bit per row.
    Int4,
    /// No quantization.
    Fp32,
}

impl Quantization {
    /// The name used in file names and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Fp32 => "fp32",
        }
    }
}
