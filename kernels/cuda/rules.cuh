// The element rules. Reference: pilotlight-plan's `op.rs` and `math.rs`.

DEV int s16_of(int v) { return (int)(short)v; }
DEV int load8(u64 p, u32 is_signed) { return is_signed ? (int)*(const s8*)p : (int)*(const u8*)p; }

// rint(x) + zero clamped to lo..hi, the clamp in float; NaN gives lo. math::round_to
DEV int round_to(f32 x, int zero, int lo, int hi) {
  return __float2int_rn(fminf(fmaxf(x, (f32)(lo - zero)), (f32)(hi - zero))) + zero;
}

// What a rounding clamps between, as floats, and adds.
struct Ends { f32 lo, hi; u32 zero; };
DEV Ends ends_of(int lo, int hi, int zero) { return {(f32)(lo - zero), (f32)(hi - zero), (u32)zero}; }
// The same as `round_to`, its value in the lowest byte alone: a float of 1.5 * 2^23 and some ends in its whole part,
// rounded to even, and no conversion is issued.
DEV u32 round_byte(f32 x, const Ends& e) {
  return __float_as_uint(fminf(fmaxf(x, e.lo), e.hi) + 12582912.0f) + e.zero;
}
// Four lowest bytes side by side.
DEV u32 word_of(const u32 (&v)[4]) {
  return __byte_perm(__byte_perm(v[0], v[1], 0x0040), __byte_perm(v[2], v[3], 0x0040), 0x5410);
}

DEV f32 combine_float(u32 kind, f32 a, f32 b) {
  return kind == 2 ? a + b : kind == 3 ? a - b : a * b;
}

// Two 8-bit values. pointwise::combine
DEV f32 add_rule(const Rule& r, f32 a, f32 b) { return __fmaf_rn(a, r.f0, __fmaf_rn(b, r.f1, r.f2)); }
DEV int other_rule(const Rule& r, int a, int b) {
  if (r.kind == 1) return round_to((f32)((a - r.za) * (b - r.zb)) * r.f0 + r.f1, 0, r.lo, r.hi);
  f32 v = combine_float(r.kind, (f32)(a - r.za) * r.f0, (f32)(b - r.zb) * r.f1);
  return round_to(v / r.f2, r.zy, r.lo, r.hi);
}
DEV int combine(const Rule& r, int a, int b) {
  return r.kind == 0 ? round_to(add_rule(r, (f32)a, (f32)b), 0, r.lo, r.hi) : other_rule(r, a, b);
}

// Byte k of a word, as a value.
DEV int byte_of(u32 word, u32 k, u32 is_signed) {
  u32 byte = word >> (8 * k);
  return is_signed ? (int)(s8)byte : (int)(u8)byte;
}

// Bytes of words as floats: as the last byte of 2^23, less that. Signed ones are flipped to unsigned and lie 128 higher.
struct Bytes { u32 flip; f32 base; };
DEV Bytes bytes_of(u32 is_signed) { return is_signed ? Bytes{0x80808080, 8388736.0f} : Bytes{0, 8388608.0f}; }
DEV f32 float_of(u32 flipped, u32 k, f32 base) {
  return __uint_as_float(__byte_perm(flipped, 0x4b000000, 0x7540 | k)) - base;
}

struct Pixel { u32 image, row, column; };

