#!/usr/bin/env bash
# Subject: diffusers 0.42.0, SCMScheduler (the solver of SANA-Sprint); torch 2.13.0.
#
# Guess:   SANA-Sprint is a model for one to four steps, so set_timesteps(1), (2), (3) and (4) work alike.
# Actual:  the default intermediate_timesteps=1.3 fits two steps and no other count is accepted with it: 1, 3 and 4
#          raise ValueError until intermediate_timesteps=None is passed. The two ways also disagree where both work:
#          two steps go over 1.3 by default and over pi/4 with None, so "2 steps" names two schedules.
# Seen:    default: 2 steps [1.5708, 1.3, 0]; 1, 3, 4 ValueError; None: 2 steps [1.5708, 0.7854, 0], all counts work
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 diffusers==0.42.0

cat >"$work/check.py" <<'EOF'
import sys

from diffusers import SCMScheduler


def schedule(steps, **options):
    scheduler = SCMScheduler()
    try:
        scheduler.set_timesteps(steps, **options)
    except ValueError as error:
        print("  ", error)
        return None
    return [round(timestep, 4) for timestep in scheduler.timesteps.tolist()]


by_default = {steps: schedule(steps) for steps in (1, 2, 3, 4)}
evenly = {steps: schedule(steps, intermediate_timesteps=None) for steps in (1, 2, 3, 4)}
for steps in by_default:
    print(f"{steps} steps: default {by_default[steps]}, intermediate_timesteps=None {evenly[steps]}")

expected = by_default == {1: None, 2: [1.5708, 1.3, 0.0], 3: None, 4: None} and evenly[2] == [1.5708, 0.7854, 0.0]
sys.exit(0 if expected and None not in evenly.values() else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
