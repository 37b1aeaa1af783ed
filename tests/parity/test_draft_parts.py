from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from draft_forks import SINGLE

from parity.draft import Draft, Gap, Wired, draft
from parity.draft.render import parameters_of
from parity.stack import CAPABILITIES

FORK = Path(__file__).parents[1] / "migrations" / "fork"


def _drafted(folder: Path, **files: str) -> Draft:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    made = draft(folder)
    ast.parse(made.text)
    return made


def _body(made: Draft, capability: str) -> str:
    answer = made.answers[capability]
    assert isinstance(answer, Wired), answer
    return "\n".join(answer.body)


def _reason(made: Draft, capability: str) -> str:
    answer = made.answers[capability]
    assert isinstance(answer, Gap), answer
    return answer.reason


def test_parameters_are_those_of_the_contract() -> None:
    """Read from the signatures in `CAPABILITIES`, types and shapes left out; every capability has some reading."""
    assert parameters_of("make_mask") == ["input_size", "num_masking_patches", "max_num_patches"]
    assert parameters_of("dino_loss") == ["student_output_list", "teacher_out_softmaxed_centered_list"]
    assert parameters_of("prototype_loss") == ["mode", "student_tokens", "teacher_tokens", "masks"]
    assert parameters_of("default_config") == []
    assert all(name.isidentifier() for capability in CAPABILITIES for name in parameters_of(capability))


def test_every_capability_is_wired_or_left_to_do(tmp_path: Path) -> None:
    """What is not wired is absent from the draft's code, marked, with its contract, and told to the report."""
    made = _drafted(tmp_path, fork=SINGLE)
    assert set(made.wired) | set(made.gaps) == set(CAPABILITIES)
    defined = {node.name for node in ast.parse(made.text).body if isinstance(node, ast.FunctionDef)}
    assert defined & set(CAPABILITIES) == set(made.wired)
    for name in made.gaps:
        assert f"# TODO[parity adapter]: {name}: " in made.text
        assert f'"{name}": "to do in the drafted adapter: ' in made.text
    assert "#   official: dinov2/data/collate.py:10-49" in made.text


def test_a_generator_is_called_as_it_is_made(tmp_path: Path) -> None:
    """The number of patches goes to the call where it takes one, else to the constructor; sizes by their names."""
    arguments = "self, input_size, num_masking_patches=None, max_num_patches=None"
    text = f"class MaskingGenerator:\n    def __init__({arguments}): ...\n"
    made = _drafted(tmp_path, masking=text + "    def __call__(self, num_masking_patches=0): ...\n")
    assert "MaskingGenerator(input_size=input_size, max_num_patches=max_num_patches)" in _body(made, "make_mask")
    assert "generator(num_masking_patches=num_masking_patches)" in _body(made, "make_mask")
    body = _body(_drafted(tmp_path, masking=text + "    def __call__(self): ...\n"), "make_mask")
    assert "    num_masking_patches=num_masking_patches,\n    max_num_patches=max_num_patches" in body
    assert body.endswith("return generator()")


def test_a_function_that_draws_masks_is_a_generator(tmp_path: Path) -> None:
    """With height, width and a ratio; one with no number to ask for is none."""
    body = _body(_drafted(tmp_path, fork=SINGLE), "make_mask")
    assert "height=input_size[0]" in body
    assert "mask_ratio=num_masking_patches / (input_size[0] * input_size[1])" in body
    made = _drafted(tmp_path, fork="def draw_masks(height, width): ...\n")
    assert "takes neither a number of patches nor a ratio" in _reason(made, "make_mask")


def test_counts_are_asked_through_the_collate_function(tmp_path: Path) -> None:
    """Its own names and order do not matter; without a mask generator nothing can be asked."""
    text = "def collate_batch(batch, mask_gen, n_tokens, mask_ratio_min, mask_ratio_max, mask_prob, dtype): ...\n"
    body = _body(_drafted(tmp_path, data=text), "mask_counts")
    assert "mask_gen=mask_generator" in body
    assert "mask_ratio_max=ratios[1]" in body
    made = _drafted(tmp_path, data="def collate_batch(batch, dtype): ...\n")
    assert "takes no mask generator" in _reason(made, "mask_counts")


