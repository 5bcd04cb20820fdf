"""The tests: one folder per package, and `support` for what they share."""

import os
import sys

# Without bytecode every process of the tests, this one first, compiles what it imports: 5 s for each of the workers.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
