"""Questions about a scene, their short answers, and the objects that hold the evidence.

Every question has several wordings. The evidence is what no photograph benchmark has: the objects without which the
question cannot be answered, hence (through `scene.patch_coverage`) the visual tokens a pruner must not lose.

This module knows nothing of pixels, tokens or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pruning.demo_model.world.scene import COLORS, SHAPES, SIZES, ZONES, Scene, SceneObject

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS = ("color", "shape", "size", "where", "count", "count_all", "exists", "digit", "relation", "describe")

WORDINGS = {
    "color": (
        "What color is {the}?", "What colour is {the}?", "Which color does {the} have?",
        "Tell me the color of {the}.", "What is the color of {the}?",
    ),
    "shape": (
        "What shape is {the}?", "What is the shape of {the}?", "Which shape does {the} have?",
        "Tell me the shape of {the}.",
    ),
    "size": (
        "How big is {the}?", "What size is {the}?", "Is {the} tiny, small or large?",
        "What is the size of {the}?", "Tell me the size of {the}.",
    ),
    "where": (
        "Where is {the}?", "In which part of the picture is {the}?", "Where can I find {the}?",
        "What is the position of {the}?", "Tell me where {the} is.",
    ),
    "count": (
        "How many {many} are there?", "How many {many} can you see?", "Count the {many}.",
        "How many {many} are in the picture?", "What is the number of {many}?",
    ),
    "count_all": (
        "How many objects are there?", "How many things are in the picture?", "Count the objects.",
        "How many objects can you see in total?", "Count all objects.", "What is the number of objects?",
    ),
    "exists": (
        "Is there {a}?", "Can you see {a}?", "Does the picture show {a}?", "Do you see {a}?",
        "Is there {a} in the picture?",
    ),
    "digit": (
        "What digit is on {the}?", "Which number is written on {the}?", "Read the digit on {the}.",
        "What number is on {the}?", "What does {the} say?",
    ),
    "relation": (
        "Is {the} {side} {other}?", "Can you see {the} {side} {other}?", "Does {the} appear {side} {other}?",
    ),
    "either": ("Is {the} {side} {other}?", "Does {the} appear {side} {other}?"),
    "describe": (
        "Describe the picture.", "Describe the image.", "What is in the picture?", "What do you see?",
        "What can you see in the image?", "Tell me what you see.",
    ),
}  # fmt: skip
LONE_DIGIT_WORDINGS = ("Read the digit.", "What number can you see?", "Which digit is in the picture?")
SIDES = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
EITHER = {"left": "left or right of", "above": "above or below"}  # answered with the side, not with yes or no
POLITE_PREFIXES = ("Please", "Please look at the picture:", "Look at the image.")
BRIEF_SUFFIXES = ("Answer with one word.", "Answer the question using a single word or phrase.", "Answer briefly.")
HELP_PREFIX = "Additional information:"  # the words with which caption compensation introduces its text

_MIN_OFFSET = 0.08  # "left of" and the like are asked only where the centres differ by this share of the side


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its one right answer, and the indices of the objects that hold the evidence."""

    kind: str
    text: str
    answer: str
    evidence: tuple[int, ...]


def describe(objects: Sequence[SceneObject]) -> str:
    """A true sentence about the objects, in reading order: zones row by row, left to right within a zone."""
    ordered = sorted(objects, key=lambda o: (ZONES.index(o.zone), o.x))
    return ", ".join(phrase(o) for o in ordered)


def phrase(thing: SceneObject) -> str:
    digit = "" if thing.digit is None else f" with the digit {thing.digit}"
    place = "in the center" if thing.zone == "center" else f"at the {thing.zone}"
    return f"{_article(thing.name)}{digit} {place}"


def ask(scene: Scene, kind: str, rng: np.random.Generator) -> Question | None:
    """One question of a kind of `KINDS`, or None where the scene offers none (no digit, no second object)."""
    return _ASKERS[kind](scene, rng)


