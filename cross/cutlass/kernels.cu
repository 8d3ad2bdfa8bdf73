// CUTLASS's int8 kernels for the tensor cores of sm_80, unmodified, behind entries with plain parameters.
//
// Compiled by `cargo xtask cutlass`; neither this PTX nor CUTLASS is part of the project. All matrices are
// dense: A row by row, B column by column, C row by row in 32-bit integers.
#include "cutlass/conv/kernel/default_conv2d_fprop.h"
#include "cutlass/epilogue/thread/linear_combination.h"
#include "cutlass/gemm/kernel/default_gemm.h"

using Epilogue = cutlass::epilogue::thread::LinearCombination<int32_t, 4, int32_t, int32_t>;
using Instruction = cutlass::gemm::GemmShape<16, 8, 32>;

template <class AType, class BType, int M, int N, int WarpM, int WarpN, int Stages>
using Gemm = typename cutlass::gemm::kernel::DefaultGemm<
    AType, cutlass::layout::RowMajor, 16, BType, cutlass::layout::ColumnMajor, 16, int32_t,
    cutlass::layout::RowMajor, int32_t, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80,
    cutlass::gemm::GemmShape<M, N, 64>, cutlass::gemm::GemmShape<WarpM, WarpN, 64>, Instruction, Epilogue,
    cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, Stages, false,
    cutlass::arch::OpMultiplyAddSaturate>::GemmKernel;

template <class Kernel, class AType, class BType>
__device__ void run(AType const *a, BType const *b, int32_t *c, int m, int n, int k) {
  extern __shared__ __align__(128) char storage[];
  using Tile = typename Kernel::Mma::Shape;
  cutlass::gemm::GemmCoord size(m, n, k);
  cutlass::gemm::GemmCoord grid((m + Tile::kM - 1) / Tile::kM, (n + Tile::kN - 1) / Tile::kN, 1);
  typename Kernel::Params params(size, grid, {const_cast<AType *>(a), k}, {const_cast<BType *>(b), k}, {c, n},
                                 {c, n}, {1, 0});
  Kernel kernel;
  kernel(params, *reinterpret_cast<typename Kernel::SharedStorage *>(storage));
}

#define GEMM(name, atype, btype, m, n, wm, wn, stages)                                                            \
  using name##_kernel = Gemm<atype, btype, m, n, wm, wn, stages>;                                                 \
  __device__ unsigned name##_shared = sizeof(name##_kernel::SharedStorage);                                       \
  extern "C" __global__ void name(atype const *a, btype const *b, int32_t *c, int rows, int columns, int depth) { \
    run<name##_kernel>(a, b, c, rows, columns, depth);                                                            \
  }

GEMM(gemm_64x64, int8_t, int8_t, 64, 64, 32, 32, 4)
GEMM(gemm_128x64, int8_t, int8_t, 128, 64, 64, 32, 3)
GEMM(gemm_128x128, int8_t, int8_t, 128, 128, 64, 64, 3)
GEMM(gemm_64x64_u8, uint8_t, uint8_t, 64, 64, 32, 32, 4)

using Conv = typename cutlass::conv::kernel::DefaultConv2dFprop<
    int8_t, cutlass::layout::TensorNHWC, int8_t, cutlass::layout::TensorNHWC, int32_t,
    cutlass::layout::TensorNHWC, int32_t, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80,
    cutlass::gemm::GemmShape<128, 64, 64>, cutlass::gemm::GemmShape<64, 32, 64>, Instruction, Epilogue,
    cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, 3, cutlass::arch::OpMultiplyAddSaturate,
    cutlass::conv::IteratorAlgorithm::kAnalytic>::Kernel;
__device__ unsigned conv_128x64_shared = sizeof(Conv::SharedStorage);

// A picture of side x side x channels, a 3x3 filter with padding 1, NHWC and KRSC.
extern "C" __global__ void conv_128x64(int8_t const *a, int8_t const *b, int32_t *c, int side, int filters,
                                       int channels) {
  extern __shared__ __align__(128) char storage[];
  cutlass::conv::Conv2dProblemSize size({1, side, side, channels}, {filters, 3, 3, channels}, {1, 1, 1, 1},
                                        {1, 1}, {1, 1}, cutlass::conv::Mode::kCrossCorrelation, 1);
  auto packed = [](int h, int w, int ch) { return cutlass::layout::TensorNHWC::packed({1, h, w, ch}); };
  typename Conv::Arguments arguments(size, {const_cast<int8_t *>(a), packed(side, side, channels)},
                                     {const_cast<int8_t *>(b), packed(3, 3, channels)},
                                     {c, packed(side, side, filters)}, {c, packed(side, side, filters)}, {1, 0});
  typename Conv::Params params(arguments);
  Conv kernel;
  kernel(params, *reinterpret_cast<typename Conv::SharedStorage *>(storage));
}
