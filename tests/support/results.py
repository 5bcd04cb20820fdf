"""Records what a program measured or tried: `--record` writes its output into the `RESULTS.md` beside it or above."""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO

from tests.support.process import ROOT


class _Tee(io.StringIO):
    def __init__(self, shown: TextIO) -> None:
        super().__init__()
        self._shown = shown

    def write(self, text: str) -> int:
        self._shown.write(text)
        self._shown.flush()
        return super().write(text)


def recorded(main: Callable[[], int | None]) -> int:
    """Run the program `main`, with `--record` in its arguments record its output; its exit code."""
    if "--record" not in sys.argv:
        return main() or 0
    sys.argv.remove("--record")
    program = Path(sys.argv[0]).resolve()
    with redirect_stdout(_Tee(sys.stdout)) as printed:
        code = main() or 0
    module = ".".join(program.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    folder = next(each for each in program.parents if (each / "RESULTS.md").exists())
    write(folder / "RESULTS.md", " ".join(["python -m", module, *sys.argv[1:]]), printed.getvalue())
    return code


def write(path: Path, command: str, output: str) -> None:
    """Put a command's output, with date, commit and machine, in the place of its last one, or at the end."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    heading = f"## `{command}`"
    section = (
        f"{heading}\n\n{time.strftime('%Y-%m-%d')}, commit {commit}, {machine}:\n\n```text\n{output.strip()}\n```\n"
    )
    before = path.read_text("utf-8") if path.exists() else "# Results\n"
    kept, _, rest = before.partition(f"{heading}\n")
    after = rest.partition("\n## ")[2]
    path.write_text(f"{kept.rstrip()}\n\n{section}" + (f"\n## {after}" if after else ""), "utf-8")
