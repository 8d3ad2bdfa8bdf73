// Operations on one element at a time, over strided views. Grid: 256-thread blocks over `total`.
// Reference: reference/pointwise.rs and reference/shape.rs.

// Offsets of element `i` of a shape in up to four views.
#define WALK(i, shape, body)            \
  {                                     \
    u32 left = (i);                     \
    _Pragma("unroll") for (int d = 5; d >= 0; d--) { \
      u32 k = left % shape[d];          \
      left /= shape[d];                 \
      body                              \
    }                                   \
  }

BLOCK_KERNEL(table8, Map) {
  u32 i = block * 256 + threadIdx.x;
  if (i >= p.total) return;
  u64 x = 0, y = 0;
  WALK(i, p.shape, { x += (u64)k * p.x_strides[d]; y += (u64)k * p.y_strides[d]; })
  ((u8*)p.y)[y] = ((const u8*)p.table)[((const u8*)p.x)[x]];
}

BLOCK_KERNEL(table_f32, Map) {
  u32 i = block * 256 + threadIdx.x;
  if (i >= p.total) return;
  u64 x = 0, y = 0;
  WALK(i, p.shape, { x += (u64)k * p.x_strides[d]; y += (u64)k * p.y_strides[d]; })
  ((f32*)p.y)[y] = ((const f32*)p.table)[((const u8*)p.x)[x]];
}

BLOCK_KERNEL(unary, Map) {
  u32 i = block * 256 + threadIdx.x;
  if (i >= p.total) return;
  u64 xo = 0, yo = 0;
  WALK(i, p.shape, { xo += (u64)k * p.x_strides[d]; yo += (u64)k * p.y_strides[d]; })
  f32 x = ((const f32*)p.x)[xo], y;
  switch (p.from) {
    case 0: y = x < 0.0f ? 0.0f : x; break;
    case 1: y = clip(x, p.alpha, p.beta); break;
    case 2: y = sigmoid_exact(x); break;
    case 3: y = clip(p.alpha * x + p.beta, 0.0f, 1.0f); break;
    case 4: y = x * clip(x * (1.0f / 6.0f) + 0.5f, 0.0f, 1.0f); break;
    case 5: y = x >= 0.0f ? x : p.alpha * x; break;
    default: y = tanh_exact(x); break;
  }
  ((f32*)p.y)[yo] = y;
}

struct Pair { f32 scale; int zero; };

// A thread takes QUANTIZE_RUN neighbours. They often come from the host's memory, which is far: where they lie side by
// side they are asked for together.
BLOCK_KERNEL(quantize, Map) {
  const u32 first = (block * 256 + threadIdx.x) * QUANTIZE_RUN;
#pragma unroll 1
  for (u32 i = first; i < first + QUANTIZE_RUN && i < p.total; i++) {
    u64 x = 0, y = 0;
    u32 c = 0;
    WALK(i, p.shape, { x += (u64)k * p.x_strides[d]; y += (u64)k * p.y_strides[d]; c += k * p.c_strides[d]; })
    const u64 from = p.x + x * 4;
    if (p.shape[5] % QUANTIZE_RUN == 0 && p.x_strides[5] == 1 && (from & 15) == 0) {
      const float4 l = *(const float4*)from, h = *(const float4*)(from + 16);
      const f32 v[QUANTIZE_RUN] = {l.x, l.y, l.z, l.w, h.x, h.y, h.z, h.w};
#pragma unroll
      for (u32 k = 0; k < QUANTIZE_RUN; k++) {
        Pair q = ((const Pair*)p.table)[c + k * p.c_strides[5]];
        ((s8*)p.y)[y + (u64)k * p.y_strides[5]] = (s8)round_to(v[k] / q.scale, q.zero, p.lo, p.hi);
      }
      return;
    }
    Pair q = ((const Pair*)p.table)[c];
    ((s8*)p.y)[y] = (s8)round_to(*(const f32*)from / q.scale, q.zero, p.lo, p.hi);
  }
}

DEV int load_int(u64 p, u64 at, u32 kind) {
  return kind == 2 ? ((const int*)p)[at] : load8(p + at, kind);
}

BLOCK_KERNEL(dequantize, Map) {
  u32 i = block * 256 + threadIdx.x;
  if (i >= p.total) return;
  u64 x = 0, y = 0;
  u32 c = 0;
  WALK(i, p.shape, { x += (u64)k * p.x_strides[d]; y += (u64)k * p.y_strides[d]; c += k * p.c_strides[d]; })
  Pair q = ((const Pair*)p.table)[c];
  ((f32*)p.y)[y] = (f32)(load_int(p.x, x, p.from) - q.zero) * q.scale;
}