def test_the_cap_on_masks_is_the_forks_own_or_left_to_do(tmp_path: Path) -> None:
    """How a fork builds its generator is shown, not guessed: its arithmetic is what `collate.cap` compares."""
    text = (
        "class MaskingGenerator:\n    def __init__(self, input_size, max_num_patches): ...\n"
        "    def __call__(self, num_masking_patches): ...\n"
        "def collate(samples_list, mask_ratio_tuple, mask_probability, dtype, n_tokens, mask_generator): ...\n"
        "generator = MaskingGenerator((14, 14), max_num_patches=0.4 * 14 * 14)\n"
    )
    made = _drafted(tmp_path, data=text)
    assert "MaskingGenerator((14, 14), max_num_patches=0.4 * 14 * 14)" in _reason(made, "collate")
    assert "#     n_tokens, mask_generator = side * side, MaskingGenerator(" in made.text


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (
            "lr_schedule, wd_schedule, momentum_schedule, teacher_temp, last_layer_lr",
            '"lr": values(built[0])',
        ),
        ("dict(ema=1, learning_rate=2)", '"momentum": values(built["ema"])'),
        ("{'weight_decay': 1, 'temperature': 2}", '"teacher_temp": values(built["temperature"])'),
    ],
)
def test_schedules_are_named_by_what_is_returned(tmp_path: Path, returned: str, expected: str) -> None:
    """A tuple's variables, or the keys of a dict."""
    text = f"def build_schedulers(cfg):\n    cfg.optim.lr\n    return {returned}\n"
    assert expected in _body(_drafted(tmp_path, train=text), "schedules")


def test_a_last_layer_without_a_schedule_follows_the_others(tmp_path: Path) -> None:
    """That is what such a fork trains with, and so what is compared with official's frozen one."""
    body = _body(_drafted(tmp_path, fork=SINGLE), "schedules")
    assert '"last_layer_lr": values(built["lr"])' in body
    assert body.splitlines()[1] == "config = scaled(config)"


def test_a_builder_may_take_its_settings_one_by_one(tmp_path: Path) -> None:
    """By their names; the learning rate is scaled first."""
    text = "def build_schedulers(lr, min_lr, epochs, niter_per_ep, extra=1):\n    return dict(lr=lr, wd=0)\n"
    body = _body(_drafted(tmp_path, train=text), "schedules")
    assert "config = scaled(config)" in body
    assert "lr=config.optim.lr" in body
    assert "niter_per_ep=config.train.OFFICIAL_EPOCH_LENGTH" in body
    assert "extra" not in body


def test_another_return_value_is_left_to_do(tmp_path: Path) -> None:
    """An object of the fork's own says nothing about its schedules."""
    made = _drafted(tmp_path, train="def build_schedulers(cfg):\n    return Schedules(cfg)\n")
    assert "returns neither a tuple nor a dict" in _reason(made, "schedules")


def test_a_configuration_of_another_structure_is_left_to_do(tmp_path: Path) -> None:
    """`cfg.solver.base_lr` is none of official's keys; passing official's would raise in the fork."""
    text = (
        "def build_schedulers(cfg):\n    lr = cfg.solver.base_lr\n    wd = cfg.optim.weight_decay\n    return lr, wd\n"
    )
    assert "`cfg`" in _reason(_drafted(tmp_path, train=text), "schedules")


def test_flags_without_a_meaning_are_left_to_do(tmp_path: Path) -> None:
    """`args.mystery` is no official key, and no parser gives it a default; with one, the default stays."""
    text = "def build_schedulers(args):\n    lr, wd = args.lr, args.mystery\n    return lr, wd\n"
    assert "`args`" in _reason(_drafted(tmp_path, train=text), "schedules")
    parser = "def get_args_parser():\n    p = object()\n    p.add_argument('--mystery', default=3)\n    return p\n"
    made = _drafted(tmp_path, train=text + parser)
    assert "build_schedulers(args=arguments(config))" in _body(made, "schedules")
    assert "of no official key: mystery" in made.text
    assert '"lr": config.optim.lr,' in made.text


def test_a_builder_of_the_backbone_comes_before_its_class(tmp_path: Path) -> None:
    """What the fork chooses there, it trains with; a constructor of one size is no builder."""
    text = (
        "class DinoVisionTransformer:\n    def __init__(self, img_size=224, patch_size=16, embed_dim=768, depth=12, "
        "num_heads=12, block_fn=None, extra=None): ...\n"
        "def vit_large(patch_size=16, **kwargs):\n"
        "    block = 1\n"
        "    return DinoVisionTransformer(embed_dim=1024, block_fn=partial(Block, attn=Fast), **kwargs)\n"
        "class Block: ...\nclass Fast: ...\nfrom functools import partial\n"
    )
    body = _body(_drafted(tmp_path, vit=text), "build_backbone")
    assert "block_fn=_module.partial(_module.Block, attn=_module.Fast)" in body
    assert "embed_dim=config.architecture.embed_dim" in body
    assert "extra" not in body
    builder = "def build_vit(cfg):\n    m = DinoVisionTransformer(img_size=cfg.crops.size)\n    return m\n"
    body = _body(_drafted(tmp_path, vit=text + builder), "build_backbone")
    assert body.splitlines() == ["from vit import build_vit", "config = scaled(config)", "return build_vit(cfg=config)"]


