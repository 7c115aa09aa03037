"""Checks that a wheel holds the whole package and nothing else, and that it works by itself."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "seqgan_jax"

with zipfile.ZipFile(sys.argv[1]) as wheel, tempfile.TemporaryDirectory() as folder:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*.py")}
    if held != wanted:
        sys.exit(f"the wheel lacks {sorted(wanted - held)} and has {sorted(held - wanted)} besides")
    wheel.extractall(folder)
    code = "import seqgan_jax, sys; seqgan_jax.load; sys.exit(not seqgan_jax.__file__[:%d] == %r)"
    command = [sys.executable, "-c", code % (len(folder), folder)]
    subprocess.run(command, cwd=folder, env={"PYTHONPATH": folder}, check=True)
