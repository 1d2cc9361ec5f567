//! How fast this machine reads memory, measured beside the model: what decoding is up against.

use std::hint::black_box;
use std::time::Instant;

/// Bytes that each thread reads per pass: far beyond any cache.
const BUFFER_BYTES: usize = 256 << 20;
const PASSES: usize = 5;

/// Best read bandwidth over a few passes, bytes per second, with one buffer per thread.
pub(crate) fn read_bytes_per_second(threads: u32) -> f64 {
    let threads = threads.max(1) as usize;
    let share = BUFFER_BYTES / threads / 8;
    // Written, so that every page is a page of its own and not the shared zero page.
    let buffers: Vec<Vec<u64>> = (0..threads).map(|_| (0..share as u64).collect()).collect();
    let mut best = 0.0_f64;
    for _ in 0..PASSES {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for buffer in &buffers {
                scope.spawn(move || black_box(sum(buffer)));
            }
        });
        best = best.max((share * 8 * threads) as f64 / started.elapsed().as_secs_f64());
    }
    best
}

/// Eight independent sums, so that the reads and not the additions set the pace.
fn sum(buffer: &[u64]) -> u64 {
    let mut sums = [0_u64; 8];
    for chunk in buffer.as_chunks::<8>().0 {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
