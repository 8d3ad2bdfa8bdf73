//! Faults of kernels and of lowering.

use super::{Mutant, Round};

const CONV: &str = "kernels/cuda/conv.cuh";
const RULES: &str = "kernels/cuda/rules.cuh";
const LINEAR: &str = "kernels/cuda/linear.cuh";
const ELEMENT: &str = "kernels/cuda/element.cuh";
const REDUCE: &str = "kernels/cuda/reduce.cuh";
const LOWER: &str = "runtime/cuda/src/lower/mod.rs";
const LOWER_LINEAR: &str = "runtime/cuda/src/lower/linear.rs";
const IMPLICIT: &str = "runtime/cuda/src/lower/implicit.rs";
const TAPS: &str = "runtime/cuda/src/lower/taps.rs";
const PACK: &str = "runtime/cuda/src/lower/pack.rs";

/// Convolutions and products.
const PRODUCTS: &str = "linear::";

/// Run on every fault, until one fails.
pub const ROUNDS: &[Round] = &[
    Round { target: "suites", tests: None, variables: &[("PILOTLIGHT_VIRTUAL_SEED", "1")] },
    Round {
        target: "suites",
        tests: None,
        variables: &[("PILOTLIGHT_VIRTUAL_SEED", "2"), ("PILOTLIGHT_VIRTUAL_RACE", "1")],
    },
    Round { target: "suites", tests: None, variables: &[("PILOTLIGHT_VIRTUAL_SEED", "3")] },
];