def ask_many(scene: Scene, rng: np.random.Generator, count: int, kinds: Sequence[str]) -> list[Question]:
    """Up to `count` different questions with kinds drawn evenly from `kinds`; none only if no kind has one."""
    questions: dict[str, Question] = {}
    for _ in range(4 * count):
        if len(questions) == count:
            break
        question = ask(scene, _pick(kinds, rng), rng)
        if question is not None:
            questions.setdefault(question.text, question)
    if not questions:  # chance can pass over the one kind that a scene offers
        questions = {q.text: q for q in (ask(scene, kind, rng) for kind in kinds) if q is not None}
    return list(questions.values())[:count]


def decorate(text: str, rng: np.random.Generator) -> str:
    """Sometimes add the small words that people add to a question; the answer stays the same."""
    if rng.random() < 0.08:
        text = f"{_pick(POLITE_PREFIXES, rng)} {text}"
    if rng.random() < 0.08:
        text = f"{text} {_pick(BRIEF_SUFFIXES, rng)}"
    return text


def all_words() -> list[str]:
    """Every text that can occur, for building a vocabulary."""
    texts = [w for group in WORDINGS.values() for w in group]
    texts += [*LONE_DIGIT_WORDINGS, *POLITE_PREFIXES, *BRIEF_SUFFIXES, HELP_PREFIX]
    texts += [s for group in SIDES.values() for s in group] + list(EITHER.values())
    texts += [*SHAPES, *(f"{s}es" if s == "cross" else f"{s}s" for s in SHAPES), *COLORS, *SIZES, *ZONES, *NUMBERS]
    texts += [str(d) for d in range(10)]
    texts += ["yes no a an the one object objects with digit at in of and"]
    return [t.replace("{", " ").replace("}", " ") for t in texts]


def _pick(options: Sequence, rng: np.random.Generator):
    return options[rng.integers(len(options))]


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(shape: str) -> str:
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def _references(scene: Scene, index: int, hidden: str | None) -> list[str]:
    """Noun phrases that fit exactly one object of the scene and do not give away the attribute `hidden`."""
    thing = scene.objects[index]
    attributes = {"size": thing.size, "color": thing.color, "shape": thing.shape}
    choices = [
        ("shape",),
        ("color", "shape"),
        ("size", "shape"),
        ("size", "color", "shape"),
        ("color",),
        ("size", "color"),
    ]
    found = []
    for names in choices:
        if hidden in names:
            continue
        alike = sum(all(getattr(o, n) == attributes[n] for n in names) for o in scene.objects)
        if alike == 1:
            noun = [] if "shape" in names else ["object"]
            found.append(" ".join([*(attributes[n] for n in names), *noun]))
    return found


def _referable(scene: Scene, hidden: str | None) -> dict[int, list[str]]:
    found = {i: _references(scene, i, hidden) for i in range(len(scene.objects))}
    return {i: names for i, names in found.items() if names}


def _about_one(kind: str, hidden: str | None, answer: Callable[[SceneObject], str]):
    def asker(scene: Scene, rng: np.random.Generator) -> Question | None:
        options = _referable(scene, hidden)
        if not options:
            return None
        index = _pick(list(options), rng)
        text = _pick(WORDINGS[kind], rng).format(the=f"the {_pick(options[index], rng)}")
        return Question(kind, text, answer(scene.objects[index]), (index,))

    return asker


