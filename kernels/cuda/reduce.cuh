// Windows and lines. One result (pool) or one line a thread. Reference: reference/window.rs, shape.rs.

DEV int low_of(u32 is_signed) { return is_signed ? -128 : 0; }
DEV int high_of(u32 is_signed) { return is_signed ? 127 : 255; }

// Maxima of four neighbouring channels. Taps of a row are under way together.
DEV void pool_words(const Pool& p, u32 i) {
  u32 words = p.shape[1] >> 2, c = i % words * 4, r = i / words, column = r % p.shape[3], s = r / p.shape[3], row = s % p.shape[2], n = s / p.shape[2];
  const u64 x = p.x + (u64)n * p.x_strides[0] + c;
  const u32 low = p.kind ? 0x80808080 : 0;
  int best[4] = {low_of(p.kind), low_of(p.kind), low_of(p.kind), low_of(p.kind)};
  for (u32 ky = 0; ky < p.kh; ky++) {
    u32 yy = row * p.stride_y + ky * p.dilation_y - p.pads[0];
    if (yy >= p.h) continue;
#pragma unroll 4
    for (u32 kx = 0; kx < p.kw; kx++) {
      u32 xx = column * p.stride_x + kx * p.dilation_x - p.pads[1];
      u32 v = xx < p.width ? *(const u32*)(x + (u64)yy * p.x_strides[2] + (u64)xx * p.x_strides[3]) : low;
#pragma unroll
      for (u32 k = 0; k < 4; k++) {
        int b = byte_of(v, k, p.kind);
        best[k] = b > best[k] ? b : best[k];
      }
    }
  }
  u32 result = 0;
#pragma unroll
  for (u32 k = 0; k < 4; k++) result |= (u32)(best[k] & 255) << (8 * k);
  *(u32*)(p.y + (u64)n * p.y_strides[0] + c + (u64)row * p.y_strides[2] + (u64)column * p.y_strides[3]) = result;
}

BLOCK_KERNEL(pool, Pool) {
  u32 i = block * 256 + threadIdx.x;
  if (i >= p.total) return;
  if (p.words) return pool_words(p, i);
  // Channels side by side in memory are taken side by side by threads.
  u32 c = i % p.shape[1], r = i / p.shape[1], column = r % p.shape[3], s = r / p.shape[3], row = s % p.shape[2], n = s / p.shape[2];
  u64 x = (u64)n * p.x_strides[0] + (u64)c * p.x_strides[1];
  int best = low_of(p.kind);
  f32 best_f = __int_as_float(0xff800000), sum = 0.0f;
  u32 inside = 0, padded = 0;
  for (u32 ky = 0; ky < p.kh; ky++)
    for (u32 kx = 0; kx < p.kw; kx++) {
      u32 y0 = row * p.stride_y + ky * p.dilation_y, x0 = column * p.stride_x + kx * p.dilation_x;
      if (y0 < p.pads[0] + p.h + p.pads[2] && x0 < p.pads[1] + p.width + p.pads[3]) padded++;
      u32 yy = y0 - p.pads[0], xx = x0 - p.pads[1];
      if (yy >= p.h || xx >= p.width) continue;
      inside++;
      u64 at = x + (u64)yy * p.x_strides[2] + (u64)xx * p.x_strides[3];
      if (p.kind == 4) {
        f32 v = ((const f32*)p.x)[at];
        best_f = v > best_f ? v : best_f;
        sum += v;
      } else {
        int v = load8(p.x + at, p.kind);
        best = v > best ? v : best;
        sum += (f32)(v - p.x_zero) * p.x_scale;
      }
    }
  u64 y = (u64)n * p.y_strides[0] + (u64)c * p.y_strides[1] + (u64)row * p.y_strides[2] + (u64)column * p.y_strides[3];
  // 8-bit means count the whole window where padding counts, float means up to the end of the padded input.
  u32 count = !p.count_pads ? inside : p.kind == 4 ? padded : p.kh * p.kw;
  f32 mean = sum / (f32)(count > 1 ? count : 1);
  if (p.kind == 4) ((f32*)p.y)[y] = p.mean ? mean : best_f;
  else if (p.mean) ((s8*)p.y)[y] = (s8)round_to(mean / p.y_scale + (f32)p.y_zero, 0, low_of(p.y_signed), high_of(p.y_signed));
  else ((s8*)p.y)[y] = (s8)best;
}

