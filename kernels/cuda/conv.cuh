// Implicit-GEMM convolution on 8-bit tensor cores.
//
// Rows are output channels in fragments of 16, columns output pixels in fragments of 8, k the taps' channels in
// pieces of 16 bytes. Fragments outside the tile, the channels or the pixels are skipped, and so is a missing
// second piece of k: they are not issued.
// Input: pixels in the caller's layout (channels side by side, pixel stride a multiple of 16), gathered by
// cp.async into swizzled shared memory; taps outside the image are filled with zeros, which the bias of the
// pixel's border class accounts for. With up to 4 channels a pixel (GATHER), words of two pixels are put together
// in registers instead, so that k holds no filler. Weights: signed, in fragment order, streamed by cp.async.
// Launch: grid (pixel tiles, channel tiles, groups * splits), 256 threads, dynamic shared memory as `Tile::shared`
// in src/lib.rs says. Neighbouring blocks share a weight tile: it comes from DRAM once and from L2 after that.
// With splits above 1 each takes a range of k and leaves its sums in `partial`; `finish` adds them, exactly.
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
DEV void store_shared4(u32 a, const u32* r) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(a), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}
// 32 of k, and 16: the first halves of the same registers.
#define MMA(xs)                                                                                               \
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8." xs ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define MMA_NARROW(xs)                                                                                        \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8." xs ".s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};" \
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                               \
               : "r"(a[0]), "r"(a[1]), "r"(b[0]))
template <bool XS, bool NARROW> DEV void mma(int* c, const u32* a, const u32* b) {
  if (NARROW && XS) MMA_NARROW("s8");
  else if (NARROW) MMA_NARROW("u8");
  else if (XS) MMA("s8");
  else MMA("u8");
}

// The first mf x nf fragments; those of the weights lie A_STEP bytes apart.
template <bool XS, bool NARROW, int A_STEP, int MF, int NF>
DEV void multiply_some(int (&acc)[MF][NF][4], u32 a_at, u32 (&b)[NF][2], u32 mf, u32 nf) {
#pragma unroll
  for (int i = 0; i < MF; i++)
    if (i < mf) {
      u32 a[4];
      load_shared4(a, a_at + i * A_STEP);
#pragma unroll
      for (int j = 0; j < NF; j++)
        if (j < nf) mma<XS, NARROW>(acc[i][j], a, b[j]);
    }
}

// n / d for n < 2^31 by the multiplier and shift that lowering found for d.
DEV u32 divide(u32 n, const u32* d) { return (__umulhi(n, d[0]) + n) >> d[1]; }

DEV Pixel pixel_of(const Conv& p, u32 m) {
  u32 rest = divide(m, p.divide_ow), image = divide(rest, p.divide_oh);
  return {image, rest - image * p.oh, m - rest * p.ow};
}

// From the sums of four channels, of the first `have` of U pixels m, to stored results. Pixels that do not exist are
// given as others, whose values are read and not stored.
template <int U>
DEV void conv_results(const Conv& p, const float4& scale, u32 group, const u32 (&m)[U], u32 have, u32 c, const int4 (&sum)[U]) {
  Pixel at[U];
  int4 bias[U];
  int v[U][4];
#pragma unroll
  for (int u = 0; u < U; u++) {
    at[u] = p.flat ? Pixel{0, 0, m[u]} : pixel_of(p, m[u]);
    u32 border = 0;
    if (!p.flat) border = ((const u8*)p.classes)[at[u].row] * p.column_classes + ((const u8*)p.classes)[p.oh + at[u].column];
    bias[u] = *(const int4*)((const int*)p.bias + (u64)(group * p.all_classes + border) * p.padded + c);
  }
#pragma unroll
  for (int u = 0; u < U; u++) {
    v[u][0] = sum[u].x + bias[u].x; v[u][1] = sum[u].y + bias[u].y; v[u][2] = sum[u].z + bias[u].z; v[u][3] = sum[u].w + bias[u].w;
  }
  if (p.w_zero) {
    int4 zero = *(const int4*)((const int*)p.w_zero + group * p.padded + c);
#pragma unroll
    for (int u = 0; u < U; u++) {
      int window = ((const int*)p.sums)[(u64)group * p.pixels + m[u]];
      v[u][0] -= zero.x * window; v[u][1] -= zero.y * window; v[u][2] -= zero.z * window; v[u][3] -= zero.w * window;
    }
  }
  u32 count = p.channels - c < 4 ? p.channels - c : 4;
  store_pixels<U>(p.epilogue, scale, v, have, count, group * p.channels + c, at);
}