// The rules behind a requantisation from the first to be applied on, on 8-bit values of `count` neighbouring channels from c on, a word for each of U
// pixels.
template <int U>
DEV void apply_posts(const Epilogue& e, u32 first, u32 (&values)[U], u32 count, u32 c, const Pixel (&at)[U]) {
  u32 is_signed = first ? ((const Post*)e.post)[first - 1].rule.lo < 0 : e.lo < 0;
#pragma unroll 1
  for (u32 k = first; k < e.posts; k++) {
    const Post& p = ((const Post*)e.post)[k];
    const u64 other = k == 0 ? e.other[0] : k == 1 ? e.other[1] : e.other[2];
    if (p.kind == 1) {
#pragma unroll
      for (int u = 0; u < U; u++) {
        u32 next = 0;
#pragma unroll
        for (u32 i = 0; i < 4; i++) next |= (u32)((const u8*)other)[values[u] >> (8 * i) & 255] << (8 * i);
        values[u] = next;
      }
      is_signed = p.signed_in;
      continue;
    }
    // All pixels' operands are under way before the first is used.
    u32 operands[U];
    u64 from[U];
#pragma unroll
    for (int u = 0; u < U; u++)
      from[u] = other + (u64)at[u].image * p.strides[0] + (u64)c * p.strides[1] + (u64)at[u].row * p.strides[2] + (u64)at[u].column * p.strides[3];
    if (count == 4 && p.strides[1] == 1 && ((other + c | p.strides[0] | p.strides[2] | p.strides[3]) & 3) == 0) {
#pragma unroll
      for (int u = 0; u < U; u++) operands[u] = *(const u32*)from[u];
    } else {
#pragma unroll
      for (int u = 0; u < U; u++) {
        operands[u] = 0;
#pragma unroll 1
        for (u32 i = 0; i < count; i++) operands[u] |= (u32)((const u8*)from[u])[(u64)i * p.strides[1]] << (8 * i);
      }
    }
    const Rule& r = p.rule;
    const u32 a_signed = p.value_is_a ? is_signed : p.signed_in, b_signed = p.value_is_a ? p.signed_in : is_signed;
    // The usual rule, side by side.
    const Bytes as = bytes_of(a_signed), bs = bytes_of(b_signed);
    const Ends ends = ends_of(r.lo, r.hi, 0);
#pragma unroll
    for (int u = 0; u < U; u++) {
      u32 a = p.value_is_a ? values[u] : operands[u], b = p.value_is_a ? operands[u] : values[u];
      if (r.kind == 0) {
        a ^= as.flip, b ^= bs.flip;
        u32 next[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) next[i] = round_byte(add_rule(r, float_of(a, i, as.base), float_of(b, i, bs.base)), ends);
        values[u] = word_of(next);
      } else {
        u32 next = 0;
#pragma unroll 1
        for (u32 i = 0; i < 4; i++)
          next |= (u32)(other_rule(r, byte_of(a, i, a_signed), byte_of(b, i, b_signed)) & 255) << (8 * i);
        values[u] = next;
      }
    }
    is_signed = r.lo < 0;
  }
}

// An accumulator to its result, `at` elements into the output.
DEV void store_at(const Epilogue& e, u64 at, int v, u32 scale_at, u32 c, const Pixel& pixel) {
  if (e.mode == 0) {
    ((int*)e.out)[at] = v;
    return;
  }
  f32 scaled = (f32)v * ((const f32*)e.scale)[scale_at * e.scale_step];
  if (e.mode == 1) {
    ((f32*)e.out)[at] = scaled;
    return;
  }
  u32 value[1] = {(u32)round_to(scaled, e.zero, e.lo, e.hi) & 255};
  const Pixel where[1] = {pixel};
  if (e.posts) apply_posts<1>(e, 0, value, 1, c, where);
  ((u8*)e.out)[at] = (u8)value[0];
}
DEV void store_result(const Epilogue& e, int v, u32 c, const Pixel& at) {
  store_at(e, (u64)at.image * e.strides[0] + (u64)c * e.strides[1] + (u64)at.row * e.strides[2] + (u64)at.column * e.strides[3], v, c, c, at);
}

