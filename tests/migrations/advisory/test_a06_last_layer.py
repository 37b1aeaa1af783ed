from __future__ import annotations

from advisory_cases import found, places

from migrations.advisory.a06_last_layer import ADVISORY


def test_dino_v1_s_deletion_is_reported() -> None:
    """The statement and what official does instead."""
    text = """
        def cancel_gradients_last_layer(epoch, model, freeze_last_layer):
            if epoch >= freeze_last_layer:
                return
            for n, p in model.named_parameters():
                if "last_layer" in n:
                    p.grad = None
    """
    (finding,) = found(ADVISORY, text)
    assert str(finding.site) == "fork.py:7"
    assert finding.evidence == (
        "`p.grad = None` freezes the last layer through its gradients, official through its learning rate"
    )


def test_zeroed_gradients_are_reported() -> None:
    """Zeros feed Adam with what is not the gradient."""
    text = """
        for name, w in net.named_parameters():
            if "last_layer" in name and epoch < 1:
                w.grad.zero_()
        head.last_layer.weight.grad = torch.zeros_like(head.last_layer.weight)
    """
    assert sorted(places(ADVISORY, text)) == ["fork.py:4", "fork.py:5"]


def test_a_loop_over_the_last_layer_itself_is_reported() -> None:
    """No condition asks for a name, the loop's own parameters are the last layer's."""
    assert places(ADVISORY, "for w in head.last_layer.parameters():\n    w.grad = None\n") == ["fork.py:3"]


def test_official_s_learning_rate_of_zero_is_silent() -> None:
    """Official's scheduler touches no gradient."""
    text = """
        for param_group in optimizer.param_groups:
            is_last_layer = param_group["is_last_layer"]
            param_group["lr"] = (last_layer_lr if is_last_layer else lr) * param_group["lr_multiplier"]
        last_layer_lr_schedule.schedule[:n] = 0
    """
    assert places(ADVISORY, text) == []


def test_gradients_of_everything_are_silent() -> None:
    """The usual reset before a step, in a file that knows a last layer."""
    text = """
        last_layer = head.last_layer
        for weight in net.parameters():
            weight.grad = None
            weight.grad.zero_()
    """
    assert places(ADVISORY, text) == []


def test_conditions_that_spare_the_last_layer_are_silent() -> None:
    """What is deleted there is the rest, and not the last layer."""
    text = """
        for n, p in net.named_parameters():
            if "last_layer" not in n:
                p.grad = None
            if "last_layer" in n:
                pass
            else:
                p.grad = None
    """
    assert places(ADVISORY, text) == []
