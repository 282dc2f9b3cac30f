"""The configuration of a run: what a YAML file may say, and what every key means.

Unknown keys are errors that suggest the nearest known one. `load_config` merges a file with ``--set a.b=c``
overrides; everything below `Config` is plain validated data.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from multiturn.pipeline.objectives import Objective, Weighting, check_read

__all__ = [
    "NAME_PATTERN",
    "REFERENCE",
    "SFT",
    "Config",
    "DecodingSettings",
    "EnvironmentSettings",
    "EvaluateSettings",
    "ExpertSettings",
    "ExploreSettings",
    "LoraSettings",
    "PairsSettings",
    "PreferenceSettings",
    "PromptSettings",
    "SftSettings",
    "TrainSettings",
]

SFT = "sft"
"""What the policy that every method starts from is called in results."""
REFERENCE = "reference"
"""What lies beside the methods' trainings and is none: the reference's log-probabilities."""
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names of runs and methods become names of files and folders."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["bf16", "fp32"]
Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]
"""Those of transformers' schedules that need no settings of their own."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


SettingsT = TypeVar("SettingsT", bound=_Section)
"""Any of the sections below."""


class EnvironmentSettings(_Section):
    """Where the agent acts.

    Attributes:
        name: A registered environment, or ``module:factory``.
        options: Passed to the environment's factory; ``multiturn env list NAME`` shows them.
        train_split: The split for expert trajectories and exploration.
        test_splits: The held-out splits that are evaluated, each on its own.
        max_turns: Ends an episode after so many turns; null takes the environment's own limit.
        workers: How many environments run side by side; null takes one for each decoding slot. Each
            ScienceWorld is a Java process of about 600 MB.
        deadline: Seconds after which a call to an isolated environment counts as hung.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    train_split: str = "train"
    test_splits: tuple[str, ...] = ("test",)
    max_turns: Count | None = None
    workers: Count | None = None
    deadline: Positive = 60.0


class PromptSettings(_Section):
    """How conversations are put to the model.

    Attributes:
        chat_template: ``model`` (the tokenizer's own), ``compact`` (few markup tokens), or a Jinja file.
        format: ``react`` (Thought and Action) or ``action`` (the bare action).
        instructions: ``environment`` (what the environment tells agents), ``protocol`` (what the DMPO paper's
            agents are told on the benchmark, in our words, with an example), ``none``, or a text of your own.
        instructions_role: ``system``, or ``user`` for chat templates that know no system message: they are
            then the beginning of the first user message.
    """

    chat_template: str = "model"
    format: Literal["react", "action"] = "react"
    instructions: str = "environment"
    instructions_role: Literal["system", "user"] = "system"


class LoraSettings(_Section):
    """Low-rank adapters instead of full fine-tuning.

    Attributes:
        rank: The adapters' rank.
        alpha: Their scale; null takes twice the rank.
        dropout: Dropout on the adapters' input.
        targets: Module names, or ``all-linear``.
    """

    rank: Count = 16
    alpha: Count | None = None
    dropout: Fraction = 0.0
    targets: str | tuple[str, ...] = "all-linear"


class TrainSettings(_Section):
    """What SFT and preference training have in common.

    Attributes:
        learning_rate: The peak learning rate.
        epochs: Passes over the data; fractions are allowed.
        batch_size: Rows (trajectories or pairs) to an optimizer step.
        micro_batch_size: Rows to a forward pass, a divisor of ``batch_size``; null takes the whole batch.
        schedule: How the learning rate goes after the warm-up, by transformers' name for it.
        warmup: The fraction of steps spent warming up.
        weight_decay: AdamW's weight decay.
        max_grad_norm: Gradients are clipped to this norm.
        max_length: Tokens in a conversation at most; null sets no limit.
        overlong: What happens to longer ones.
        lora: Adapters, or null for full fine-tuning.
        gradient_checkpointing: Trades time for memory.
        layout: ``forest`` (shared prefixes stand once), ``packed``, ``padded``, or ``auto``: a forest where
            the model takes one.
        head: ``fused`` (log-probabilities without logits), ``logits``, or ``auto``.
        max_tokens_per_batch: Tokens of a forward pass at most, shared ones counted once, padding not; it
            takes the place of ``micro_batch_size``.
        keep_tasks_together: Whether rows with the same prompt come in the same optimizer step.
        checkpoints: How many checkpoints are spread over a training, so that a killed one loses little.
    """

    learning_rate: Positive
    epochs: Positive = 3.0
    batch_size: Count = 32
    micro_batch_size: Count | None = None
    schedule: Schedule = "cosine"
    warmup: Fraction = 0.03
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    max_grad_norm: Positive = 1.0
    max_length: Count | None = None
    overlong: Literal["error", "drop", "cut"] = "error"
    lora: LoraSettings | None = None
    gradient_checkpointing: bool = False
    layout: Literal["auto", "forest", "packed", "padded"] = "auto"
    head: Literal["auto", "fused", "logits"] = "auto"
    max_tokens_per_batch: Count | None = None
    keep_tasks_together: bool = True
    checkpoints: Annotated[int, Field(ge=0)] = 4

    @property
    def rows_at_once(self) -> int:
        """Rows to a forward pass, as many as the batch has at most."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        # Found out here, and not by the training that comes after hours of exploration.
        if self.batch_size % self.rows_at_once:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}; "
                "change either"
            )
        return self


