"""Runs every recipe with the real library of its language, Go's build included: minutes, and a network.

python -m tests.recipes
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.recipes.languages import EVERYTHING

os.environ[EVERYTHING] = "yes"
sys.exit(pytest.main(["-rs", "-q", "tests/recipes", *sys.argv[1:]]))
