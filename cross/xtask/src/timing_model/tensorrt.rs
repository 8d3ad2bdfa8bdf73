//! A network run as TensorRT runs it, one launch a layer, on the model: the layers as CUTLASS's int8 kernels.
//!
//! No figure here is fitted to a network's time. Tiles and instructions per mma were counted in the SASS that
//! nvcc 13.5 makes of CUTLASS 4.7's int8 kernels for sm_87; what an output costs after its sum is counted by
//! hand below. Which kernels TensorRT takes is not known.

use super::nets::Layer;
use pilotlight_boards::model::{Machine, Work};

/// A tile of an implicit GEMM and its main loop, 64 deep.
struct Tile {
    rows: u64,
    columns: u64,
    warps: u64,
    /// Instructions, ldmatrix.x4 and cp.async per mma.
    per_mma: [f64; 3],
    blocks_per_sm: u64,
    /// For filters of one pixel only.
    gemm_only: bool,
}

const fn tile(size: (u64, u64), warps: u64, per_mma: [f64; 3], blocks_per_sm: u64, gemm_only: bool) -> Tile {
    Tile { rows: size.0, columns: size.1, warps, per_mma, blocks_per_sm, gemm_only }
}

const TILES: [Tile; 7] = [
    tile((64, 64), 4, [5.0, 0.5, 0.25], 4, true),
    tile((128, 64), 4, [3.56, 0.38, 0.19], 3, true),
    tile((128, 128), 4, [2.53, 0.25, 0.12], 2, true),
    tile((128, 256), 8, [2.34, 0.25, 0.09], 1, true),
    // Not counted: the GEMM of this tile and what the next row has more than its GEMM.
    tile((64, 64), 4, [6.07, 0.5, 0.25], 4, false),
    tile((128, 64), 4, [4.63, 0.38, 0.19], 3, false),
    tile((128, 128), 4, [3.08, 0.25, 0.12], 2, false),
];

/// Instructions of a lane for an output, after the sum: to float, scale and bias, bounds, to integer, pack, store.
const FINISH: f64 = 5.5;
/// Of them conversions.
const FINISH_CONVERT: f64 = 2.0;
/// More for a residual: load and unpack, to float, scale.
const RESIDUAL: f64 = 4.0;
const RESIDUAL_CONVERT: f64 = 1.0;

fn padded(channels: u64) -> u64 {
    channels.next_multiple_of(32)
}

/// Bytes that go to DRAM: everything if input, output and weights do not fit L2 together, else weights alone.
fn dram(machine: &Machine, input: u64, output: u64, weights: u64) -> (u64, u64) {
    if input + output + weights > machine.l2_bytes { (input + weights, output) } else { (weights, 0) }
}

fn convolution(machine: &Machine, layer: (u64, u64, u64, (u64, u64), bool), tile: &Tile, batch: u64) -> Work {
    let (cin, cout, filter, side, residual) = layer;
    let pixels = batch * side.1 * side.1;
    let blocks = pixels.div_ceil(tile.rows) * padded(cout).div_ceil(tile.columns);
    // Few channels are packed by fours; others go filter place by filter place.
    let (depth, steps) = if cin <= 4 {
        (filter * filter * 4, (filter * filter * 4).div_ceil(64))
    } else {
        (filter * filter * padded(cin), filter * filter * padded(cin).div_ceil(64))
    };
    let mma = blocks * steps * tile.rows * tile.columns * 64 / (16 * 8 * 32);
    let outputs = blocks * tile.rows * tile.columns;
    let (extra, extra_convert) = if residual { (RESIDUAL, RESIDUAL_CONVERT) } else { (0.0, 0.0) };
    let finish = outputs as f64 * (FINISH + extra) / 32.0;
    let convert = (outputs as f64 * (FINISH_CONVERT + extra_convert) / 32.0) as u64;
    let [all, ldmatrix, copies] = tile.per_mma;
    let weights = depth * padded(cout);
    let input = batch * side.0 * side.0 * if cin <= 4 { 4 } else { padded(cin) };
    let output = pixels * padded(cout);
    let (dram_read, dram_written) = dram(machine, input, output * if residual { 2 } else { 1 }, weights);
    Work {
        mma_macs: mma * 16 * 8 * 32,
        instructions: (mma as f64 * all + finish) as u64,
        // Not counted by kind; the rest of the loop is mostly address arithmetic.
        int: (mma as f64 * (all - 1.0 - ldmatrix - copies) + finish / 3.0) as u64,
        convert,
        shared_passes: (mma as f64 * 4.0 * (ldmatrix + copies)) as u64,
        l2_bytes: blocks * steps * (tile.rows + tile.columns) * 64 + output * if residual { 2 } else { 1 },
        dram_read,
        dram_written: if dram_written > 0 { output } else { 0 },
        blocks,
        warps_per_block: tile.warps,
        blocks_per_sm: tile.blocks_per_sm,
    }
}

