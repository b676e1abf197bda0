"""What all tests share: how Hypothesis runs."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, so that a new failure is of the code. No deadline: the first example that
# reaches a kernel compiles it. To look further afield: pytest --hypothesis-profile=explore
settings.register_profile("cgopt", derandomize=True, deadline=None, max_examples=25)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("cgopt")
