#!/usr/bin/env bash
# Subject: diffusers 0.42.0, DPMSolverMultistepScheduler.add_noise with SANA's flow configuration; torch 2.13.0.
#
# Guess:   add_noise(image, noise, t) mixes (1 - sigma) * image + sigma * noise with the sigma that belongs to t.
#          Training code and image-to-image code both rely on it.
# Actual:  a t that is not one of the current schedule's integers is not interpolated, rounded or refused: every such
#          t gets the sigma of the last step. With 10 steps, t=900 is noised as if it were t=249. Before
#          set_timesteps the scheduler is not a flow scheduler at all: the mix then weighs the noise by a
#          variance-exploding sigma, and the weights do not add up to 1.
# Seen:    10 steps: t=999, 874, 249 in the schedule -> 1.000, 0.875, 0.250; t=900, 500, 100 -> all 0.250
#          before set_timesteps, image 1 and noise 5 at t=500 give 14.7, outside the interval [1, 5]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 diffusers==0.42.0

cat >"$work/check.py" <<'EOF'
import sys

import torch
from diffusers import DPMSolverMultistepScheduler

scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
image, noise = torch.full((1, 1, 1, 1), 1.0), torch.full((1, 1, 1, 1), 5.0)

before = scheduler.add_noise(image, noise, torch.tensor([500])).item()
print(f"before set_timesteps: image 1, noise 5, t=500 -> {before:.2f}")

scheduler.set_timesteps(10)
schedule = scheduler.timesteps.tolist()
print("schedule:", schedule)


def noise_share(timestep):
    mixed = scheduler.add_noise(torch.zeros_like(image), torch.ones_like(noise), torch.tensor([timestep]))
    return round(mixed.item(), 3)


inside = {t: noise_share(t) for t in (schedule[0], schedule[3], schedule[-1])}
outside = {t: noise_share(t) for t in (900, 500, 100)}
print("share of noise, t in the schedule:    ", inside)
print("share of noise, t not in the schedule:", outside)

last = round(scheduler.sigmas[-2].item(), 3)
expected = before > 5 and set(outside.values()) == {last} and inside[schedule[3]] > 0.8
sys.exit(0 if expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
