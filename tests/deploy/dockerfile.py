"""The Dockerfile's steps, and its COPY steps carried out, so that tests can run the other steps for real.

dockerfile-parse reads the syntax. It knows neither stages nor .dockerignore, and copies nothing.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
DOCKERFILE = DockerfileParser(str(ROOT / "Dockerfile"))
ENVIRONMENT: dict[str, str] = dict(DOCKERFILE.envs)
"""ENV of the last stage."""


@dataclass(frozen=True)
class Step:
    """One instruction, such as "RUN", and its value, such as "pip install ...", in a stage counted from 0."""

    stage: int
    instruction: str
    value: str
    workdir: PurePosixPath


def read_steps() -> list[Step]:
    steps: list[Step] = []
    stage, workdir = -1, PurePosixPath("/")
    for item in DOCKERFILE.structure:
        if item["instruction"] == "FROM":
            stage, workdir = stage + 1, PurePosixPath("/")
        elif item["instruction"] == "WORKDIR":
            workdir /= item["value"]
        steps.append(Step(stage, item["instruction"], item["value"], workdir))
    return steps


STEPS = read_steps()
LAST = STEPS[-1].stage


def values(instruction: str, stage: int = LAST) -> list[str]:
    """Values of an instruction in a stage, in order."""
    return [step.value for step in STEPS if (step.instruction, step.stage) == (instruction, stage)]


def exec_form(instruction: str) -> list[str]:
    """The JSON list of the last stage's ENTRYPOINT, CMD or HEALTHCHECK."""
    (value,) = values(instruction)
    command: list[str] = json.loads(value[value.index("[") :])
    return command


def ignored(path: PurePosixPath) -> bool:
    """Whether .dockerignore excludes a path: the last pattern that matches it or a parent decides."""
    excluded = False
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, str(part)) for part in (path, *path.parents)):
            excluded = not line.startswith("!")
    return excluded


def context_sources() -> set[str]:
    """Sources of all COPY steps that read the build context, not another stage."""
    copies = [shlex.split(step.value) for step in STEPS if step.instruction == "COPY"]
    return {source for words in copies if not words[0].startswith("--") for source in words[:-1]}


def context_files(source: str) -> Iterator[Path]:
    """Files of the build context that a COPY of `source` brings."""
    path = ROOT / source
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not ignored(PurePosixPath(file.relative_to(ROOT))):
            yield file


def copy_files(root: Path, stage: int, stages: Mapping[str, Path]) -> None:
    """Carries out a stage's COPY steps in `root`; `stages` holds the roots of the stages that COPY --from names."""
    for step in STEPS:
        if (step.stage, step.instruction) != (stage, "COPY"):
            continue
        *sources, target = shlex.split(step.value)
        name = sources.pop(0).removeprefix("--from=") if sources[0].startswith("--") else ""
        for source in sources:
            base = inside(stages[name], PurePosixPath(source)) if name else ROOT / source
            files = [file for file in base.rglob("*") if file.is_file()] if name else context_files(source)
            for file in files:
                to = inside(root, step.workdir / target) / file.relative_to(base if base.is_dir() else base.parent)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, to)


def inside(root: Path, path: PurePosixPath) -> Path:
    """An absolute path of a container, on this machine."""
    return root / path.relative_to("/")


def words_inside(root: Path, command: str) -> list[str]:
    """Words of a RUN step, with absolute paths in `root` and their patterns expanded, as the shell does."""
    words = []
    for word in shlex.split(command):
        if word.startswith("/"):
            words += [str(path) for path in root.glob(word.lstrip("/"))] or [f"{root}{word}"]
        else:
            words.append(word)
    return words
