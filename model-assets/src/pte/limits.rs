//! Every bound of the `.pte` verifier, in one place, with the unit last in the name.
//!
//! **Invariant:** nothing the verifier allocates or loops over grows past a figure that stands here.

/// Shortest file that can hold a header and a root table.
pub const FILE_BYTES_MIN: u64 = 64;
/// Longest program flatbuffer that is read into memory (a 1B Llama has about 0.5 MiB).
pub const PROGRAM_BYTES_MAX: u64 = 64 << 20;
/// Longest delegate blob that is read into memory (one layer's graph is a few KiB).
pub const DELEGATE_BLOB_BYTES_MAX: u64 = 512 << 20;
/// Flatbuffer tables visited in one program or one XNNPACK graph.
pub const TABLES_MAX: u32 = 1_000_000;
/// How often each byte of a flatbuffer may be visited on average: aliased vectors cost time and memory.
pub const VISITS_PER_BYTE_MAX: u64 = 8;
/// Findings kept per severity; the rest is only counted.
pub const FINDINGS_MAX: usize = 200;
/// Zero bytes tolerated between the program and the first segment, and between two segments.
pub const GAP_BYTES_MAX: u64 = 64 << 10;
/// Alignment that segments, constants and planned tensors keep.
pub const ALIGNMENT_BYTES: u64 = 16;
/// Bytes of the extended header that every runtime reads.
pub const HEADER_BYTES_MIN: u32 = 24;
/// Bytes of the extended header that version 1.5.1 writes.
pub const HEADER_BYTES_USUAL: u32 = 32;
/// Rank of a program tensor; the runtime's own kernels use arrays of this length.
pub const TENSOR_RANK_MAX: usize = 16;
/// Elements of any tensor.
pub const TENSOR_ELEMENTS_MAX: u64 = 1 << 40;
/// Unused bytes tolerated behind a constant in its slot.
pub const CONSTANT_SLACK_BYTES_MAX: u64 = 64;
/// Length of `namespace::name.overload`, which the runtime copies into a fixed buffer.
pub const OPERATOR_NAME_BYTES_MAX: usize = 100;
/// Planned memory may exceed what tensors reach by this factor before it is worth a warning.
pub const PLANNED_SLACK_FACTOR: u64 = 4;
/// Planned memory below this is never worth a warning.
pub const PLANNED_SLACK_BYTES_MIN: u64 = 1 << 20;
/// Planned memory above this must be in proportion to what uses it, or the file is refused.
pub const PLANNED_SLACK_BYTES_MAX: u64 = 64 << 20;
/// Planned memory of all methods together, promise or not.
pub const PLANNED_BYTES_MAX: u64 = 16 << 30;
/// Length of the XNNPACK blob header.
pub const XNN_HEADER_BYTES: u16 = 30;
/// External values of one XNNPACK graph.
pub const XNN_EXTERNS_MAX: u32 = 4096;
/// Rank of an XNNPACK value (`XNN_MAX_TENSOR_DIMS`).
pub const XNN_RANK_MAX: u32 = 6;
/// Granularity that XNNPACK demands of block-wise quantization.
pub const XNN_GROUP_MULTIPLE: u32 = 32;
/// Pairs of tensors compared per method in the overlap check of planned memory.
pub const OVERLAP_PAIRS_MAX: usize = 1_000_000;
/// Overlapping pairs named before the check gives up on the plan.
pub const OVERLAP_FINDINGS_MAX: usize = 8;
/// Buffer of the hashing pass.
pub const HASH_CHUNK_BYTES: usize = 256 << 10;
