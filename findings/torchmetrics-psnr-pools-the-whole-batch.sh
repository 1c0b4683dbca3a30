#!/usr/bin/env bash
# Subject: torchmetrics 1.9.0, PeakSignalNoiseRatio and StructuralSimilarityIndexMeasure; torch 2.13.0.
#
# Guess:   with reduction="elementwise_mean", the default, the PSNR of a batch is the mean of its images' PSNRs, as
#          the SSIM of the same package is the mean of its images' SSIMs.
# Actual:  PSNR averages the squared error over the whole batch first and takes one logarithm, so the worst image
#          decides: images of 20 dB and 60 dB give 23 dB and not 40 dB. Calling update() with one image at a time pools
#          as well. dim=(1, 2, 3) gives the mean over images. SSIM does average.
# Seen:    PSNR 23.01 by default, 40.00 with dim=(1, 2, 3); SSIM of the batch equals the mean of its images' SSIMs
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0

cat >"$work/check.py" <<'EOF'
import sys

import torch
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

torch.manual_seed(0)
target = torch.rand(2, 3, 32, 32) * 0.5
images = target + torch.tensor([0.1, 0.001]).view(2, 1, 1, 1)  # exactly 20 dB and 60 dB
pairs = list(zip(images.split(1), target.split(1), strict=True))


def metric(kind, batches, **options):
    result = kind(data_range=1.0, **options)
    for image, reference in batches:
        result.update(image, reference)
    return result.compute().item()


each = [metric(PeakSignalNoiseRatio, [pair]) for pair in pairs]
batch = metric(PeakSignalNoiseRatio, [(images, target)])
one_by_one = metric(PeakSignalNoiseRatio, pairs)
per_image = metric(PeakSignalNoiseRatio, [(images, target)], dim=(1, 2, 3))
print(f"PSNR of each {each[0]:.2f}, {each[1]:.2f}; batch {batch:.2f}, one by one {one_by_one:.2f}, by dim {per_image:.2f}")

ssim_each = [metric(StructuralSimilarityIndexMeasure, [pair]) for pair in pairs]
ssim = metric(StructuralSimilarityIndexMeasure, [(images, target)])
print(f"SSIM of each {ssim_each[0]:.4f}, {ssim_each[1]:.4f}; batch {ssim:.4f}")

pooled = abs(batch - 23.01) < 0.05 and abs(one_by_one - batch) < 0.01 and abs(per_image - 40) < 0.05
averaged = abs(ssim - sum(ssim_each) / 2) < 1e-4
sys.exit(0 if pooled and averaged else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