// Warps: WM x WN over channels and pixels, WK over k. A warp's tile: MF x NF fragments, interleaved with the other
// warps' so that skipped ones are shared out evenly.
template <bool XS, bool GATHER, int WM, int WN, int WK, int MF, int NF>
DEV void conv_tile(const Conv& p, u32 bx, u32 by, u32 bz) {
  constexpr int BM = WM * MF * 16, BN = WN * NF * 8, STAGES = 3;
  constexpr int HALVES = WK == 4 ? 4 : 2, PIECES = HALVES * 2, ROW = PIECES * 16;  // of a step of k
  constexpr int A_BYTES = BM * ROW, B_BYTES = BN * ROW, STAGE = A_BYTES + B_BYTES;
  constexpr int ROWS = BN * PIECES / 256, A_UNITS = BM / 16 * HALVES * 32;
  static_assert(WM * WN * WK == 8 && NF % 2 == 0 && BN * PIECES % 256 == 0, "tile");
  extern __shared__ __align__(128) u8 shared[];
  const u32 s0 = shared_address(shared);
  const u32 tid = threadIdx.x, lane = tid & 31;
  const u32 warp = __shfl_sync(~0u, tid >> 5, 0);  // the assembler sees that a warp has one
  const u32 wm = warp % WM, wn = warp / WM % WN, wk = warp / (WM * WN);
  const u32 group = bz / p.splits, split = bz % p.splits;
  const u32 m0 = bx * p.tile_pixels, c0 = by * p.tile_channels;
  const u32 halves = (p.pieces + 1) / 2;
  const u32 all_steps = (p.pieces + PIECES - 1) / PIECES;
  const u32 first = split * p.split_steps, last = first + p.split_steps < all_steps ? first + p.split_steps : all_steps;
  const u64 weights = p.w + ((u64)group * (p.padded >> 4) + (c0 >> 4)) * halves * 512;
  // Fragments of the tile that exist, and this warp's.
  const u32 pixels = p.pixels - m0 < p.tile_pixels ? p.pixels - m0 : p.tile_pixels;
  const u32 rows = p.padded - c0 < p.tile_channels ? p.padded - c0 : p.tile_channels;
  const u32 fm = rows >> 4, fn = (pixels + 7) >> 3, pairs = fn >> 1;
  const u32 mf = (fm + WM - 1 - wm) / WM;
  const u32 nf = (pairs + WN - 1 - wn) / WN * 2 + ((fn & 1) && pairs % WN == wn ? 1 : 0);

  // This thread gathers piece `tid % PIECES` of pixels tid / PIECES + (256 / PIECES) i: where their windows begin.
  const u32 piece0 = tid % PIECES, pixel0 = tid / PIECES;
  // Row and column are 16 bits each and 0x4000 too high, so that neither turns negative and taps are added at once.
  u32 place[ROWS];
  int base[ROWS];
  const u64 x = p.x + (u64)group * p.group_x;
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    u32 local = pixel0 + 256 / PIECES * i;
    Pixel at = pixel_of(p, local < pixels ? m0 + local : m0);
    int iy = (int)(at.row * p.stride_y) - (int)p.pad_y, ix = (int)(at.column * p.stride_x) - (int)p.pad_x;
    place[i] = local < pixels ? (u32)(iy + 0x4000) << 16 | (u32)(ix + 0x4000) : 0x80008000;
    base[i] = (int)at.image * (int)p.x_strides[0] + iy * (int)p.x_strides[1] + ix * (int)p.x_strides[2];
  }
  // A row's pieces change places so that 8 rows of one piece lie in 8 different groups of four banks.
  auto swizzle = [](u32 row, u32 piece) { return row * ROW + ((piece ^ (PIECES == 8 ? row & 7 : row >> 1 & 3)) << 4); };
  auto inside = [&](int i, int tap) {
    u32 at = place[i] + (u32)tap;
    return (at >> 16) - 0x4000 < p.h && (at & 0xffff) - 0x4000 < p.width;
  };
  const int2 nowhere = make_int2(0, 0x7fff7fff);
  auto tap_of = [&](u32 step) {
    u32 piece = step * PIECES + piece0;
    return !GATHER && piece < p.pieces ? ((const int2*)p.taps)[piece] : nowhere;
  };
  int2 tap = tap_of(first);  // of the step that is loaded next
  auto load = [&](u32 step, u32 stage) {
    u32 a = s0 + stage * STAGE, b = a + A_BYTES, piece = step * PIECES + piece0;
    if (GATHER) {
      // Each word of k: two taps' words, and which of their eight bytes to take.
      if (piece < p.pieces) {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
          u32 word[4];
#pragma unroll
          for (int k = 0; k < 4; k++) {
            int4 two = ((const int4*)p.taps)[(piece * 4 + k) * 2];
            u32 select = ((const u32*)p.taps)[(piece * 4 + k) * 8 + 4];
            u32 l = inside(i, two.y) ? *(const u32*)(x + (i64)(base[i] + two.x)) : 0;
            u32 h = inside(i, two.w) ? *(const u32*)(x + (i64)(base[i] + two.z)) : 0;
            word[k] = __byte_perm(l, h, select);
          }
          store_shared4(b + swizzle(pixel0 + 256 / PIECES * i, piece0), word);
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        bool in = inside(i, tap.y);
        if (pixel0 + 256 / PIECES * i < pixels)
          cp16(b + swizzle(pixel0 + 256 / PIECES * i, piece0), in ? x + (i64)(base[i] + tap.x) : p.x, in ? 16 : 0);
      }
      tap = tap_of(step + 1);
    }
    // The halves of a step lie side by side for each 16 channels.
#pragma unroll
    for (int u = 0; u < (A_UNITS + 255) / 256; u++) {
      u32 unit = tid + 256 * u, block = unit / (HALVES * 32), half = step * HALVES + unit / 32 % HALVES;
      if (A_UNITS % 256 == 0 || unit < A_UNITS) {
        if (block < fm && half < halves) cp16(a + unit * 16, weights + ((u64)block * halves + half) * 512 + (unit & 31) * 16, 16);
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

  const u32 b_row = (lane >> 4) * 8 + (lane & 7), b_piece = lane >> 3 & 1;
  auto load_b = [&](u32 (*b)[2], u32 from, u32 half, int jj) {
    ldmatrix4(b[jj * 2], from + swizzle((jj * WN + wn) * 16 + b_row, half * 2 + b_piece));
  };
  // One step from shared memory: of a whole tile and whole pieces, and with everything checked.
  auto whole = [&](u32 a0) {
#pragma unroll
    for (int h = 0; h < HALVES / WK; h++) {
      u32 half = wk * (HALVES / WK) + h, b[NF][2];
#pragma unroll
      for (int jj = 0; jj < NF / 2; jj++) load_b(b, a0 + A_BYTES, half, jj);
#pragma unroll
      for (int i = 0; i < MF; i++) {
        u32 a[4];
        load_shared4(a, a0 + ((i * WM + wm) * HALVES + half) * 512 + lane * 16);
#pragma unroll
        for (int j = 0; j < NF; j++) mma<XS, false>(acc[i][j], a, b[j]);
      }
    }
  };
  auto edge = [&](u32 a0, u32 step) {
#pragma unroll 1
    for (int h = 0; h < HALVES / WK; h++) {
      u32 half = wk * (HALVES / WK) + h, b[NF][2];
      u32 piece = (step * HALVES + half) * 2;
      if (piece >= p.pieces) break;
#pragma unroll
      for (int jj = 0; jj < NF / 2; jj++)
        if (jj * 2 < nf) load_b(b, a0 + A_BYTES, half, jj);
      u32 a = a0 + (wm * HALVES + half) * 512 + lane * 16;
      if (piece + 1 == p.pieces) multiply_some<XS, true, WM * HALVES * 512>(acc, a, b, mf, nf);
      else multiply_some<XS, false, WM * HALVES * 512>(acc, a, b, mf, nf);
    }
  };

#pragma unroll 1
  for (u32 s = 0; s < STAGES - 1; s++) {
    if (first + s < last) load(first + s, s);
    cp_commit();
  }
  u32 read = 0, write = STAGES - 1, step = first;
  auto next = [&]() {
    cp_wait<STAGES - 2>();
    // ORDER: makes every thread's landed copies of this stage visible to all, and says that all have left the
    // stage which the next load overwrites.
    __syncthreads();
    if (step + STAGES - 1 < last) load(step + STAGES - 1, write);
    cp_commit();
    u32 a0 = s0 + read * STAGE;
    read = read + 1 == STAGES ? 0 : read + 1;
    write = write + 1 == STAGES ? 0 : write + 1;
    return a0;
  };
  if (!GATHER && fm == BM / 16 && fn == BN / 8)
    for (u32 end = last < p.pieces / PIECES ? last : p.pieces / PIECES; step < end; step++) whole(next());
  for (; step < last; step++) edge(next(), step);

  // Through shared memory, so that the rules are compiled once and results leave in words of four channels.
  // A pixel's line is 4 words longer than the tile: 8 channels of 4 pairs of pixels lie in 32 different banks.
  // Wide tiles go in two passes.
  constexpr int LINE = BM + 4, PASSES = BN > 128 ? BN / 128 : 1, SPAN = BN / PASSES;
  int* results = (int*)shared;
  int* mine = results + (wk * SPAN + wn * 16 + (lane & 3) * 2) * LINE + wm * 16 + (lane >> 2);
  cp_wait<0>();
#pragma unroll
  for (int pass = 0; pass < PASSES; pass++) {
    // ORDER: all have read the last stage, or the last pass's results, before these overwrite them.
    __syncthreads();
#pragma unroll
    for (int i = 0; i < MF; i++)
#pragma unroll
      for (int j = NF / PASSES * pass; j < NF / PASSES * (pass + 1); j++)
#pragma unroll
        for (int k = 0; k < 4; k++)
          mine[(j / 2 * WN * 16 + j % 2 * 8 + (k & 1) - pass * SPAN) * LINE + i * WM * 16 + (k >> 1) * 8] = acc[i][j][k];
    // ORDER: results of all are visible to all.
    __syncthreads();

    // A thread keeps its four channels and takes U pixels at a time: what they need is under way together.
    constexpr int U = 2;
    const u32 fours = rows >> 2, here = pixels < (pass + 1) * SPAN ? pixels : (pass + 1) * SPAN;
    const u32 lines = 256 / fours, c = tid % fours * 4, step_pixels = lines * U;
    if (tid < lines * fours && c0 + c < p.channels) {
      const float4 scale = p.partial ? make_float4(0.0f, 0.0f, 0.0f, 0.0f) : scales_of(p.epilogue, group * p.padded + c0 + c);
#pragma unroll 1
      for (u32 local = pass * SPAN + tid / fours; local < here; local += step_pixels) {
        u32 m[U], have = 0;
        int4 sum[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
          u32 at = local + u * lines;
          if (at < here) have = u + 1;
          else at = local;
          m[u] = m0 + at;
          sum[u] = *(const int4*)(results + (at - pass * SPAN) * LINE + c);
#pragma unroll
          for (int k = 1; k < WK; k++) {
            int4 more = *(const int4*)(results + (k * SPAN + at - pass * SPAN) * LINE + c);
            sum[u].x += more.x; sum[u].y += more.y; sum[u].z += more.z; sum[u].w += more.w;
          }
        }
        if (p.partial) {
#pragma unroll
          for (int u = 0; u < U; u++)
            if (u < have) *(int4*)((int*)p.partial + ((u64)(split * p.groups + group) * p.pixels + m[u]) * p.padded + c0 + c) = sum[u];
        } else conv_results<U>(p, scale, group, m, have, c0 + c, sum);
      }
    }
  }
}

#define CONV(name, xs, gather, wm, wn, wk, mf, nf) \
  KERNEL name(const __grid_constant__ Conv p) { \
    conv_tile<xs, gather, wm, wn, wk, mf, nf>(p, blockIdx.x, blockIdx.y, blockIdx.z); \
  }
// Tiles: channels x pixels at most; warp tiles 64x64, 64x32, 64x32. A tile of half as many channels or pixels has the
// next smaller warp tile. src/lib.rs holds the same list.
CONV(conv_s8_128x256, true, false, 2, 4, 1, 4, 8)
CONV(conv_u8_128x256, false, false, 2, 4, 1, 4, 8)
CONV(conv_s8_64x64, true, false, 1, 2, 4, 4, 4)
CONV(conv_u8_64x64, false, false, 1, 2, 4, 4, 4)
CONV(conv_s8_gather, true, true, 1, 4, 2, 4, 4)
CONV(conv_u8_gather, false, true, 1, 4, 2, 4, 4)

// The sums of all splits. Grid over groups * pixels * padded / 4.
BLOCK_KERNEL(finish, Conv) {
  u64 at = (u64)block * 256 + threadIdx.x;
  u32 fours = p.padded >> 2;
  u64 total = (u64)p.groups * p.pixels * fours;
  if (at >= total) return;
  u32 c = (u32)(at % fours) * 4, rest = (u32)(at / fours), group = rest / p.pixels, m = rest - group * p.pixels;
  if (c >= p.channels) return;
  int4 sum[1] = {make_int4(0, 0, 0, 0)};
#pragma unroll 4
  for (u32 s = 0; s < p.splits; s++) {
    int4 more = *(const int4*)((const int*)p.partial + (s * total + at) * 4);
    sum[0].x += more.x; sum[0].y += more.y; sum[0].z += more.z; sum[0].w += more.w;
  }
  const u32 pixel[1] = {m};
  conv_results<1>(p, scales_of(p.epilogue, group * p.padded + c), group, pixel, 1, c, sum);
}
