"""Networks in files."""

from __future__ import annotations

import numpy as np
import pytest

from cgopt import nn

pytest.importorskip("safetensors", reason="files need safetensors, in the extra nn")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "network",
    [nn.MLP([3, 5, 4, 2], ["tanh", "relu"], output_activation="logistic"), nn.RNN(2, 4, 3, "logistic", outputs="last")],
    ids=["MLP", "RNN"],
)
def test_what_is_saved_comes_back(tmp_path, network, dtype):
    theta = network.init(0, dtype=dtype)
    adam = nn.Adam(network.n, dtype=dtype)
    adam.step(theta, np.ones_like(theta))
    path = tmp_path / "network.safetensors"
    nn.save(path, network, theta, **adam.state())
    again, same, arrays = nn.load(path)
    assert repr(again) == repr(network)
    assert again.description() == network.description() or again.description()["kind"] == "MLP"
    assert same.dtype == dtype
    assert (same == theta).all()
    other = nn.Adam(network.n, dtype=dtype)
    other.restore(arrays)
    assert other.steps == 1
    assert (other.mean == adam.mean).all()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not at all")
    with pytest.raises(ValueError, match="is no safetensors file"):
        nn.load(path)
    from safetensors.numpy import save_file

    save_file({"theta": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="holds no network of cgopt"):
        nn.load(path)
