"""A run in which everything that comes from outside tries to break out of its report."""

from __future__ import annotations

from made_up import MadeUpRun

from multiturn.evaluation.evaluate import summarize
from multiturn.reports.summary import build_summary
from multiturn.trajectory import Message, PreferencePair, Trajectory

EVIL = (
    "</pre></details></noscript></script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    '<a href="javascript:alert(1)">link</a> {{ 7 * 7 }} \u202eevil\u202c \u2028 \x00\x07\x1b[31m \ud800 ]]>'
)


def evil_run() -> MadeUpRun:
    """A run in which every text from outside is hostile."""
    prompt = Message(role="system", content=EVIL)
    call = {"function": {"name": EVIL, "arguments": EVIL}}
    trajectories = [
        Trajectory(
            id=f"{EVIL}{number}",
            task_id=f"{EVIL}{number}",
            task_type=f"{EVIL}{number % 2}",
            messages=(
                prompt,
                Message(role="assistant", content=EVIL, tool_calls=(call,)),
                Message(role="tool", content="x" * 1_000_000),
                Message(role="assistant", content=EVIL * 200),
            ),
            reward=0.5,
        )
        for number in range(4)
    ]
    pair = PreferencePair(
        id=EVIL, prompt=(prompt,), chosen=trajectories[0].messages[1:], rejected=trajectories[1].messages[1:]
    )
    summary = build_summary(
        run={
            "name": EVIL,
            "environment": EVIL,
            "model": EVIL,
            "created": EVIL,
            "git_commit": EVIL,
            "versions": {EVIL: EVIL},
            "config": {EVIL: [EVIL]},
        },
        evaluations={EVIL: {EVIL: summarize(trajectories, resamples=100)}},
        trainings={
            EVIL: {"objective": EVIL, "log": [{"step": 1, "loss": 0.5, EVIL: 1.0}], "warnings": [EVIL]}
        },
        pairs={"counts": {"pairs": 1}, "dropped": {EVIL: 3}, "num_turns": {}},
        stages={EVIL: {"seconds": 1.0}},
        warnings=[EVIL],
    )
    side = {"reference": [-1.0, -2.0], "policy": [-2.0, -1.0]}
    scores = {0: {EVIL: {"chosen": side, "rejected": side}}}
    return MadeUpRun(summary, {EVIL: {EVIL: trajectories}}, [pair], scores)
