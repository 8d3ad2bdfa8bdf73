// What all kernels share: types, one-thread arithmetic rules, the way from accumulator to result.
// No includes: the text is complete, so the compiler's output depends on nothing else.
// Floats: --fmad=false, IEEE division; every rule is written as single operations, fused only by __fmaf_rn.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;
typedef signed char s8;
typedef int i32;
typedef long long i64;
typedef float f32;
typedef unsigned short u16;

#define DEV static __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(256, 1)
// One block's work as a device function, and the kernel that launches it once for each block of the grid.
#define BLOCK_KERNEL(name, Type)                                                     \
  DEV void name##_block(const Type& p, u32 block);                                   \
  KERNEL name(const __grid_constant__ Type p) { name##_block(p, blockIdx.x); }       \
  DEV void name##_block(const Type& p, u32 block)

static_assert(sizeof(u64) == 8 && sizeof(i64) == 8 && sizeof(u32) == 4, "types");
