"""The client with a real engine process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from engine import (
    CheckpointError,
    EngineClient,
    EngineConfig,
    EngineUnavailable,
    Event,
    Finished,
    GenerationParams,
    InvalidParams,
    QueueFull,
    SanaError,
)

PARAMS = GenerationParams("a cat", 64, 64, 2, 4.5, seed=1)
ENDLESS = GenerationParams("a cat", 512, 512, 100, 4.5, seed=1)


def run(folder: Path, scenario: Callable[[EngineClient], Awaitable[None]], max_queue: int = 8) -> None:
    """Runs a scenario against a fresh engine."""

    async def main() -> None:
        client = EngineClient(EngineConfig(model=str(folder), device="cpu", max_queue=max_queue))
        await client.start()
        try:
            await asyncio.wait_for(scenario(client), 60)
        finally:
            await client.stop()

    asyncio.run(main())


async def finished(events: AsyncGenerator[Event]) -> list[Finished]:
    return [event async for event in events if isinstance(event, Finished)]


async def first_steps(events: AsyncGenerator[Event], count: int = 3) -> None:
    for _ in range(count):
        await anext(events)


def test_a_day_in_the_life_of_an_engine(checkpoint: Callable[[str], Path]) -> None:
    async def scenario(client: EngineClient) -> None:
        both = await asyncio.gather(finished(client.generate(PARAMS)), finished(client.generate(PARAMS)))
        assert both[0][0].image == both[1][0].image
        assert both[0][0].image.startswith(b"\x89PNG")
        with pytest.raises(InvalidParams):
            await anext(client.generate(GenerationParams("", 64, 64, 2, 4.5, seed=1)))
        with pytest.raises(InvalidParams, match="n is 9, more than the 8 images this server queues"):
            await anext(client.generate(GenerationParams("a cat", 64, 64, 2, 4.5, seed=1, n=9)))
        assert client.queued_images == 0

        endless = client.generate(ENDLESS)  # closing the events cancels within a step
        await first_steps(endless)
        with pytest.raises(QueueFull, match="1 of at most 8 images are waiting"):
            await anext(client.generate(GenerationParams("a cat", 64, 64, 2, 4.5, seed=1, n=8)))
        await endless.aclose()
        assert client.queued_images == 0
        assert len(await finished(client.generate(PARAMS))) == 1

        endless = client.generate(ENDLESS)  # stopping fails what is running
        await first_steps(endless)
        await client.stop()
        with pytest.raises(EngineUnavailable, match="stopping"):
            await first_steps(endless, 1000)

    run(checkpoint("sana-1.5"), scenario)


def test_an_engine_that_is_killed_fails_its_requests_and_refuses_new_ones(checkpoint: Callable[[str], Path]) -> None:
    async def scenario(client: EngineClient) -> None:
        endless = client.generate(ENDLESS)
        await first_steps(endless)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match="ended while it drew"):
            await first_steps(endless, 1000)
        while client.alive:
            await asyncio.sleep(0.01)
        with pytest.raises(EngineUnavailable, match="not running"):
            await anext(client.generate(PARAMS))

    run(checkpoint("sana-1.5"), scenario)


@pytest.mark.parametrize(
    ("config", "error", "told"),
    [
        (EngineConfig(model="no-such-model"), CheckpointError, "there is no model 'no-such-model'"),
        (EngineConfig(device="cuda:99"), SanaError, "cuda:99"),
    ],
)
def test_what_cannot_start_says_why(config: EngineConfig, error: type[SanaError], told: str) -> None:
    client = EngineClient(config)
    with pytest.raises(error, match=told):
        asyncio.run(client.start())
    assert not client.alive


def test_the_client_never_imports_torch() -> None:
    code = "import engine, sys; sys.exit('torch' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
