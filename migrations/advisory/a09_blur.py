"""Advisory A09: crops are blurred with a probability that official code has for none of its views."""

from __future__ import annotations

import re

import libcst as cst

from migrations.engine.model import Example, Finding, Migration
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.calls import bound_arguments, parameters
from migrations.flow.distillation import differs, training_files
from migrations.flow.lookup import Lookup
from migrations.flow.nodes import argument, attribute_chain, callee, find_all, literal

__all__ = ["ADVISORY"]

_PREFILTER = re.compile(rb"gaussian_?blur", re.IGNORECASE)
_BLUR = re.compile(r"(random_?)?gaussian_?blur\w*", re.IGNORECASE)
_PROBABILITY = re.compile(r"p|prob|probability")
_ALWAYS = ("torchvision.transforms.",)
_BY_KEYWORD = ("albumentations.", "kornia.")  # both apply with p, 0.5 where it is not given
_OFFICIAL = (0.0, 0.9, 0.5)
_PERSON = (
    "official blurs global view 1 never, global view 2 with probability 0.9 and local views with 0.5; decide whether "
    "you want that, or what its arguments say (1, 0.1 and 0.5)"
)


def find(project: Project) -> list[Finding]:
    """Return the blurs whose effective probability can be read and is not one of official's three."""
    lookup = Lookup(project)
    found: list[Finding] = []
    for file in training_files(project, _PREFILTER):
        for call in file.nodes(cst.Call):
            if not _BLUR.fullmatch(callee(call)) or _defines_blur(file, call):
                continue
            applied = _applied(file, call, lookup)
            if applied is not None and all(abs(applied - official) > 1e-6 for official in _OFFICIAL):
                evidence = (
                    f"`{_short(file, call)}` blurs with probability {applied:g}; official's views with 0, 0.9 or 0.5"
                )
                found.append(differs("A09", file, call, evidence, _PERSON))
    return found


def _short(file: SourceFile, call: cst.Call) -> str:
    return " ".join(file.code(call).split())


def _defines_blur(file: SourceFile, call: cst.Call) -> bool:
    """Whether a call stands in the class or function that makes the blur."""
    around = [n.name.value for n in file.ancestors(call) if isinstance(n, cst.ClassDef | cst.FunctionDef)]
    return any("blur" in name.lower() for name in around)


def _applied(file: SourceFile, call: cst.Call, lookup: Lookup) -> float | None:
    """Return the probability that a crop is blurred by what a call makes; None where it cannot be read."""
    inner = _of_blur(file, call, lookup)
    outer = _around(file, call)
    return None if inner is None or outer is None else inner * outer


def _of_blur(file: SourceFile, call: cst.Call, lookup: Lookup) -> float | None:
    origin = lookup.origin(file, call.func)
    if origin.startswith(_ALWAYS):
        return 1.0
    if origin.startswith(_BY_KEYWORD):
        given = argument(call, "p")
        return 0.5 if given is None else _number(file, given)
    meant = lookup.called(file, call)
    if meant is None or not isinstance(meant.node, cst.ClassDef):
        return None
    made = [n for n in find_all(meant.node, cst.FunctionDef) if n.name.value == "__init__"]
    name = next((p for p in parameters(made[0]) if _PROBABILITY.fullmatch(p)), None) if made else None
    if name is None:
        return None
    given = bound_arguments(made[0], call).get(name)
    declared = _number(file, given) if given is not None else _default(meant.file, made[0], name)
    inverted = _inverts(meant.file, meant.node, name)
    if declared is None or inverted is None:
        return None
    return 1.0 - declared if inverted else declared


def _number(file: SourceFile, node: cst.BaseExpression | None) -> float | None:
    """Return a literal number, or that of the only assignment of a name."""
    if isinstance(node, cst.Name):
        values = resolve(file, node)
        node = values[0].value if len(values) == 1 and values[0].kind == "assign" else None
    value = literal(node)
    return float(value) if isinstance(value, int | float) else None


def _default(file: SourceFile, function: cst.FunctionDef, name: str) -> float | None:
    params = [*function.params.params, *function.params.kwonly_params]
    return next((_number(file, param.default) for param in params if param.name.value == name), None)


def _around(file: SourceFile, call: cst.Call) -> float | None:
    """Return the product of the probabilities of `RandomApply` around a call; None where one cannot be read."""
    product = 1.0
    for node in file.ancestors(call):
        if isinstance(node, cst.BaseStatement):
            break
        if isinstance(node, cst.Call) and callee(node) in ("OneOf", "SomeOf", "RandomChoice", "RandomOrder"):
            return None
        if isinstance(node, cst.Call) and callee(node) == "RandomApply":
            given = argument(node, "p", 1)
            probability = 0.5 if given is None else _number(file, given)
            if probability is None:
                return None
            product *= probability
    return product