class SftSettings(TrainSettings):
    """Supervised fine-tuning on expert trajectories.

    Attributes:
        tasks: How many of the expert's successful trajectories to use; null takes all.
    """

    learning_rate: Positive = 1e-5
    batch_size: Count = 64
    tasks: Count | None = None


class PreferenceSettings(TrainSettings):
    """Preference training, common to all methods; a method may override any of it.

    Attributes:
        objective: A key of `multiturn.pipeline.objectives.OBJECTIVES`, or ``module:objective``. ``sft`` is
            the control, which learns the chosen side of every pair and nothing of the rejected one: what the
            others gain over it comes from the preference, not from more demonstrations.
        beta: The strength of the constraint to the reference; 2 to 10 for ``simpo``, which has none.
        gamma: The discount of a turn, for the weightings ``phi`` and ``exponential``.
        weighting: ``phi``, ``uniform``, ``exponential``, ``last`` or ``module:function``; null takes the
            objective's own.
        label_smoothing: The share of swapped pairs, for ``cdpo`` and ``robust``; null takes 0.1.
        target_margin: The lead in reward that ``simpo`` aims at; null takes 0.5.
        chosen_nll: The weight of the chosen side's negative log-likelihood beside the pairwise loss; the
            paper has none.
        reference: ``cached`` (computed once, kept on disk), ``live`` (a frozen second model at every step),
            ``adapter-off`` (the policy without its adapter at every step), or ``auto``: cached.
    """

    learning_rate: Positive = 1e-6
    schedule: Schedule = "constant_with_warmup"
    warmup: Fraction = 0.1
    objective: Objective = "dmpo"
    beta: Positive = 0.1
    gamma: Fraction = 0.7
    weighting: Weighting | None = None
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] | None = None
    target_margin: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    chosen_nll: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    reference: Literal["auto", "cached", "live", "adapter-off"] = "auto"

    @model_validator(mode="after")
    def _read(self) -> Self:
        check_read(self.objective, self.model_dump())
        return self


class ExpertSettings(_Section):
    """Expert trajectories.

    Attributes:
        tasks: How many training tasks the expert plays; null takes the whole split.
        min_reward: Trajectories below this return are not used as demonstrations.
    """

    tasks: Count | None = None
    min_reward: Fraction = 1.0


class DecodingSettings(_Section):
    """How a local model answers.

    Attributes:
        slots: Conversations decoded side by side.
        max_new_tokens: Tokens in one turn at most.
        max_context: Tokens in a conversation at most; null takes the model's own limit.
    """

    slots: Count = 16
    max_new_tokens: Count = 64
    max_context: Count | None = None


