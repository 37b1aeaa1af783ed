"""Official code, and the real xformers, for the whole suite: found once, as parity itself finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from parity.adapters.official import OfficialStack
from parity.recipes import SMALL_ARCHITECTURES
from parity.reference import open_reference
from parity.reference.cache import cache_folder
from parity.reference.isolation import quiet_official_warnings
from parity.reference.source import Source, resolve

_XFORMERS = "0.0.35"

# In a workflow of GitHub's, the runs of these tests would annotate it with divergences that are meant to be.
os.environ.pop("GITHUB_ACTIONS", None)


@pytest.fixture(scope="session")
def official_source() -> Source:
    """Official code of April 2023 from PyPI (or from parity's cache), verified."""
    return resolve("pypi", timeout=30)


@pytest.fixture(scope="session")
def official_root(official_source: Source) -> Path:
    """The folder that holds official `dinov2/`; read only, copy it to change it."""
    return official_source.root


@pytest.fixture(scope="module")
def opened_official_stack(official_source: Source) -> Iterator[OfficialStack]:
    """Official code as a stack, open for the tests of one file; a test asks for `official_stack`."""
    with open_reference("pypi") as reference:
        # Tensors this small are slower on several threads, many times so on a busy machine.
        torch.set_num_threads(1)
        yield OfficialStack(reference, SMALL_ARCHITECTURES)


@pytest.fixture
def official_stack(opened_official_stack: OfficialStack) -> Iterator[OfficialStack]:
    """Official code as a stack; pytest resets the warning filters before each test, so they are set for each."""
    with quiet_official_warnings():
        yield opened_official_stack


@pytest.fixture
def official_copy(official_source: Source, tmp_path: Path) -> Path:
    """A folder that holds a copy of official `dinov2/`, for a test to change."""
    root = tmp_path / "official"
    for path in official_source.files:
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(official_source.root / path, place)
    return root


@pytest.fixture
def files_at_commit(official_source: Source) -> dict[str, bytes]:
    """The wheel's files as commit f896929 has them: its version is 0.0.1, and the line is ended."""
    init = official_source.files["dinov2/__init__.py"].replace(b'0.0.1.dev2"', b'0.0.1"\n')
    return {**official_source.files, "dinov2/__init__.py": init}


@pytest.fixture(scope="session")
def real_xformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package `xformers` (3 MB), downloaded once as official code is.

    The Linux wheel is taken on every system: its Python files are what is compared, and they import without
    the compiled extension.
    """
    kept = cache_folder() / f"xformers-{_XFORMERS}"
    if not list(kept.glob("*.whl")):
        options = ["--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(kept)]
        done = subprocess.run([*command, f"xformers=={_XFORMERS}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    folder = tmp_path_factory.mktemp("xformers")
    shutil.unpack_archive(next(kept.glob("*.whl")), folder, "zip")
    return folder