def _inverts(file: SourceFile, blur: cst.ClassDef, name: str) -> bool | None:
    """Whether a class applies its blur with 1 - p, as official's does; None where its source does not tell."""
    if any(attribute_chain(base.value).split(".")[-1] == "RandomApply" for base in blur.bases):
        return _handed_over(blur, name)
    kept = [a for a in find_all(blur, cst.Assign) if attribute_chain(a.value) == name]  # `self.prob = p`
    names = {name, *(attribute_chain(target.target).split(".")[-1] for a in kept for target in a.targets)}
    draws = [c for c in find_all(blur, cst.Comparison) if _is_draw(file, c, names)]
    answers = {_skips(file, draw) for draw in draws}
    return answers.pop() if len(answers) == 1 else None


def _handed_over(blur: cst.ClassDef, name: str) -> bool | None:
    """What a subclass of RandomApply hands to `super().__init__`: p itself, or 1 - p."""
    for call in find_all(blur, cst.Call):
        given = argument(call, "p", 1) if callee(call) == "__init__" else None
        if isinstance(given, cst.Name) and given.value != name:
            assigns = [a for a in find_all(blur, cst.Assign) if attribute_chain(a.targets[0].target) == given.value]
            given = assigns[0].value if len(assigns) == 1 else None
        if isinstance(given, cst.Name):
            return False
        if isinstance(given, cst.BinaryOperation) and isinstance(given.operator, cst.Subtract):
            return True if literal(given.left) == 1 and attribute_chain(given.right) == name else None
    return None


def _is_draw(file: SourceFile, comparison: cst.Comparison, names: set[str]) -> bool:
    """Whether a comparison is `random() < p` or the like, the draw on the left."""
    right = attribute_chain(comparison.comparisons[0].comparator).split(".")[-1]
    drawn = re.search(r"rand|uniform", file.code(comparison.left)) is not None
    return drawn and right in names and len(comparison.comparisons) == 1


def _skips(file: SourceFile, draw: cst.Comparison) -> bool | None:
    """Whether the image is left as it is with probability p: the arm that runs then returns what the method got."""
    kind = draw.comparisons[0].operator
    if not isinstance(kind, cst.LessThan | cst.LessThanEqual | cst.GreaterThan | cst.GreaterThanEqual):
        return None
    likely = isinstance(kind, cst.LessThan | cst.LessThanEqual)
    function = file.function(draw)
    branch = _branch(file, draw, function) if function is not None else None
    if function is None or branch is None:
        return None
    test, negated = branch
    untouched = [
        isinstance(r.value, cst.Name) and r.value.value in parameters(function) for r in find_all(test.body, cst.Return)
    ]
    if not untouched:  # `if random() < p: image = blur(image)`
        blurs = any(_BLUR.search(callee(c)) or "filter" in callee(c) for c in find_all(test.body, cst.Call))
        untouched = [not blurs]
    return untouched[0] == (likely != negated)


def _branch(file: SourceFile, draw: cst.Comparison, function: cst.FunctionDef) -> tuple[cst.If, bool] | None:
    """Return the `if` that a draw decides, directly or through a name, and whether it is negated there."""
    names = {attribute_chain(t.target) for a in find_all(function, cst.Assign) if a.value is draw for t in a.targets}
    for branch in find_all(function, cst.If):
        test, negated = branch.test, False
        if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
            test, negated = test.expression, True
        if test is draw or attribute_chain(test) in names - {""}:
            return branch, negated
    return None


ADVISORY = Migration(
    id="A09",
    title="blur with another probability",
    official="data/transforms.py:18-21, data/augmentations.py:73-82",
    why=(
        "Official's GaussianBlur(p) applies with 1 - p, so its views, declared with 1, 0.1 and 0.5, are blurred with "
        "probability 0, 0.9 and 0.5. Its released models were trained so. DINO v1's class, from which forks descend, "
        "applies with p: global view 1 is then always blurred, and global view 2 hardly ever."
    ),
    algebra="Official: P(blurred) = 1 - p, so (1, 0.1, 0.5) gives (0, 0.9, 0.5). DINO v1: P(blurred) = p.",
    example=Example(
        before="global_transfo1_extra = GaussianBlur(p=1.0)  # always: random.random() <= p\n",
        after="global_transfo1_extra = GaussianBlur(p=0.0)  # never, as official's view 1 in effect\n",
    ),
    person="Which view a blur belongs to is not looked at: the same three probabilities in another order pass.",
    checks=(),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
