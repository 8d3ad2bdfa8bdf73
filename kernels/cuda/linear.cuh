// Convolutions and products that are not matrices of whole fragments.

// Any layout, one output element a thread. Reference: reference/linear.rs `conv`, `gemm`.
// Launch: grid of 256-thread blocks over pixels * channels.
BLOCK_KERNEL(direct, Direct) {
  u64 at = (u64)block * 256 + threadIdx.x;
  if (at >= (u64)p.pixels * p.channels) return;
  u32 c = (u32)(at % p.channels), m = (u32)(at / p.channels);
  u32 column = m % p.ow, rest = m / p.ow, row = rest % p.oh, image = rest / p.oh;
  u64 x = p.x + (u64)image * p.x_strides[0] + (u64)(c / p.group_channels * p.group_inputs) * p.x_strides[1];
  u64 w = p.w + (u64)c * p.kh * p.kw * p.group_inputs;
  int w_zero = ((const int*)p.w_zero)[c];
  int acc = p.bias ? ((const int*)p.bias)[c] : 0;
  for (u32 ky = 0; ky < p.kh; ky++)
    for (u32 kx = 0; kx < p.kw; kx++) {
      u32 y = row * p.stride_y + ky * p.dilation_y - p.pad_y, xx = column * p.stride_x + kx * p.dilation_x - p.pad_x;
      if (y >= p.h || xx >= p.width) continue;
      u64 px = x + (u64)y * p.x_strides[2] + (u64)xx * p.x_strides[3];
      u64 pw = w + (u64)(ky * p.kw + kx) * p.group_inputs;
      for (u32 ci = 0; ci < p.group_inputs; ci++)
        acc += (load8(px + (u64)ci * p.x_strides[1], p.x_signed) - p.x_zero) * (load8(pw + ci, p.w_signed) - w_zero);
    }
  store_result(p.epilogue, acc, c, Pixel{image, row, column});
}

// Sum of the input under each window, by group. Grid over groups * pixels.
BLOCK_KERNEL(window_sums, Sums) {
  u64 at = (u64)block * 256 + threadIdx.x;
  if (at >= (u64)p.groups * p.pixels) return;
  u32 m = (u32)(at % p.pixels), group = (u32)(at / p.pixels);
  u32 column = m % p.ow, rest = m / p.ow, row = rest % p.oh, image = rest / p.oh;
  u64 x = p.x + (u64)image * p.x_strides[0] + (u64)(group * p.group_inputs) * p.x_strides[1];
  int sum = 0;
  for (u32 ky = 0; ky < p.kh; ky++)
    for (u32 kx = 0; kx < p.kw; kx++) {
      u32 y = row * p.stride_y + ky * p.dilation_y - p.pad_y, xx = column * p.stride_x + kx * p.dilation_x - p.pad_x;
      if (y >= p.h || xx >= p.width) continue;
      u64 px = x + (u64)y * p.x_strides[2] + (u64)xx * p.x_strides[3];
      for (u32 ci = 0; ci < p.group_inputs; ci++) sum += load8(px + (u64)ci * p.x_strides[1], p.x_signed);
    }
  ((int*)p.out)[at] = sum;
}

