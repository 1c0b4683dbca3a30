#!/usr/bin/env bash
# Subject: diffusers 0.42.0, FlowMatchEulerDiscreteScheduler and DPMSolverMultistepScheduler; torch 2.13.0.
#
# Guess:   two flow schedulers with the same shift and step count walk the same sigmas, so SANA's solver can be
#          swapped for FlowMatchEulerDiscreteScheduler(shift=3).
# Actual:  set_timesteps(n) of the Euler scheduler starts from a range whose lower end is already shifted and shifts
#          it again. The last step starts at 0.009 instead of 0.43: nearly half of the noise range is left to the step
#          before, and the last model call is all but wasted. Passing unshifted sigmas by hand gives the expected
#          schedule, which is also the one that DPMSolverMultistepScheduler uses.
# Seen:    n=5, shift 3: own schedule ends 0.503, 0.0089; linear sigmas given ends 0.667, 0.429; DPM 0.666, 0.428
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 diffusers==0.42.0

cat >"$work/check.py" <<'EOF'
import sys

import numpy
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

STEPS, SHIFT = 5, 3.0
own = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
own.set_timesteps(STEPS)
given = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
given.set_timesteps(STEPS, sigmas=numpy.linspace(1.0, 1.0 / STEPS, STEPS))
dpm = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)
dpm.set_timesteps(STEPS)
formula = [SHIFT * s / (1 + (SHIFT - 1) * s) for s in numpy.linspace(1.0, 1.0 / STEPS, STEPS)]

for name, sigmas in (
    ("formula, shifted once", formula),
    ("Euler, its own", own.sigmas),
    ("Euler, sigmas given", given.sigmas),
    ("DPM, flow sigmas", dpm.sigmas),
):
    print(f"{name:>22}:", " ".join(f"{float(sigma):.4f}" for sigma in sigmas))

last = {"own": own.sigmas[-2].item(), "given": given.sigmas[-2].item(), "dpm": dpm.sigmas[-2].item()}
expected = last["own"] < 0.01 and abs(last["given"] - formula[-1]) < 1e-4 and abs(last["dpm"] - formula[-1]) < 2e-3
sys.exit(0 if expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
