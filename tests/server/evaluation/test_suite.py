"""The tasks of the exam combine and say what training never does."""

from collections import Counter
from random import Random

from recipes.demo.captions import captions
from recipes.demo.words import ADJECTIVES, FILLERS, OPENINGS, STYLES
from recipes.demo.world import Object, Scene, sample_scene
from server.evaluation import forms
from server.evaluation.grounds import Ground
from server.evaluation.suite import KINDS, PHRASINGS, held_out, tasks


def test_tasks_balanced_and_reproducible() -> None:
    exam = list(tasks(5))
    assert Counter(task.kind for task in exam) == dict.fromkeys(KINDS, 5)
    assert exam == list(tasks(5))
    assert exam != list(tasks(5, seed=2))


def test_tasks_of_five_phrasings_want_the_same() -> None:
    groups: dict[int, list[object]] = {}
    for task in tasks(4 * PHRASINGS):
        if task.kind == KINDS[-1]:
            groups.setdefault(task.group, []).append((task.objects, task.relation, task.ground))
    assert len(groups) == 4
    assert all(len(wanted) == PHRASINGS and len(set(wanted)) == 1 for wanted in groups.values())


def test_training_excludes_task_combinations() -> None:
    trained = {tuple(sorted((o.shape, o.color) for o in sample_scene(Random(i)).objects)) for i in range(3000)}
    for task in tasks(100):
        looks = tuple(sorted((str(o.shape), str(o.color)) for o in task.objects or ()))
        if task.kind in ("two objects", "counting") and len(looks) > 1:
            assert held_out(looks)
            assert looks not in trained


def test_held_out_share() -> None:
    looks = [(shape, color) for shape in ("circle", "star", "ring") for color in ("red", "pink", "blue", "gray")]
    pairs = [(a, b) for a in looks for b in looks if a < b]
    assert 0.02 < sum(map(held_out, pairs)) / len(pairs) < 0.25
    singles = [(look, name) for look in looks for name in ("white", "navy", "green", "cream", "black", "teal")]
    assert 0.02 < sum(held_out([look], "", (name,)) for look, name in singles) / len(singles) < 0.25


def test_half_of_the_prompts_have_words_or_forms_of_no_caption() -> None:
    """By construction: what every second prompt is made of is in no caption of such a scene."""
    plain, unseen = forms.WRAPS
    known = " ".join((*OPENINGS, *STYLES, *ADJECTIVES, *FILLERS))
    for wrap in set(unseen) - {"{x}"}:
        assert not all(word in known for word in wrap.replace("{x}", "").replace(",", "").split()), wrap
    assert set(plain) & set(unseen) == {"{x}"}
    words = {"a": "a red circle", "b": "a blue square", "c": "a red circle", "x": "a red circle", "n": "cream"}
    pair = Object("circle", "red", 0.27, 0.5, 0.17), Object("square", "blue", 0.73, 0.5, 0.17)
    cream = Ground("plain", ("cream",))
    scenes = [
        Scene(pair[:1], cream),
        Scene(pair, cream, "left"),
        Scene(pair, cream, "above"),
        Scene(pair, cream, "inside"),
    ]
    texts = {caption.text for scene in scenes for seed in range(400) for caption in captions(scene, Random(seed))}
    for relation in ("left", "above", "inside"):
        for form in forms.RELATIONS[relation][1]:
            assert form.format(**words) not in texts
        assert any(form.format(**words) in texts for form in forms.RELATIONS[relation][0])
    for form in (*forms.GROUNDS[1], *forms.PAIRS[1]):
        assert form.format(**words) not in texts
    assert all(form.format(**words) in texts for form in forms.PAIRS[0])
