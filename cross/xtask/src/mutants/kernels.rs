//! Faults of kernels and of lowering.

use super::{Mutant, Round};

const CONV: &str = "kernels/cuda/conv.cuh";
const RULES: &str = "kernels/cuda/rules.cuh";
const LINEAR: &str = "kernels/cuda/linear.cuh";
const ELEMENT: &str = "kernels/cuda/element.cuh";
const REDUCE: &str = "kernels/cuda/reduce.cuh";
const LOWER: &str = "runtime/cuda/src/lower/mod.rs";
const LOWER_LINEAR: &str = "runtime/cuda/src/lower/linear.rs";
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
        find: "    __syncthreads();\n    if (step + STAGES - 1 < steps)",
        replace: "    if (step + STAGES - 1 < steps)",
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
        find: "  // ORDER: results of all are visible to all.\n  __syncthreads();\n",
        replace: "",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a load goes to the stage that is being read",
        file: CONV,
        find: "load(step + STAGES - 1, write);",
        replace: "load(step + STAGES - 1, read);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "reading never reaches the last stage of the ring",
        file: CONV,
        find: "read = read + 1 == STAGES ? 0 : read + 1;",
        replace: "read = read + 1 == STAGES - 1 ? 0 : read + 1;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a predicated copy instead of one that fills with zeros",
        file: CONV,
        find: "cp16(a + swizzle(row, tid & 3), inside ? base[i] + (i64)tap.x : p.x, inside ? 16 : 0);",
        replace: "if (inside) cp16(a + swizzle(row, tid & 3), base[i] + (i64)tap.x, 16);",
        tests: PRODUCTS,
    },
    // The product itself.
    Mutant {
        name: "the last piece of k is left out",
        file: CONV,
        find: "piece < p.pieces ?",
        replace: "piece + 1 < p.pieces ?",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the last, partial step of k is left out",
        file: CONV,
        find: "(p.pieces + 3) / 4;",
        replace: "p.pieces / 4;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "ldmatrix reads without the swizzle",
        file: CONV,
        find: "ldmatrix4(a[i], a0 + swizzle(wm + i * 16 + (lane & 15), half * 2 + (lane >> 4)));",
        replace: "ldmatrix4(a[i], a0 + (wm + i * 16 + (lane & 15)) * 64 + (half * 2 + (lane >> 4)) * 16);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "fragments of A swapped",
        file: CONV,
        find: "half * 2 + (lane >> 4)));",
        replace: "half * 2 + 1 - (lane >> 4)));",
        tests: PRODUCTS,
    },
    Mutant {
        name: "fragments of B swapped",
        file: CONV,
        find: "b[j >> 1][(j & 1) * 2], b[j >> 1][(j & 1) * 2 + 1]);",
        replace: "b[j >> 1][(j & 1) * 2 + 1], b[j >> 1][(j & 1) * 2]);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "unsigned input multiplied as signed",
        file: CONV,
        find: "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32",
        replace: "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
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
        find: "(u32)(iy[i] + dy) < p.h && (u32)(ix[i] + dx)",
        replace: "iy[i] > -0x10000000 && (u32)(ix[i] + dx)",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the window's column is checked off by one",
        file: CONV,
        find: "(u32)(ix[i] + dx) < p.width;",
        replace: "(u32)(ix[i] + dx) <= p.width;",
        tests: PRODUCTS,
    },
    // The way out.
    Mutant {
        name: "border class of the wrong column",
        file: CONV,
        find: "p.column_classes + ((const u8*)p.classes)[p.oh + column];",
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
        find: "v -= ((const int*)p.w_zero)[ch] * sum;",
        replace: "v += ((const int*)p.w_zero)[ch] * sum;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "channel stride taken as 1",
        file: CONV,
        find: "store_at(e, out + (u64)ch * e.strides[1], v,",
        replace: "store_at(e, out + (u64)ch, v,",
        tests: PRODUCTS,
    },
    Mutant {
        name: "one pixel too many is stored",
        file: CONV,
        find: "if (m >= p.pixels || c >= p.channels) continue;",
        replace: "if (m > p.pixels || c >= p.channels) continue;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a word is stored at any address",
        file: CONV,
        find: " && ((e.out + out + first + c) & 3) == 0;",
        replace: ";",
        tests: PRODUCTS,
    },
    Mutant {
        name: "the image's stride is left out",
        file: CONV,
        find: "base[i] = x + (u64)image * p.x_strides[0] +",
        replace: "base[i] = x +",
        tests: PRODUCTS,
    },
    // Rules of arithmetic.
    Mutant {
        name: "rounding towards zero",
        file: RULES,
        find: "return __float2int_rn(x) + zero;",
        replace: "return __float2int_rz(x) + zero;",
        tests: PRODUCTS,
    },
    Mutant {
        name: "clamp after the conversion instead of before",
        file: RULES,
        find: "  f32 mn = (f32)(lo - zero), mx = (f32)(hi - zero);\n  x = x > mn ? x : mn;\n  x = x < mx ? x : mx;\n  return __float2int_rn(x) + zero;",
        replace: "  int v = (int)((u32)__float2int_rn(x) + (u32)zero);\n  return v < lo ? lo : v > hi ? hi : v;",
        tests: "",
    },
    Mutant {
        name: "a multiplication that ptxas may fuse",
        file: RULES,
        find: "{ return ((const f32*)e.scale)[c * e.scale_step]; }",
        replace: "{ f32 d; asm(\"mul.f32 %0, %1, %2;\" : \"=f\"(d) : \"f\"(((const f32*)e.scale)[c * e.scale_step]), \"f\"(1.0f)); return d; }",
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
        find: "{ return ((const f32*)e.scale)[c * e.scale_step]; }",
        replace: "{ return __ldg(&((const f32*)e.scale)[c * e.scale_step]); }",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a fused multiply-add rounded twice",
        file: RULES,
        find: "__fmaf_rn((f32)b, r.f1, r.f2)), 0,",
        replace: "(f32)b * r.f1 + r.f2), 0,",
        tests: "other::binaries",
    },
    Mutant {
        name: "operands of a fused operation swapped",
        file: RULES,
        find: "? combine(p.rule, v, o) : combine(p.rule, o, v);",
        replace: "? combine(p.rule, o, v) : combine(p.rule, v, o);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "a table indexed by a signed value",
        file: RULES,
        find: "load8(p.pointer + (u32)(v & 255), p.signed_in);",
        replace: "load8(p.pointer + (u64)(i64)v, p.signed_in);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "one scale for all channels",
        file: RULES,
        find: "{ return ((const f32*)e.scale)[c * e.scale_step]; }",
        replace: "{ return ((const f32*)e.scale)[0]; }",
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
        name: "depthwise: taps outside the image are flipped too",
        file: LINEAR,
        find: "? *(const u32*)(base + (i64)tap.x) ^ p.flip : 0;",
        replace: "? *(const u32*)(base + (i64)tap.x) ^ p.flip : p.flip;",
        tests: "linear::depthwise",
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
        find: "half * 32 + word % 2 * 16 + lane % 4 * 4;",
        replace: "half * 32 + (1 - word % 2) * 16 + lane % 4 * 4;",
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
        file: LOWER_LINEAR,
        find: "u64::from(dx) * u64::from(column_bytes)",
        replace: "u64::from(kx) * u64::from(column_bytes)",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: one row of tiles too few",
        file: LOWER_LINEAR,
        find: "[pixels.div_ceil(tile.pixels), channels",
        replace: "[(pixels / tile.pixels).max(1), channels",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: no room for the window sums",
        file: LOWER_LINEAR,
        find: "self.scratch = self.scratch.max(total as usize * 4 + 64);",
        replace: "self.scratch = self.scratch.max(total as usize);",
        tests: PRODUCTS,
    },
    Mutant {
        name: "lowering: flipped input keeps its zero point",
        file: LOWER_LINEAR,
        find: "(0x8080_8080, l.input_zero - 128)",
        replace: "(0x8080_8080, l.input_zero)",
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
        tests: "",
    },
    Mutant {
        name: "lowering: too little shared memory for a tile's results",
        file: "kernels/src/lib.rs",
        find: ".max(4 * self.pixels * (self.channels + 8))",
        replace: "",
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
