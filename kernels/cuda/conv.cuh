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
// AT is a constant that the address carries at no cost.
template <int AT> DEV void cp16(u32 dst, u64 src, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0+%3], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes), "n"(AT) : "memory");
}
DEV void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEV void cp_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
template <int AT> DEV void ldmatrix4(u32* r, u32 a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a), "n"(AT) : "memory");
}
template <int AT> DEV void load_shared4(u32* r, u32 a) {
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a), "n"(AT) : "memory");
}
DEV void store_shared4(u32 a, const u32* r) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(a), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}
// The same value, which the compiler then keeps instead of working it out again in every turn of a loop.
DEV u32 kept(u32 v) {
  asm volatile("" : "+r"(v));
  return v;
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

// Calls f with each number below N, as a type: constants that offsets can be made of.
template <int N> struct Int { static constexpr int value = N; };
template <int N, int I = 0, class F> DEV void repeat(const F& f) {
  if constexpr (I < N) {
    f(Int<I>{});
    repeat<N, I + 1>(f);
  }
}

// The first mf x N fragments: those of the weights lie A_STEP bytes apart, pairs of pixels' B_STEP.
template <bool XS, bool NARROW, int N, int A_STEP, int B_STEP, int MF, int NF>
DEV void multiply(int (&acc)[MF][NF][4], u32 a_at, u32 b_at, u32 mf) {
  u32 b[NF][2];
  repeat<(N + 1) / 2>([&](auto jj) { ldmatrix4<decltype(jj)::value * B_STEP>(b[decltype(jj)::value * 2], b_at); });
  repeat<MF>([&](auto i_) {
    constexpr int i = decltype(i_)::value;
    if (i < mf) {
      u32 a[4];
      load_shared4<i * A_STEP>(a, a_at);
#pragma unroll
      for (int j = 0; j < N; j++) mma<XS, NARROW>(acc[i][j], a, b[j]);
    }
  });
}
// The same for nf that is known when it runs: one branch, and none around each product.
template <bool XS, bool NARROW, int A_STEP, int B_STEP, int MF, int NF>
DEV void multiply_some(int (&acc)[MF][NF][4], u32 a_at, u32 b_at, u32 mf, u32 nf) {
  switch (nf) {
#define COLUMNS(n)                                                                                         \
  case n:                                                                                                  \
    if constexpr (n <= NF) multiply<XS, NARROW, n, A_STEP, B_STEP>(acc, a_at, b_at, mf);                    \
    break;
    COLUMNS(1) COLUMNS(2) COLUMNS(3) COLUMNS(4) COLUMNS(5) COLUMNS(6) COLUMNS(7) COLUMNS(8)
  }
}

// n / d for n < 2^31 by the multiplier and shift that lowering found for d.
DEV u32 divide(u32 n, const u32* d) { return (__umulhi(n, d[0]) + n) >> d[1]; }

DEV Pixel pixel_of(const Conv& p, u32 m) {
  u32 rest = divide(m, p.divide_ow), image = divide(rest, p.divide_oh);
  return {image, rest - image * p.oh, m - rest * p.ow};
}

// From the sums of four channels of pixel m to stored results.
DEV void conv_results(const Conv& p, const float4& scale, u32 group, u32 m, u32 c, int4 sum) {
  const Pixel at = pixel_of(p, m);
  u32 border = ((const u8*)p.classes)[at.row] * p.column_classes + ((const u8*)p.classes)[p.oh + at.column];
  int4 bias = *(const int4*)((const int*)p.bias + (u64)(group * p.all_classes + border) * p.padded + c);
  int v[1][4] = {{sum.x + bias.x, sum.y + bias.y, sum.z + bias.z, sum.w + bias.w}};
  if (p.w_zero) {
    int4 zero = *(const int4*)((const int*)p.w_zero + group * p.padded + c);
    int window = ((const int*)p.sums)[(u64)group * p.pixels + m];
    v[0][0] -= zero.x * window; v[0][1] -= zero.y * window; v[0][2] -= zero.z * window; v[0][3] -= zero.w * window;
  }
  u32 count = p.channels - c < 4 ? p.channels - c : 4;
  const Pixel where[1] = {at};
  store_pixels<1>(p.epilogue, scale, v, 1, count, group * p.channels + c, where);
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

  // This thread gathers piece `tid % PIECES` of pixels tid / PIECES + APART i: where their windows begin.
  constexpr int APART = 256 / PIECES;
  const u32 piece0 = tid % PIECES, pixel0 = tid / PIECES;
  const u32 mine = kept(pixels > pixel0 ? (pixels - pixel0 + APART - 1) / APART : 0);  // of those pixels
  // Row and column are 16 bits each and 0x8000 too high: their highest bits say that they are not negative, and taps
  // are added at once.
  const u32 extent = p.h << 16 | p.width;
  u32 place[ROWS];
  u64 from[ROWS];
  const u64 x = p.x + (u64)group * p.group_x;
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    Pixel at = pixel_of(p, m0 + (i < mine ? pixel0 + APART * i : 0));
    int iy = (int)(at.row * p.stride_y) - (int)p.pad_y, ix = (int)(at.column * p.stride_x) - (int)p.pad_x;
    place[i] = i < mine ? (u32)(iy + 0x8000) << 16 | (u32)(ix + 0x8000) : 0;
    from[i] = x + (i64)((int)at.image * (int)p.x_strides[0] + iy * (int)p.x_strides[1] + ix * (int)p.x_strides[2]);
  }
  auto inside = [&](int i, int tap) {
    u32 at = place[i] + (u32)tap, over = at - extent, both;
    // at & ~over & 0x80008000: not negative, and so less than the image that it is negative without it.
    asm("lop3.b32 %0, %1, %2, %3, 0x20;" : "=r"(both) : "r"(at), "r"(over), "r"(0x80008000));
    return both == 0x80008000;
  };
  // A row's pieces change places so that 8 rows of one piece lie in 8 different groups of four banks. Rows that are a
  // multiple of 8 apart change alike.
  auto swizzle = [](u32 row, u32 piece) { return row * ROW + ((piece ^ (PIECES == 8 ? row & 7 : row >> 1 & 3)) << 4); };
  const u32 b_to = kept(s0 + A_BYTES + swizzle(pixel0, piece0)), a_to = kept(s0 + tid * 16);
  // Weights: the halves of a step lie side by side for each 16 channels. This thread copies one of them in every
  // A_APART blocks of 16 channels.
  constexpr int A_APART = 256 / (HALVES * 32);
  const u32 a_half = tid / 32 % HALVES, a_block = tid / (HALVES * 32);
  const u32 a_mine = kept(fm > a_block ? (fm - a_block + A_APART - 1) / A_APART : 0);
  const u64 a_far = (u64)(A_APART * halves * 512);
  u64 a_from = weights + ((u64)a_block * halves + first * HALVES + a_half) * 512 + (tid & 31) * 16;
  // Of the step that is loaded next: this thread's piece and half, and the piece's tap.
  u32 piece = first * PIECES + piece0, half_at = first * HALVES + a_half;
  auto tap_of = [&]() { return !GATHER && piece < p.pieces ? ((const int2*)p.taps)[piece] : make_int2(0, 0x7fff7fff); };
  int2 tap = tap_of();
  auto load = [&](u32 to) {
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
            u32 l = inside(i, two.y) ? *(const u32*)(from[i] + (i64)two.x) : 0;
            u32 h = inside(i, two.w) ? *(const u32*)(from[i] + (i64)two.z) : 0;
            word[k] = __byte_perm(l, h, select);
          }
          store_shared4(b_to + to + APART * ROW * i, word);
        }
      }
    } else {
      const i64 offset = tap.x;
      repeat<ROWS>([&](auto i_) {
        constexpr int i = decltype(i_)::value;
        // Of no bytes nothing is read, wherever they would be.
        if (i < mine) cp16<APART * ROW * i>(b_to + to, from[i] + offset, inside(i, tap.y) ? 16 : 0);
      });
    }
    repeat<(A_UNITS + 255) / 256>([&](auto u_) {
      constexpr int u = decltype(u_)::value;
      if (u < a_mine && half_at < halves) cp16<u * 4096>(a_to + to, a_from + u * a_far, 16);
    });
    piece += PIECES, half_at += HALVES, a_from += HALVES * 512;
    tap = tap_of();
  };

  int acc[MF][NF][4];
