"""Makes the instruction vectors: a PTX text for each family, its input, and what every entry must give.

The results are computed here in plain Python integers and fractions, apart from the emulator, from what the PTX
ISA says. tests/vectors.rs runs them on whatever CUDA device there is. Usage: python3 make.py (writes beside itself)
"""

import math
import struct
from fractions import Fraction
from pathlib import Path

LANES, BLOCKS, M = 32, 2, 0xFFFFFFFF
EDGES = [0, 1, 2, 31, 32, 33, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0x80000001, M]


def s(v, bits=32):
    v &= (1 << bits) - 1
    return v - (1 << bits) if v >> (bits - 1) else v


def words(count, salt, make=None):
    """Pseudorandom words (a linear congruential generator), every third one an edge case."""
    state, out = salt * 2654435761 & M, []
    for n in range(count):
        state = (state * 1664525 + 1013904223) & M
        out.append(make(state, n) if make else EDGES[(n + salt) // 3 % len(EDGES)] if n % 3 == 0 else state ^ state >> 13)
    return out


def f32(v):
    return Fraction(struct.unpack("<f", struct.pack("<I", v))[0])


def round_f32(x):
    """The bits of the binary32 nearest to a fraction, ties to even."""
    if x == 0:
        return 0
    sign, x = (0x80000000, -x) if x < 0 else (0, x)
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    if Fraction(2) ** exponent > x:
        exponent -= 1
    exponent = max(exponent, -126)
    mantissa = round(x / Fraction(2) ** (exponent - 23))  # Python rounds halves to even
    if mantissa >> 24:
        mantissa, exponent = mantissa >> 1, exponent + 1
    if exponent > 127:
        return sign | 0x7F800000
    return sign | (mantissa if mantissa < 1 << 23 else mantissa - (1 << 23) | exponent + 127 << 23)


def root(x):
    scaled = x * Fraction(4) ** 160
    whole = math.isqrt(int(scaled))
    exact = whole * whole == scaled
    return Fraction(whole * 2 + (0 if exact else 1), 2) / Fraction(2) ** 160


def prmt(a, b, c):
    data, out = (b << 32 | a).to_bytes(8, "little"), 0
    for n in range(4):
        nibble = c >> 4 * n & 15
        byte = data[nibble & 7]
        out |= (byte if nibble < 8 else 255 if byte & 128 else 0) << 8 * n
    return out


def dot(a, b, c, sa, sb):
    part = lambda w, n, signed: s(w >> 8 * n, 8) if signed else w >> 8 * n & 255
    return sum(part(a, n, sa) * part(b, n, sb) for n in range(4)) + c & M


def rni(a):
    return max(-(1 << 31), min((1 << 31) - 1, round(f32(a)))) & M


def lanewise(f):
    return lambda lanes: [[f(*lane) & M] for lane in lanes]


SETS = {}
SETS["integer"] = (3, words, {
    "add": ("add.s32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a + b)),
    "sub": ("sub.s32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a - b)),
    "mul_lo": ("mul.lo.s32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a * b)),
    "mul_hi_s": ("mul.hi.s32 %d0, %s0, %s1;", lanewise(lambda a, b, c: s(a) * s(b) >> 32)),
    "mul_hi_u": ("mul.hi.u32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a * b >> 32)),
    "mad_lo": ("mad.lo.s32 %d0, %s0, %s1, %s2;", lanewise(lambda a, b, c: a * b + c)),
    "min_s": ("min.s32 %d0, %s0, %s1;", lanewise(lambda a, b, c: min(s(a), s(b)))),
    "max_s": ("max.s32 %d0, %s0, %s1;", lanewise(lambda a, b, c: max(s(a), s(b)))),
    "min_u": ("min.u32 %d0, %s0, %s1;", lanewise(lambda a, b, c: min(a, b))),
    "max_u": ("max.u32 %d0, %s0, %s1;", lanewise(lambda a, b, c: max(a, b))),
    "neg": ("neg.s32 %d0, %s0;", lanewise(lambda a, b, c: -a)),
    "abs": ("abs.s32 %d0, %s0;", lanewise(lambda a, b, c: abs(s(a)))),
    "and": ("and.b32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a & b)),
    "or": ("or.b32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a | b)),
    "xor": ("xor.b32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a ^ b)),
    "not": ("not.b32 %d0, %s0;", lanewise(lambda a, b, c: ~a)),
    "shl": ("shl.b32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a << b if b < 32 else 0)),
    "shr_u": ("shr.u32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a >> min(b, 32))),
    "shr_s": ("shr.s32 %d0, %s0, %s1;", lanewise(lambda a, b, c: s(a) >> min(b, 31))),
    "lop3_96": ("lop3.b32 %d0, %s0, %s1, %s2, 0x96;", lanewise(lambda a, b, c: a ^ b ^ c)),
    "lop3_e8": ("lop3.b32 %d0, %s0, %s1, %s2, 0xE8;", lanewise(lambda a, b, c: a & b | a & c | b & c)),
    "lop3_ca": ("lop3.b32 %d0, %s0, %s1, %s2, 0xCA;", lanewise(lambda a, b, c: a & b | ~a & c)),
    "prmt": ("prmt.b32 %d0, %s0, %s1, %s2;", lanewise(prmt)),
    "shf_l": ("shf.l.wrap.b32 %d0, %s0, %s1, %s2;", lanewise(lambda a, b, c: (b << 32 | a) << (c & 31) >> 32)),
    "shf_r": ("shf.r.wrap.b32 %d0, %s0, %s1, %s2;", lanewise(lambda a, b, c: (b << 32 | a) >> (c & 31))),
    "bfe_u": ("bfe.u32 %d0, %s0, 5, 9;", lanewise(lambda a, b, c: a >> 5 & 0x1FF)),
    "bfe_s": ("bfe.s32 %d0, %s0, 5, 9;", lanewise(lambda a, b, c: s(a >> 5, 9))),
    "bfi": ("bfi.b32 %d0, %s0, %s1, 5, 9;", lanewise(lambda a, b, c: b & ~0x3FE0 | (a & 0x1FF) << 5)),
    "popc": ("popc.b32 %d0, %s0;", lanewise(lambda a, b, c: bin(a).count("1"))),
    "clz": ("clz.b32 %d0, %s0;", lanewise(lambda a, b, c: 32 - a.bit_length())),
    "brev": ("brev.b32 %d0, %s0;", lanewise(lambda a, b, c: int(f"{a:032b}"[::-1], 2))),
    "div_u": ("or.b32 %s1, %s1, 1; div.u32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a // (b | 1))),
    "rem_u": ("or.b32 %s1, %s1, 1; rem.u32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a % (b | 1))),
    "dp4a_ss": ("dp4a.s32.s32 %d0, %s0, %s1, %s2;", lanewise(lambda a, b, c: dot(a, b, c, 1, 1))),
    "dp4a_su": ("dp4a.s32.u32 %d0, %s0, %s1, %s2;", lanewise(lambda a, b, c: dot(a, b, c, 1, 0))),
    "dp4a_us": ("dp4a.u32.s32 %d0, %s0, %s1, %s2;", lanewise(lambda a, b, c: dot(a, b, c, 0, 1))),
    "dp4a_uu": ("dp4a.u32.u32 %d0, %s0, %s1, %s2;", lanewise(lambda a, b, c: dot(a, b, c, 0, 0))),
    "wide_s": ("mul.wide.s32 %rd9, %s0, %s1; mov.b64 {%r50, %d0}, %rd9;", lanewise(lambda a, b, c: s(a) * s(b) >> 32)),
    "lt_s": ("setp.lt.s32 %p1, %s0, %s1; selp.b32 %d0, %s2, 7, %p1;", lanewise(lambda a, b, c: c if s(a) < s(b) else 7)),
    "ge_u": ("setp.ge.u32 %p1, %s0, %s1; selp.b32 %d0, %s2, 7, %p1;", lanewise(lambda a, b, c: c if a >= b else 7)),
    "from_s32": ("cvt.rn.f32.s32 %d0, %s0;", lanewise(lambda a, b, c: round_f32(Fraction(s(a))))),
    "from_u32": ("cvt.rn.f32.u32 %d0, %s0;", lanewise(lambda a, b, c: round_f32(Fraction(a)))),
    "sat_s8": ("cvt.sat.s8.s32 %d0, %s0;", lanewise(lambda a, b, c: max(-128, min(127, s(a))))),
    "bfly": ("shfl.sync.bfly.b32 %d0|%p1, %s0, 5, 31, 0xffffffff;", lambda l: [[l[n ^ 5][0]] for n in range(32)]),
    "up": ("shfl.sync.up.b32 %d0|%p1, %s0, 3, 0, 0xffffffff;", lambda l: [[l[max(n - 3, n if n < 3 else 0)][0]] for n in range(32)]),
    "down": ("shfl.sync.down.b32 %d0|%p1, %s0, 3, 31, 0xffffffff;", lambda l: [[l[n + 3 if n < 29 else n][0]] for n in range(32)]),
    "ballot": ("setp.lt.s32 %p1, %s0, 0; vote.sync.ballot.b32 %d0, %p1, 0xffffffff;", lambda l: [[sum((v[0] >> 31) << n for n, v in enumerate(l))]] * 32),
})


def float_word(state, n):
    """Signs and mantissas at random; exponents from subnormal to 2^15, so that nothing overflows."""
    exponent = [0, 1, 100, 118, 126, 127, 128, 140][state >> 7 & 7]
    return state & 0x80000000 | exponent << 23 | (state * 2654435761 & M) >> 9


def add(a, b, c):
    x = f32(a) + f32(b)
    return round_f32(x) if x else (0x80000000 if a >> 31 and b >> 31 else 0)


def mul(a, b, c):
    x = f32(a) * f32(b)
    return round_f32(x) if round_f32(x) & 0x7FFFFFFF else (a ^ b) & 0x80000000


def fma(a, b, c):
    x = f32(a) * f32(b) + f32(c)
    return round_f32(x) if x else ((a ^ b) & c & 0x80000000)


SETS["float"] = (3, lambda count, salt: words(count, salt, float_word), {
    "add": ("add.rn.f32 %d0, %s0, %s1;", lanewise(add)),
    "mul": ("mul.rn.f32 %d0, %s0, %s1;", lanewise(mul)),
    "fma": ("fma.rn.f32 %d0, %s0, %s1, %s2;", lanewise(fma)),
    "div": ("or.b32 %s1, %s1, 0x3f000000; and.b32 %s1, %s1, 0xbfffffff; div.rn.f32 %d0, %s0, %s1;",
            lanewise(lambda a, b, c: (lambda d: round_f32(f32(a) / f32(d)) or (a ^ d) & 0x80000000)((b | 0x3F000000) & 0xBFFFFFFF))),
    "sqrt": ("abs.f32 %s0, %s0; sqrt.rn.f32 %d0, %s0;", lanewise(lambda a, b, c: round_f32(root(f32(a & 0x7FFFFFFF))))),
    "min": ("min.f32 %d0, %s0, %s1;", lanewise(lambda a, b, c: a if f32(a) < f32(b) else b)),
    "rni": ("cvt.rni.s32.f32 %d0, %s0;", lanewise(lambda a, b, c: rni(a))),
    "lt": ("setp.lt.f32 %p1, %s0, %s1; selp.b32 %d0, %s2, 7, %p1;", lanewise(lambda a, b, c: c if f32(a) < f32(b) else 7)),
})


def byte(word, n, signed):
    return s(word >> 8 * n, 8) if signed else word >> 8 * n & 255


def mma(k, sa, sb):
    """9.7.14.5: which lane and byte holds which element, written from the ISA's formulas."""
    registers = k // 8

    def run(lanes):
        a, b = [[0] * k for _ in range(16)], [[0] * 8 for _ in range(k)]
        for lane, w in enumerate(lanes):
            group, thread = lane >> 2, lane % 4
            for i in range(4 * registers):
                row = group if i // 4 % 2 == 0 else group + 8
                column = thread * 4 + (i & 3) + (16 if i >= 8 else 0)
                a[row][column] = byte(w[i // 4], i % 4, sa)
            for i in range(2 * registers):
                b[thread * 4 + (i & 3) + (16 if i >= 4 else 0)][group] = byte(w[4 + i // 4], i % 4, sb)
        out = []
        for lane, w in enumerate(lanes):
            values = []
            for i in range(4):
                row, column = (lane >> 2) + (8 if i >= 2 else 0), lane % 4 * 2 + (i & 1)
                values.append(sum(a[row][n] * b[n][column] for n in range(k)) + w[6 + i] & M)
            out.append(values)
        return out

    return run


def ldmatrix(lanes):
    """Lane l stores its first four words as row l ^ 9, and points at row l."""
    rows = [b"".join(w.to_bytes(4, "little") for w in lanes[n ^ 9][:4]) for n in range(32)]
    return [[int.from_bytes(rows[8 * q + n // 4][n % 4 * 4:][:4], "little") for q in range(4)] for n in range(32)]


def mma_text(k, a, b):
    left = "{%s0,%s1,%s2,%s3}, {%s4,%s5}" if k == 32 else "{%s0,%s1}, {%s4}"
    return f"mma.sync.aligned.m16n8k{k}.row.col.s32.{a}.{b}.s32 {{%d0,%d1,%d2,%d3}}, {left}, {{%s6,%s7,%s8,%s9}};"


SETS["matrix"] = (10, words, {
    **{f"mma_k{k}_{a}_{b}": (mma_text(k, a, b), mma(k, a == "s8", b == "s8")) for k in (32, 16) for a in ("s8", "u8") for b in ("s8", "u8")},
    "ldmatrix_x4": (
        "mov.u32 %r50, sm; xor.b32 %r51, %r0, 9; shl.b32 %r51, %r51, 4; add.s32 %r51, %r50, %r51;\n"
        "st.shared.v4.u32 [%r51], {%s0,%s1,%s2,%s3}; bar.sync 0; shl.b32 %r52, %r0, 4; add.s32 %r52, %r50, %r52;\n"
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%d0,%d1,%d2,%d3}, [%r52];", ldmatrix),
})


def entry(name, text, inputs, outputs):
    text = text.replace("%s", "%r1").replace("%d", "%r3")
    # Sources are %r10 to %r19, destinations %r30 to %r33.
    loads = " ".join(f"ld.global.u32 %r1{n}, [%rd4+{128 * n}];" for n in range(inputs))
    stores = " ".join(f"st.global.u32 [%rd6+{128 * n}], %r3{n};" for n in range(outputs))
    return f"""
.visible .entry {name}(.param .u64 input, .param .u64 output)
{{
.reg .pred %p<4>; .reg .b32 %r<60>; .reg .b64 %rd<12>; .shared .align 128 .b8 sm[512];
ld.param.u64 %rd1, [input]; ld.param.u64 %rd2, [output]; mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x;
mad.lo.s32 %r2, %r1, {inputs * 32}, %r0; mul.wide.u32 %rd3, %r2, 4; add.s64 %rd4, %rd1, %rd3;
mad.lo.s32 %r2, %r1, {outputs * 32}, %r0; mul.wide.u32 %rd5, %r2, 4; add.s64 %rd6, %rd2, %rd5;
{loads}
{text}
{stores}
ret;
}}
"""


def main():
    here = Path(__file__).parent
    for family, (inputs, make, entries) in SETS.items():
        given = make(inputs * LANES * BLOCKS, len(family))
        ptx, lines = ".version 7.4\n.target sm_80\n.address_size 64\n", [f"input {inputs} " + "".join(f"{w:08x}" for w in given)]
        for name, (text, f) in entries.items():
            result = []
            for block in range(BLOCKS):
                base = block * inputs * LANES
                lanes = [[given[base + w * LANES + lane] for w in range(inputs)] for lane in range(LANES)]
                result.append(f(lanes))
            outputs = len(result[0][0])
            ptx += entry(name, text, inputs, outputs)
            flat = [lanes[lane][w] for lanes in result for w in range(outputs) for lane in range(LANES)]
            lines.append(f"{name} {outputs} " + "".join(f"{w:08x}" for w in flat))
        (here / f"{family}.ptx").write_text(ptx)
        (here / f"{family}.txt").write_text("\n".join(lines) + "\n")


main()
