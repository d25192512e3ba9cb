"""Failures: each file operation of a verb fails once, or all that need space fail from one on.

The verb exits 1 with one sentence, the old output is as it was or the new one is whole, nothing else is left, and the
command then works. A verb may also succeed, where the operation was one that it could do without: then its output is
the usual one.
"""

import errno

import numpy as np

from .figures import REFUSED, UNCHANGED, Figures, complaints
from .scenarios import Scenario, difference, drawn, key, rehearsed, tree
from .tracing import Tracer
from .world import World, run

SHORT, LONG = 3, 95  # failures of each verb
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT)
# What a verb can do without: a folder that is there already, an exchange where there is another way, the removal of
# what the next writer removes.
_SPARED = (
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
)
_REMOVING = ("unlink", "unlinkat", "rmdir")


def failures(world: World, figures: Figures, rng: np.random.Generator, *, long: bool) -> None:
    """Let the operations of every verb fail, drawn ones where there are many."""
    for scenario, wrong in rehearsed(world, long=long):
        if wrong:
            figures.fail(scenario.name, wrong)
            continue
        points = [(n, number, False) for n in range(1, len(scenario.operations) + 1) for number in ERRORS]
        points += [(n, errno.ENOSPC, True) for n in range(1, len(scenario.operations) + 1)]
        points = drawn(points, LONG if long else SHORT, rng)
        judged: dict[str, list[str]] = {}
        for n, number, on in points:
            _fail(world, figures, scenario, Tracer(world.folder, fail=n, errno=number, on=on), judged)


def _fail(world: World, figures: Figures, scenario: Scenario, tracer: Tracer, judged: dict[str, list[str]]) -> None:
    operation = scenario.operations[tracer.fail - 1]
    which = f"operation {tracer.fail} ({operation})"
    attack = f"{scenario.name}, {which} fails with {errno.errorcode[tracer.errno]}{' and all after it' * tracer.on}"
    with world.copy() as folder:
        scenario.place(world, folder)
        tracer.root = folder
        failed = run(scenario.command, folder, watch=tracer)
        reasons = complaints(failed, statuses=(0, 1))
        left = tree(folder)
        outcomes = [failed]
        if failed.status == 0:
            if not (operation.startswith(_SPARED) or _of_the_record(scenario, tracer.fail)):
                reasons.append("the failure goes unnoticed")
            if scenario.part(left) != scenario.part(scenario.end):
                reasons.append(f"exit 0, and yet not as undisturbed: {difference(left, scenario.end)}")
        elif failed.status == 1:
            wrong, checked = scenario.wrong_output(folder, left)
            reasons += wrong
            outcomes += checked
        more = {name for name in left if name not in scenario.start and name not in scenario.end}
        more -= set(scenario.part(left))
        if more and not operation.startswith(_REMOVING):
            reasons.append(f"left behind: {', '.join(sorted(more)[:4])}")
        state = key(left)
        if state not in judged:
            again = run(scenario.again, folder)
            outcomes.append(again)
            judged[state] = [f"again: {complaint}" for complaint in complaints(again, statuses=(0,))]
            now = tree(folder)
            if not again.status and now != scenario.end:
                judged[state].append(f"again: not as undisturbed, {difference(now, scenario.end)}")
        reasons += judged[state]
        figures.judge(attack, reasons, REFUSED if failed.status else UNCHANGED, *outcomes)


def _of_the_record(scenario: Scenario, n: int) -> bool:
    """Return whether an operation writes into a lock who holds it, which a holder can do without."""
    return any(name.endswith(".lock") for name in scenario.operations[: n - 1]) and scenario.operations[n - 1].endswith(
        ".lock"
    )
