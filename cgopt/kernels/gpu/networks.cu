// Fused passes over layers and over flat parameter vectors; the matrix products of networks are cuBLAS's.

typedef unsigned long long u64;

// index(i) over the entries of the grid
#define EACH(i, count) \
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += (u64)gridDim.x * blockDim.x)

// h = f(a), and the slope f'(a)
__device__ inline real activated(int kind, real a, real* slope)
{
    real h = a;
    *slope = 1;
    if (kind == TANH) {
        h = tanh(a);
        *slope = (real)1 - h * h;
    } else if (kind == LOGISTIC) {
        h = (real)0.5 + (real)0.5 * tanh((real)0.5 * a);
        *slope = ((real)1 - h) * h;
    } else if (kind == RELU) {
        h = a > (real)0 ? a : a == a ? (real)0 : a;
        *slope = h > (real)0 ? (real)1 : (real)0;
    } else if (kind == SOFTPLUS) {
        h = (a > (real)0 ? a : a == a ? (real)0 : a) + log1p(exp(-fabs(a)));
        *slope = -expm1(-h);  // 1 - exp(-h) = 1 / (1 + exp(-a))
    }
    return h;
}

// a = f(a), d = f'(a), and a row [f(a) 1] of the next layer's input, of which the 1 is there; d, next may be null.
extern "C" __global__ void __launch_bounds__(BLOCK) activate(
    u64 samples, u64 units, int kind, real* a, real* d, real* next)
{
    EACH(k, samples * units)
    {
        real slope;
        const real h = activated(kind, a[k], &slope);
        a[k] = h;
        if (d) d[k] = slope;
        if (next) next[k / units * (units + 1) + k % units] = h;
    }
}

// r[i, j, c] = (r[i, j, c] + t[i, j, c]) d[i, c]; t may be null, which is zero
extern "C" __global__ void __launch_bounds__(BLOCK) scale_units(
    u64 samples, u64 k, u64 units, real* r, const real* t, const real* d)
{
    EACH(e, samples * k * units)
    {
        const real v = t ? r[e] + t[e] : r[e];
        r[e] = v * d[e / (k * units) * units + e % units];
    }
}

// u = s (u - p'u), row by row of (samples, k, units): one thread for each row, summed in order
extern "C" __global__ void __launch_bounds__(BLOCK) softmax_curvature(
    u64 samples, u64 k, u64 units, real* u, const real* p, const real* s)
{
    EACH(row, samples * k)
    {
        real* own = u + row * units;
        const real *pi = p + row / k * units, *si = s + row / k * units;
        real mean = 0;
        for (u64 c = 0; c < units; ++c) mean += pi[c] * own[c];
        for (u64 c = 0; c < units; ++c) own[c] = si[c] * (own[c] - mean);
    }
}

// m += (1 - beta1)(g - m),  v += (1 - beta2)(g^2 - v),  theta -= rate m / (sqrt(spread v) + eps)
extern "C" __global__ void __launch_bounds__(BLOCK) adam_step(
    u64 n, real* theta, const real* gradient, real* m, real* v, double rate, double beta1, double beta2, double spread,
    double eps)
{
    const real b1 = (real)beta1, b2 = (real)beta2;
    EACH(i, n)
    {
        const real g = gradient[i];
        const real mi = b1 * m[i] + ((real)1 - b1) * g;
        const real vi = b2 * v[i] + ((real)1 - b2) * g * g;
        m[i] = mi;
        v[i] = vi;
        theta[i] -= (real)rate * mi / (sqrt((real)spread * vi) + (real)eps);
    }
}

// V = mu V - rate g;  theta += V, or looking ahead theta += mu V - rate g
extern "C" __global__ void __launch_bounds__(BLOCK) momentum_step(
    u64 n, real* theta, const real* gradient, real* velocity, double rate, double mu, int ahead)
{
    EACH(i, n)
    {
        const real step = (real)rate * gradient[i];
        const real vi = (real)mu * velocity[i] - step;
        velocity[i] = vi;
        theta[i] += ahead ? (real)mu * vi - step : vi;
    }
}

// target += tau (theta - target)
extern "C" __global__ void __launch_bounds__(BLOCK) blend(u64 n, real* target, const real* theta, double tau)
{
    EACH(i, n) target[i] += (real)tau * (theta[i] - target[i]);
}

// A network on one observation, by one block: states, (layers + 1, width), receives each layer's output in its row.
extern "C" __global__ void __launch_bounds__(BLOCK) forward_one(
    u64 layers, u64 width, const real* theta, const long long* sizes, const long long* codes, real* states)
{
    const real* W = theta;
    for (u64 layer = 0; layer < layers; ++layer) {
        const u64 inputs = sizes[layer], units = sizes[layer + 1];
        const real *h = states + layer * width, *b = W + inputs * units;
        for (u64 c = threadIdx.x; c < units; c += blockDim.x) {
            real sum = b[c], slope;
            for (u64 i = 0; i < inputs; ++i) sum += h[i] * W[i * units + c];
            states[(layer + 1) * width + c] = activated((int)codes[layer], sum, &slope);
        }
        W = b + units;
        __syncthreads();
    }
}
