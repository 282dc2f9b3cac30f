"""``multiturn evaluate``: a model plays held-out tasks, greedily."""

from typing import Annotated

import typer

from multiturn.cli import options, server_options
from multiturn.errors import ConfigError

__all__ = ["evaluate"]


def evaluate(  # noqa: PLR0913 - one parameter for each option
    *,
    env: options.EnvName,
    output: options.Output,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="smollm2-135m-instruct, a folder, a model hub id, or what the server calls it.",
        ),
    ] = None,
    server: server_options.Server = None,
    split: options.Split = "test",
    tasks: options.TaskCount = None,
    slots: options.Slots = 16,
    max_new_tokens: options.NewTokens = 64,
    max_turns: options.TurnLimit = None,
    ray: options.RayCluster = None,
    env_options: options.EnvOptions = None,
    chat_template: options.Template = "model",
    action_format: options.Format = "react",
    instructions: options.Instructions = "environment",
    seed: options.Seed = 0,
    api_key_env: server_options.ApiKeyEnv = None,
    server_option: server_options.Fields = None,
    tokenizer: server_options.Tokenizer = None,
    reasoning: server_options.ReasoningOption = None,
    timeout: server_options.Timeout = None,
    retries: server_options.Retries = None,
) -> None:
    """Evaluate a policy on held-out tasks: average reward, success rate and length, with 95% intervals.

    With --server an OpenAI-compatible server plays. Every episode is kept in OUTPUT; the same command goes on
    where a killed one stopped.

    Example: `multiturn evaluate --model dmpo/model --env household --tasks 100 --output dmpo.jsonl`
    """
    from multiturn.pipeline import operations
    from multiturn.pipeline.config import EvaluateSettings
    from multiturn.pipeline.results import show_evaluation
    from multiturn.rollouts.store import read_rollouts

    if model is None and server is None:
        raise ConfigError("there is nobody to evaluate; give --model, or --server for a server's only model")
    where = server_options.server_settings(
        server,
        api_key_env=api_key_env,
        fields=server_option,
        tokenizer=tokenizer,
        reasoning=reasoning,
        timeout=timeout,
        retries=retries,
    )
    environment = options.environment_settings(env, env_options, max_turns, ray)
    decoding = options.settings_from(
        EvaluateSettings, (), {"slots": slots, "max_new_tokens": max_new_tokens, "tasks": tasks}
    )
    jobs = operations.jobs_for(operations.list_tasks(environment, split, tasks))
    report = operations.roll_out(
        model,
        environment=environment,
        prompt=options.prompt_settings(chat_template, action_format, instructions),
        decoding=decoding,
        jobs=jobs,
        path=output,
        seed=seed,
        title="evaluate",
        server=where,
    )
    if where is not None:
        typer.echo(f"{output}: {report.describe()}")
    # The file may hold more: other splits, or more tasks of this one.
    asked = {job.id for job in jobs}
    show_evaluation(
        model or "server", [trajectory for trajectory in read_rollouts(output) if trajectory.id in asked]
    )
