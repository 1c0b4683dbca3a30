#!/usr/bin/env bash
# Subject: huggingface_hub 2.4.0, allow_patterns and ignore_patterns of snapshot_download.
#
# Guess:   the patterns work as in a shell: "*.json" takes the root folder's files, "**/*.json" takes
#          those of every folder, "transformer" takes the folder.
# Actual:  a star crosses slashes and "**" is nothing special. "*.json" takes every folder's files. "**/*.json" needs
#          a slash and leaves out model_index.json, the one file a diffusers pipeline cannot be opened without.
#          "transformer" takes nothing at all, without a warning; "transformer/" takes the folder.
#          "transformer/*.safetensors" takes subfolders too, and braces are taken literally.
# Seen:    *.json: 3 files; **/*.json: 2, without model_index.json; transformer: none; transformer/: 3 files
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0

cat >"$work/check.py" <<'EOF'
import sys

from huggingface_hub.utils import filter_repo_objects

FILES = [
    "model_index.json",
    "transformer/config.json",
    "transformer/model.safetensors",
    "transformer/old/model.safetensors",
    "vae/config.json",
]
EXPECTED = {
    "*.json": ["model_index.json", "transformer/config.json", "vae/config.json"],
    "**/*.json": ["transformer/config.json", "vae/config.json"],
    "transformer": [],
    "transformer/": ["transformer/config.json", "transformer/model.safetensors", "transformer/old/model.safetensors"],
    "transformer/*.safetensors": ["transformer/model.safetensors", "transformer/old/model.safetensors"],
    "{model_index,config}.json": [],
}

seen = {}
for pattern in EXPECTED:
    seen[pattern] = list(filter_repo_objects(FILES, allow_patterns=[pattern]))
    print(f"{pattern:>26}: {seen[pattern]}")
sys.exit(0 if seen == EXPECTED else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
