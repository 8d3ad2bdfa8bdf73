// The element rules. Reference: pilotlight-plan's `op.rs` and `math.rs`.

DEV int s16_of(int v) { return (int)(short)v; }
DEV int load8(u64 p, u32 is_signed) { return is_signed ? (int)*(const s8*)p : (int)*(const u8*)p; }

// rint(x) + zero clamped to lo..hi, the clamp in float; NaN gives lo. math::round_to
DEV int round_to(f32 x, int zero, int lo, int hi) {
  return __float2int_rn(fminf(fmaxf(x, (f32)(lo - zero)), (f32)(hi - zero))) + zero;
}

DEV f32 combine_float(u32 kind, f32 a, f32 b) {
  return kind == 2 ? a + b : kind == 3 ? a - b : a * b;
}

// Two 8-bit values. pointwise::combine
DEV int add_rule(const Rule& r, int a, int b) {
  return round_to(__fmaf_rn((f32)a, r.f0, __fmaf_rn((f32)b, r.f1, r.f2)), 0, r.lo, r.hi);
}
DEV int other_rule(const Rule& r, int a, int b) {
  if (r.kind == 1) return round_to((f32)((a - r.za) * (b - r.zb)) * r.f0 + r.f1, 0, r.lo, r.hi);
  f32 v = combine_float(r.kind, (f32)(a - r.za) * r.f0, (f32)(b - r.zb) * r.f1);
  return round_to(v / r.f2, r.zy, r.lo, r.hi);
}
DEV int combine(const Rule& r, int a, int b) { return r.kind == 0 ? add_rule(r, a, b) : other_rule(r, a, b); }

// Byte k of a word, as a value.
DEV int byte_of(u32 word, u32 k, u32 is_signed) {
  u32 byte = word >> (8 * k);
  return is_signed ? (int)(s8)byte : (int)(u8)byte;
}

// The rules behind a requantisation, on four 8-bit values of neighbouring channels.
DEV u32 apply_posts(const Epilogue& e, u32 values, u32 count, u32 n, u32 c, u32 y, u32 x) {
  u32 is_signed = e.lo < 0;
#pragma unroll 1
  for (u32 k = 0; k < e.posts; k++) {
    const Post& p = ((const Post*)e.post)[k];
    u64 other = k == 0 ? e.other[0] : k == 1 ? e.other[1] : e.other[2];
    u32 next = 0;
    if (p.kind == 1) {
#pragma unroll
      for (u32 i = 0; i < 4; i++) next |= (u32)((const u8*)other)[values >> (8 * i) & 255] << (8 * i);
      is_signed = p.signed_in;
    } else {
      other += (u64)n * p.strides[0] + (u64)c * p.strides[1] + (u64)y * p.strides[2] + (u64)x * p.strides[3];
      u32 operands = 0;
      if (count == 4 && p.strides[1] == 1 && (other & 3) == 0) operands = *(const u32*)other;
      else
#pragma unroll 1
        for (u32 i = 0; i < count; i++) operands |= (u32)((const u8*)other)[(u64)i * p.strides[1]] << (8 * i);
      u32 a = p.value_is_a ? values : operands, b = p.value_is_a ? operands : values;
      u32 a_signed = p.value_is_a ? is_signed : p.signed_in, b_signed = p.value_is_a ? p.signed_in : is_signed;
      const Rule& r = p.rule;
      if (r.kind == 0) {
        // The usual one, side by side.
#pragma unroll
        for (u32 i = 0; i < 4; i++)
          next |= (u32)(add_rule(r, byte_of(a, i, a_signed), byte_of(b, i, b_signed)) & 255) << (8 * i);
      } else {
#pragma unroll 1
        for (u32 i = 0; i < 4; i++)
          next |= (u32)(other_rule(r, byte_of(a, i, a_signed), byte_of(b, i, b_signed)) & 255) << (8 * i);
      }
      is_signed = r.lo < 0;
    }
    values = next;
  }
  return values;
}

// Accumulators of N neighbouring channels, of which `count` exist, to results `at` elements into the output.
// Multipliers lie from `scale_at` on; four of them are read at once.
template <int N>
DEV void store_at(const Epilogue& e, u64 at, const int* v, u32 count, u32 scale_at, u32 n, u32 c, u32 y, u32 x) {
  u64 step = e.strides[1];
  if (e.mode == 0) {
#pragma unroll
    for (u32 i = 0; i < N; i++)
      if (i < count) ((int*)e.out)[at + i * step] = v[i];
    return;
  }
  f32 scale[N];
  if (N == 4) {
    float4 four = *(const float4*)((const f32*)e.scale + scale_at);
    scale[0] = four.x; scale[N > 1 ? 1 : 0] = four.y; scale[N > 2 ? 2 : 0] = four.z; scale[N > 3 ? 3 : 0] = four.w;
  } else scale[0] = ((const f32*)e.scale)[scale_at * e.scale_step];
  if (e.mode == 1) {
#pragma unroll
    for (u32 i = 0; i < N; i++)
      if (i < count) ((f32*)e.out)[at + i * step] = (f32)v[i] * scale[i];
    return;
  }
  u32 values = 0;
#pragma unroll
  for (u32 i = 0; i < N; i++) values |= (u32)(round_to((f32)v[i] * scale[i], e.zero, e.lo, e.hi) & 255) << (8 * i);
  if (e.posts) values = apply_posts(e, values, count, n, c, y, x);
  if (N == 4 && count == 4 && step == 1 && ((e.out + at) & 3) == 0) *(u32*)(e.out + at) = values;
  else
#pragma unroll 1
    for (u32 i = 0; i < count; i++) ((u8*)e.out)[at + i * step] = (u8)(values >> (8 * i));
}

template <int N>
DEV void store_results(const Epilogue& e, const int* v, u32 count, u32 scale_at, u32 n, u32 c, u32 y, u32 x) {
  u64 at = (u64)n * e.strides[0] + (u64)c * e.strides[1] + (u64)y * e.strides[2] + (u64)x * e.strides[3];
  store_at<N>(e, at, v, count, scale_at, n, c, y, x);
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
