//! How fast this machine reads memory, measured beside the model: what decoding is up against.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::speed::mean_sd;

/// Bytes read per pass: far beyond any cache.
const BUFFER_BYTES: usize = 256 << 20;
/// A thread takes this much at a time, as the runtime's pool does: where another process holds a processor, the
/// others go on, and a fixed half for each would measure the slowest.
const BLOCK_BYTES: usize = 1 << 20;
/// Other users of the memory come and go, so the best of some passes counts.
const PASSES: usize = 8;
const WORD_BYTES: usize = size_of::<u64>();

/// Reads memory now and then, because its speed changes from minute to minute: only what was measured beside something
/// says anything of it.
#[derive(Debug)]
pub(super) struct Bandwidth {
    buffer: Vec<u64>,
    threads: u32,
    rates: Vec<f64>,
}

impl Bandwidth {
    pub(super) fn new(threads: u32) -> Self {
        // Written, so that every page is a page of its own and not the shared zero page.
        let buffer = (0..(BUFFER_BYTES / WORD_BYTES) as u64).collect();
        Self { buffer, threads: threads.max(1), rates: Vec::new() }
    }

    /// Measures once more.
    pub(super) fn look(&mut self) {
        let best = (0..PASSES).map(|_| self.pass()).fold(0.0, f64::max);
        self.rates.push(best);
    }

    /// Mean over the looks, bytes per second.
    pub(super) fn read_bytes_per_second(&self) -> f64 {
        mean_sd(&self.rates).0
    }

    fn pass(&self) -> f64 {
        let blocks: Vec<&[u64]> = self.buffer.chunks(BLOCK_BYTES / WORD_BYTES).collect();
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        black_box(sum(block));
                    }
                });
            }
        });
        BUFFER_BYTES as f64 / started.elapsed().as_secs_f64()
    }
}

/// Four places of a block at once, so that more reads are under way than one stream of addresses keeps.
fn sum(block: &[u64]) -> u64 {
    let (front, back) = block.split_at(block.len() / 2);
    let ((a, b), (c, d)) = (front.split_at(front.len() / 2), back.split_at(back.len() / 2));
    let rows = |quarter| <[u64]>::as_chunks::<8>(quarter).0.iter();
    let mut sums = [0_u64; 8];
    for (((a, b), c), d) in rows(a).zip(rows(b)).zip(rows(c)).zip(rows(d)) {
        for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum = sum.wrapping_add(a.wrapping_add(*b)).wrapping_add(c.wrapping_add(*d));
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_block_is_read() {
        // A pass that skipped some would count bytes that it never read.
        let block: Vec<u64> = (0..(BLOCK_BYTES / WORD_BYTES) as u64).map(|i| i * i + 1).collect();
        assert_eq!(sum(&block), block.iter().fold(0_u64, |all, word| all.wrapping_add(*word)));
        assert_eq!(BUFFER_BYTES % BLOCK_BYTES, 0);
    }
}
