from __future__ import annotations

from advisory_cases import found, places

from migrations.advisory.a03_clipping import ADVISORY

DINO_V1 = """
    def clip_gradients(model, clip):
        norms = []
        for name, p in model.named_parameters():
            if p.grad is not None:
                param_norm = p.grad.data.norm(2)
                norms.append(param_norm.item())
                clip_coef = clip / (param_norm + 1e-6)
                if clip_coef < 1:
                    p.grad.data.mul_(clip_coef)
        return norms
"""


def test_dino_v1_s_loop_is_reported() -> None:
    """The norm's line, the factor's line, and what is looped over."""
    (finding,) = found(ADVISORY, DINO_V1)
    assert str(finding.site) == "fork.py:6"
    assert [str(site) for site in finding.related] == ["fork.py:10"]
    assert finding.evidence == (
        "each of `model.named_parameters()` is scaled by its own norm `p.grad.data.norm(2)`, not by that of its "
        "submodule"
    )


def test_other_names_other_norms_and_augmented_assignment_are_reported() -> None:
    """What is called how does not matter."""
    text = """
        for w in list(net.parameters()):
            n = torch.linalg.vector_norm(w.grad)
            c = torch.clamp(limit / n, max=1.0)
            w.grad *= c
    """
    assert places(ADVISORY, text) == ["fork.py:3"]


def test_torch_s_function_called_for_each_parameter_is_reported() -> None:
    """With a parameter, or with a list of that one."""
    text = """
        for p in student.parameters():
            torch.nn.utils.clip_grad_norm_(p, 3.0)
        for name, p in student.named_parameters():
            clip_grad_norm_([p], max_norm=3.0)
    """
    assert places(ADVISORY, text) == ["fork.py:3", "fork.py:5"]


def test_official_s_clipping_by_submodule_is_silent() -> None:
    """FSDP's method on each submodule, and torch's function on each one's parameters."""
    text = """
        for v in model.student.values():
            v.clip_grad_norm_(cfg.optim.clip_grad)
        for m in (student.backbone, student.head):
            clip_grad_norm_(m.parameters(), 3.0)
    """
    assert places(ADVISORY, text) == []


def test_a_norm_of_all_that_is_summed_up_in_a_loop_is_silent() -> None:
    """The first loop only adds up, the second scales all by the same factor."""
    text = """
        total = 0.0
        for p in model.parameters():
            total += p.grad.norm(2) ** 2
        factor = clip / total.sqrt()
        for p in model.parameters():
            p.grad.mul_(factor)
    """
    assert places(ADVISORY, text) == []


def test_unscaling_statistics_and_norms_of_weights_are_silent() -> None:
    """Loops over parameters that clip nothing."""
    text = """
        for name, p in student.named_parameters():
            norm = p.grad.norm(2)
            log[name] = norm
        for p in student.parameters():
            p.grad.div_(world_size)
        for p in student.parameters():
            size = p.norm()
            p.data.mul_(limit / size)
    """
    assert places(ADVISORY, text) == []
