"""Kills: a verb ends without a word right before each of its file operations, and in the middle of each write.

A kill is a SIGKILL. A SIGTERM, at some of the operations, moreover leaves nothing beside the output, unless it comes in
the very call that makes a temporary file, whose name the program then has not learned.

Afterwards the old output is whole or the new one is, and the same command again ends in the bytes of an uninterrupted
one, with nothing else left. What a kill leaves is a state of the disk; a state that was judged is not judged again.
"""

import signal

import numpy as np

from .figures import AGAIN, Figures, complaints
from .scenarios import Scenario, difference, drawn, key, rehearsed, tree
from .tracing import Tracer
from .world import World, run

_MAKING = ("openat", "mkdir", "mkdirat")
SHORT, LONG = 3, 40  # kill points of each verb


def kills(world: World, figures: Figures, rng: np.random.Generator, *, long: bool) -> None:
    """Kill every verb at its operations, at drawn ones where there are many."""
    for scenario, wrong in rehearsed(world, long=long):
        if wrong:
            figures.fail(scenario.name, wrong)
            continue
        count = len(scenario.operations)
        points = [("before", n) for n in range(1, count + 1)]
        points += [
            ("within", n) for n, name in enumerate(scenario.operations, 1) if name.startswith(("write ", "pwrite64 "))
        ]
        points = drawn(points, LONG if long else SHORT, rng)
        judged: dict[str, list[str]] = {}
        for how, n in points:
            _kill(world, figures, scenario, how, n, judged)
        ends = range(1, count + 1, 12) if long else [int(rng.integers(1, count + 1))]
        for n in ends:
            _end(world, figures, scenario, n)


def _kill(world: World, figures: Figures, scenario: Scenario, how: str, n: int, judged: dict[str, list[str]]) -> None:
    attack = f"{scenario.name}, killed {how} operation {n} ({scenario.operations[n - 1]})"
    with world.copy() as folder:
        scenario.place(world, folder)
        killed = run(scenario.command, folder, watch=Tracer(folder, **{f"kill_{how}": n}))
        if killed.status != -9:
            figures.fail(attack, [f"was not killed, ended with {killed.status}"], killed)
            return
        left = tree(folder)
        state = key(left)
        if state in judged:
            figures.judge(attack, judged[state], AGAIN, killed)
            return
        reasons, outcomes = scenario.wrong_output(folder, left)
        again = run(scenario.again, folder)
        reasons += [f"again: {complaint}" for complaint in complaints(again, statuses=(0,))]
        now = tree(folder)
        if not again.status and now != scenario.end:
            reasons.append(f"again: not as uninterrupted, {difference(now, scenario.end)}")
        judged[state] = reasons
        figures.judge(attack, reasons, AGAIN, killed, *outcomes, again)


def _end(world: World, figures: Figures, scenario: Scenario, n: int) -> None:
    """Ask a verb to end at an operation."""
    attack = f"{scenario.name}, asked to end at operation {n} ({scenario.operations[n - 1]})"
    with world.copy() as folder:
        scenario.place(world, folder)
        asked = run(scenario.command, folder, watch=Tracer(folder, kill_before=n, end=signal.SIGTERM))
        reasons = complaints(asked, statuses=(0, 128 + signal.SIGTERM), sentence=False)
        left = tree(folder)
        wrong, outcomes = scenario.wrong_output(folder, left)
        more = sorted({*left} - {*scenario.start, *scenario.end, *scenario.part(left)})
        reasons += wrong
        if more and not scenario.operations[n - 1].startswith(_MAKING):
            reasons.append(f"left behind: {', '.join(more[:4])}")
        again = run(scenario.again, folder)
        reasons += [f"again: {complaint}" for complaint in complaints(again, statuses=(0,))]
        now = tree(folder)
        if not again.status and now != scenario.end:
            reasons.append(f"again: not as uninterrupted, {difference(now, scenario.end)}")
        figures.judge(attack, reasons, AGAIN, asked, *outcomes, again)
