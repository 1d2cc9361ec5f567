//! What evidence is made of, whatever runtime is measured: logits compared with the eager model's, speeds, the machine.

pub mod bandwidth;
pub mod benchmark;
pub mod blocks;
pub mod first;
pub mod machine;
pub mod parity;
pub mod reference;
pub mod score;
pub mod speed;
