"""Evaluation suites (``recipes/evaluations/NAME.yaml``; paper sections 4.2 and 5.3)."""

from typing import Literal

from pydantic import Field, model_validator

from optikit_assets.errors import EndpointError
from optikit_assets.specs.base import Spec, SpecModel, digest
from optikit_assets.specs.endpoint_address import JUDGE_CREDENTIALS_VARIABLE, url_to_keep


class TaskSpec(SpecModel):
    """One lm-eval task and the score that is taken from it."""

    task: str = Field(min_length=1, description="lm-eval task name, built in or beside the suite.")
    label: str = Field(default="", description="Name in tables; unset: the task's name.")
    metrics: tuple[str, ...] = Field(
        min_length=1,
        description="lm-eval metric keys 'metric,filter'; several are averaged (IFEval).",
    )
    dataset: str | None = Field(
        default=None,
        pattern=r"^hf:[^/@\s]+/[^/@\s]+(@[^@\s]+)?$",
        # Suites without it keep their digests of the time before there was this field.
        exclude_if=lambda dataset: dataset is None,
        description="Data set of a hub that the items come from, hf:ORG/DATASET[@REVISION]; needed "
        "for a task that is built in; unset: the dataset_path of the task's file.",
    )
    num_fewshot: int | None = Field(
        default=None, ge=0, le=100, description="Unset: the task's own."
    )
    limit: int | None = Field(default=None, ge=1, description="Only the first so many items.")
    max_gen_toks: int | None = Field(default=None, ge=1, description="Unset: the task's own.")
    margin: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Largest tolerable loss of recovery; unset: the gate's.",
    )
    weight: float = Field(default=1.0, gt=0, description="Weight in the mean recovery.")
    judge: Literal["none", "refusal_rules", "classifier", "endpoint"] = Field(
        default="none", description="How free text is scored (Do-Not-Answer)."
    )

    @property
    def title(self) -> str:
        """Label, or the task's name."""
        return self.label or self.task


class Gate(SpecModel):
    """When a quantized model is good enough."""

    margin: float = Field(
        default=0.05, gt=0, lt=1, description="Recovery may fall below 1 by at most this much."
    )
    alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="Family-wise error over the tasks."
    )
    accept_inconclusive: bool = Field(
        default=True,
        description="Let a recipe pass whose recoveries, of each task and on average, meet the "
        "margin though the items cannot prove it.",
    )


class SuiteSpec(Spec):
    """Tasks, decoding settings and the quality gate."""

    tasks: tuple[TaskSpec, ...] = Field(min_length=1, description="Evaluated in this order.")
    gate: Gate = Field(default_factory=Gate, description="Quality gate.")
    max_model_len: int | None = Field(
        default=None, ge=16, description="Context of the evaluation engine."
    )
    batch_size: str = Field(default="auto", description="lm-eval batch size.")
    apply_chat_template: bool = Field(
        default=False, description="Wrap prompts with the chat template."
    )
    task_folder: str | None = Field(
        default=None, description="Folder with task files, relative to the suite file."
    )
    judge_endpoint: str | None = Field(
        default=None, description="OpenAI-compatible base URL for judge: endpoint."
    )
    judge_model: str | None = Field(
        default=None,
        description="Model of the judge: an endpoint's model name, or a classifier's path, or its "
        "name on a hub, ORG/NAME[@REVISION].",
    )

    def answers_digest(self) -> str:
        """Return the sha256 of what answers and their scores depend on: not on the gate.

        Nor on margin and weight of each task; `digest` has all of it.
        """
        judging = {"gate": True, "tasks": {"__all__": {"margin", "weight"}}}
        return digest(self.model_dump(mode="json", exclude={"description": True, **judging}))

    @model_validator(mode="after")
    def _consistent(self) -> "SuiteSpec":
        titles = [task.title for task in self.tasks]
        if len(set(titles)) != len(titles):
            raise ValueError(f"task labels repeat: {', '.join(titles)}")
        judges = {task.judge for task in self.tasks}
        if "endpoint" in judges and not (self.judge_endpoint and self.judge_model):
            raise ValueError("judge: endpoint needs judge_endpoint and judge_model")
        if "classifier" in judges and not self.judge_model:
            raise ValueError("judge: classifier needs judge_model")
        self._check_judge_endpoint()
        return self

    def _check_judge_endpoint(self) -> None:
        if self.judge_endpoint is None:
            return
        try:
            url_to_keep(
                self.judge_endpoint,
                called="judge_endpoint",
                kept="with every result",
                variable=JUDGE_CREDENTIALS_VARIABLE,
            )
        except EndpointError as error:
            raise ValueError(str(error)) from error
