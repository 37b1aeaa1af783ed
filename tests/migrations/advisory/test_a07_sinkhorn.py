from __future__ import annotations

from advisory_cases import found, places

from migrations.advisory.a07_sinkhorn import ADVISORY

LOSS = """
    class Loss(nn.Module):
        def sinkhorn_knopp_teacher(self, output, temp, n_iterations=3):
            Q = torch.exp(output / temp).t()
            for it in range(n_iterations):
                Q /= Q.sum(dim=1, keepdim=True)
            return Q
"""


def test_another_default_is_reported() -> None:
    """The parameter's line, and the number."""
    (finding,) = found(ADVISORY, LOSS.replace("n_iterations=3", "n_iterations=5"))
    assert str(finding.site) == "fork.py:3"
    assert finding.evidence == (
        "`sinkhorn_knopp_teacher` runs 5 iterations unless it is told otherwise, official runs 3"
    )


def test_another_argument_is_reported() -> None:
    """Where the call gives it, whatever the default."""
    assert places(ADVISORY, LOSS + "    q = loss.sinkhorn_knopp_teacher(x, 0.07, n_iterations=1)\n") == ["fork.py:8"]


def test_a_loop_over_another_number_is_reported() -> None:
    """A number in the loop itself."""
    assert places(ADVISORY, LOSS.replace("range(n_iterations)", "range(10)")) == ["fork.py:5"]


def test_official_s_form_is_silent_also_under_other_names() -> None:
    """Three by default, by argument, in the loop."""
    renamed = LOSS.replace("n_iterations", "num_iters").replace("sinkhorn_knopp_teacher", "Sinkhorn")
    assert places(ADVISORY, LOSS) == places(ADVISORY, renamed) == []
    assert places(ADVISORY, LOSS.replace("range(n_iterations)", "range(3)")) == []


def test_a_default_that_no_call_uses_is_silent() -> None:
    """Every call gives three."""
    calls = "    q = loss.sinkhorn_knopp_teacher(x, 0.07, n_iterations=3)\n"
    assert places(ADVISORY, LOSS.replace("n_iterations=3", "n_iterations=5") + calls) == []


def test_solvers_of_libraries_and_other_loops_are_silent() -> None:
    """Optimal transport of a library, and a number that is in no Sinkhorn."""
    text = "plan = ot.sinkhorn(a, b, cost, reg=1.0, n_iter=100)\ndef power(x, n_iterations=9):\n    return x.exp()\n"
    assert places(ADVISORY, text) == []
