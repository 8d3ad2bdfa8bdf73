// Implicit-GEMM convolution on 8-bit tensor cores.
//
// Rows are output pixels, columns output channels, k the taps' channels in pieces of 16 bytes.
// Input: pixels in the caller's layout (channels side by side, pixel stride a multiple of 16), gathered by
// cp.async into swizzled shared memory; taps outside the image are filled with zeros, which the bias of the
// pixel's border class accounts for. Weights: signed, in fragment order, streamed by cp.async unswizzled.
// Launch: grid (pixel tiles, channel tiles, groups), 256 threads, dynamic shared memory of 3 stages of
// 64 (BM + BN) bytes or of 4 BM (BN + 8), whichever is more.
// Waits for and signals nothing: launch order is the only order. Reference: reference/linear.rs `conv`.

DEV u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEV void cp16(u32 dst, u64 src, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
}
DEV void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEV void cp_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
DEV void ldmatrix4(u32* r, u32 a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
DEV void load_shared4(u32* r, u32 a) {
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
template <bool XS> DEV void mma(int* c, const u32* a, u32 b0, u32 b1) {
  if (XS)
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A shared row holds 64 bytes of k: four pieces, their places rotated so that 8 rows of one piece lie in 8
// different groups of four banks.
DEV u32 swizzle(u32 row, u32 piece) { return row * 64 + ((piece ^ (row >> 1 & 3)) << 4); }

template <bool XS, int WARPS_M, int WARPS_N, int MF, int NF> DEV void conv_tile(const Conv& p, u32 bx, u32 by, u32 bz) {
  constexpr int BM = WARPS_M * MF * 16, BN = WARPS_N * NF * 8, STAGES = 3;
  constexpr int ROWS = BM / 64, A_BYTES = BM * 64, B_BYTES = BN * 64, STAGE = A_BYTES + B_BYTES;
  constexpr int B_UNITS = BN * 4;
  static_assert(WARPS_M * WARPS_N == 8 && NF % 2 == 0 && BM % 64 == 0, "tile");
  extern __shared__ __align__(128) u8 shared[];
  const u32 s0 = shared_address(shared);
  const u32 tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const u32 wm = warp % WARPS_M * (MF * 16), wn = warp / WARPS_M * (NF * 8);
  const u32 m0 = bx * BM, n0 = by * BN, group = bz;
  const u32 steps = (p.pieces + 3) / 4;         // of 64 bytes of k
  const u32 halves = steps * 2;                 // of 32 bytes: as the weights are packed
  const u64 weights = p.w + (u64)group * p.padded * halves * 32 + (u64)(n0 >> 4) * halves * 512;
  const u32 blocks16 = (p.padded - n0 + 15) >> 4;  // of 16 channels that exist from n0 on

  // This thread gathers piece `tid & 3` of rows tid / 4 + 64 i: where their windows begin.
  int iy[ROWS], ix[ROWS];
  u64 base[ROWS];
  const u64 x = p.x + (u64)group * p.group_x;
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    u32 m = m0 + (tid >> 2) + 64 * i;
    u32 column = m % p.ow, rest = m / p.ow, row = rest % p.oh, image = rest / p.oh;
    iy[i] = m < p.pixels ? (int)(row * p.stride_y) - (int)p.pad_y : -0x10000000;
    ix[i] = (int)(column * p.stride_x) - (int)p.pad_x;
    base[i] = x + (u64)image * p.x_strides[0] + (i64)iy[i] * (i64)p.x_strides[1] + (i64)ix[i] * (i64)p.x_strides[2];
  }
  auto load = [&](u32 step, u32 stage) {
    u32 a = s0 + stage * STAGE, b = a + A_BYTES, piece = step * 4 + (tid & 3);
    int2 tap = piece < p.pieces ? ((const int2*)p.taps)[piece] : make_int2(0, 0x7fff7fff);
    int dy = tap.y >> 16, dx = (int)(s16_of(tap.y));
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      u32 row = (tid >> 2) + 64 * i;
      bool inside = (u32)(iy[i] + dy) < p.h && (u32)(ix[i] + dx) < p.width;
      cp16(a + swizzle(row, tid & 3), inside ? base[i] + (i64)tap.x : p.x, inside ? 16 : 0);
    }
    // Two halves of k lie side by side for each 16 channels: 1024 bytes.
#pragma unroll
    for (int u = 0; u < (B_UNITS + 255) / 256; u++) {
      u32 unit = tid + 256 * u, block = unit >> 6, within = unit & 63;
      if (B_UNITS % 256 == 0 || unit < B_UNITS) {
        bool exists = block < blocks16;
        u64 src = weights + ((u64)block * halves + step * 2) * 512 + within * 16;
        cp16(b + unit * 16, exists ? src : p.w, exists ? 16 : 0);
      }
    }
  };

  int acc[MF][NF][4];
#pragma unroll
  for (int i = 0; i < MF; i++)
#pragma unroll
    for (int j = 0; j < NF; j++)
#pragma unroll
      for (int k = 0; k < 4; k++) acc[i][j][k] = 0;

#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) load(s, s);
    cp_commit();
  }
  u32 read = 0, write = STAGES - 1;
  for (u32 step = 0; step < steps; step++) {
    cp_wait<STAGES - 2>();
    // ORDER: makes every thread's landed copies of this stage visible to all, and says that all have left the
    // stage which the next load overwrites.
    __syncthreads();
    if (step + STAGES - 1 < steps) load(step + STAGES - 1, write);
    cp_commit();
    u32 a0 = s0 + read * STAGE, b0 = a0 + A_BYTES;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      u32 a[MF][4], b[NF / 2][4];
#pragma unroll
      for (int i = 0; i < MF; i++) ldmatrix4(a[i], a0 + swizzle(wm + i * 16 + (lane & 15), half * 2 + (lane >> 4)));
#pragma unroll
      for (int j = 0; j < NF / 2; j++) load_shared4(b[j], b0 + ((wn >> 4) + j) * 1024 + half * 512 + lane * 16);
#pragma unroll
      for (int i = 0; i < MF; i++)
#pragma unroll
        for (int j = 0; j < NF; j++) mma<XS>(acc[i][j], a[i], b[j >> 1][(j & 1) * 2], b[j >> 1][(j & 1) * 2 + 1]);
    }
    read = read + 1 == STAGES ? 0 : read + 1;
    write = write + 1 == STAGES ? 0 : write + 1;
  }

  // Through shared memory, so that the rules are compiled once and results leave in words of four channels.
  // Rows are 8 words longer than the tile: 8 rows of one column lie in different groups of four banks.
  constexpr int LINE = BN + 8;
  int* results = (int*)shared;
  cp_wait<0>();
  // ORDER: all have read the last stage before results overwrite it.
  __syncthreads();