// Four channels' multipliers, read at once.
DEV float4 scales_of(const Epilogue& e, u32 scale_at) {
  return e.mode ? *(const float4*)((const f32*)e.scale + scale_at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// Accumulators of four neighbouring channels from c on, of which `count` exist, and of the first `have` of U pixels.
template <int U>
DEV void store_pixels(const Epilogue& e, const float4& scale, const int (&v)[U][4], u32 have, u32 count, u32 c, const Pixel (&at)[U]) {
  const u64 step = e.strides[1];
  const f32 scales[4] = {scale.x, scale.y, scale.z, scale.w};
  u64 to[U];
#pragma unroll
  for (int u = 0; u < U; u++)
    to[u] = (u64)at[u].image * e.strides[0] + (u64)c * step + (u64)at[u].row * e.strides[2] + (u64)at[u].column * e.strides[3];
  if (e.mode != 2) {
#pragma unroll
    for (int u = 0; u < U; u++)
#pragma unroll
      for (u32 i = 0; i < 4; i++)
        if (u < have && i < count) {
          if (e.mode == 0) ((int*)e.out)[to[u] + i * step] = v[u][i];
          else ((f32*)e.out)[to[u] + i * step] = (f32)v[u][i] * scales[i];
        }
    return;
  }
  const Ends ends = ends_of(e.lo, e.hi, e.zero);
  u32 values[U];
#pragma unroll
  for (int u = 0; u < U; u++) {
    u32 bytes[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) bytes[i] = round_byte((f32)v[u][i] * scales[i], ends);
    values[u] = word_of(bytes);
  }
  if (e.posts) apply_posts<U>(e, 0, values, count, c, at);
  if (count == 4 && step == 1 && ((e.out + c | e.strides[0] | e.strides[2] | e.strides[3]) & 3) == 0) {
#pragma unroll
    for (int u = 0; u < U; u++)
      if (u < have) *(u32*)(e.out + to[u]) = values[u];
    return;
  }
#pragma unroll
  for (int u = 0; u < U; u++)
#pragma unroll 1
    for (u32 i = 0; u < have && i < count; i++) ((u8*)e.out)[to[u] + i * step] = (u8)(values[u] >> (8 * i));
}

// The way out that most convolutions take (`Conv::plain`): four channels side by side, pixel behind pixel, one bias for
// all pixels. What a thread keeps for its pixels:
struct Way {
  float4 scale;
  int4 bias;
  Ends ends;
  u32 c, m, lines;  // the next pixel, and from one to the next
  u64 out, out_step;
  // The first post adds another tensor, as residual connections do.
  u32 add;
  u64 other, other_step;
  f32 value_base;
  Bytes bytes;
  Ends sum_ends;
  f32 f0, f1, f2;
  u32 value_is_a;
};
DEV Way way_of(const Epilogue& e, const int* bias, u32 scale_at, u32 c, u32 m, u32 lines) {
  Way w = {};  // what stays undefined would hold registers from the kernel's start on
  w.scale = scales_of(e, scale_at);
  w.bias = *(const int4*)bias;
  w.ends = ends_of(e.lo, e.hi, e.zero);
  w.c = c, w.m = m, w.lines = lines;
  w.out = e.out + c + (u64)m * e.strides[3];
  w.out_step = (u64)lines * e.strides[3];
  const Post& first = *(const Post*)e.post;
  w.add = e.posts && first.kind == 2;
  if (w.add) {
    w.other = e.other[0] + c + (u64)m * first.strides[3];
    w.other_step = (u64)lines * first.strides[3];
    w.value_base = 12582912.0f - (f32)e.zero;
    w.bytes = bytes_of(first.signed_in);
    w.sum_ends = ends_of(first.rule.lo, first.rule.hi, 0);
    w.f0 = first.rule.f0, w.f1 = first.rule.f1, w.f2 = first.rule.f2;
    w.value_is_a = first.value_is_a;
  }
  return w;
}
// The next pixels, of which the first `have` exist.
template <int U> DEV void way_out(const Epilogue& e, Way& w, const int4 (&sums)[U], u32 have = U) {
  const f32 scales[4] = {w.scale.x, w.scale.y, w.scale.z, w.scale.w};
  u32 values[U];
  f32 x[U][4];
#pragma unroll
  for (int u = 0; u < U; u++) {
    const int v[4] = {sums[u].x + w.bias.x, sums[u].y + w.bias.y, sums[u].z + w.bias.z, sums[u].w + w.bias.w};
#pragma unroll
    for (int i = 0; i < 4; i++) x[u][i] = fminf(fmaxf((f32)v[i] * scales[i], w.ends.lo), w.ends.hi) + 12582912.0f;
  }
  if (w.add) {
    u32 other[U];
#pragma unroll
    for (int u = 0; u < U; u++, w.other += w.other_step) other[u] = u < have ? *(const u32*)w.other ^ w.bytes.flip : 0;
    auto add = [&](auto rule) {
#pragma unroll
      for (int u = 0; u < U; u++) {
        u32 bytes[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
          bytes[i] = round_byte(rule(x[u][i] - w.value_base, float_of(other[u], i, w.bytes.base)), w.sum_ends);
        values[u] = word_of(bytes);
      }
    };
    if (w.value_is_a) add([&](f32 value, f32 more) { return __fmaf_rn(value, w.f0, __fmaf_rn(more, w.f1, w.f2)); });
    else add([&](f32 value, f32 more) { return __fmaf_rn(more, w.f0, __fmaf_rn(value, w.f1, w.f2)); });
  } else {
#pragma unroll
    for (int u = 0; u < U; u++) {
      u32 bytes[4];
#pragma unroll
      for (int i = 0; i < 4; i++) bytes[i] = __float_as_uint(x[u][i]) + w.ends.zero;
      values[u] = word_of(bytes);
    }
  }
  if (e.posts > w.add) {
    Pixel at[U];
#pragma unroll
    for (int u = 0; u < U; u++) at[u] = {0, 0, w.m + (u < have ? u * w.lines : 0)};
    apply_posts<U>(e, w.add, values, 4, w.c, at);
  }
  w.m += U * w.lines;
#pragma unroll
  for (int u = 0; u < U; u++, w.out += w.out_step)
    if (u < have) *(u32*)w.out = values[u];
}

// e^x, 1/(1+e^-x), tanh: math.rs, operation by operation.
DEV f32 pow2i(int n) { return __int_as_float((n + 127) << 23); }
DEV f32 exp_exact(f32 x) {
  if (x != x) return x;
  if (x > 88.72284f) return __int_as_float(0x7f800000);
  if (x < -103.97208f) return 0.0f;
  f32 n = rintf(x * 1.44269504088896340736f);
  f32 r = x - n * 0.693359375f;
  r = r - n * -2.1219444e-4f;
  f32 p = 1.98756915e-4f;
  p = p * r + 1.39819995e-3f;
  p = p * r + 8.33345191e-3f;
  p = p * r + 4.16657959e-2f;
  p = p * r + 1.66666655e-1f;
  p = p * r + 5.00000012e-1f;
  f32 e = (p * (r * r) + r) + 1.0f;
  int i = __float2int_rz(n), half = i / 2;
  return e * pow2i(half) * pow2i(i - half);
}
DEV f32 clip(f32 x, f32 lo, f32 hi) {
  x = x < lo ? lo : x;
  return x > hi ? hi : x;
}

// Rational functions; each Horner step is one fused multiply-add.
DEV f32 sigmoid_exact(f32 x) {
  x = clip(x, -18.0f, 18.0f);
  f32 z = x * x, p = 4.37031012579801e-11f, q = 6.10247389755681e-13f;
  p = __fmaf_rn(p, z, 1.15627324459942e-7f);
  p = __fmaf_rn(p, z, 6.08574864600143e-5f);
  p = __fmaf_rn(p, z, 8.51377133304701e-3f);
  p = __fmaf_rn(p, z, 2.48287947061529e-1f);
  q = __fmaf_rn(q, z, 5.76102136993427e-9f);
  q = __fmaf_rn(q, z, 6.29106785017040e-6f);
  q = __fmaf_rn(q, z, 1.70198817374094e-3f);
  q = __fmaf_rn(q, z, 1.16817656904453e-1f);
  q = __fmaf_rn(q, z, 9.93151921023180e-1f);
  f32 y = x * p / q + 0.5f;
  return y < 0.0f ? 0.0f : y;
}
DEV f32 tanh_exact(f32 x) {
  x = clip(x, -9.0f, 9.0f);
  f32 z = x * x, p = -2.76076847742355e-16f, q = 1.19825839466702e-6f;
  p = __fmaf_rn(p, z, 2.00018790482477e-13f);
  p = __fmaf_rn(p, z, -8.60467152213735e-11f);
  p = __fmaf_rn(p, z, 5.12229709037114e-8f);
  p = __fmaf_rn(p, z, 1.48572235717979e-5f);
  p = __fmaf_rn(p, z, 6.37261928875436e-4f);
  p = __fmaf_rn(p, z, 4.89352455891786e-3f);
  q = __fmaf_rn(q, z, 1.18534705686654e-4f);
  q = __fmaf_rn(q, z, 2.26843463243900e-3f);
  q = __fmaf_rn(q, z, 4.89352518554385e-3f);
  return x * p / q;
}
