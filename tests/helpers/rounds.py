"""How many rounds of faults a run tries: each has seeds of its own, so that more rounds are other faults."""

from __future__ import annotations

import os

ROUNDS = int(os.environ.get("GLANCE_FAST_FAULT_ROUNDS", "1"))
