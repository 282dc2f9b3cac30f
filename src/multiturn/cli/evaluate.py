"""``multiturn evaluate``: a model plays held-out tasks, greedily."""

from multiturn.cli import options

__all__ = ["evaluate"]


def evaluate(
    *,
    model: options.Model,
    env: options.EnvName,
    output: options.Output,
    split: options.Split = "test",
    tasks: options.TaskCount = None,
    slots: options.Slots = 16,
    max_new_tokens: options.NewTokens = 64,
    max_turns: options.TurnLimit = None,
    env_options: options.EnvOptions = None,
    chat_template: options.Template = "model",
    action_format: options.Format = "react",
    instructions: options.Instructions = "environment",
    seed: options.Seed = 0,
) -> None:
    """Evaluate a policy on held-out tasks: average reward, success rate and length, with 95% intervals.

    Every episode is kept in OUTPUT; the same command goes on where a killed one stopped.

    Example: `multiturn evaluate --model dmpo/model --env household --tasks 100 --output dmpo.jsonl`
    """
    from multiturn.pipeline import operations
    from multiturn.pipeline.config import EvaluateSettings
    from multiturn.pipeline.results import show_evaluation
    from multiturn.rollouts.store import read_rollouts

    environment = options.environment_settings(env, env_options, max_turns)
    decoding = options.settings_from(
        EvaluateSettings, (), {"slots": slots, "max_new_tokens": max_new_tokens, "tasks": tasks}
    )
    jobs = operations.jobs_for(operations.list_tasks(environment, split, tasks))
    operations.roll_out(
        model,
        environment=environment,
        prompt=options.prompt_settings(chat_template, action_format, instructions),
        decoding=decoding,
        jobs=jobs,
        path=output,
        seed=seed,
        title="evaluate",
    )
    # The file may hold more: other splits, or more tasks of this one.
    asked = {job.id for job in jobs}
    show_evaluation(model, [trajectory for trajectory in read_rollouts(output) if trajectory.id in asked])
