"""``multiturn sft``: supervised fine-tuning on trajectories."""

from pathlib import Path
from typing import Annotated

import typer

from multiturn.cli import options, reading

__all__ = ["sft"]


def sft(
    trajectories: Annotated[Path, typer.Argument(help="Trajectories in any format: `docs/data.md`.")],
    *,
    output: options.Output,
    model: options.Model = "smollm2-135m-instruct",
    min_reward: Annotated[float, typer.Option(help="Use trajectories with at least this return.")] = 1.0,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The peak learning rate.")] = None,
    report_to: options.ReportTo = None,
    chat_template: options.Template = "model",
    precision: options.Precision = "auto",
    given_format: reading.Source = None,
    skip_bad: reading.SkipBad = False,
    reward_field: reading.RewardField = None,
    dataset_split: reading.DatasetSplit = None,
    seed: options.Seed = 0,
    overrides: options.Overrides = None,
) -> None:
    """Fine-tune a model on demonstrations: every assistant turn is learned, nothing else.

    The trained model ends up in OUTPUT/model and loads in plain transformers. Killed and started again, the
    training goes on from its last checkpoint. `--set` takes every training setting: batch_size,
    micro_batch_size, schedule, warmup, lora.rank, max_length, overlong, ...

    Example: `multiturn sft expert.jsonl --output sft --epochs 2 --set lora.rank=16`
    """
    from multiturn.errors import DataError
    from multiturn.formats import ReadOptions
    from multiturn.pairs.selection import reaches
    from multiturn.pipeline.train_settings import SftSettings
    from multiturn.pipeline.trainings import train_on_demonstrations
    from multiturn.progress import tell
    from multiturn.trajectory import Outcome

    settings = options.settings_from(
        SftSettings,
        overrides,
        {"epochs": epochs, "learning_rate": learning_rate, "report_to": report_to or None},
    )
    read = reading.read_trajectories(
        trajectories,
        ReadOptions(source=given_format, skip_bad=skip_bad, reward_field=reward_field, split=dataset_split),
    )
    # Plain conversations have no return. Those that an environment cut short have none either.
    whole = [trajectory for trajectory in read if trajectory.outcome is not Outcome.ENVIRONMENT_ERROR]
    good = [t for t in whole if t.reward is None or reaches(t.reward, min_reward)]
    if not good:
        raise DataError(
            f"none of {len(read)} trajectories has a return of {min_reward}; lower --min-reward, or give "
            "better ones",
            path=trajectories,
        )
    used = good[: settings.tasks]
    left_out = {
        "ended by an error of the environment": len(read) - len(whole),
        f"with a return below {min_reward:g} (--min-reward)": len(whole) - len(good),
        "beyond the number asked for (tasks)": len(good) - len(used),
    }
    if any(left_out.values()):
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        tell(f"{trajectories}: {len(used)} of {len(read)} are learned from; left out: {why}")
    train_on_demonstrations(
        model,
        used,
        settings=settings,
        prompt=options.prompt_settings(chat_template, "react", "none"),
        precision=precision,
        seed=seed,
        output=output,
    )
    typer.echo(f"model: {output / 'model'}")
