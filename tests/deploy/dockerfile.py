"""Reads the Dockerfile and carries out its COPY steps as the engine would, so that tests can run the rest for real."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Step:
    """One instruction, e.g. word "RUN" and text "pip install ..."; stage counts the FROM lines before it, from 0."""

    stage: int
    word: str
    text: str


def read_steps() -> list[Step]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    steps: list[Step] = []
    stage = -1
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, text = line.split(maxsplit=1)
        stage += word == "FROM"
        steps.append(Step(stage, word, " ".join(text.split())))
    return steps


STEPS = read_steps()
LAST = STEPS[-1].stage


def texts(word: str, stage: int = LAST) -> list[str]:
    """What follows `word` in a stage, in order."""
    return [step.text for step in STEPS if (step.word, step.stage) == (word, stage)]


def exec_form(word: str) -> list[str]:
    """The JSON list of the last stage's ENTRYPOINT, CMD or HEALTHCHECK."""
    (text,) = texts(word)
    command: list[str] = json.loads(text[text.index("[") :])
    return command


def environment() -> dict[str, str]:
    """The last stage's ENV."""
    return dict(pair.split("=", 1) for text in texts("ENV") for pair in shlex.split(text))


def ignored(path: PurePosixPath) -> bool:
    """Whether .dockerignore hides a path of the build context: the last pattern to match it or a parent decides."""
    hidden = False
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, str(part)) for part in (path, *path.parents)):
            hidden = not line.startswith("!")
    return hidden


def context_copies(stage: int) -> list[str]:
    """The stage's COPY steps that read the build context, not another stage."""
    return [text for text in texts("COPY", stage) if not text.startswith("--from")]


def copied_files(source: str) -> Iterator[Path]:
    """The files a COPY of `source` from the build context brings."""
    path = ROOT / source
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not ignored(PurePosixPath(file.relative_to(ROOT))):
            yield file


def copy_into(folder: Path, stage: int) -> None:
    """Carries out a stage's COPY steps from the build context, with `folder` as the working directory."""
    for text in context_copies(stage):
        *sources, target = text.split()
        for source in sources:
            base = ROOT / source if (ROOT / source).is_dir() else (ROOT / source).parent
            for file in copied_files(source):
                to = folder / target / file.relative_to(base)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, to)
