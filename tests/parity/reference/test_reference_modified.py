from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from parity.errors import ReferenceSourceError
from parity.reference import open_reference

MASKING = "dinov2/data/masking.py"


@pytest.fixture
def altered(official_copy: Path) -> Path:
    """Official code with one altered line."""
    path = official_copy / MASKING
    path.write_bytes(path.read_bytes().replace(b"if delta > 0:", b"if delta > 1:"))
    return official_copy


def test_altered_line_is_refused_with_file_and_line(altered: Path) -> None:
    """One altered line stops the run; the one-line message names it and the way to run all the same."""
    before = list(sys.meta_path)
    with pytest.raises(ReferenceSourceError) as caught, open_reference(str(altered)):
        pytest.fail("modified code was opened")
    message = str(caught.value)
    assert f"{MASKING} differs from commit f896929 (2023-04-20): line 70: `if delta > 1:`" in message
    assert "--allow-modified-reference" in message
    assert "\n" not in message
    assert sys.meta_path == before
    assert not dist.is_initialized()


def test_altered_line_runs_when_allowed_and_is_named(altered: Path) -> None:
    """Allowed, the altered code is what runs, and the record says which line is not official's."""
    with open_reference(str(altered), allow_modified=True) as reference:
        masking = reference.module("data.masking")
        assert "if delta > 1:" in Path(str(masking.__file__)).read_text(encoding="utf-8")
        assert masking.MaskingGenerator(14).get_shape() == (14, 14)
    info = reference.info
    assert (info.identity, info.files_total, info.files_verified) == ("modified", 44, 43)
    assert info.modified == (f"{MASKING} differs from commit f896929 (2023-04-20): line 70: `if delta > 1:`",)
    assert info.version.startswith("modified; nearest: dinov2 0.0.1.dev2")


def test_mixed_code_is_refused_unless_allowed(official_copy: Path, files_at_commit: dict[str, bytes]) -> None:
    """Official files of different commits are no official code; the odd file is named."""
    header = b"# All rights reserved.\n#\n# This source code is licensed under the license found in the\n"
    header += b"# LICENSE file in the root directory of this source tree.\n"
    later = b"#\n# This source code is licensed under the Apache License, Version 2.0\n"
    later += b"# found in the LICENSE file in the root directory of this source tree.\n"
    init = files_at_commit["dinov2/__init__.py"].replace(header, later)
    (official_copy / "dinov2/__init__.py").write_bytes(init)
    with (
        pytest.raises(ReferenceSourceError, match=r"mixes official files .*dinov2/__init__\.py is official's of"),
        open_reference(str(official_copy)),
    ):
        pytest.fail("mixed code was opened")
    with open_reference(str(official_copy), allow_modified=True) as reference:
        assert reference.info.identity == "mixed"
        assert "dinov2/__init__.py is official's of" in reference.info.notes[0]


def test_reference_inside_a_reference(official_root: Path, altered: Path) -> None:
    """The inner one is used until it ends; the outer one says so rather than hand out its modules."""
    with open_reference(str(official_root)) as outer:
        first = outer.module("data.masking")
        with open_reference(str(altered), allow_modified=True) as inner:
            assert inner.module("data.masking") is not first
            with pytest.raises(RuntimeError, match="comes from elsewhere"):
                outer.module("data.masking")
        assert outer.module("data.masking") is first
        assert dist.is_initialized()
    assert not dist.is_initialized()