#define LINE_START                                                                                 \
  u32 i = block * 256 + threadIdx.x;                                                          \
  if (i >= p.total) return;                                                                        \
  u64 x = 0, y = 0;                                                                                \
  WALK(i, p.shape, { x += (u64)k * p.x_strides[d]; y += (u64)k * p.y_strides[d]; })

// Element j of the line that starts at x.
DEV u64 inner_at(const Line& p, u64 x, u32 j) {
  WALK(j, p.inner, { x += (u64)k * p.inner_strides[d]; })
  return x;
}

BLOCK_KERNEL(mean, Line) {
  LINE_START
  if (p.rule == 0) {
    int sum = 0;
    for (u32 j = 0; j < p.length; j++) sum += load8(p.x + inner_at(p, x, j), p.kind) - p.x_zero;
    ((s8*)p.y)[y] = (s8)round_to((f32)sum * p.scale, p.y_zero, low_of(p.y_signed), high_of(p.y_signed));
    return;
  }
  f32 sum = 0.0f;
  for (u32 j = 0; j < p.length; j++) {
    u64 at = inner_at(p, x, j);
    sum += p.rule == 1 ? (f32)(load8(p.x + at, p.kind) - p.x_zero) * p.scale : ((const f32*)p.x)[at];
  }
  f32 mean = sum / (f32)p.length;
  if (p.rule == 2) ((f32*)p.y)[y] = mean;
  else ((s8*)p.y)[y] = (s8)round_to(mean / p.y_scale, p.y_zero, low_of(p.y_signed), high_of(p.y_signed));
}

BLOCK_KERNEL(softmax, Line) {
  LINE_START
  const f32* in = (const f32*)p.x;
  f32* out = (f32*)p.y;
  f32 max = __int_as_float(0xff800000), sum = 0.0f;
  for (u32 j = 0; j < p.length; j++) { f32 v = in[x + (u64)j * p.inner_strides[5]]; max = v > max ? v : max; }
  for (u32 j = 0; j < p.length; j++) {
    f32 e = exp_exact(in[x + (u64)j * p.inner_strides[5]] - max);
    out[y + (u64)j * p.y_inner] = e;
    sum += e;
  }
  for (u32 j = 0; j < p.length; j++) out[y + (u64)j * p.y_inner] = out[y + (u64)j * p.y_inner] / sum;
}

BLOCK_KERNEL(softmax8, Line) {
  LINE_START
  const f32* table = (const f32*)p.table;
  int max = low_of(p.kind);
  for (u32 j = 0; j < p.length; j++) { int v = load8(p.x + x + (u64)j * p.inner_strides[5], p.kind); max = v > max ? v : max; }
  int shift = high_of(p.kind) - max;
  f32 sum = 0.0f;
  for (u32 j = 0; j < p.length; j++) sum += table[(load8(p.x + x + (u64)j * p.inner_strides[5], p.kind) + shift) & 255];
  for (u32 j = 0; j < p.length; j++) {
    f32 e = table[(load8(p.x + x + (u64)j * p.inner_strides[5], p.kind) + shift) & 255];
    f32 scaled = sum == 0.0f ? 0.0f : (e * p.scale) / sum;
    ((s8*)p.y)[y + (u64)j * p.y_inner] = (s8)round_to(scaled, p.y_zero, low_of(p.y_signed), high_of(p.y_signed));
  }
}

BLOCK_KERNEL(arg_max, Line) {
  LINE_START
  u32 winner = 0;
  f32 best_f = 0.0f;
  i64 best = 0;
  for (u32 j = 0; j < p.length; j++) {
    u64 at = x + (u64)j * p.inner_strides[5];
    bool wins;
    if (p.kind == 4) {
      f32 v = ((const f32*)p.x)[at];
      wins = j == 0 || v > best_f || (p.rule && v == best_f);
      if (wins) best_f = v;
    } else {
      i64 v = p.kind == 3 ? ((const i64*)p.x)[at] : (i64)load_int(p.x, at, p.kind);
      wins = j == 0 || v > best || (p.rule && v == best);
      if (wins) best = v;
    }
    if (wins) winner = j;
  }
  ((i64*)p.y)[y] = (i64)winner;
}
