// The passes over vectors of an iteration, for the threads of one system: number `first` of `stride` threads.

constexpr u32 UNDER_WAY = 4;  // entries that a thread has asked memory for before it uses the first

// use(i, load(i)) for the entries first, first + stride, ... in their order. A store between two loads would keep the
// compiler from asking for both at once, since the vectors might overlap for all that it knows.
template <class Load, class Use>
__device__ inline void for_entries(u64 n, u64 first, u64 stride, Load load, Use use)
{
    u64 i = first;
    for (; i + (UNDER_WAY - 1) * stride < n; i += UNDER_WAY * stride) {
        decltype(load(i)) loaded[UNDER_WAY];
        for (u32 k = 0; k < UNDER_WAY; ++k) loaded[k] = load(i + k * stride);
        for (u32 k = 0; k < UNDER_WAY; ++k) use(i + k * stride, loaded[k]);
    }
    for (; i < n; i += stride) use(i, load(i));
}

struct Two {
    real a, b;
};

struct Three {
    real a, b, c;
};

// a'b
__device__ inline double dot_pass(u64 n, u64 first, u64 stride, const real* a, const real* b)
{
    double sum = 0.0;
    for_entries(
        n, first, stride, [&](u64 i) { return Two{a[i], b[i]}; }, [&](u64, Two v) { sum += (double)v.a * v.b; });
    return sum;
}

// r -= alpha q,  r'r,  r'z with z = inverse * r (or 0, without an inverse)
__device__ inline Pair residual_pass(
    u64 n, u64 first, u64 stride, const real* inverse, double alpha, const real* q, real* r)
{
    const real a = (real)alpha;
    Pair sum = {0.0, 0.0};
    for_entries(
        n, first, stride,
        [&](u64 i) { return Three{r[i], a == (real)0 ? (real)0 : q[i], inverse ? inverse[i] : (real)0}; },
        [&](u64 i, Three v) {
            const real ri = v.a - a * v.b;
            r[i] = ri;
            sum.a += (double)ri * ri;
            sum.b += (double)ri * (v.c * ri);
        });
    return sum;
}

// x += alpha p,  p = z + beta p,  x'x,  p'p, with inverse * z for z where there is an inverse
__device__ inline Pair direction_pass(
    u64 n, u64 first, u64 stride, const real* inverse, double alpha, double beta, const real* z, real* p, real* x)
{
    const real a = (real)alpha, c = (real)beta;
    Pair sum = {0.0, 0.0};
    for_entries(
        n, first, stride, [&](u64 i) { return Three{p[i], x[i], inverse ? inverse[i] * z[i] : z[i]}; },
        [&](u64 i, Three v) {
            const real xi = v.b + a * v.a, next = v.c + c * v.a;
            x[i] = xi;
            p[i] = next;
            sum.a += (double)xi * xi;
            sum.b += (double)next * next;
        });
    return sum;
}

// p = z,  r'z,  p'p, with inverse * z for z where there is an inverse
__device__ inline Pair restart_pass(
    u64 n, u64 first, u64 stride, const real* inverse, const real* r, const real* z, real* p)
{
    Pair sum = {0.0, 0.0};
    for_entries(
        n, first, stride, [&](u64 i) { return Two{r[i], inverse ? inverse[i] * z[i] : z[i]}; },
        [&](u64 i, Two v) {
            p[i] = v.b;
            sum.a += (double)v.a * v.b;
            sum.b += (double)v.b * v.b;
        });
    return sum;
}
