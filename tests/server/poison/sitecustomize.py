"""First on PYTHONPATH in some tests: makes one prompt kill the process, in engine processes only."""

import os
import signal
import sys

if "--multiprocessing-fork" in sys.orig_argv:
    from engine.worker.prompts import PromptEncoder

    encode = PromptEncoder.encode

    def encode_or_die(self: PromptEncoder, prompts: list[str]) -> object:
        if "poison" in prompts:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(self, prompts)

    PromptEncoder.encode = encode_or_die  # type: ignore[assignment, method-assign]
