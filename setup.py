"""Puts the data folders into the wheel; all else is in setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("benchmarks", "datasets", "results/reference")  # other results stay in the checkout
KEPT = {".toml", ".csv", ".md", ".json"}
SOURCES = Path("results/reference/sources")  # small models that `sfdabench regress` starts from


class BuildWithData(build_py):
    """The package, and below it as sfdabench/shipped what it reads at run time."""

    def run(self) -> None:
        """Copy text, and no model or image but those of the reference."""
        super().run()
        if self.editable_mode:  # a checkout reads its own folders
            return
        root = Path(__file__).parent
        for folder in FOLDERS:
            for path in sorted((root / folder).rglob("*")):
                kept = path.suffix in KEPT or path.parent == root / SOURCES
                if path.is_file() and kept:
                    copy = Path(self.build_lib, "sfdabench", "shipped", path.relative_to(root))
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)


setup(cmdclass={"build_py": BuildWithData})
