"""``multiturn run``: every stage of one run."""

from pathlib import Path
from typing import Annotated

import typer

from multiturn.cli.options import Overrides

__all__ = ["run"]


def run(
    config: Annotated[
        Path, typer.Argument(help="The run's YAML file, for example examples/quickstart.yaml.")
    ],
    *,
    overrides: Overrides = None,
) -> None:
    """Do everything: expert, SFT, exploration, pairs, DMPO and DPO, evaluation, report.

    `methods` says what is compared, by default DMPO and DPO: `[best_of_n, rft, dpo, dmpo]` adds the best of
    several samples and rejection fine-tuning. `rounds: 2` lets each method explore again with its own policy
    and train on.

    The run's folder holds every trajectory, pair, model and figure. Running the same command again goes on
    where the last one stopped, also after `kill -9`; a changed configuration in the same folder is refused.

    Example: `multiturn run examples/quickstart.yaml --set seed=1 --set preference.beta=0.3`

    Example: `multiturn run examples/scienceworld.yaml --set "methods=[best_of_n, rft, dmpo]" --set rounds=2`
    """
    from multiturn.pipeline.load import load_config
    from multiturn.pipeline.run import run_pipeline

    run_pipeline(load_config(config, overrides or ()))
