"""The command line: what it answers, what it refuses, and that its exit status tells the truth."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import cgopt
from cgopt import cli, demo, gallery

SIZE = 400
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder and the whole search path, with ``grid.mtx``, the Laplacian of a 20 x 20 grid."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CGOPT_DATA", str(tmp_path))
    scipy.io.mmwrite("grid.mtx", gallery.poisson((20, 20)), symmetry="symmetric")
    return tmp_path


@pytest.fixture
def cgopt_command(capsys):
    """The command, run in this process: exit status, what went to stdout, what went to stderr."""

    def run(*words):
        status = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def reported(out, label):
    """The text behind a label of the report."""
    return re.search(rf"^  {label} +(.*)$", out, re.MULTILINE).group(1)


# --- a solve and its report -----------------------------------------------------------------------


@pytest.mark.parametrize("preconditioner", ["none", "jacobi"])
def test_report_tells_the_truth(folder, cgopt_command, preconditioner):
    status, out, err = cgopt_command(
        "solve", "grid", "--rtol", "1e-9", "--save", "x.npy", "--preconditioner", preconditioner
    )
    assert status == 0
    assert err == ""
    assert out.startswith("CONVERGED: ")
    A, b = gallery.poisson((20, 20)), np.random.default_rng(0).standard_normal(SIZE)
    share = np.linalg.norm(b - A @ np.load("x.npy")) / np.linalg.norm(b)
    assert share <= 1e-9
    assert float(reported(out, "true residual").split()[0]) == pytest.approx(share, rel=0.01)
    assert f"400 x 400, {A.nnz:,} nonzeros, float64" in reported(out, "matrix")
    assert reported(out, "storage").startswith("half_dia (symmetric: 3 of 5 diagonals hold it")
    assert "seed 0" in reported(out, "right-hand side")
    assert reported(out, "preconditioner") == preconditioner
    direct = cgopt.cg(A, b, rtol=1e-9, M=preconditioner)
    assert int(reported(out, "iterations")) == direct.iterations

    # The Ritz values lie inside the spectrum (Golub and Van Loan 2013, section 10.1); Jacobi divides by 4.
    spectrum = gallery.poisson_eigenvalues((20, 20)) / (4.0 if preconditioner == "jacobi" else 1.0)
    low, _, high = reported(out, "Ritz values").rstrip(",").split()[:3]
    rounding = 1 + 1e-3  # of four printed digits
    assert spectrum[0] <= float(low) * rounding
    assert float(high.rstrip(",")) <= spectrum[-1] * rounding
    condition = float(re.search(r"at least (\S+)", out).group(1))
    assert 1 < condition <= spectrum[-1] / spectrum[0] * 1.01


def test_path_and_name_are_the_same_matrix(folder, cgopt_command):
    for k, word in enumerate(("grid", "grid.mtx", folder / "grid.mtx")):
        assert cgopt_command("solve", word, "--save", f"{k}.npy", "--quiet") == (0, "", "")
    assert {Path(f"{k}.npy").read_bytes() for k in range(3)} == {Path("0.npy").read_bytes()}


def write_npy(path, b):
    np.save(path, b)


def write_column(path, b):
    np.save(path, b[:, None])


def write_matrix_market(path, b):
    scipy.io.mmwrite(path, b[:, None], precision=17)


def write_sparse(path, b):
    scipy.io.mmwrite(path, sp.coo_array(b[:, None]), precision=17)


def write_text(path, b):
    np.savetxt(path, b, fmt="%.17g")


def write_commas(path, b):
    path.write_text(", ".join(map(repr, b.tolist())))


def write_gzip(path, b):
    path.write_bytes(gzip.compress("\n".join(map(repr, b.tolist())).encode()))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("b.npy", write_npy),
        ("b.npy", write_column),
        ("b.mtx", write_matrix_market),
        ("b.mtx", write_sparse),
        ("b.txt", write_text),
        ("b.csv", write_commas),
        ("b.txt.gz", write_gzip),
    ],
)
def test_right_hand_side_from_a_file(folder, cgopt_command, name, write):
    b = np.random.default_rng(1).standard_normal(SIZE)
    write(folder / name, b)
    status, out, _ = cgopt_command("solve", "grid", "--rhs", name, "--save", "x.npy")
    assert status == 0
    assert reported(out, "right-hand side") == name
    np.testing.assert_array_equal(np.load("x.npy"), cgopt.cg(gallery.poisson((20, 20)), b, rtol=1e-8).x)


def test_right_hand_side_that_lies_with_the_matrix(folder, cgopt_command):
    b = np.arange(1.0, SIZE + 1)
    scipy.io.mmwrite("grid_b.mtx", b[:, None], precision=17)
    status, out, _ = cgopt_command("solve", "grid", "--save", "x.npy")
    assert status == 0
    assert reported(out, "right-hand side") == "the one that lies with the matrix"
    np.testing.assert_array_equal(np.load("x.npy"), cgopt.cg(gallery.poisson((20, 20)), b, rtol=1e-8).x)


def test_tolerance_may_be_absolute(folder, cgopt_command):
    status, _, _ = cgopt_command("solve", "grid", "--rtol", "0", "--atol", "1e-3", "--save", "x.npy")
    residual = np.random.default_rng(0).standard_normal(SIZE) - gallery.poisson((20, 20)) @ np.load("x.npy")
    assert status == 0
    assert 1e-5 < np.linalg.norm(residual) <= 1e-3


def test_zero_right_hand_side(folder, cgopt_command):
    np.save("zero.npy", np.zeros(SIZE))
    status, out, _ = cgopt_command("solve", "grid", "--rhs", "zero.npy", "--plot", "r.png")
    assert status == 0
    assert reported(out, "iterations") == "0"
    assert "Ritz" not in out


def test_format_and_threads(folder, cgopt_command, one_thread):
    scipy.io.mmwrite("large.mtx", gallery.poisson((150, 150)), symmetry="symmetric")
    status, out, _ = cgopt_command("solve", "large", "--format", "csr", "--threads", "1")
    assert status == 0
    assert reported(out, "storage").startswith("csr (asked for; values exact in fp32)")
    assert reported(out, "time").endswith("on 1 thread")


# --- not converged --------------------------------------------------------------------------------


def test_iterations_used_up(folder, cgopt_command):
    status, out, err = cgopt_command("solve", "grid", "--maxiter", "3", "--save", "x.npy")
    assert (status, err) == (1, "")
    assert out.startswith("MAXITER: ")
    assert reported(out, "iterations") == "3"
    assert np.load("x.npy").shape == (SIZE,)
    assert cgopt_command("solve", "grid", "--maxiter", "3", "--quiet") == (1, "", "")
    assert cgopt_command("solve", "grid", "--maxiter", "0")[0] == 1


@pytest.mark.parametrize("preconditioner", ["none", "jacobi"])
def test_indefinite_matrix(folder, cgopt_command, preconditioner):
    scipy.io.mmwrite("saddle.mtx", sp.diags_array(np.r_[np.ones(9), -1.0]))
    status, out, _ = cgopt_command("solve", "saddle", "--preconditioner", preconditioner)
    assert status == 1
    assert out.startswith("INDEFINITE: ")


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("slove grid", "no command 'slove'. Nearest: solve."),
        ("", "which command: solve or demo?"),
        ("--quiet", "no option '--quiet'. There are: -h, --help, --version."),
        ("solve", "required: MATRIX"),
        ("solve grd", "no matrix 'grd'.* Nearest: grid."),
        ("solve ./grd.mtx", "no file .*grd.mtx. Nearest: grid.mtx."),
        ("solve grid other", "one argument too many: 'other'"),
        ("solve grid --precondtioner jacobi", "no option '--precondtioner'. Nearest: --preconditioner."),
        ("solve grid --tol=1", "no option '--tol'. Nearest: --rtol, --atol."),
        ("solve grid --preconditioner jacoby", "no preconditioner 'jacoby'. Nearest: jacobi."),
        ("solve grid --preconditioner xyz", "no preconditioner 'xyz'. There are: none, jacobi"),
        ("solve grid --format dai", "no format 'dai'. Nearest: dia."),
        ("solve grid --rtol -1", "--rtol: '-1' is not a number that is zero or positive"),
        ("solve grid --rtol nan", "--rtol: 'nan' is not a number"),
        ("solve grid --maxiter many", "--maxiter: 'many' is not a whole number"),
        ("solve grid --threads 0", "threads must be a whole number from 1"),
        ("solve grid --rhs none.npy", "none.npy: No such file"),
        ("solve grid --rhs grid.mtx", r"grid.mtx has shape \(400, 400\); the matrix needs \(400,\)"),
        ("solve grid --save x.txt", "ends in .npy, not 'x.txt'"),
        ("solve grid --save nowhere/x.npy", "nowhere/x.npy cannot be written: No such file or directory"),
        ("solve grid --plot r.jpgg", "ends in .png, .pdf or .svg"),
        ("demo --size smal", "no size 'smal'. Nearest: small."),
        ("demo --output nowhere/d.png", "nowhere/d.png cannot be written"),
    ],
)
def test_wrong_request(folder, cgopt_command, words, sentence):
    status, _, err = cgopt_command(*words.split())
    assert status == 2
    assert re.search(sentence, err)
    assert err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["grid.mtx"]


@pytest.mark.parametrize("content", ["", "1 2 three", "1 2 3", "\x93NUMPY"])
def test_wrong_right_hand_side(folder, cgopt_command, content):
    for name in ("b.txt", "b.npy", "b.mtx", "b.txt.gz"):
        (folder / name).write_text(content, encoding="latin-1")
        status, _, err = cgopt_command("solve", "grid", "--rhs", name)
        assert status == 2
        assert name in err
        assert err.count("\n") == 1


def test_right_hand_side_that_is_not_finite(folder, cgopt_command):
    np.save("b.npy", np.where(np.arange(SIZE) == 7, np.nan, 1.0))
    assert cgopt_command("solve", "grid", "--rhs", "b.npy")[::2] == (
        2,
        "cgopt solve: b holds NaN or infinity at index (7,); every entry must be finite\n",
    )


class Payload:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_nothing_is_unpickled(folder, cgopt_command):
    np.save("b.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    (folder / "c.npy").write_bytes(pickle.dumps(Payload()))
    for name in ("b.npy", "c.npy"):
        assert cgopt_command("solve", "grid", "--rhs", name)[0] == 2
    assert not Path("harm").exists()


def test_matrix_that_is_not_symmetric(folder, cgopt_command):
    scipy.io.mmwrite("skew.mtx", sp.csr_array(np.array([[2.0, 1.0], [0.0, 2.0]])))
    status, _, err = cgopt_command("solve", "skew")
    assert status == 2
    assert "A is not symmetric" in err


def test_what_cannot_be_written_is_found_before_the_work(folder, cgopt_command, monkeypatch):
    def work(*args, **options):
        raise AssertionError("this was to be found out first")

    monkeypatch.setattr(gallery, "load", work)
    monkeypatch.setattr(demo, "run", work)
    for words in ("solve grid --save no/x.npy", "solve grid --plot no/r.png", "demo --output no/d.png"):
        assert cgopt_command(*words.split())[0] == 2


def test_an_older_result_survives_a_failure(folder, cgopt_command):
    np.save("x.npy", np.arange(3.0))
    assert cgopt_command("solve", "grd", "--save", "x.npy")[0] == 2
    np.testing.assert_array_equal(np.load("x.npy"), np.arange(3.0))


def test_missing_extra(folder, cgopt_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for words in ("solve grid --plot r.png", "demo --size small"):
        status, _, err = cgopt_command(*words.split())
        assert status == 2
        assert 'pip install "cgopt[plot]"' in err


# --- pictures and the demo ------------------------------------------------------------------------


def test_plot(folder, cgopt_command):
    pytest.importorskip("matplotlib")
    status, out, _ = cgopt_command("solve", "grid", "--plot", "r.png")
    assert status == 0
    assert "The picture is in r.png." in out
    assert Path("r.png").read_bytes().startswith(PNG)
    for tolerance in ("0", "inf"):  # neither has a place on a logarithmic axis
        cgopt_command("solve", "grid", "--rtol", tolerance, "--maxiter", "5", "--plot", "r.png")


@pytest.fixture
def one_thread():
    """Small systems, on machines that have other things to do."""
    threads = cgopt.get_num_threads()
    cgopt.set_num_threads(1)
    yield
    cgopt.set_num_threads(threads)


@pytest.mark.parametrize("nodes", [300, 600])
def test_flange_is_an_elastic_body(one_thread, nodes):
    problem = demo.flange(nodes)
    A, b = problem.A, problem.b
    assert abs(A - A.T).max() == 0.0
    assert len(problem.points) == pytest.approx(nodes, rel=0.15)
    assert np.unique(problem.triangles).size == len(problem.points)  # no point belongs to no triangle
    scaled = A.toarray() / abs(A).max()
    assert np.linalg.eigvalsh(scaled)[0] > A.shape[0] * np.finfo(float).eps  # the error of eigvalsh
    downwards = np.zeros((len(problem.points), 2))
    downwards[:, 1] = -1.0
    # The load on the nodes adds up to the shaft's, and its work b'u is twice the strain energy.
    assert b @ downwards.ravel()[problem.free] == pytest.approx(demo.LOAD)
    x = cgopt.cg(A, b, rtol=1e-10, M="jacobi").x
    assert x @ (A @ x) == pytest.approx(b @ x, rel=1e-8)


def test_flange_has_the_stiffness_of_scikit_fem():
    skfem = pytest.importorskip("skfem")
    from skfem.models.elasticity import lame_parameters, linear_elasticity

    problem = demo.flange(500)
    mesh = skfem.MeshTri(problem.points.T.copy(), problem.triangles.T.copy())
    basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP1()))
    K = skfem.asm(linear_elasticity(*lame_parameters(demo.YOUNG, demo.POISSON)), basis).tocsr()
    order = basis.nodal_dofs.T.ravel()[problem.free]
    expected = K[order][:, order].toarray()
    np.testing.assert_allclose(problem.A.toarray(), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_stress_of_a_stretched_plate():
    """Displacements u = (e x, 0) strain everything alike: sigma_xx = (lam + 2 mu) e, the others lam e."""
    problem = demo.flange(500)
    u = np.zeros((len(problem.points), 2))
    u[:, 0] = 1e-3 * problem.points[:, 0]
    free = demo.Flange(problem.points, problem.triangles, np.arange(u.size), problem.A, problem.b)
    shear = demo.YOUNG / (2 * (1 + demo.POISSON))
    np.testing.assert_allclose(free.von_mises(u.ravel()), 2 * shear * 1e-3, rtol=1e-9)


# --- as a program of its own ----------------------------------------------------------------------


def program(*words, without=()):
    """The command line of a child, in which some modules cannot be imported."""
    hide = "".join(f"sys.modules[{module!r}] = None; " for module in without)
    text = f"import sys; {hide}from cgopt.cli import main; sys.exit(main())"
    return [sys.executable, *(("-c", text) if without else ("-m", "cgopt")), *words]


@pytest.fixture
def environment(folder):
    """The variables of a child that finds this cgopt."""
    root = str(Path(cgopt.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "TERM": "xterm"}


def test_python_dash_m(folder, environment):
    done = subprocess.run(
        program("solve", "grid"), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("CONVERGED")
    assert done.stderr == ""  # no progress where stderr is no terminal


def test_demo(folder, environment):
    pytest.importorskip("matplotlib")
    words = program("demo", "--size", "small", "--output", "d.png")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("d.png").read_bytes().startswith(PNG)
    assert "The picture is in d.png." in done.stdout
    row = r"^(SciPy cg|cgopt cg, \d+ threads?) +([\d,]+) .* ms +(\S+) +(\S+)x$"
    rows = re.findall(row, done.stdout, re.MULTILINE)
    assert len(rows) == 2 + (cgopt.get_num_threads() > 1)
    assert all(float(true) <= 1.01 * demo.RTOL for _, _, true, _ in rows)  # SciPy's is the recursive residual


def test_demo_without_a_picture(folder, cgopt_command, monkeypatch, one_thread):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, _ = cgopt_command("demo", "--size", "small", "--no-plot")
    assert status == 0
    assert "speed-up" in out
    assert sorted(path.name for path in folder.iterdir()) == ["grid.mtx"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("without", [(), ("rich.console",)], ids=["rich", "plain"])
def test_progress_and_interrupt(folder, environment, without):
    pty = pytest.importorskip("pty")
    if not without:
        pytest.importorskip("rich")
    n = 200_000  # of which CG needs about n iterations: minutes
    scipy.io.mmwrite("long.mtx", gallery.poisson(n), symmetry="symmetric")
    ours, theirs = pty.openpty()
    command = program("solve", "long", "--rtol", "1e-12", "--save", "x.npy", without=without)
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    try:
        screen = read_until(ours, b"at iteration")
        child.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert child.wait(timeout=60) == 130
        assert time.monotonic() - start < 3.0
        screen += read_until(ours, None)
    finally:
        child.kill()
        child.wait()
        os.close(ours)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode()).strip().splitlines()[-1].rpartition("\r")[2]
    assert re.fullmatch(
        r"cgopt solve: interrupted at iteration [\d,]+, residual \S+ of \|b\|; nothing was saved", last
    )
    assert not Path("x.npy").exists()


def read_until(descriptor, wanted):
    """What a terminal shows until it has shown `wanted`, or until its end."""
    shown, deadline = b"", time.monotonic() + 60
    while (wanted is None or wanted not in shown) and time.monotonic() < deadline:
        if not select.select([descriptor], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(descriptor, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not piece:
            break
        shown += piece
    assert wanted is None or wanted in shown
    return shown
