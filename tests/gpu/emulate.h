// Runs CUDA kernels as they stand on the CPU, for correctness only: every CUDA thread is a thread, barriers of blocks and
// of the grid are std::barrier. Slow, and honest about races: the thread sanitizer sees what a device would do.
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define SHARED_MEMORY(name) double* name = emulated::block->shared.data()

namespace emulated {
struct Dim { unsigned x = 1; };
struct Warp {
    std::barrier<> sync;
    std::vector<double> slots;
    explicit Warp(int threads) : sync(threads), slots(threads) {}
};
struct Block {
    std::barrier<> sync;
    std::vector<double> shared;
    std::vector<std::unique_ptr<Warp>> warps;
    Block(int threads, int warp, size_t bytes) : sync(threads), shared(bytes / sizeof(double) + 1, NAN)
    {
        for (int t = 0; t < threads; t += warp) warps.push_back(std::make_unique<Warp>(warp));
    }
};
inline thread_local Dim thread, block_index;
inline thread_local Block* block;
inline Dim threads, blocks;
inline std::unique_ptr<std::barrier<>> grid;
}  // namespace emulated

#define threadIdx emulated::thread
#define blockIdx emulated::block_index
#define blockDim emulated::threads
#define gridDim emulated::blocks

inline void __syncthreads() { emulated::block->sync.arrive_and_wait(); }
inline void __threadfence() {}  // the atomics below order memory, which the sanitizer understands
inline void __nanosleep(unsigned) { std::this_thread::yield(); }
inline unsigned atomicAdd(unsigned* place, unsigned v) { return std::atomic_ref<unsigned>(*place).fetch_add(v); }
template <class T> T __ldcs(const T* place) { return *place; }

#ifdef REAL_BARRIER  // the kernels' own
#define LOAD_FRESH(place) std::atomic_ref<unsigned>(*(place)).load()
#else
#define GRID_BARRIER
inline void grid_barrier(unsigned*) { emulated::grid->arrive_and_wait(); }
#endif

template <class T> T __shfl_down_sync(unsigned, T v, unsigned distance, int width)
{
    static_assert(sizeof(T) <= sizeof(double));
    const unsigned size = emulated::block->warps[0]->slots.size(), lane = threadIdx.x % size;
    emulated::Warp& warp = *emulated::block->warps[threadIdx.x / size];
    std::memcpy(&warp.slots[lane], &v, sizeof(T));
    warp.sync.arrive_and_wait();
    if (lane % width + distance < unsigned(width)) std::memcpy(&v, &warp.slots[lane + distance], sizeof(T));
    warp.sync.arrive_and_wait();
    return v;
}

namespace emulated {
template <class Kernel>
void run(unsigned grid_size, unsigned block_size, unsigned warp, size_t bytes, Kernel kernel)
{
    blocks.x = grid_size;
    threads.x = block_size;
    grid = std::make_unique<std::barrier<>>(grid_size * block_size);
    std::vector<std::unique_ptr<Block>> all;
    for (unsigned b = 0; b < grid_size; ++b) all.push_back(std::make_unique<Block>(block_size, warp, bytes));
    std::vector<std::jthread> running;
    for (unsigned b = 0; b < grid_size; ++b)
        for (unsigned t = 0; t < block_size; ++t)
            running.emplace_back([&, b, t] {
                thread.x = t;
                block_index.x = b;
                block = all[b].get();
                kernel();
            });
}

// A launch with the arguments' addresses, as the driver takes them.
template <class... P>
void launch(void (*kernel)(P...), unsigned grid_size, unsigned block_size, unsigned warp, size_t bytes, void** args)
{
    [&]<size_t... I>(std::index_sequence<I...>) {
        run(grid_size, block_size, warp, bytes, [=] { kernel(*static_cast<P*>(args[I])...); });
    }(std::index_sequence_for<P...>{});
}

// A parameter by a number: its bytes, 100 more for a floating-point type; negative, of what a pointer points to.
template <class P> constexpr int described()
{
    if constexpr (std::is_pointer_v<P>) return -described<std::remove_cv_t<std::remove_pointer_t<P>>>();
    return int(sizeof(P)) + (std::is_floating_point_v<P> ? 100 : 0);
}
template <class... P> int parameters(void (*)(P...), int* out)
{
    int k = 0;
    ((out[k++] = described<P>()), ...);
    return k;
}
}  // namespace emulated

#define EXPORT(name)                                                                                          \
    extern "C" void launch_##name(unsigned g, unsigned b, unsigned w, size_t bytes, void** args)             \
    {                                                                                                         \
        emulated::launch(name, g, b, w, bytes, args);                                                         \
    }                                                                                                         \
    extern "C" int parameters_##name(int* out) { return emulated::parameters(name, out); }