/// Every fault.
pub const MUTANTS: &[Mutant] = &[
    // Copies and barriers of the main loop.
    Mutant {
        name: "wait_group leaves one group too many under way",
        file: CONV,
        find: "cp_wait<STAGES - 2>();",
        replace: "cp_wait<STAGES - 1>();",
        tests: PRODUCTS,
    },
    Mutant {
        name: "no barrier before a stage is read and its predecessor refilled",
        file: CONV,
        find: "    __syncthreads();\n    if (step + STAGES - 1 < last)",
        replace: "    if (step + STAGES - 1 < last)",
        tests: PRODUCTS,
    },
    Mutant {
        name: "no barrier before results overwrite the last stage",
        file: CONV,
        find: "  // ORDER: all have read the last stage before results overwrite it.\n  __syncthreads();\n",
        replace: "",
        tests: PRODUCTS,
    },
    Mutant {
        name: "no barrier between writing and reading results",
        file: CONV,
        find: "    // ORDER: results of all are visible to all.\n    __syncthreads();\n",
        replace: "",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a load goes to the stage that is being read",
        file: CONV,
        find: "load(write);",
        replace: "load(read);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "reading never reaches the last stage of the ring",
        file: CONV,
        find: "read = read + STAGE == STAGES * STAGE ? 0 :",
        replace: "read = read + STAGE == (STAGES - 1) * STAGE ? 0 :",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a predicated copy instead of one that fills with zeros",
        file: CONV,
        find: "        if (i < mine) cp16",
        replace: "        if (i < mine && inside(i, tap.y)) cp16",
        tests: PRODUCTS,
    },
    // The product itself.
    Mutant {
        name: "the last piece of k is left out",
        file: CONV,
        find: "piece < p.pieces ? ((const int2*)",
        replace: "piece + 1 < p.pieces ? ((const int2*)",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the last, partial step of k is left out",
        file: CONV,
        find: "(p.pieces + PIECES - 1) / PIECES;",
        replace: "p.pieces / PIECES;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "ldmatrix reads without the swizzle",
        file: CONV,
        find: "kept(swizzle(wn * 16 + b_row, b_piece))",
        replace: "kept((wn * 16 + b_row) * ROW + b_piece * 16)",
        tests: PRODUCTS,
    },
    Mutant {
        name: "fragments of A swapped",
        file: CONV,
        find: "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"r\"(b[0]), \"r\"(b[1])",
        replace: "\"r\"(a[0]), \"r\"(a[2]), \"r\"(a[1]), \"r\"(a[3]), \"r\"(b[0]), \"r\"(b[1])",
        tests: PRODUCTS,
    },
    Mutant {
        name: "fragments of B swapped",
        file: CONV,
        find: "b_piece = lane >> 3 & 1;",
        replace: "b_piece = ~lane >> 3 & 1;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "unsigned input multiplied as signed",
        file: CONV,
        find: "  else MMA(\"u8\");",
        replace: "  else MMA(\"s8\");",
        tests: PRODUCTS,
    },
    Mutant {
        name: "accumulators start from what memory held before",
        file: CONV,
        find: "acc[i][j][k] = 0;",
        replace: "acc[i][j][k] = ((int*)shared)[tid];",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the window's row is not checked against the image",
        file: CONV,
        find: "return both == 0x80008000;",
        replace: "return (both & 0x8000) == 0x8000;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the window's column is checked off by one",
        file: CONV,
        find: "const u32 extent = p.h << 16 | p.width;",
        replace: "const u32 extent = p.h << 16 | (p.width + 1);",
        tests: PRODUCTS,
    },
    // The way out.
    Mutant {
        name: "border class of the wrong column",
        file: CONV,
        find: "p.column_classes + ((const u8*)p.classes)[p.oh + at.column];",
        replace: "p.column_classes + ((const u8*)p.classes)[p.oh];",
        tests: PRODUCTS,
    },
    Mutant {
        name: "every group takes the first group's bias",
        file: CONV,
        find: "(u64)(group * p.all_classes + border) * p.padded",
        replace: "(u64)border * p.padded",
        tests: PRODUCTS,
    },
    Mutant {
        name: "weight zero point with the wrong sign",
        file: CONV,
        find: "    v[0][0] -= zero.x * window;",
        replace: "    v[0][0] += zero.x * window;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "channel stride taken as 1",
        file: RULES,
        find: "  const u64 step = e.strides[1];",
        replace: "  const u64 step = 1;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a tile's last pixel is not stored",
        file: CONV,
        find: "here = left < SPAN ? left : SPAN;",
        replace: "here = left < SPAN ? left - 1 : SPAN;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a word is stored at any address",
        file: RULES,
        find: " && step == 1 && ((e.out + c | e.strides[0] | e.strides[2] | e.strides[3]) & 3) == 0)",
        replace: " && step == 1)",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the image's stride is left out",
        file: CONV,
        find: "from[i] = x + (i64)((int)at.image * (int)p.x_strides[0] +",
        replace: "from[i] = x + (i64)(",
        tests: PRODUCTS,
    },
    // Rules of arithmetic.
    Mutant {
        name: "rounding towards zero",
        file: RULES,
        find: "return __float2int_rn(fminf(",
        replace: "return __float2int_rz(fminf(",
        tests: PRODUCTS,
    },
    Mutant {
        name: "clamp after the conversion instead of before",
        file: RULES,
        find: "  return __float2int_rn(fminf(fmaxf(x, (f32)(lo - zero)), (f32)(hi - zero))) + zero;",
        replace: "  int v = (int)((u32)__float2int_rn(x) + (u32)zero);\n  return v < lo ? lo : v > hi ? hi : v;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a multiplication that ptxas may fuse",
        file: RULES,
        find: "f32 scaled = (f32)v * ((const f32*)e.scale)[scale_at * e.scale_step];",
        replace: "f32 scaled; asm(\"mul.f32 %0, %1, %2;\" : \"=f\"(scaled) : \"f\"((f32)v), \"f\"(((const f32*)e.scale)[scale_at * e.scale_step]));",
        tests: PRODUCTS,
    },
    Mutant {
        name: "an approximate division",
        file: RULES,
        find: "f32 y = x * p / q + 0.5f;",
        replace: "f32 y = __fdividef(x * p, q) + 0.5f;",
        tests: "other::functions",
    },
    Mutant {
        name: "a load that bypasses the memory model",
        file: RULES,
        find: "f32 scaled = (f32)v * ((const f32*)e.scale)[scale_at * e.scale_step];",
        replace: "f32 scaled = (f32)v * __ldg(&((const f32*)e.scale)[scale_at * e.scale_step]);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a fused multiply-add rounded twice",
        file: RULES,
        find: "__fmaf_rn(a, r.f0, __fmaf_rn(b, r.f1, r.f2));",
        replace: "__fmaf_rn(a, r.f0, b * r.f1 + r.f2);",
        tests: "other::binaries",
    },
    Mutant {
        name: "operands of a fused operation swapped",
        file: RULES,
        find: "u32 a = p.value_is_a ? values[u] : operands[u], b = p.value_is_a ? operands[u] : values[u];",
        replace: "u32 a = p.value_is_a ? operands[u] : values[u], b = p.value_is_a ? values[u] : operands[u];",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a table indexed by a signed value",
        file: RULES,
        find: "((const u8*)other)[values[u] >> (8 * i) & 255] << (8 * i)",
        replace: "((const u8*)other)[(i64)(s8)(values[u] >> (8 * i))] << (8 * i)",
        tests: PRODUCTS,
    },
    Mutant {
        name: "one scale for all channels",
        file: RULES,
        find: "const float4*)((const f32*)e.scale + scale_at) :",
        replace: "const float4*)((const f32*)e.scale) :",
        tests: PRODUCTS,
    },
    // The other kernels.
    Mutant {
        name: "depthwise: two taps swapped in the transposition",
        file: LINEAR,
        find: "c0 = permute(l0, l1, 0x5410)",
        replace: "c0 = permute(l0, l1, 0x4510)",
        tests: "linear::depthwise",
    },
    Mutant {
        name: "depthwise: taps outside the image count as ones",
        file: LINEAR,
        find: "? *(const u32*)(base[u] + (i64)offset[t]) : 0;",
        replace: "? *(const u32*)(base[u] + (i64)offset[t]) : 0x01010101;",
        tests: "linear::depthwise",
    },
    Mutant {
        name: "depthwise: unsigned input multiplied as signed",
        file: LINEAR,
        find: "if (p.x_signed) multiply_by",
        replace: "if (1) multiply_by",
        tests: "linear::depthwise",
    },
    Mutant {
        name: "depthwise: the short way out stores pixels that there are not",
        file: LINEAR,
        find: "way_out<U>(p.epilogue, way, sums, have);",
        replace: "way_out<U>(p.epilogue, way, sums);",
        tests: "linear::results_end",
    },
    Mutant {
        name: "depthwise: windows that reach over the border are taken as whole",
        file: LINEAR,
        find: "whole && iy[u] >= 0 && ix[u] >= 0 &&",
        replace: "whole &&",
        tests: "linear::depthwise",
    },
    Mutant {
        name: "depthwise: the next pixel stays in its row",
        file: LINEAR,
        find: "++column == p.ow)",
        replace: "++column == p.ow + 1)",
        tests: "linear::depthwise",
    },
    Mutant {
        name: "depthwise: the last pixels are left out",
        file: LINEAR,
        find: "have = p.pixels - m < U ? p.pixels - m : U;",
        replace: "have = p.pixels - m < U ? 0 : U;",
        tests: "linear::depthwise",
    },
    Mutant {
        name: "a way out takes pixels twice as far apart as it has threads",
        file: CONV,
        find: "local += 2 * lines, from += 2 * apart)",
        replace: "local += 4 * lines, from += 4 * apart)",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the short way out forgets the last of an odd number of pixels",
        file: CONV,
        find: "      if (local < here) {",
        replace: "      if (local + 1 < here) {",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a row of products is one short",
        file: CONV,
        find: "for (int j = 0; j < N; j++) mma<",
        replace: "for (int j = 0; j + 1 < N || j == 0; j++) mma<",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a thread's second block of weights is the one behind its first",
        file: CONV,
        find: "a_from + u * a_far",
        replace: "a_from + u * a_far / A_APART",
        tests: PRODUCTS,
    },
    Mutant {
        name: "half a way behind the zero point is rounded up",
        file: RULES,
        find: "w.ends.hi) + 12582912.0f;",
        replace: "w.ends.hi) + 0.5f + 12582912.0f;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the short way out adds the operands in the other order",
        file: RULES,
        find: "  if (w.value_is_a) add(",
        replace: "  if (!w.value_is_a) add(",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the short way out takes the added tensor as unsigned",
        file: RULES,
        find: "w.bytes = bytes_of(first.signed_in);",
        replace: "w.bytes = bytes_of(0);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "what follows the sum begins with the sum again",
        file: RULES,
        find: "apply_posts<U>(e, w.add, values, 4, w.c, at);",
        replace: "apply_posts<U>(e, 0, values, 4, w.c, at);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the value before the sum keeps its zero point",
        file: RULES,
        find: "w.value_base = 12582912.0f - (f32)e.zero;",
        replace: "w.value_base = 12582912.0f;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "quantize: a run goes on into the next row",
        file: ELEMENT,
        find: "if (p.shape[5] % QUANTIZE_RUN == 0 && ",
        replace: "if (p.shape[5] >= QUANTIZE_RUN && ",
        tests: "other::conversions",
    },
    Mutant {
        name: "maxima of signed words begin at zero",
        file: REDUCE,
        find: "int best[4] = {low_of(p.kind), low_of(p.kind),",
        replace: "int best[4] = {0, low_of(p.kind),",
        tests: "other::pools",
    },
    Mutant {
        name: "lowering: an output is taken as lying pixel behind pixel",
        file: LOWER_LINEAR,
        find: "aligned && strides[1] == 1 && shape.is_flat(strides)",
        replace: "aligned && strides[1] == 1",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: any rule is taken as a sum",
        file: LOWER_LINEAR,
        find: "n > 0 || matches!(rule, BinaryRule::QLinearAdd { .. })",
        replace: "n > 0 || !matches!(rule, BinaryRule::Float(_))",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: borders have the middle's bias",
        file: LOWER_LINEAR,
        find: "(l.input_zero == 0).then(|| shape.no_borders())",
        replace: "(l.input_zero < 9).then(|| shape.no_borders())",
        tests: PRODUCTS,
    },
    Mutant {
        name: "window sums count padding",
        file: LINEAR,
        find: "if (y >= p.h || xx >= p.width) continue;\n      u64 px = x + (u64)y * p.x_strides[2] + (u64)xx * p.x_strides[3];\n      for (u32 ci = 0; ci < p.group_inputs; ci++) sum",
        replace: "u64 px = x + (u64)y * p.x_strides[2] + (u64)xx * p.x_strides[3];\n      for (u32 ci = 0; ci < p.group_inputs; ci++) sum",
        tests: PRODUCTS,
    },
    Mutant {
        name: "out of bounds by one element",
        file: ELEMENT,
        find: "BLOCK_KERNEL(table8, Map) {\n  u32 i = block * 256 + threadIdx.x;\n  if (i >= p.total) return;",
        replace: "BLOCK_KERNEL(table8, Map) {\n  u32 i = block * 256 + threadIdx.x;\n  if (i > p.total) return;",
        tests: "other::tables",
    },
    Mutant {
        name: "a mean counts padding where it should not",
        file: REDUCE,
        find: "!p.count_pads ? inside :",
        replace: "!p.count_pads ? p.kh * p.kw :",
        tests: "other::pools",
    },
    // Lowering.
    Mutant {
        name: "lowering: border classes by the padding of the other end",
        file: PACK,
        find: "- i64::from(window.pads[d]);",
        replace: "- i64::from(window.pads[d + 2]);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: zero point added to the bias instead of subtracted",
        file: PACK,
        find: "start.wrapping_sub(x_zero.wrapping_mul(sum))",
        replace: "start.wrapping_add(x_zero.wrapping_mul(sum))",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: halves of a weight fragment swapped",
        file: PACK,
        find: "half * 32 + word / 2 * 16 + lane % 4 * 4 + byte;",
        replace: "half * 32 + (1 - word / 2) * 16 + lane % 4 * 4 + byte;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: unsigned weights keep their zero point",
        file: PACK,
        find: "zero[c] } - shift).collect();",
        replace: "zero[c] }).collect();",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: dilation left out of the taps' offsets",
        file: TAPS,
        find: "u64::from(dx) * u64::from(column_bytes)",
        replace: "u64::from(kx) * u64::from(column_bytes)",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: one row of tiles too few",
        file: IMPLICIT,
        find: "[pixels.div_ceil(tiling.pixels), padded",
        replace: "[(pixels / tiling.pixels).max(1), padded",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: no room for the window sums",
        file: LOWER,
        find: "self.scratch = self.scratch.max(at + bytes + 64);",
        replace: "self.scratch = self.scratch.max(at + bytes / 4);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: depthwise leaves borders out at any zero point",
        file: LOWER_LINEAR,
        find: "classes: if plain && one_class {",
        replace: "classes: if plain {",
        tests: "linear::depthwise",
    },
    Mutant {
        name: "lowering: constants are not aligned",
        file: LOWER,
        find: "(self.constants.len() + 16).next_multiple_of(64), 0",
        replace: "self.constants.len() + 17, 0",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: a tensor's offset in its buffer is forgotten",
        file: LOWER,
        find: "        base + t.offset\n",
        replace: "        base\n",
        tests: "other::",
    },
    Mutant {
        name: "lowering: too little shared memory for a tile's results",
        file: "kernels/src/lib.rs",
        find: "stages.max(4 * self.warps[2] * self.pixels.min(128) * (self.channels + 4))",
        replace: "stages",
        tests: PRODUCTS,
    },
    Mutant {
        name: "launch: blocks of more threads than the kernels allow",
        file: "runtime/cuda/src/driver.rs",
        find: "                (x, y, z),\n                (256, 1, 1),\n",
        replace: "                (x, y, z),\n                (512, 1, 1),\n",
        tests: PRODUCTS,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_still_has_its_place_in_the_sources() {
        for mutant in MUTANTS {
            let text = std::fs::read_to_string(crate::shell::root().join(mutant.file)).unwrap();
            mutant.plant(&text).unwrap();
        }
    }
}
