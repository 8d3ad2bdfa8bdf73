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
  store_results<1>(p.epilogue, &acc, 1, c, image, c, row, column);
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

// Depthwise: a thread takes four neighbouring channels of one pixel. Four taps of four channels are transposed
// in registers, so that each channel's four taps meet its weights in one dp4a.
// Input and weights are signed here: unsigned input is flipped, and taps outside the image are 0 after that;
// the border class's bias accounts for them. Grid over pixels * padded / 4. Reference: linear.rs `conv`.
BLOCK_KERNEL(depthwise, Depthwise) {
  u32 words = p.padded >> 2;
  u64 at = (u64)block * 256 + threadIdx.x;
  if (at >= (u64)p.pixels * words) return;
  u32 word = (u32)(at % words), m = (u32)(at / words), c = word * 4;
  u32 column = m % p.ow, rest = m / p.ow, row = rest % p.oh, image = rest / p.oh;
  int iy = (int)(row * p.stride_y) - (int)p.pad_y, ix = (int)(column * p.stride_x) - (int)p.pad_x;
  u64 base = p.x + c + (u64)image * p.x_strides[0] + (i64)iy * (i64)p.x_strides[1] + (i64)ix * (i64)p.x_strides[2];
  int a0 = 0, a1 = 0, a2 = 0, a3 = 0, z0 = 0, z1 = 0, z2 = 0, z3 = 0;
  const u32 ones = 0x01010101;
  u64 taps = p.taps, weights = p.w + (u64)c * 4;
  // Four taps of four channels, and whether the weights' zero points matter.
  auto multiply = [&](const u32* v, bool zeros) {
    u32 l0 = permute(v[0], v[1], 0x5140), l1 = permute(v[2], v[3], 0x5140);
    u32 h0 = permute(v[0], v[1], 0x7362), h1 = permute(v[2], v[3], 0x7362);
    u32 c0 = permute(l0, l1, 0x5410), c1 = permute(l0, l1, 0x7632);
    u32 c2 = permute(h0, h1, 0x5410), c3 = permute(h0, h1, 0x7632);
    uint4 w = *(const uint4*)weights;
    a0 = dot4(c0, w.x, a0); a1 = dot4(c1, w.y, a1); a2 = dot4(c2, w.z, a2); a3 = dot4(c3, w.w, a3);
    if (zeros) { z0 = dot4(c0, ones, z0); z1 = dot4(c1, ones, z1); z2 = dot4(c2, ones, z2); z3 = dot4(c3, ones, z3); }
    taps += 32;
    weights += (u64)p.padded * 4;
  };
  // Most windows lie inside the image as a whole. Taps that fill the last four have weights of 0 and the first tap's
  // place; only sums of the input would see them.
  bool whole = iy >= 0 && ix >= 0 && iy + (p.reach >> 16) < p.h && ix + (p.reach & 0xffff) < p.width;
  if (whole && !p.w_zero) {
#pragma unroll 1
    for (u32 q = 0; q < p.quads; q++) {
      u32 v[4];
#pragma unroll
      for (int t = 0; t < 4; t += 2) {
        int4 two = ((const int4*)taps)[t / 2];
        v[t] = *(const u32*)(base + (i64)two.x) ^ p.flip;
        v[t + 1] = *(const u32*)(base + (i64)two.z) ^ p.flip;
      }
      multiply(v, false);
    }
  } else {
#pragma unroll 1
    for (u32 q = 0; q < p.quads; q++) {
      u32 v[4];
#pragma unroll
      for (int t = 0; t < 4; t++) {
        int2 tap = ((const int2*)taps)[t];
        bool inside = (u32)(iy + (tap.y >> 16)) < p.h && (u32)(ix + s16_of(tap.y)) < p.width;
        v[t] = inside ? *(const u32*)(base + (i64)tap.x) ^ p.flip : 0;
      }
      multiply(v, p.w_zero);
    }
  }
  u32 border = ((const u8*)p.classes)[row] * p.column_classes + ((const u8*)p.classes)[p.oh + column];
  int4 start = *(const int4*)((const int*)p.bias + (u64)border * p.padded + c);
  a0 += start.x; a1 += start.y; a2 += start.z; a3 += start.w;
  if (p.w_zero) {
    int4 zero = *(const int4*)((const int*)p.w_zero + c);
    a0 -= zero.x * z0; a1 -= zero.y * z1; a2 -= zero.z * z2; a3 -= zero.w * z3;
  }
  int v[4] = {a0, a1, a2, a3};
  u32 count = p.channels - c < 4 ? p.channels - c : 4;
  store_results<4>(p.epilogue, v, count, c, image, c, row, column);
}

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
  store_at<1>(p.epilogue, y, &acc, 1, column, 0, column, 0, 0);
}
