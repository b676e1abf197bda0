"""Compiles all kernel sources for GPUs, by NVRTC from its pip package or by nvcc, and tells registers and spills.

python -m tests.gpu.compilers
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cgopt.kernels.gpu.sources import source

ARCHITECTURES = ("sm_80", "sm_90")
# Each way to build a source that differs in its text; the first of each file are those that the tests compile.
VARIANTS = [
    ("cg", {"layout": "csr", "lanes": 4}),
    ("cg", {"layout": "dia", "kind": "chebyshev", "real": "float"}),
    ("cg", {"layout": "dense", "lanes": 32, "kind": "diagonal"}),
    ("steps", {"layout": "csr", "lanes": 8, "value": "float"}),
    ("batch", {"layout": "dense", "lanes": 4}),
    ("batch", {"layout": "csr", "lanes": 4, "real": "float"}),
    ("networks", {"real": "float"}),
    ("multigrid", {"real": "float", "lanes": 4}),
    ("inspect", {"layout": "csr"}),
    ("inspect", {"layout": "dense"}),
    ("diagonals", {}),
    ("many", {"layout": "csr", "lanes": 4}),
    ("block", {"real": "float"}),
]
TESTED = len(VARIANTS)
VARIANTS += [
    ("cg", {"layout": layout, "lanes": lanes, "kind": kind, "real": real, "value": value})
    for layout, lanes in (("csr", 1), ("csr", 32), ("dia", 1), ("dense", 32))
    for kind in ("identity", "diagonal", "chebyshev")
    for real, value in (("double", "double"), ("double", "float"), ("float", "float"))
]
VARIANTS += [("steps", {"layout": layout, "real": real}) for layout in ("dia", "dense") for real in ("double", "float")]
VARIANTS += [("many", {"layout": layout, "real": "float"}) for layout in ("csr", "dia", "dense")] + [("block", {})]
VARIANTS += [("networks", {}), ("multigrid", {"real": "float", "lanes": 32, "layout": "dense"})]


@functools.cache
def nvrtc():
    """NVRTC's library, or None."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for library in sorted(Path(folder).rglob("libnvrtc.so*")):
            if "alt" not in library.name:
                return ctypes.CDLL(str(library))
    return None


def missing():
    """Why nothing can be compiled here, or None."""
    if nvrtc() is None and shutil.which("nvcc") is None:
        return "no compiler for GPUs here: pip install 'cgopt[gpu-compiler]' brings one (NVRTC), which needs no GPU"
    return None


def compile_kernels(text, architecture):
    """Compile with warnings as errors; what the assembler told of each kernel: name, registers, bytes spilled."""
    report = _by_nvrtc(text, architecture) if nvrtc() is not None else _by_nvcc(text, architecture)
    pattern = r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
    return [(name, int(registers), int(spilled)) for name, spilled, registers in re.findall(pattern, report, re.DOTALL)]


def _by_nvrtc(text, architecture):
    library, program = nvrtc(), ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}".encode(), b"-std=c++17", b"--ptxas-options=-v"]
    status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    report = log.value.decode()
    if status or "warning" in report:
        raise RuntimeError(report)
    return report


def _by_nvcc(text, architecture):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernels.cu"
        file.write_text(text)
        command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", "-Werror", "all-warnings", "-Xptxas", "-v"]
        run = subprocess.run([*command, "-o", f"{file}.o", file], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stdout + run.stderr)
    return run.stdout + run.stderr


def main():
    """Compile all variants, and print what each kernel takes."""
    if missing() is not None:
        sys.exit(missing())
    for name, options in VARIANTS:
        for architecture in ARCHITECTURES:
            for kernel, registers, spilled in compile_kernels(source(name, **options), architecture):
                how = " ".join(map(str, options.values()))
                print(
                    f"{architecture} {name:10} {how:32} {kernel:20} {registers:4} registers {spilled:5} bytes spilled"
                )
    print(f"{len(VARIANTS)} sources compiled for {', '.join(ARCHITECTURES)} without a warning")


if __name__ == "__main__":
    main()
