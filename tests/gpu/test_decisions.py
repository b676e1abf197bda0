"""The decisions about an iteration's scalars, which stand twice: in `loops.py` and in `scalars.cuh`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgopt.kernels import loops
from cgopt.kernels.gpu.sources import source

from . import emulation

KERNEL = """
extern "C" __global__ void __launch_bounds__(BLOCK) decide(
    double alpha, double rr, double rz, double xx, double pp, double truth, double* s, int* out)
{
    out[0] = note_step(alpha, rr, rz, xx, pp, s);
    bool again;
    out[1] = judge(truth, out[0], s, &again);
    out[2] = again;
    out[3] = curvature_code(rz, s);
    out[4] = product_code(rz);
}
"""
sizes = st.one_of(st.sampled_from([0.0, 1.0, 1e-20, np.inf]), st.floats(1e-30, 1e30))


@pytest.mark.skipif(emulation.COMPILER is None, reason="no g++ here, which compiles the kernels for the CPU")
@given(
    step=st.tuples(sizes, sizes, st.one_of(sizes, st.floats(-1e3, 0.0)), sizes, sizes, sizes),
    state=st.lists(sizes, min_size=loops.SCALARS, max_size=loops.SCALARS),
    drop=st.sampled_from([0.0, 0.01]),
    unit=st.sampled_from([2.0**-24, 2.0**-53]),
    counts=st.tuples(st.integers(0, 3), st.integers(0, 70)),
)
def test_both_texts_decide_alike(step, state, drop, unit, counts):
    s = np.array(state)
    s[loops.DROP], s[loops.UNIT], s[loops.PATIENCE] = drop, unit, 64.0
    s[loops.FAILED], s[loops.STILL] = counts
    other, out = s.copy(), np.zeros(5, np.int32)
    alpha, rr, rz, xx, pp, truth = step
    with np.errstate(all="ignore"):
        event = loops.note_step(alpha, rr, rz, xx, pp, s)
        code, again = loops.judge(truth, event, s)
        wanted = [event, code, again, loops.curvature_code(rz, s), loops.product_code(rz)]
    text = source("steps", warp=1, block=1) + KERNEL
    emulation.launch(text, "decide", 1, 1, [*(np.float64(v) for v in step), other, out], 8, 1)
    assert out.tolist() == wanted
    np.testing.assert_array_equal(other, s)