#pragma unroll
  for (int i = 0; i < MF; i++)
#pragma unroll
    for (int j = 0; j < NF; j++)
#pragma unroll
      for (int k = 0; k < 4; k++) acc[i][j][k] = 0;

  // This lane's row and piece for ldmatrix, and its bytes of the weights, from a stage's start on.
  const u32 b_row = (lane >> 4) * 8 + (lane & 7), b_piece = lane >> 3 & 1;
  const u32 b_lane = kept(swizzle(wn * 16 + b_row, b_piece)), a_lane = kept(wm * HALVES * 512 + lane * 16);
  constexpr int A_STEP = WM * HALVES * 512, B_STEP = WN * 16 * ROW;
  // One step from shared memory: of a whole tile and whole pieces, and with everything checked. Pieces of another half
  // lie elsewhere by an exclusive or, as places changed by one.
  auto whole = [&](u32 at) {
    repeat<HALVES / WK>([&](auto h) {
      const u32 half = wk * (HALVES / WK) + decltype(h)::value;
      multiply<XS, false, NF, A_STEP, B_STEP>(acc, at + a_lane + half * 512, at + A_BYTES + (b_lane ^ half * 32), MF);
    });
  };
  auto edge = [&](u32 at, u32 step) {
#pragma unroll 1
    for (int h = 0; h < HALVES / WK; h++) {
      u32 half = wk * (HALVES / WK) + h, first_piece = (step * HALVES + half) * 2;
      if (first_piece >= p.pieces) break;
      u32 a_at = at + a_lane + half * 512, b_at = at + A_BYTES + (b_lane ^ half * 32);
      if (first_piece + 1 == p.pieces) multiply_some<XS, true, A_STEP, B_STEP>(acc, a_at, b_at, mf, nf);
      else multiply_some<XS, false, A_STEP, B_STEP>(acc, a_at, b_at, mf, nf);
    }
  };

