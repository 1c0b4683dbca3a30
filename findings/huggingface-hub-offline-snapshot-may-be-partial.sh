#!/usr/bin/env bash
# Subject: huggingface_hub 2.4.0, snapshot_download(local_files_only=True).
#
# Guess:   offline, a snapshot that was never downloaded completely raises LocalEntryNotFoundError, as
#          hf_hub_download does for a missing file. A start-up check may rely on it.
# Actual:  the snapshot's folder is all it looks for. After an interrupted download, or after any tool fetched one file
#          of the revision, it returns the path as if all were well, even when allow_patterns names files of which
#          none is there. The failure comes later, from whatever opens the missing weights.
# Seen:    a cache with one small file: snapshot_download returns a path; with allow_patterns for the missing weights
#          too; hf_hub_download of the weights raises LocalEntryNotFoundError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0

cat >"$work/check.py" <<'EOF'
import sys
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

# The cache as it is after one file of a revision was fetched.
cache, commit = Path(sys.argv[1]) / "cache", "0123456789abcdef0123456789abcdef01234567"
repository = cache / "models--example--sana"
(repository / "refs").mkdir(parents=True)
(repository / "refs" / "main").write_text(commit)
(repository / "snapshots" / commit).mkdir(parents=True)
(repository / "snapshots" / commit / "model_index.json").write_text("{}")


def outcome(download, *arguments, **options):
    try:
        path = Path(download("example/sana", *arguments, cache_dir=cache, local_files_only=True, **options))
    except LocalEntryNotFoundError as error:
        return type(error).__name__
    return sorted(file.name for file in path.iterdir())


whole = outcome(snapshot_download)
weights = outcome(snapshot_download, allow_patterns=["transformer/*.safetensors"])
single = outcome(hf_hub_download, "transformer/model.safetensors")
print("snapshot_download:", whole)
print("snapshot_download of the weights alone:", weights)
print("hf_hub_download of the weights:", single)
expected = whole == weights == ["model_index.json"] and single == "LocalEntryNotFoundError"
sys.exit(0 if expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py" "$work"
