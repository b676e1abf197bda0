// Decisions about one iteration's scalars: those of `cgopt.kernels.loops`, where they are explained.

__device__ inline bool positive(double v) { return 0.0 < v && v <= LARGEST; }

// Why a solve ends on a curvature p'Ap that is not positive.
__device__ inline int curvature_code(double pq, const double* s)
{
    if (!(-LARGEST <= pq && pq <= LARGEST)) return NONFINITE;
    return pq >= -4.0 * s[UNIT] * s[NORM_A] * s[PP] ? SINGULAR : INDEFINITE;
}

// Why a solve ends on a product r'Mr that is not positive.
__device__ inline int product_code(double rz) { return -LARGEST <= rz && rz <= 0.0 ? INDEFINITE_M : NONFINITE; }

// Enter one iteration's scalars; what calls for the true residual.
__device__ inline int note_step(double alpha, double rr, double rz, double xx, double pp, double* s)
{
    const double unit = s[UNIT], gap = s[GAP];
    // |alpha p| <= u |x|: the step is below the rounding of x
    s[STILL] = alpha * alpha * s[PP] <= unit * unit * xx ? s[STILL] + 1.0 : 0.0;
    s[GAP] = gap + unit * (s[NORM_A] * sqrt(xx) + sqrt(rr));  // van der Vorst and Ye 2000
    const bool crossed = gap * gap <= unit * s[RR] && s[GAP] * s[GAP] > unit * rr;
    s[RR] = rr;
    s[RZ] = rz;
    s[XX] = xx;
    s[PP] = pp;
    s[PEAK] = rr > s[PEAK] ? rr : s[PEAK];
    if (rr <= s[TARGET]) return CLAIMED;
    if (s[STILL] >= s[PATIENCE]) return STOOD_STILL;
    if (rr <= s[DROP] * s[PEAK]) return DROPPED;
    if (s[DROP] == 0.0 && crossed && s[GAP] > double(GROWTH) * s[GAP0]) return DRIFTED;
    return NOTHING;
}

// Judge the true r'r that an event called for: a code, and whether to start again from the true residual.
__device__ inline int judge(double truth, int event, double* s, bool* again)
{
    const double recursive = s[RR];
    *again = false;
    s[RR] = s[PEAK] = truth;
    s[GAP] = s[GAP0] = s[UNIT] * s[NORM_A] * sqrt(s[XX]);
    s[CHECKS] += 1.0;
    if (truth <= s[TARGET]) return CONVERGED;
    if (!(truth <= LARGEST)) return NONFINITE;
    if (event != DRIFTED) {
        s[FAILED] = truth > 0.25 * s[BEST] ? s[FAILED] + 1.0 : 0.0;
        s[BEST] = truth < s[BEST] ? truth : s[BEST];
        if (s[FAILED] >= 2.0) return STAGNATED;
    }
    if (event == STOOD_STILL) {
        s[STILL] = 0.0;
        s[PATIENCE] *= 2.0;
    }
    *again = event > DROPPED || fabs(truth - recursive) > 1e-3 * recursive;
    return RUNNING;
}
