// The passes over vectors of an iteration, for the threads of one system: number `first` of `stride` threads.

// a'b
__device__ inline double dot_pass(u64 n, u64 first, u64 stride, const real* a, const real* b)
{
    double sum = 0.0;
    for (u64 i = first; i < n; i += stride) sum += (double)a[i] * b[i];
    return sum;
}

// r -= alpha q,  r'r,  r'z with z = inverse * r (or 0, without an inverse)
__device__ inline Pair residual_pass(
    u64 n, u64 first, u64 stride, const real* inverse, double alpha, const real* q, real* r)
{
    const real a = (real)alpha;
    Pair sum = {0.0, 0.0};
    for (u64 i = first; i < n; i += stride) {
        const real ri = a == (real)0 ? r[i] : r[i] - a * q[i];
        r[i] = ri;
        sum.a += (double)ri * ri;
        if (inverse) sum.b += (double)ri * (inverse[i] * ri);
    }
    return sum;
}

// x += alpha p,  p = z + beta p,  x'x,  p'p, with inverse * z for z where there is an inverse
__device__ inline Pair direction_pass(
    u64 n, u64 first, u64 stride, const real* inverse, double alpha, double beta, const real* z, real* p, real* x)
{
    const real a = (real)alpha, c = (real)beta;
    Pair sum = {0.0, 0.0};
    for (u64 i = first; i < n; i += stride) {
        const real pi = p[i], xi = x[i] + a * pi, zi = inverse ? inverse[i] * z[i] : z[i], next = zi + c * pi;
        x[i] = xi;
        p[i] = next;
        sum.a += (double)xi * xi;
        sum.b += (double)next * next;
    }
    return sum;
}

// p = z,  r'z,  p'p, with inverse * z for z where there is an inverse
__device__ inline Pair restart_pass(
    u64 n, u64 first, u64 stride, const real* inverse, const real* r, const real* z, real* p)
{
    Pair sum = {0.0, 0.0};
    for (u64 i = first; i < n; i += stride) {
        const real zi = inverse ? inverse[i] * z[i] : z[i];
        p[i] = zi;
        sum.a += (double)r[i] * zi;
        sum.b += (double)zi * zi;
    }
    return sum;
}
