"""Put before everything on PYTHONPATH by a test: in engine processes, and there alone, one prompt ends the process."""

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
