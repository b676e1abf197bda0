// What all kernels share: sums in a fixed order, and barriers.
//
// The build says `real` (type of vectors), `value` (of matrix entries), WARP, and the places of a solve's scalars.
// Sums are in double precision whatever the vectors are: a thread adds up its own entries, a warp its threads by a tree,
// a block its warps in order, and the blocks' parts are added in order. The size of the grid fixes every bit.

typedef unsigned long long u64;
typedef unsigned int u32;

constexpr u32 ALL_LANES = WARP == 32 ? 0xffffffffu : (1u << (WARP % 32)) - 1u;
constexpr double LARGEST = 1.7976931348623157e308;  // what is above is infinite

struct Pair {
    double a, b;
};

#ifndef SHARED_MEMORY  // (a build for another machine brings its own)
#define SHARED_MEMORY(name) extern __shared__ double name[]
#endif

// Where the pieces of a block's shared memory begin, in doubles.
constexpr u32 SUMS = 0;                              // two for each warp, of at most 32 warps
constexpr u32 ANSWER = SUMS + 64;                    // what thread 0 tells the others
constexpr u32 STATE = ANSWER + 4;                    // a solve's scalars
constexpr u32 SHARED_DOUBLES = STATE + SCALARS + 2;  // and all of them

__device__ inline u64 thread_of_grid() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline u64 threads_of_grid() { return (u64)gridDim.x * blockDim.x; }

__device__ inline double warp_sum(double v)
{
    for (u32 d = WARP / 2; d > 0; d /= 2) v += __shfl_down_sync(ALL_LANES, v, d, WARP);
    return v;
}

// The sums over a block, in all its threads. Called by all of them.
__device__ inline Pair block_sum(Pair v, double* shared)
{
    const u32 warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    v.a = warp_sum(v.a);
    v.b = warp_sum(v.b);
    __syncthreads();  // whoever still reads the last sums
    if (threadIdx.x % WARP == 0) {
        shared[SUMS + 2 * warp] = v.a;
        shared[SUMS + 2 * warp + 1] = v.b;
    }
    __syncthreads();
    Pair sum = {0.0, 0.0};
    for (u32 w = 0; w < warps; ++w) {
        sum.a += shared[SUMS + 2 * w];
        sum.b += shared[SUMS + 2 * w + 1];
    }
    return sum;
}

// The sums of so many blocks' parts, in all threads of a block, the parts being there for this block to see.
__device__ inline Pair sum_of_parts(const double* parts, u32 blocks, double* shared)
{
    Pair v = {0.0, 0.0};
    for (u32 i = threadIdx.x; i < blocks; i += blockDim.x) {
        v.a += parts[2 * i];
        v.b += parts[2 * i + 1];
    }
    return block_sum(v, shared);
}

#ifndef LOAD_FRESH
#define LOAD_FRESH(place) (*(const volatile u32*)(place))
#endif

#ifndef GRID_BARRIER
// All threads of the grid wait for each other. All blocks must be running, which a cooperative launch promises.
// `arrived` counts up from zero through a whole launch, which has far fewer than 2^32 arrivals: barrier m is over when
// m times the blocks have arrived.
__device__ inline void grid_barrier(u32* arrived)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();  // what this block has written, before its arrival
        const u32 ticket = atomicAdd(arrived, 1u);
        const u32 wanted = (ticket / gridDim.x + 1u) * gridDim.x;
        while (LOAD_FRESH(arrived) < wanted) __nanosleep(20);
        __threadfence();  // and what the others wrote before theirs
    }
    __syncthreads();
}
#endif

// Barrier and sums over the grid at once: every block adds up the parts of all blocks, in the same order.
__device__ inline Pair grid_sum(Pair v, double* parts, u32* arrived, double* shared)
{
    const Pair own = block_sum(v, shared);
    if (threadIdx.x == 0) {
        parts[2 * blockIdx.x] = own.a;
        parts[2 * blockIdx.x + 1] = own.b;
    }
    grid_barrier(arrived);
    return sum_of_parts(parts, gridDim.x, shared);
}

// Sums over `blocks` blocks, this being number `block` of them, without a barrier: in the block that comes last, which
// alone is told so. It resets the counter. COUNT is even; parts has room for COUNT numbers of each block.
template <u32 COUNT>
__device__ inline bool last_block_sums(
    const double (&own)[COUNT], double (&sums)[COUNT], u32 block, u32 blocks, double* parts, u32* arrived,
    double* shared)
{
    for (u32 c = 0; c < COUNT; c += 2) {
        const Pair v = block_sum({own[c], own[c + 1]}, shared);
        if (threadIdx.x == 0) {
            parts[(u64)c * blocks + 2 * block] = v.a;
            parts[(u64)c * blocks + 2 * block + 1] = v.b;
        }
    }
    if (threadIdx.x == 0) {
        __threadfence();
        const bool last = atomicAdd(arrived, 1u) == blocks - 1u;
        shared[ANSWER] = last ? 1.0 : 0.0;
        __threadfence();
    }
    __syncthreads();
    if (shared[ANSWER] == 0.0) return false;
    for (u32 c = 0; c < COUNT; c += 2) {
        const Pair v = sum_of_parts(parts + (u64)c * blocks, blocks, shared);
        sums[c] = v.a;
        sums[c + 1] = v.b;
    }
    if (threadIdx.x == 0) *arrived = 0u;
    return true;
}

// The same for a pair of sums over the whole grid.
__device__ inline bool last_block_sum(Pair v, double* parts, u32* arrived, double* shared, Pair* sum)
{
    const double own[2] = {v.a, v.b};
    double sums[2];
    if (!last_block_sums(own, sums, blockIdx.x, gridDim.x, parts, arrived, shared)) return false;
    *sum = {sums[0], sums[1]};
    return true;
}

// A launch of several tasks, each for as many blocks: neighbouring blocks are of different tasks.
struct Task {
    u32 number, block, blocks;  // of the task; of the block among the task's, and how many those are
    u64 thread, threads;        // of the thread among the task's

    __device__ explicit Task(u32 tasks)
        : number(blockIdx.x % tasks),
          block(blockIdx.x / tasks),
          blocks(gridDim.x / tasks),
          thread((u64)block * blockDim.x + threadIdx.x),
          threads((u64)blocks * blockDim.x)
    {
    }

    // Sums over the task's blocks, as above; each task has room and a counter of its own.
    template <u32 COUNT>
    __device__ bool sum(const double (&own)[COUNT], double (&sums)[COUNT], double* parts, u32* arrived, double* shared)
        const
    {
        return last_block_sums(
            own, sums, block, blocks, parts + (u64)number * COUNT * blocks, arrived + number, shared);
    }
};