#pragma unroll 1
  for (u32 s = 0; s < STAGES - 1; s++) {
    if (first + s < last) load(s * STAGE);
    cp_commit();
  }
  u32 read = 0, write = (STAGES - 1) * STAGE, step = first;  // stages by where they begin
  auto next = [&]() {
    cp_wait<STAGES - 2>();
    // ORDER: makes every thread's landed copies of this stage visible to all, and says that all have left the
    // stage which the next load overwrites.
    __syncthreads();
    if (step + STAGES - 1 < last) load(write);
    cp_commit();
    u32 at = s0 + read;
    read = read + STAGE == STAGES * STAGE ? 0 : read + STAGE;
    write = write + STAGE == STAGES * STAGE ? 0 : write + STAGE;
    return at;
  };
  if (!GATHER && fm == BM / 16 && fn == BN / 8)
    for (u32 end = last < p.pieces / PIECES ? last : p.pieces / PIECES; step < end; step++) whole(next());
  for (; step < last; step++) edge(next(), step);

  // Through shared memory, so that the rules are compiled once and results leave in words of four channels.
  // A pixel's line is 4 words longer than the tile: 8 channels of 4 pairs of pixels lie in 32 different banks.
  // Wide tiles go in two passes.
  constexpr int LINE = BM + 4, PASSES = BN > 128 ? BN / 128 : 1, SPAN = BN / PASSES;
  static_assert(PASSES <= 2, "passes");
  int* results = (int*)shared;
  // A thread keeps its four channels.
  u32 thread;
  // Read once more: what follows from it is not computed ahead of the loops and kept in registers.
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  const u32 fours = rows >> 2, lines = 256 / fours, c = thread % fours * 4;
  const bool stores = thread < lines * fours && c0 + c < p.channels;
  int* line = results + (wk * SPAN + wn * 16 + (thread & 3) * 2) * LINE + wm * 16 + (thread >> 2 & 7);
  auto put = [&](auto pass_) {
    constexpr int pass = decltype(pass_)::value;
#pragma unroll
    for (int i = 0; i < MF; i++)
#pragma unroll
      for (int j = NF / PASSES * pass; j < NF / PASSES * (pass + 1); j++)
#pragma unroll
        for (int k = 0; k < 4; k++)
          line[(j / 2 * WN * 16 + j % 2 * 8 + (k & 1) - pass * SPAN) * LINE + i * WM * 16 + (k >> 1) * 8] = acc[i][j][k];
  };
  auto store = [&](u32 pass) {
    if (!stores) return;
    const u32 before = pass * SPAN, left = pixels > before ? pixels - before : 0, here = left < SPAN ? left : SPAN;
    // The first of this thread's pixels, where its sums lie, and how far the next ones are.
    u32 local = thread / fours, from = s0 + (local * LINE + c) * 4;
    const u32 apart = lines * LINE * 4, m = m0 + before;
    auto sum_at = [&](u32 from) {
      int4 sum = make_int4(0, 0, 0, 0);
      repeat<WK>([&](auto k) {
        u32 more[4];
        load_shared4<decltype(k)::value * SPAN * LINE * 4>(more, from);
        sum.x += more[0]; sum.y += more[1]; sum.z += more[2]; sum.w += more[3];
      });
      return sum;
    };
    if (p.plain) {
      const u32 scale_at = group * p.padded + c0 + c;
      Way way = way_of(p.epilogue, (const int*)p.bias + scale_at, scale_at, group * p.channels + c0 + c, m + local, lines);
      // Two pixels at a time: what they need is under way together.
      for (; local + lines < here; local += 2 * lines, from += 2 * apart) {
        const int4 sums[2] = {sum_at(from), sum_at(from + apart)};
        way_out<2>(p.epilogue, way, sums);
      }
      if (local < here) {
        const int4 sums[1] = {sum_at(from)};
        way_out<1>(p.epilogue, way, sums);
      }
    } else if (p.partial) {
      for (; local < here; local += lines, from += apart)
        *(int4*)((int*)p.partial + ((u64)(split * p.groups + group) * p.pixels + m + local) * p.padded + c0 + c) = sum_at(from);
    } else {
      const float4 scale = scales_of(p.epilogue, group * p.padded + c0 + c);
#pragma unroll 1
      for (; local < here; local += lines, from += apart) conv_results(p, scale, group, m + local, c0 + c, sum_at(from));
    }
  };
  cp_wait<0>();
  // ORDER: all have read the last stage before results overwrite it.
  __syncthreads();
  put(Int<0>{});
#pragma unroll 1
  for (u32 pass = 0;; pass++) {
    // ORDER: results of all are visible to all.
    __syncthreads();
    store(pass);
    if (pass + 1 == PASSES) break;
    // ORDER: all have read these results before the next ones overwrite them.
    __syncthreads();
    if constexpr (PASSES > 1) put(Int<1>{});
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
  int4 sum = make_int4(0, 0, 0, 0);
#pragma unroll 4
  for (u32 s = 0; s < p.splits; s++) {
    int4 more = *(const int4*)((const int*)p.partial + (s * total + at) * 4);
    sum.x += more.x; sum.y += more.y; sum.z += more.z; sum.w += more.w;
  }
  conv_results(p, scales_of(p.epilogue, group * p.padded + c), group, m, c, sum);
}
