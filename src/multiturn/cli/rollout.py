"""``multiturn rollout``: a model or an expert plays tasks."""

from typing import Annotated

import typer

from multiturn.cli import options, server_options

__all__ = ["rollout"]


def rollout(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    *,
    env: options.EnvName,
    output: options.Output,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Who plays; without it the environment's expert, or the server's only model.",
        ),
    ] = None,
    server: server_options.Server = None,
    split: options.Split = "train",
    tasks: options.TaskCount = None,
    samples: Annotated[int, typer.Option(min=1, help="Episodes for each task.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling, in (0, 1].")] = 1.0,
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
    """Play tasks and keep every episode in an append-only JSONL file.

    Killed and started again by the same command it plays what is missing. A file never mixes models,
    environments or settings: another command on the same file is refused.

    With --server an OpenAI-compatible server plays: vLLM, SGLang, llama.cpp, a hosted one.

    Example: `multiturn rollout --env household --model sft/model --tasks 200 --output rollouts.jsonl`
    """
    from multiturn.pipeline import operations
    from multiturn.pipeline.config import ExploreSettings

    if model is None and server is None:
        by_a_model = ("temperature", "top_p", "slots", "max_new_tokens")
        options.refuse_given(context, by_a_model, without="--model or --server (the expert plays)")
    environment = options.environment_settings(env, env_options, max_turns, ray)
    prompt = options.prompt_settings(chat_template, action_format, instructions)
    jobs = operations.jobs_for(operations.list_tasks(environment, split, tasks), samples=samples)
    where = server_options.server_settings(
        server,
        api_key_env=api_key_env,
        fields=server_option,
        tokenizer=tokenizer,
        reasoning=reasoning,
        timeout=timeout,
        retries=retries,
    )
    if model is None and where is None:
        report = operations.roll_out_expert(
            environment=environment, prompt=prompt, jobs=jobs, path=output, title="expert"
        )
    else:
        given = {"slots": slots, "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        decoding = options.settings_from(ExploreSettings, (), given)
        report = operations.roll_out(
            model,
            environment=environment,
            prompt=prompt,
            decoding=decoding,
            jobs=jobs,
            path=output,
            seed=seed,
            title="rollout",
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            server=where,
        )
    typer.echo(f"{output}: {report.describe()}")
