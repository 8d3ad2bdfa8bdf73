//! AVX-512 VNNI: dot products of blocks of rows, everything in registers until the sums are complete.

use super::{BLOCK, DepthwiseKernels, Gemm, Kernels, Packing, TileState, avx512_depthwise, avx512_rows};
use std::arch::x86_64::*;

pub(super) fn kernels() -> Kernels {
    Kernels {
        packing: Packing::Quads,
        unsigned_only: true,
        unsigned_shift: 0,
        run_units: 1,
        rows: 24,
        flat: false,
        gemm,
        gemm_signed: gemm,
        requant: avx512_rows::requant,
        combine: avx512_rows::combine,
        table: if is_x86_feature_detected!("avx512vbmi") {
            avx512_rows::table
        } else {
            super::portable::table
        },
        max: avx512_rows::max,
        accumulate: super::avx2::accumulate,
        quantise: avx512_rows::quantise,
        depthwise: Some(DepthwiseKernels {
            interleave: avx512_depthwise::interleave,
            convolve: avx512_depthwise::convolve,
            channel: avx512_depthwise::channel,
            interleaved: true,
            signed: false,
        }),
    }
}

/// Rows of a tile by the number of panels: as many as the 32 registers hold beside weights and one input.
const TILE_ROWS: [usize; 5] = [0, 14, 12, 8, 6];

/// # Safety
/// As [`Kernels`]: AVX-512 F, BW, VL, DQ and VNNI.
pub(super) unsafe fn gemm(g: &Gemm<'_>, _: &mut TileState) {
    let most = TILE_ROWS[g.panels];
    let tiles = g.rows.div_ceil(most);
    let mut row = 0;
    for t in 0..tiles {
        let rows = g.rows / tiles + usize::from(t < g.rows % tiles);
        macro_rules! tiles {
            ($panels:literal: $($rows:literal)*) => {
                match rows {
                    // SAFETY: the caller's promise; `row + rows` is at most `g.rows`, `panels` is `g.panels`.
                    $($rows => unsafe { tile::<$rows, $panels>(g, row) },)*
                    _ => unreachable!("at most TILE_ROWS rows"),
                }
            };
        }
        match g.panels {
            1 => tiles!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            2 => tiles!(2: 1 2 3 4 5 6 7 8 9 10 11 12),
            3 => tiles!(3: 1 2 3 4 5 6 7 8),
            _ => tiles!(4: 1 2 3 4 5 6),
        }
        row += rows;
    }
}

/// # Safety
/// As [`gemm`]; rows `row..row + R` exist and `g.panels` is `P`.
// Inlined into the dispatch, the tiles' accumulators are spilled to the stack (measured: 2 to 3 times slower).
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const R: usize, const P: usize>(g: &Gemm<'_>, row: usize) {
    // SAFETY: runs lie behind the rows' bases, weights hold all units of `P` panels, start and acc `P` panels of
    // aligned i32; all promised by the caller.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); P]; R];
        for p in 0..P {
            let start = _mm512_load_si512(g.start.add(p * 16).cast());
            for lane in &mut acc {
                lane[p] = start;
            }
        }
        let mut weights = g.weights;
        let base = g.input.add(row * g.input_stride);
        for run in g.runs {
            let mut input = base.add(run.offset as usize);
            for _ in 0..run.units {
                let mut w = [_mm512_setzero_si512(); P];
                for (p, w) in w.iter_mut().enumerate() {
                    *w = _mm512_load_si512(weights.add(p * g.panel_bytes).cast());
                }
                for (r, lane) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(input.add(r * g.input_stride).cast::<i32>().read_unaligned());
                    for p in 0..P {
                        lane[p] = _mm512_dpbusd_epi32(lane[p], x, w[p]);
                    }
                }
                weights = weights.add(64);
                input = input.add(4);
            }
        }
        for (r, lane) in acc.iter().enumerate() {
            for (p, &sum) in lane.iter().enumerate() {
                _mm512_store_si512(g.acc.add((row + r) * BLOCK + p * 16).cast(), sum);
            }
        }
    }
}
