"""All kernel sources compile for the GPUs that are named, without a warning."""

from __future__ import annotations

import pytest

from cgopt.kernels.gpu.sources import kernel_names, source

from . import compilers


@pytest.mark.parametrize("architecture", compilers.ARCHITECTURES)
@pytest.mark.parametrize(("name", "options"), compilers.VARIANTS[: compilers.TESTED])
def test_sources_compile(name, options, architecture):
    if compilers.missing():
        pytest.skip(compilers.missing())
    text = source(name, **options)
    found = compilers.compile_kernels(text, architecture)
    print(*found)
    assert sorted(kernel for kernel, *_ in found) == sorted(kernel_names(text))
    assert all(registers <= 128 and spilled <= 64 for _, registers, spilled in found)