class ExploreSettings(DecodingSettings):
    """Exploration of training tasks by the SFT policy.

    Attributes:
        tasks: How many of the expert's tasks to explore; null takes all.
        skip: How many of them to leave out at the front, for example those that SFT has seen.
        samples: Rollouts for each task.
        temperature: The sampling temperature; 0 is greedy.
        top_p: Nucleus sampling.
    """

    tasks: Count | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    samples: Count = 1
    temperature: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


class PairsSettings(_Section):
    """Preference pairs.

    Attributes:
        strategy: ``expert-vs-rollout``, or one that pairs the trajectories of a task among themselves, the
            expert's with them: ``best-vs-worst``, ``all-above-margin``, ``length-matched`` or
            ``first-divergence``.
        shared_turns: ``score`` keeps whole trajectories; ``context`` moves the turns that both sides share
            into the prompt, where nothing is scored.
        min_gap: The least difference of returns within a pair.
        max_pairs_per_task: More pairs of one task than this are dropped; null keeps all.
        noise: ``keep`` or ``drop`` dispreferred trajectories with repeated actions or meaningless text.
    """

    strategy: Literal[
        "expert-vs-rollout", "best-vs-worst", "all-above-margin", "length-matched", "first-divergence"
    ] = "expert-vs-rollout"
    shared_turns: Literal["score", "context"] = "score"
    min_gap: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    max_pairs_per_task: Count | None = None
    noise: Literal["keep", "drop"] = "keep"


class EvaluateSettings(DecodingSettings):
    """Evaluation on held-out tasks, greedy.

    Attributes:
        tasks: How many tasks of each test split; null takes all.
    """

    tasks: Count | None = None


class Config(_Section):
    """A whole run.

    Attributes:
        name: What the run is called in reports.
        output: The run's directory; null takes ``runs/<name>-seed<seed>``.
        seed: Seeds data order, sampling and training. The tasks themselves depend on the environment's own
            options only.
        model: ``smollm2-135m-instruct``, a path, a hub id, or ``{scratch: {...}}`` for tests.
        precision: ``bf16`` (autocast; weights stay float32) or ``fp32``.
        environment: Where the agent acts.
        prompt: How conversations are put to the model.
        expert: Expert trajectories.
        sft: Supervised fine-tuning.
        explore: Exploration by the SFT policy.
        pairs: Preference pairs.
        preference: Preference training, common to all methods.
        methods: The methods compared, by name: what differs from ``preference`` for each.
        evaluate: Evaluation.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    output: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    model: str | dict[str, Any] = "smollm2-135m-instruct"
    precision: Precision = "bf16"
    environment: EnvironmentSettings
    prompt: PromptSettings = PromptSettings()
    expert: ExpertSettings = ExpertSettings()
    sft: SftSettings = SftSettings()
    explore: ExploreSettings = ExploreSettings()
    pairs: PairsSettings = PairsSettings()
    preference: PreferenceSettings = PreferenceSettings()
    methods: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"dmpo": {"objective": "dmpo"}, "dpo": {"objective": "dpo"}}, min_length=1
    )
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _enough_expert_tasks(self) -> Self:
        """Found out here: after the expert or SFT has run, its folder takes no other configuration."""
        tasks = self.expert.tasks
        if tasks is not None and self.sft.tasks is not None and self.sft.tasks > tasks:
            raise ValueError(f"sft.tasks {self.sft.tasks} is more than expert.tasks {tasks}; raise that")
        if tasks is not None and self.explore.skip >= tasks:
            raise ValueError(
                f"explore.skip {self.explore.skip} leaves none of the {tasks} tasks of expert.tasks; lower it"
            )
        return self

    def method(self, name: str) -> PreferenceSettings:
        """The full settings of one method: ``preference`` with the method's own overrides.

        Raises:
            pydantic.ValidationError: An override is unknown or unusable; `load_config` reports it.
        """
        return PreferenceSettings.model_validate(self.preference.model_dump() | self.methods[name])