// As Rust's `as`: floats saturate and NaN is 0, integers keep their low bits.
DEV i64 long_of(f32 x) { return x != x ? 0 : __float2ll_rz(x); }

BLOCK_KERNEL(cast, Map) {
  u32 i = block * 256 + threadIdx.x;
  if (i >= p.total) return;
  u64 x = 0, y = 0;
  WALK(i, p.shape, { x += (u64)k * p.x_strides[d]; y += (u64)k * p.y_strides[d]; })
  if (p.from == 4 && p.to == 4) { ((f32*)p.y)[y] = ((const f32*)p.x)[x]; return; }
  i64 v = p.from == 4 ? long_of(((const f32*)p.x)[x]) : p.from == 3 ? ((const i64*)p.x)[x] : (i64)load_int(p.x, x, p.from);
  if (p.to == 4) ((f32*)p.y)[y] = p.from == 3 ? __ll2float_rn(v) : (f32)(int)v;
  else if (p.to == 3) ((i64*)p.y)[y] = v;
  else if (p.to == 2) ((int*)p.y)[y] = (int)v;
  else ((s8*)p.y)[y] = (s8)v;
}

BLOCK_KERNEL(zip, Zip) {
  u32 i = block * 256 + threadIdx.x;
  if (i >= p.total) return;
  u64 a = 0, b = 0, y = 0;
  WALK(i, p.shape, { a += (u64)k * p.a_strides[d]; b += (u64)k * p.b_strides[d]; y += (u64)k * p.y_strides[d]; })
  if (p.float_in) ((f32*)p.y)[y] = combine_float(p.rule.kind, ((const f32*)p.a)[a], ((const f32*)p.b)[b]);
  else ((s8*)p.y)[y] = (s8)combine(p.rule, load8(p.a + a, p.a_signed), load8(p.b + b, p.b_signed));
}

BLOCK_KERNEL(remap, Remap) {
  u32 i = block * 256 + threadIdx.x;
  if (i >= p.total) return;
  u64 x = 0, y = 0;
  bool outside = false;
  WALK(i, p.shape, {
    y += (u64)k * p.y_strides[d];
    int from = p.lists[d] ? ((const int*)p.lists[d])[k] : (int)k;
    outside = outside || from < 0;
    x += (u64)(u32)(from < 0 ? 0 : from) * p.x_strides[d];
  })
  if (p.size == 1) {
    u8 v = outside ? (u8)p.fill : ((const u8*)p.x)[x];
    ((u8*)p.y)[y] = p.table && !outside ? ((const u8*)p.table)[v] : v;
  } else if (p.size == 4) ((u32*)p.y)[y] = outside ? (u32)p.fill : ((const u32*)p.x)[x];
  else ((u64*)p.y)[y] = outside ? p.fill : ((const u64*)p.x)[x];
}

DEV f32 load_f32(u64 p, u64 at, u32 kind) { return kind == 4 ? ((const f32*)p)[at] : (f32)load8(p + at, kind); }

BLOCK_KERNEL(bilinear, Bilinear) {
  u32 i = block * 256 + threadIdx.x;
  if (i >= p.total) return;
  u32 column = i % p.shape[3], r = i / p.shape[3], row = r % p.shape[2], s = r / p.shape[2], c = s % p.shape[1], n = s / p.shape[1];
  int4 ry = ((const int4*)p.rows)[row], rx = ((const int4*)p.columns)[column];
  f32 fy = __int_as_float(ry.z), fx = __int_as_float(rx.z);
  u64 plane = (u64)n * p.x_strides[0] + (u64)c * p.x_strides[1];
  u64 top = plane + (u64)(u32)ry.x * p.x_strides[2], bottom = plane + (u64)(u32)ry.y * p.x_strides[2];
  u64 left = (u64)(u32)rx.x * p.x_strides[3], right = (u64)(u32)rx.y * p.x_strides[3];
  f32 gx = 1.0f - fx, gy = 1.0f - fy;
  f32 mixed = (gx * gy) * load_f32(p.x, top + left, p.kind) + (fx * gy) * load_f32(p.x, top + right, p.kind);
  mixed = mixed + (gx * fy) * load_f32(p.x, bottom + left, p.kind);
  mixed = mixed + (fx * fy) * load_f32(p.x, bottom + right, p.kind);
  u64 y = (u64)n * p.y_strides[0] + (u64)c * p.y_strides[1] + (u64)row * p.y_strides[2] + (u64)column * p.y_strides[3];
  if (p.kind == 4) ((f32*)p.y)[y] = mixed;
  else ((s8*)p.y)[y] = (s8)round_to(truncf(mixed), 0, p.kind ? -128 : 0, p.kind ? 127 : 255);
}