def _group(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """Attributes of a group that a question may ask about; mostly of a group that is there."""
    present = rng.random() < 0.75
    thing = _pick(scene.objects, rng)
    shape = thing.shape if present or rng.random() < 0.5 else _pick(SHAPES, rng)
    color = thing.color if present or rng.random() < 0.5 else _pick(list(COLORS), rng)
    draw = rng.random()
    if draw < 0.4:
        return {"shape": shape}
    if draw < 0.8:
        return {"color": color}
    return {"color": color, "shape": shape}


def _matching(scene: Scene, wanted: Mapping[str, str]) -> tuple[int, ...]:
    return tuple(i for i, o in enumerate(scene.objects) if all(getattr(o, k) == v for k, v in wanted.items()))


def _everything(scene: Scene) -> tuple[int, ...]:
    return tuple(range(len(scene.objects)))


def _ask_count(scene: Scene, rng: np.random.Generator) -> Question:
    return count(scene, _group(scene, rng), rng)


def count(scene: Scene, wanted: Mapping[str, str], rng: np.random.Generator) -> Question:
    """How many objects have these attributes (`color`, `shape` or both)?"""
    found = _matching(scene, wanted)
    noun = _plural(wanted["shape"]) if "shape" in wanted else "objects"
    many = f"{wanted['color']} {noun}" if "color" in wanted else noun
    text = _pick(WORDINGS["count"], rng).format(many=many)
    return Question("count", text, NUMBERS[len(found)], found or _everything(scene))


def count_all(scene: Scene, rng: np.random.Generator) -> Question:
    """How many objects are there?"""
    return Question("count_all", _pick(WORDINGS["count_all"], rng), NUMBERS[len(scene.objects)], _everything(scene))


def _ask_exists(scene: Scene, rng: np.random.Generator) -> Question:
    thing = _pick(scene.objects, rng)
    wanted = {"color": thing.color, "shape": thing.shape}
    if rng.random() < 0.65:  # change one attribute: the near miss is the instructive "no"
        if rng.random() < 0.5:
            wanted["color"] = _pick(list(COLORS), rng)
        else:
            wanted["shape"] = _pick(SHAPES, rng)
    if rng.random() < 0.25:
        del wanted["color"]
    found = _matching(scene, wanted)
    name = " ".join(wanted[k] for k in ("color", "shape") if k in wanted)
    text = _pick(WORDINGS["exists"], rng).format(a=_article(name))
    return Question("exists", text, "yes" if found else "no", found or _everything(scene))


def _ask_digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    with_digit = [i for i, o in enumerate(scene.objects) if o.digit is not None]
    named = {i: names for i, names in _referable(scene, None).items() if i in with_digit}
    if not named:
        return None
    index = _pick(list(named), rng)
    if len(with_digit) == 1 and rng.random() < 0.25:
        text = _pick(LONE_DIGIT_WORDINGS, rng)
    else:
        text = _pick(WORDINGS["digit"], rng).format(the=f"the {_pick(named[index], rng)}")
    return Question("digit", text, str(scene.objects[index].digit), (index,))


def _ask_relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    named = _referable(scene, None)
    if len(named) < 2:
        return None
    first, second = (int(i) for i in rng.permutation(list(named))[:2])
    a, b = scene.objects[first], scene.objects[second]
    side = _pick(list(SIDES), rng)
    across = side in ("left", "right")
    offset = b.x - a.x if across else b.y - a.y
    if abs(offset) < _MIN_OFFSET:
        return None
    true_side = ("left" if offset > 0 else "right") if across else ("above" if offset > 0 else "below")
    nouns = {"the": f"the {_pick(named[first], rng)}", "other": f"the {_pick(named[second], rng)}"}
    if rng.random() < 0.5:
        text = _pick(WORDINGS["either"], rng).format(side=EITHER["left" if across else "above"], **nouns)
        return Question("relation", text, true_side, (first, second))
    text = _pick(WORDINGS["relation"], rng).format(side=_pick(SIDES[side], rng), **nouns)
    return Question("relation", text, "yes" if side == true_side else "no", (first, second))


def _ask_describe(scene: Scene, rng: np.random.Generator) -> Question:
    return Question("describe", _pick(WORDINGS["describe"], rng), describe(scene.objects), _everything(scene))


_ASKERS: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "color": _about_one("color", "color", lambda o: o.color),
    "shape": _about_one("shape", "shape", lambda o: o.shape),
    "size": _about_one("size", "size", lambda o: o.size),
    "where": _about_one("where", None, lambda o: o.zone),
    "count": _ask_count,
    "count_all": count_all,
    "exists": _ask_exists,
    "digit": _ask_digit,
    "relation": _ask_relation,
    "describe": _ask_describe,
}
