"""cgopt_rl: reinforcement learning on top of `cgopt`.

Importing it compiles nothing and needs none of the extras.
"""

from __future__ import annotations
