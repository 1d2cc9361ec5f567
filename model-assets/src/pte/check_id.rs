//! The ids of all checks and what each demands.
//!
//! **Invariant:** an id never changes its meaning; a new rule gets a new id.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! checks {
    ($($id:ident $rule:literal,)+) => {
        /// The id of a check. The name is stable: manifests and code-scanning results refer to it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum CheckId {
            $(#[doc = $rule] $id,)+
        }

        impl CheckId {
            /// Every check, in order.
            pub const ALL: &[Self] = &[$(Self::$id,)+];

            /// The id as text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$id => stringify!($id),)+ }
            }

            /// What a good file satisfies.
            #[must_use]
            pub const fn rule(self) -> &'static str {
                match self { $(Self::$id => $rule,)+ }
            }
        }
    };
}

checks! {
    C0 "the file can be read",
    C1 "the file has at least 64 bytes",
    C2 "bytes 4-7 are `ET12`",
    C3 "bytes 8-11 are `eh00`; without that header there are no segments",
    C4 "the extended header is at least 24 bytes long (usually 32)",
    C5 "the header ends inside the program and the program inside the file",
    C6 "the segments begin less than 64 KiB behind the program",
    C7 "the file is as long as its header says, not truncated",
    C8 "nothing trails the last segment",
    C9 "the segments begin at a multiple of 16",
    C10 "padding outside the program and the segments is zero",
    C11 "the file does not change while it is read",
    S1 "a segment's offset and size do not overflow",
    S2 "a segment lies inside the file",
    S3 "segments overlap only by one containing the other, and only when both are read-only",
    S4 "gaps between segments are below 64 KiB",
    S5 "a segment begins at a multiple of 16",
    S6 "the segments together end where the header says",
    S7 "the constant and mutable tables name existing segments",
    S8 "offsets in the constant and mutable tables ascend, are multiples of 16 and lie inside the segment",
    S9 "there is at most one mutable segment table",
    S10 "something refers to every segment",
    N1 "named data has a key",
    N2 "named data names an existing segment",
    N3 "named data is not empty",
    N4 "named data keys are unique",
    N5 "a key that is a SHA-256 matches the bytes under it",
    N6 "the SHA-256 of the whole file is the promised one",
    P1 "every offset, vtable, vector and string is in range, aligned, terminated and UTF-8",
    P2 "the schema version is 0",
    P3 "there are no constants inside the program",
    P4 "there is at least one method",
    P5 "method names are present and unique",
    P6 "there is a method `forward`",
    P7 "no byte of the program is hidden from its schema",
    P8 "no table has a field that the schema does not know",
    P9 "a method has all its vectors",
    V1 "a value is of a known kind",
    V2 "a value has its table",
    V3 "indices inside lists are in range",
    V4 "the elements of an integer list are integers",
    V5 "the elements of a tensor list are tensors",
    T1 "a tensor's dtype is known",
    T2 "a tensor's storage offset is 0",
    T3 "a tensor's sizes are not negative",
    T4 "a tensor's rank is at most 16",
    T5 "a tensor's dim order is a permutation",
    T6 "a tensor has less than 2^40 elements",
    T7 "a tensor's layout is strided",
    T8 "a tensor's shape is static or bounded",
    T9 "a tensor's memory id names a planned buffer",
    T10 "a planned tensor is aligned and lies inside its buffer",
    T11 "extra tensor information has its default values",
    T12 "a tensor's data is inside the file",
    T13 "a tensor lives on the CPU",
    T14 "a constant's index is in the table",
    T15 "a constant fills its slot",
    T16 "a tensor has data, a plan, or comes from the caller before it is read",
    M1 "planned sizes are not negative and the first is 0",
    M2 "planned buffers are on the CPU",
    M3 "planned buffers are not far larger than what uses them",
    I1 "inputs and outputs are in range",
    I2 "an input is listed once",
    I3 "inputs and outputs are no lists",
    I4 "an input is not a constant",
    I5 "there is at least one output",
    I6 "inputs and outputs are what the app feeds and reads",
    O1 "an operator has a name",
    O2 "an operator's name is below 100 bytes",
    O3 "the linked runtime has the operator",
    O4 "the model's family calls the operator, in this way",
    X1 "a method has exactly one chain",
    X2 "an instruction is of a known kind",
    X3 "an instruction's operator is in range",
    X4 "an instruction's delegate is in range",
    X5 "an instruction's arguments are in range",
    X6 "a move keeps the kind of the value",
    X7 "a jump's condition is a boolean",
    X8 "a jump's target is inside the chain",
    X9 "only planned or free tensors are freed",
    X10 "a kernel gets the number of arguments that its schema has",
    X11 "a kernel gets arguments of the kinds in its schema",
    X12 "a kernel writes no constant and returns what it wrote",
    X13 "shapes and dtypes fit the operators whose kernels do not check them",
    X14 "there is no control flow",
    X15 "tensors that live at the same time do not share planned bytes",
    X16 "the verifier can judge the arguments of every operator",
    X17 "integers fit where kernels narrow them",
    D1 "a delegate's backend is allowed and linked",
    D2 "a delegate has a reference to its data",
    D3 "a delegate's data is inline or in a segment",
    D4 "a delegate's data index is in range",
    D5 "a delegate's compile specs are tables",
    D6 "a compile spec has a key",
    D7 "a compile spec has a value",
    D8 "a delegate has a segment of its own",
    D9 "a delegate's data is not empty",
    D10 "every delegate is called",
    D11 "`forward` calls as many delegates as promised",
    D12 "enough of the weights and of the work is delegated",
    H1 "an XNNPACK blob begins with four zero bytes and `XH00`",
    H2 "an XNNPACK header is 30 bytes long",
    H3 "an XNNPACK graph lies inside the blob",
    H4 "XNNPACK constants follow the graph",
    H5 "an XNNPACK blob ends where its header says",
    H6 "padding in an XNNPACK blob is zero",
    H7 "an XNNPACK graph is marked `XN00` or `XN01`",
    H8 "an XNNPACK graph is well formed",
    H9 "an XNNPACK graph has at most 4096 external values",
    H10 "an XNNPACK graph has no inline weights",
    W1 "an XNNPACK constant has either a key or an offset",
    W2 "an XNNPACK constant's key is in the named data",
    W3 "an XNNPACK constant is as long as its segment, or inside the blob",
    W4 "every named datum is used",
    W5 "the first XNNPACK constant is reserved",
    Q1 "an XNNPACK value's dtype is known",
    Q2 "an XNNPACK value's rank is at most 6 and fits its sizes",
    Q3 "an XNNPACK value has less than 2^40 elements",
    Q4 "an XNNPACK value's flags are known",
    Q5 "external ids are in range",
    Q6 "external ids are unique",
    Q7 "an XNNPACK value's constant is in the table",
    Q8 "a constant is not an external value",
    Q9 "a constant is exactly as long as its shape and dtype say",
    Q10 "there are as many scales as channels and groups",
    Q11 "the scales are as long as their number says",
    Q11b "stored scales are finite and positive",
    Q12 "inline scales are finite and positive",
    Q13 "the quantized axis is the one of the operator",
    Q14 "the quantization scheme fits the dtype",
    Q15 "zero points are in range; groups divide the width and are multiples of 32",
    Q16 "value ids are unique",
    Q17 "no weight is all zero",
    Q18 "floating-point weights are finite",
    G1 "an XNNPACK node reads what exists already",
    G2 "an XNNPACK value has one writer",
    G3 "an XNNPACK node is of a known kind",
    G4 "an XNNPACK node's ids are known",
    G5 "a filter's shape fits its input and output",
    G6 "a bias's shape fits its filter",
    G7 "a clamp's minimum is below its maximum",
    G8 "a node's parameters fit its shapes",
    G9 "every external output is written",
    G10 "no byte of an XNNPACK graph is hidden from its schema",
    G11 "a node's dtypes are ones that it computes with",
    G12 "the model's family has the node, with these dtypes, inside delegates",
    A1 "an external id is below the number of arguments",
    A2 "a delegate gets as many arguments as it has external values",
    A3 "a delegate's arguments are tensors",
    A4 "a delegate's arguments have the dtype and the size of its external values",
    A5 "a delegate writes no constant",
    QC "the weights have the promised quantization",
    K1 "the promised metadata methods exist",
    K2 "a metadata method takes nothing, runs nothing and returns a constant",
    K3 "metadata agrees with itself, with the shapes and with the promise",
    L1 "the program is at most 64 MiB",
    L2 "a delegate blob is at most 512 MiB",
    L3 "planned memory is within the promised limit",
    L4 "the file is within the promised size",
}

impl fmt::Display for CheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