#pragma unroll
  for (int i = 0; i < MF; i++)
#pragma unroll
    for (int j = 0; j < NF; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        *(int2*)(results + (wm + i * 16 + h * 8 + (lane >> 2)) * LINE + wn + j * 8 + (lane & 3) * 2) =
            make_int2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
  // ORDER: results of all are visible to all.
  __syncthreads();

  const Epilogue& e = p.epilogue;
  const u32 first = group * p.channels;
#pragma unroll 1
  for (u32 unit = tid; unit < BM * BN / 4; unit += 256) {
    u32 local = unit / (BN / 4), m = m0 + local, c = n0 + unit % (BN / 4) * 4;
    if (m >= p.pixels || c >= p.channels) continue;
    u32 column = m % p.ow, rest = m / p.ow, row = rest % p.oh, image = rest / p.oh;
    u32 border = ((const u8*)p.classes)[row] * p.column_classes + ((const u8*)p.classes)[p.oh + column];
    const int* bias = (const int*)p.bias + (u64)(group * p.all_classes + border) * p.padded;
    int sum = p.w_zero ? ((const int*)p.sums)[(u64)group * p.pixels + m] : 0;
    u64 out = (u64)image * e.strides[0] + (u64)row * e.strides[2] + (u64)column * e.strides[3];
    bool together = e.mode == 2 && e.strides[1] == 1 && c + 4 <= p.channels && ((e.out + out + first + c) & 3) == 0;
    u32 packed = 0;
#pragma unroll 1
    for (u32 k = 0; k < 4 && c + k < p.channels; k++) {
      u32 ch = first + c + k;
      int v = results[local * LINE + (c - n0) + k] + bias[c + k];
      if (p.w_zero) v -= ((const int*)p.w_zero)[ch] * sum;
      if (together) packed |= (u32)(requant(e, v, scale_of(e, ch), image, ch, row, column) & 255) << (8 * k);
      else store_at(e, out + (u64)ch * e.strides[1], v, image, ch, row, column);
    }
    if (together) *(u32*)(e.out + out + first + c) = packed;
  }
}

#define CONV(name, xs, wm, wn, mf, nf) \
  KERNEL name(const __grid_constant__ Conv p) { \
    conv_tile<xs, wm, wn, mf, nf>(p, blockIdx.x, blockIdx.y, blockIdx.z);                 \
  }
// Tiles: pixels x channels; warp tiles 64x32, 32x32, 32x16, 16x32.
CONV(conv_s8_128x128, true, 2, 4, 4, 4)
CONV(conv_u8_128x128, false, 2, 4, 4, 4)
CONV(conv_s8_128x64, true, 4, 2, 2, 4)
CONV(conv_u8_128x64, false, 4, 2, 2, 4)
CONV(conv_s8_64x64, true, 2, 4, 2, 2)
CONV(conv_u8_64x64, false, 2, 4, 2, 2)
CONV(conv_s8_128x32, true, 8, 1, 1, 4)
CONV(conv_u8_128x32, false, 8, 1, 1, 4)