def test_sizes_that_a_head_does_not_take_are_told(tmp_path: Path) -> None:
    """A head of fixed depth is wired, with a remark: recipes of another depth will diverge."""
    made = _drafted(tmp_path, heads="class DINOHead:\n    def __init__(self, input_dim, output_dim, hidden_dim): ...\n")
    assert "input_dim=config.architecture.embed_dim" in _body(made, "build_head")
    assert "# of the sizes that official configures, it takes only hidden_dim, output_dim" in made.text


def test_several_candidates_are_all_listed(tmp_path: Path) -> None:
    """The best with the reason for it, the others as comments, by file and line."""
    text = "class DINOLoss:\n    def forward(self, student, teacher): ...\n"
    text += "class OldDinoLoss(object):\n    def forward(self, s, t): ...\n"
    made = _drafted(tmp_path, losses=text)
    assert "#   dino loss: losses.py:1 DINOLoss (official's name)" in made.text
    assert "#     or losses.py:3 OldDinoLoss (its name)" in made.text


def test_training_comes_before_evaluation(tmp_path: Path) -> None:
    """Of two equal candidates, the one in a folder of other things is the other."""
    for folder in ("eval", "train"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "flags.py").write_text("def get_args_parser(): ...\n")
    text = draft(tmp_path).text
    assert "#   flags: train/flags.py:1 get_args_parser" in text
    assert "#     or eval/flags.py:1 get_args_parser" in text


def test_yaml_files_of_recipes_are_read(tmp_path: Path) -> None:
    """Official's file names beside defaults; without defaults there is nothing to merge them over."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "vitl14.yaml").write_text("a: 1\n")
    assert "no YAML files called" in _reason(_drafted(tmp_path, a="x = 1\n"), "recipe_configs")
    (tmp_path / "configs" / "ssl_default_config.yaml").write_text("a: 0\nb: 2\n")
    made = _drafted(tmp_path, a="x = 1\n")
    assert '"vitl14": "configs/vitl14.yaml",' in _body(made, "recipe_configs")
    assert "configs/ssl_default_config.yaml" in _body(made, "default_config")


def test_the_documents_fork_is_understood() -> None:
    """Its heads' names, its flags, its losses and its loop; its own adapter is none of its code."""
    made = draft(FORK)
    ast.parse(made.text)
    assert made.wired == (
        "make_mask",
        "dino_loss",
        "ibot_loss",
        "koleo_loss",
        "sinkhorn",
        "softmax_center",
        "schedules",
        "build_backbone",
        "build_head",
    )
    assert 'OFFICIAL_NAMES = {"classhead": "dino_head", "patchhead": "ibot_head"}' in made.text
    assert "# Left out, an adapter itself: adapter.py" in made.text
    assert "student_masked=student_patch_tokens_masked" in _body(made, "ibot_loss")
    assert "it trains by training/trainer.py:45 train_one_epoch" in _reason(made, "training_step")
    assert "#         student = TMEDinoModel(args=arguments(config)," in made.text


def test_an_unfamiliar_capability_is_left_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A capability that parity gains later has its contract in the draft, and no guess."""
    (tmp_path / "a.py").touch()
    more = {**CAPABILITIES, "new_one": CAPABILITIES["koleo_loss"]}
    for module in ("parity.draft", "parity.draft.render"):
        monkeypatch.setattr(sys.modules[module], "CAPABILITIES", more)
    assert "a draft does not know how to find it: the checks that need it are not run" in _reason(
        draft(tmp_path), "new_one"
    )


def test_a_draft_finds_its_fork_from_where_it_stands(tmp_path: Path) -> None:
    """Relative where one lies inside the other, so that both may move; absolute elsewhere."""
    fork = tmp_path / "fork"
    fork.mkdir()
    (fork / "a.py").touch()
    assert 'Path(__file__).resolve().parent / "fork"' in draft(fork, tmp_path / "adapter.py").text
    assert 'Path(__file__).resolve().parent / ".."' in draft(fork, fork / "ci" / "adapter.py").text
    assert f'Path("{fork}")' in draft(fork, tmp_path / "elsewhere" / "adapter.py").text
    assert f'Path("{fork}")' in draft(fork).text