/// A kernel of one output a lane at a time: lane instructions an output, of which integer and conversions.
fn elementwise(machine: &Machine, per_output: [f64; 3], sizes: (u64, u64, u64), reread: f64) -> Work {
    let (input, output, outputs) = sizes;
    let [all, int, convert] = per_output.map(|n| (n * outputs as f64 / 32.0) as u64);
    let (dram_read, dram_written) = dram(machine, input, output, 0);
    Work {
        instructions: all,
        int,
        convert,
        l2_bytes: (input as f64 * reread) as u64 + output,
        dram_read,
        dram_written,
        // Four outputs a thread, 256 threads.
        blocks: outputs.div_ceil(1024),
        warps_per_block: 8,
        blocks_per_sm: 4,
        ..Work::default()
    }
}

/// The launch of a layer: the tile is the one that the model finds fastest, as TensorRT times its choices.
pub fn launch(machine: &Machine, layer: Layer, batch: u64) -> Work {
    match layer {
        Layer::Conv { channels, filter, side, residual } => TILES
            .iter()
            .filter(|tile| tile.gemm_only == (filter == 1))
            .map(|tile| convolution(machine, (channels.0, channels.1, filter, side, residual), tile, batch))
            .min_by(|a, b| machine.kernel(a).ns.total_cmp(&machine.kernel(b).ns))
            .unwrap_or_default(),
        Layer::Depthwise(channels, side) => {
            let (input, output) = (padded(channels) * side.0 * side.0, padded(channels) * side.1 * side.1);
            // Nine multiplications and unpackings, a load of four channels for each place.
            let per_output = [9.0 * 2.0 + 9.0 / 4.0 + FINISH, 9.0 * 2.0, FINISH_CONVERT];
            // Rows overlap between blocks; L1 keeps most of it.
            elementwise(machine, per_output, (batch * input, batch * output, batch * output), 1.5)
        }
        Layer::Pool(channels, side, window) => {
            let (input, output) = (padded(channels) * side.0 * side.0, padded(channels) * side.1 * side.1);
            let per_output = (window * window) as f64 * 1.5 + 2.0;
            elementwise(
                machine,
                [per_output, per_output, 0.0],
                (batch * input, batch * output, batch * output),
                1.0,
            )
        }
        Layer::Input => {
            let pixels = batch * 224 * 224;
            elementwise(machine, [3.0, 1.0, 1.0], (pixels * 12, pixels * 4, pixels * 3), 1.0)
        }
    }
}

/// Modelled milliseconds and joules of a network: kernels queued by the host, each after the one before.
pub fn network(machine: &Machine, net: &[Layer], batch: u64) -> (f64, f64) {
    let (mut host, mut gpu, mut joules) = (0.0f64, 0.0f64, 0.0f64);
    for layer in net {
        let work = launch(machine, *layer, batch);
        let modelled = machine.kernel(&work);
        host += machine.constants.host_launch_ns;
        gpu = (gpu + modelled.ns).max(host + modelled.ns - modelled.parts.launch);
        joules += machine.operation_joules(&work);
    }
    let seconds = gpu * 1e-9;
    (gpu * 1e-6, joules + (machine.idle_watts() + machine.active_watts()) * seconds)
}
