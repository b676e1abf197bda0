"""Compiled code, and nothing else: the only room that knows numba and cupy.

`reference` specifies every primitive in NumPy, `loops` holds the loops' texts over those primitives, `cpu` the
Numba backend. A new array library needs the primitives of `reference`, and every solver runs on it.
"""
