"""`minimize`: one call for every method, and every method as SciPy's ``method=``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scipy.optimize import OptimizeResult

from ..arguments import one_of
from ..linear.stopping import check_callback
from .hessian_free import hessian_free
from .natural_gradient import natural_gradient
from .newton_cg import newton_cg
from .nonlinear_cg import nonlinear_cg
from .objective import FunctionObjective, Objective

METHODS: dict[str, Callable[..., OptimizeResult]] = {
    "newton-cg": newton_cg,
    "hessian-free": hessian_free,
    "natural-gradient": natural_gradient,
    "nonlinear-cg": nonlinear_cg,
}


def minimize(
    fun: Any,
    x0: Any,
    *,
    args: tuple[Any, ...] = (),
    jac: Any = None,
    hvp: Callable[..., Any] | None = None,
    method: str = "newton-cg",
    callback: Callable[..., Any] | None = None,
    state: dict[str, Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> OptimizeResult:
    """Minimise a smooth function of many variables.

    Parameters
    ----------
    fun : callable or Objective
        ``fun(x, *args)``, a number; with ``jac=True`` the pair of it and the gradient.
    x0 : (n,) float32 or float64 array
        Where to begin; its type is the type that is computed in.
    args : tuple
        More arguments of `fun`, `jac` and `hvp`.
    jac : callable or True
        ``jac(x, *args)``, the gradient.
    hvp : callable, optional
        ``hvp(x, v, *args)``: the Hessian (or a Gauss-Newton or Fisher matrix) times v. Without it, finite differences
        of the gradient whose step is scaled to x and v; nothing is needed for "nonlinear-cg".
    method : {"newton-cg", "hessian-free", "natural-gradient", "nonlinear-cg"}
        See the functions of `cgopt.optimize` that bear these names.
    callback : callable, optional
        Called after each step as ``callback(x)``; with a parameter named ``intermediate_result``, it is given what
        `minimize` would return now. Returning or raising StopIteration ends the run.
    state : dict, optional
        ``result.state`` of an earlier run (or ``intermediate_result.state``), numbers and arrays: the run goes on from
        there, and gives what it would have given without the interruption.
    progress : bool
        Show the value, the gradient and the cost while it runs. Needs rich: ``pip install "cgopt[cli]"``.
    **options
        Of the method: ``gtol`` (relative to the first gradient), ``maxiter``, and its own.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With ``history``, ``cost`` (in gradients), ``ending`` and ``state`` besides SciPy's fields.

    Notes
    -----
    No option has the unit of f: f times any positive number follows the same path.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> from scipy.optimize import rosen, rosen_der
    >>> result = cgopt.minimize(rosen, np.zeros(8), jac=rosen_der, gtol=1e-8)
    >>> result.success, result.x.round(5)
    (True, array([1., 1., 1., 1., 1., 1., 1., 1.]))

    As a method of SciPy's:

    >>> from scipy.optimize import minimize
    >>> minimize(rosen, np.zeros(8), jac=rosen_der, method=cgopt.optimize.scipy_method("nonlinear-cg")).x.round(3)
    array([1., 1., 1., 1., 1., 1., 1., 1.])
    """
    solve = METHODS[one_of("method", method, METHODS)]
    if isinstance(fun, Objective):
        if jac is not None or hvp is not None or args:
            raise ValueError("jac, hvp and args belong to a plain function; the objective that was passed has its own")
        objective: Objective = fun
    else:
        objective = FunctionObjective(fun, jac, hvp, args)
    _check_options(solve, options)
    if not progress:
        return solve(objective, x0, callback=callback, state=state, **options)
    with ProgressLine(method) as line:
        return solve(objective, x0, callback=line.before(callback), state=state, **options)


class ProgressLine:
    """One line on the screen that says where a run stands."""

    def __init__(self, method: str) -> None:
        try:
            from rich.console import Console
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError('progress needs rich: pip install "cgopt[cli]"') from error
        self.method = method
        self.status = Console(stderr=True).status(f"{method}: first step")

    def __enter__(self) -> ProgressLine:
        self.status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.status.stop()

    def before(self, callback: Any) -> Callable[..., Any]:
        """A callback that shows the state, and then calls another one with what that wants."""
        listener, rich_state = check_callback(callback)

        def show(*, intermediate_result: OptimizeResult) -> Any:
            now = intermediate_result
            norm = now.history[-1]["gradient_norm"]
            self.status.update(
                f"{self.method}: step {now.nit}, f = {now.fun:.6g}, |gradient| = {norm:.2e}, {now.cost:.0f} gradients"
            )
            if listener is None:
                return None
            return listener(intermediate_result=now) if rich_state else listener(now.x)

        return show


def _check_options(solve: Callable[..., OptimizeResult], options: dict[str, Any]) -> None:
    """Refuse options that the method does not have, naming the nearest."""
    import inspect

    known = [name for name in inspect.signature(solve).parameters if name not in ("objective", "x0")]
    for name in options:
        one_of(f"the option {name!r}", name, known)


def scipy_method(method: str, **defaults: Any) -> Callable[..., OptimizeResult]:
    """A method of `minimize` as `scipy.optimize.minimize` takes it for its own ``method``.

    Parameters
    ----------
    method : str
        As for `cgopt.minimize`.
    **defaults
        Options of the method; those passed to SciPy as ``options`` override them.

    Returns
    -------
    callable
        Takes jac, and hessp or a matrix-valued hess; no bounds and no constraints.
    """
    one_of("method", method, METHODS)

    def run(
        fun: Callable[..., Any],
        x0: Any,
        args: tuple[Any, ...] = (),
        *,
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Any = None,
        **options: Any,
    ) -> OptimizeResult:
        if bounds is not None or constraints:
            raise ValueError(f"the method {method!r} takes no bounds and no constraints")
        hvp = hessp
        if hvp is None and callable(hess):

            def hvp(x: Any, v: Any, *more: Any) -> Any:
                return hess(x, *more) @ v

        return minimize(fun, x0, args=args, jac=jac, hvp=hvp, method=method, callback=callback, **(defaults | options))

    return run
