from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

if importlib.util.find_spec("triton") is not None:  # torch brings triton on Linux only

    def test_indexing_matches_the_real_kernels(real_xformers_folder: Path, tmp_path: Path) -> None:
        """The real Triton kernels, interpreted on the CPU, give the substitutes' values and gradients."""
        folder = tmp_path / "real"
        shutil.copytree(real_xformers_folder, folder)
        for path in (folder / "xformers" / "ops" / "_triton").glob("k_*.py"):
            path.write_text(path.read_text().replace(".is_cuda", ".is_cpu"))
        script = tmp_path / "kernels.py"
        script.write_text(textwrap.dedent(_KERNELS))
        folders = os.pathsep.join([str(folder), *(path for path in sys.path if path)])
        env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": folders}
        done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["add", "scaled", "select"]


_KERNELS = """
    import torch, xformers
    xformers._is_triton_available = lambda: True  # the interpreter needs no GPU
    from xformers.ops import indexing as real
    from parity.reference.substitutes import xformers as ours

    torch.manual_seed(0)
    index, weights = torch.tensor([4, 1, 2]), torch.randn(5, 3, 32)
    start, rows, gamma = torch.randn(5, 3, 32), torch.randn(3, 3, 32), torch.randn(32)

    def add(module, scaling):
        x, source = start.clone().requires_grad_(), rows.clone().requires_grad_()
        scaling = None if scaling is None else scaling.clone().requires_grad_()
        result = module.scaled_index_add(x * 1, index, source, scaling, 1.7)
        leaves = [leaf for leaf in (x, source, scaling) if leaf is not None]
        return [result, *torch.autograd.grad((result * weights).sum(), leaves)]

    for name, scaling in (("add", None), ("scaled", gamma)):
        for mine, theirs in zip(add(ours, scaling), add(real, scaling)):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
        print(name)

    def select(module):
        sources = [start[0].clone().requires_grad_(), rows[:, 0].clone().requires_grad_()]
        result = module.index_select_cat(sources, [torch.tensor([2, 0]), torch.tensor([1])])
        return [result, *torch.autograd.grad((result * result).sum(), sources)]

    assert all(torch.equal(a, b) for a, b in zip(select(ours), select(real)))
    print("select")
"""
