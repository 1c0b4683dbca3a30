"""The tasks of the exam are strict, and combine what training never shows."""

from random import Random

from recipes.demo.captions import captions
from recipes.demo.world import Object, Scene, render, sample_scene
from server.evaluation.suite import COUNT, KINDS, PAIR, POSITION, Task, held_out, tasks


def test_task_requires_exact_objects() -> None:
    circle, square = Object("circle", "red", 0.27, 0.5, 0.17), Object("square", "blue", 0.73, 0.5, 0.17)
    image = render(Scene((circle, square), ("cream",)), 128, 128)
    looks = (("circle", "red"), ("square", "blue"))
    assert Task("position", "", looks, "left").passed(image)
    assert not Task("position", "", looks, "right").passed(image)
    assert not Task("position", "", looks, "above").passed(image)
    assert Task("attribute binding", "", looks[::-1]).passed(image)
    assert not Task("attribute binding", "", (("circle", "blue"), ("square", "red"))).passed(image)
    assert not Task("counting", "", ((None, None),)).passed(image)


def test_counting_requires_all_copies() -> None:
    stars = tuple(Object("star", "green", x, 0.5, 0.13) for x in (0.2, 0.5, 0.8))
    image = render(Scene(stars, ("cream",)), 128, 128)
    assert Task("counting", "", (("star", "green"),) * 3).passed(image)
    assert not Task("counting", "", (("star", "green"),) * 2).passed(image)
    assert not Task("counting", "", (("star", "red"),) * 3).passed(image)


def test_position_rejects_diagonal() -> None:
    pair = (Object("circle", "red", 0.25, 0.2, 0.15), Object("square", "blue", 0.7, 0.75, 0.15))
    looks = (("circle", "red"), ("square", "blue"))
    assert not Task("position", "", looks, "left").passed(render(Scene(pair, ("cream",)), 128, 128))


def test_tasks_balanced_and_reproducible() -> None:
    exam = list(tasks(5))
    assert [task.kind for task in exam].count("color") == 5
    assert {task.kind for task in exam} == set(KINDS)
    assert exam == list(tasks(5))
    assert exam != list(tasks(5, seed=2))


def test_training_excludes_task_combinations() -> None:
    trained = {tuple(sorted((o.shape, o.color, o.size) for o in sample_scene(Random(i)).objects)) for i in range(4000)}
    combined = [task for task in tasks(200) if task.kind in ("attribute binding", "position", "counting")]
    for task in combined:
        looks = [(str(shape), str(color)) for shape, color in task.looks]
        assert held_out(looks)
        assert tuple(sorted((*look, "") for look in looks)) not in trained


def test_held_out_share_and_unseen_scenes() -> None:
    unseen = [sample_scene(Random(i), unseen=True) for i in range(100)]
    assert all(held_out([(o.shape, o.color) for o in s.objects], s.objects[0].size) for s in unseen)
    looks = [(shape, color) for shape in ("circle", "star", "ring") for color in ("red", "pink", "blue", "gray")]
    pairs = [(a, b) for a in looks for b in looks if a < b]
    assert 0.02 < sum(map(held_out, pairs)) / len(pairs) < 0.25


def test_paraphrases_absent_from_captions() -> None:
    circle, square = Object("circle", "red", 0.27, 0.5, 0.17), Object("square", "blue", 0.73, 0.5, 0.17)
    scene = Scene((circle, square), ("cream",), "left")
    texts = {caption.text for seed in range(300) for caption in captions(scene, Random(seed))}
    words = {"a": "a red circle", "b": "a blue square", "phrase": "to the left of", "place": "to its left"}
    for template in (*PAIR[2:], *POSITION[2:]):
        assert template.format(**words) not in texts
    assert PAIR[0].format(**words) in texts
    assert POSITION[0].format(**words) in texts
    assert len(COUNT) == len(PAIR) == len(POSITION) == 4  # half plain, half paraphrased
