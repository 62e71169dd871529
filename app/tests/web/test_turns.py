import asyncio
import threading

import pytest

from mlaas4hep.web.turns import Turns


@pytest.mark.hostile("45 small uploads of 15,000 files")
def test_the_work_of_one_owner_leaves_a_turn_for_another() -> None:
    free = threading.Event()

    async def talk() -> None:
        turns = Turns(2)
        carlas = [asyncio.create_task(turns.run("carla", free.wait, 60)) for _ in range(5)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(turns.run("luca", str.upper, "done"), 30) == "DONE"
        assert not any(task.done() for task in carlas)
        free.set()
        assert await asyncio.gather(*carlas) == [True] * 5

    asyncio.run(talk())


def test_what_fails_gives_its_turn_back() -> None:
    async def talk() -> None:
        turns = Turns(2)
        for _ in range(5):
            with pytest.raises(ValueError, match="invalid literal"):
                await turns.run("carla", int, "x")
        assert await turns.run("", int, "3") == 3

    asyncio.run(talk())