DEV u32 permute(u32 a, u32 b, u32 s) { return __byte_perm(a, b, s); }
DEV int dot4(u32 a, u32 b, int c) {
  int d;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
DEV int dot4_unsigned(u32 a, u32 b, int c) {
  int d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// Depthwise: a thread takes four neighbouring channels of U neighbouring pixels, so that their loads are under way
// together and share taps and weights. Where that leaves multiprocessors without work one pixel a thread is better.
// Four taps of four channels are transposed in registers, so that each channel's four taps meet its weights in one dp4a.
// Weights are signed; taps outside the image are 0, and the border class's bias accounts for them.
// Reference: linear.rs `conv`.
// Grid over pixels / U * padded / 4.
template <int U> DEV void depthwise_pixels(const Depthwise& p, u32 block) {
  u32 words = p.padded >> 2;
  const u32 at = block * 256 + threadIdx.x, group = at / words, c = (at - group * words) * 4, m = group * U;
  if (group >= (p.pixels + U - 1) / U) return;
  const u32 have = p.pixels - m < U ? p.pixels - m : U;
  Pixel pixel[U];
  u64 base[U];
  int iy[U], ix[U], sum[U][4];
  {
    u32 column = m % p.ow, rest = m / p.ow, row = rest % p.oh, image = rest / p.oh;
#pragma unroll
    for (int u = 0; u < U; u++) {
      pixel[u] = {image, row, column};
      iy[u] = (int)(row * p.stride_y) - (int)p.pad_y, ix[u] = (int)(column * p.stride_x) - (int)p.pad_x;
      base[u] = p.x + c + (u64)image * p.x_strides[0] + (i64)iy[u] * (i64)p.x_strides[1] + (i64)ix[u] * (i64)p.x_strides[2];
      // The next pixel; behind the last one the last again.
      if (m + u + 1 < p.pixels && ++column == p.ow) {
        column = 0;
        if (++row == p.oh) row = 0, image++;
      }
#pragma unroll
      for (int i = 0; i < 4; i++) sum[u][i] = 0;
    }
  }
  u64 weights = p.w + (u64)c * 4, tap = p.taps;
  // Four taps of four channels of each pixel.
  auto multiply_by = [&](auto dot, const u32 (&v)[U][4], uint4 w) {
#pragma unroll
    for (int u = 0; u < U; u++) {
      u32 l0 = permute(v[u][0], v[u][1], 0x5140), l1 = permute(v[u][2], v[u][3], 0x5140);
      u32 h0 = permute(v[u][0], v[u][1], 0x7362), h1 = permute(v[u][2], v[u][3], 0x7362);
      u32 c0 = permute(l0, l1, 0x5410), c1 = permute(l0, l1, 0x7632);
      u32 c2 = permute(h0, h1, 0x5410), c3 = permute(h0, h1, 0x7632);
      sum[u][0] = dot(c0, w.x, sum[u][0]); sum[u][1] = dot(c1, w.y, sum[u][1]);
      sum[u][2] = dot(c2, w.z, sum[u][2]); sum[u][3] = dot(c3, w.w, sum[u][3]);
    }
  };
  auto multiply = [&](const u32 (&v)[U][4], uint4 w) {
    if (p.x_signed) multiply_by([](u32 a, u32 b, int c) { return dot4(a, b, c); }, v, w);
    else multiply_by([](u32 a, u32 b, int c) { return dot4_unsigned(a, b, c); }, v, w);
    tap += 32;
    weights += (u64)p.padded * 4;
  };
  // Most windows lie inside the image as a whole. Taps that fill the last four have weights of 0 and the first tap's
  // place; only sums of the input would see them.
  bool whole = !p.w_zero;
#pragma unroll
  for (int u = 0; u < U; u++)
    whole = whole && iy[u] >= 0 && ix[u] >= 0 && iy[u] + (p.reach >> 16) < p.h && ix[u] + (p.reach & 0xffff) < p.width;
  if (whole) {
#pragma unroll 1
    for (u32 q = 0; q < p.quads; q++) {
      const int4 first = *(const int4*)tap, second = *(const int4*)(tap + 16);
      const int offset[4] = {first.x, first.z, second.x, second.z};
      const uint4 w = *(const uint4*)weights;
      u32 v[U][4];
#pragma unroll
      for (int u = 0; u < U; u++)
#pragma unroll
        for (int t = 0; t < 4; t++) v[u][t] = *(const u32*)(base[u] + (i64)offset[t]);
      multiply(v, w);
    }
  } else {
    // Where weights have a zero point, first the sums under the windows, which it is multiplied with.
#pragma unroll 1
    for (int ones = p.w_zero ? 1 : 0; ones >= 0; ones--) {
      weights = p.w + (u64)c * 4, tap = p.taps;
#pragma unroll 1
      for (u32 q = 0; q < p.quads; q++) {
        const int4 first = *(const int4*)tap, second = *(const int4*)(tap + 16);
        const int offset[4] = {first.x, first.z, second.x, second.z}, place[4] = {first.y, first.w, second.y, second.w};
        uint4 w = *(const uint4*)weights;
        if (ones) w = make_uint4(0x01010101, 0x01010101, 0x01010101, 0x01010101);
        u32 v[U][4];
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
          for (int t = 0; t < 4; t++) {
            bool inside = (u32)(iy[u] + (place[t] >> 16)) < p.h && (u32)(ix[u] + s16_of(place[t])) < p.width;
            v[u][t] = inside ? *(const u32*)(base[u] + (i64)offset[t]) : 0;
          }
        multiply(v, w);
      }
      if (ones) {
        const int4 zero = *(const int4*)((const int*)p.w_zero + c);
#pragma unroll
        for (int u = 0; u < U; u++) {
          sum[u][0] *= -zero.x; sum[u][1] *= -zero.y; sum[u][2] *= -zero.z; sum[u][3] *= -zero.w;
        }
      }
    }
  }
  if (!p.classes) {
    Way way = way_of(p.epilogue, (const int*)p.bias + c, c, c, m, 1);
    int4 sums[U];
#pragma unroll
    for (int u = 0; u < U; u++) sums[u] = make_int4(sum[u][0], sum[u][1], sum[u][2], sum[u][3]);
    way_out<U>(p.epilogue, way, sums, have);
    return;
  }
#pragma unroll
  for (int u = 0; u < U; u++) {
    u32 border = ((const u8*)p.classes)[pixel[u].row] * p.column_classes + ((const u8*)p.classes)[p.oh + pixel[u].column];
    int4 start = *(const int4*)((const int*)p.bias + (u64)border * p.padded + c);
    sum[u][0] += start.x; sum[u][1] += start.y; sum[u][2] += start.z; sum[u][3] += start.w;
  }
  u32 count = p.channels - c < 4 ? p.channels - c : 4;
  store_pixels<U>(p.epilogue, scales_of(p.epilogue, c), sum, have, count, c, pixel);
}
BLOCK_KERNEL(depthwise, Depthwise) { depthwise_pixels<1>(p, block); }
BLOCK_KERNEL(depthwise4, Depthwise) { depthwise_pixels<4>(p, block); }

// Two computed matrices. Grid over total * columns. Reference: linear.rs `matmul`.
BLOCK_KERNEL(matmul, MatMul) {
  u64 at = (u64)block * 256 + threadIdx.x;
  if (at >= (u64)p.total * p.columns) return;
  u32 column = (u32)(at % p.columns), r = (u32)(at / p.columns), row = r % p.rows, rest = r / p.rows;
  u64 a = p.a + (u64)row * p.a_strides[0], b = p.b + (u64)column * p.b_strides[1];
  u64 y = (u64)row * p.y_strides[0] + (u64)column * p.y_strides[1];
#pragma unroll
  for (int d = 3; d >= 0; d--) {
    u32 i = rest % p.batch[d];
    rest /= p.batch[d];
    a += (u64)i * p.a_batch[d];
    b += (u64)i * p.b_batch[d];
    y += (u64)i * p.y_batch[d];
  }
  int a_zero = ((const int*)p.a_zero)[row * p.a_zero_step], b_zero = ((const int*)p.b_zero)[column * p.b_zero_step];
  int acc = 0;
  for (u32 k = 0; k < p.k; k++)
    acc += (load8(a + (u64)k * p.a_strides[1], p.a_signed) - a_zero) * (load8(b + (u64)k * p.b_strides[0], p.b_signed) - b_zero);
  store_at(p.epilogue, y, acc, column, column, Pixel{0, 0, 0});
}
