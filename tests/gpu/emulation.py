"""Compiles kernel sources for the CPU, and launches them as a driver would."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from cgopt.kernels.gpu.sources import kernel_names

HEADER = Path(__file__).with_name("emulate.h")
COMPILER = shutil.which("g++")
FLAGS = ("-std=c++20", "-O0", "-Wall", "-Werror", "-pthread", "-fPIC")


@functools.cache
def cache_folder():
    """Where what was compiled is kept, by content; with the header compiled once for all sources."""
    key = hashlib.sha256(HEADER.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"cgopt-kernels-{os.getuid()}-{key}"
    folder.mkdir(exist_ok=True)
    shutil.copy(HEADER, folder)
    compile_to(folder / "emulate.h.gch", folder / HEADER.name, "-x", "c++-header")
    return folder


def compile_to(target, source, *options):
    """Compile, unless that was done; others may be at it."""
    if target.exists():
        return
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        subprocess.run([COMPILER, *FLAGS, *options, "-o", file.name, source], check=True)
    os.replace(file.name, target)


def unit(text, header=HEADER):
    """A source text as a C++ unit: the header before it, its kernels exported after it."""
    exports = "\n".join(f"EXPORT({name})" for name in kernel_names(text))
    return f'#include "{header}"\n{text}\n{exports}\n'


@functools.cache
def compiled(text):
    """The kernels of a text as a loaded library."""
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    source = cache_folder() / f"{name}.cpp"
    source.write_text(unit(text, cache_folder() / HEADER.name))
    library = source.with_suffix(".so")
    compile_to(library, source, "-shared")
    return ctypes.CDLL(str(library))


recorded = None  # a list that launches are appended to, with the arguments as they were, when it is one


def launch(text, name, grid, block, args, shared_bytes, warp):
    """Run one kernel; args are NumPy arrays, None for a null pointer, and NumPy scalars of the parameters' types."""
    if recorded is not None:
        copies = [a if a is None or isinstance(a, np.generic) else (a.ctypes.data, a.copy()) for a in args]
        recorded.append((text, name, grid, block, copies, shared_bytes, warp))
    library = compiled(text)
    wanted = (ctypes.c_int * 64)()
    count = getattr(library, f"parameters_{name}")(wanted)
    assert count == len(args), f"{name} takes {count} arguments, got {len(args)}"
    values, pointers = [], (ctypes.c_void_p * count)()
    for k, arg in enumerate(args):
        if wanted[k] < 0 and arg is None:
            value = np.zeros(1, np.uintp)
        elif wanted[k] < 0:
            assert isinstance(arg, np.ndarray), f"argument {k} of {name} must be an array, got {arg!r}"
            assert arg.flags.c_contiguous, f"argument {k} of {name} is not contiguous"
            assert described(arg) == -wanted[k], f"argument {k} of {name} holds {arg.dtype}: {wanted[k]} is wanted"
            value = np.array([arg.ctypes.data], np.uintp)
        else:
            assert isinstance(arg, np.generic), f"argument {k} of {name} has no definite type: {arg!r}"
            assert described(arg) == wanted[k], f"argument {k} of {name} is {arg.dtype}: {wanted[k]} is wanted"
            value = np.array([arg])
        values.append(value)
        pointers[k] = value.ctypes.data
    getattr(library, f"launch_{name}")(grid, block, warp, ctypes.c_size_t(shared_bytes), pointers)


def described(a):
    """A type by the number that the header gives a parameter of it."""
    return a.dtype.itemsize + (100 if a.dtype.kind == "f" else 0)


C_TYPES = {"f8": "double", "f4": "float", "i8": "long long", "u8": "unsigned long long", "i4": "int", "u4": "unsigned"}


def program(calls):
    """A C++ program that makes the recorded launches of one text, for tools that want a whole program."""
    (text,) = {call[0] for call in calls}
    body, count = [], 0
    for _, name, grid, block, args, shared_bytes, warp in calls:
        names, seen = [], {}
        for arg in args:
            if arg is None:
                body.append(f"void* a{count} = nullptr;")
            elif isinstance(arg, np.generic):
                body.append(f"{C_TYPES[arg.dtype.str[1:]]} a{count} = {arg.item()!r};".replace("True", "1"))
            elif (arg[0], arg[1].size) in seen:  # the same array twice
                names.append(seen[arg[0], arg[1].size])
                continue
            else:
                kind = C_TYPES[arg[1].dtype.str[1:]]
                values = ", ".join(f"({kind}){v!r}" for v in arg[1].ravel().tolist())
                values = values.replace("nan", "NAN").replace("inf", "INFINITY")
                body.append(f"std::vector<{kind}> v{count} = {{{values}}}; void* a{count} = v{count}.data();")
                seen[arg[0], arg[1].size] = f"&a{count}"
            names.append(f"&a{count}")
            count += 1
        pointers = ", ".join(f"(void*){n}" for n in names)
        body.append(
            f"{{ void* args[] = {{{pointers}}}; launch_{name}({grid}, {block}, {warp}, {shared_bytes}, args); }}"
        )
    return unit(text) + "int main()\n{\n" + "\n".join(body) + "\n}\n"


def sanitized(source):
    """What a program's run under the thread sanitizer printed, and its exit status (66 where a race was found)."""
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    file = cache_folder() / f"{name}-tsan.cpp"
    file.write_text(source)
    compile_to(file.with_suffix(".exe"), file, "-fsanitize=thread", "-g")
    file.with_suffix(".exe").chmod(0o755)
    run = subprocess.run([file.with_suffix(".exe")], capture_output=True, text=True, check=False, timeout=120)
    return run.returncode, run.stderr


@functools.cache
def no_sanitizer():
    """Why programs cannot run under the thread sanitizer here, or None."""
    if COMPILER is None:
        return "no g++ here"
    file = cache_folder() / "works.cpp"
    file.write_text("#include <thread>\nint main() { std::jthread t([] {}); }\n")
    with tempfile.TemporaryDirectory() as folder:
        command = [COMPILER, *FLAGS, "-fsanitize=thread", "-o", f"{folder}/works", file]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return "g++ here has no thread sanitizer"
        if subprocess.run([f"{folder}/works"], capture_output=True, check=False).returncode:
            return "programs under the thread sanitizer do not run here"
    return None
