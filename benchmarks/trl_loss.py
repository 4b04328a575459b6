"""Losses and gradients of TRL's own code for fixed rows: the golden file that holds the loss equal to it.

    pip install -c constraints.txt -e '.[local]' -r benchmarks/trl-requirements.txt  # in an environment of its own
    HF_HUB_OFFLINE=1 python benchmarks/trl_loss.py [--json FILE]

TRL pads, masks, weighs, clips and averages. Two things are put in its place: the tokens that it would sample,
and the log-probabilities that a model would give them, so that the gradient with respect to each
log-probability can be read. `GRPOTrainer` computes the group's advantages itself; the rows' own replace them.
Its importance weights belong to vLLM, which is not needed: the switch is turned on once the trainer is made.

Log-probabilities and advantages are multiples of 1/64, exact in any precision. Tokens that are not trained
carry log-probabilities too, and padding does: a loss that reads them is a wrong one.
"""

from __future__ import annotations

import argparse
import json
import math
import queue
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from asyncthink.training.vocabulary import BOS, EOS, PAD, build_tokenizer

GOLDEN = Path(__file__).parent.parent / "tests" / "training" / "golden" / "trl_loss.json"
PADDING = -3.0
"""Log-probability of padding: must not matter."""
ROW_IDS = 100
"""The ids of row i begin here times i, so that a packed token tells its row and place."""
LONGEST = 16
"""max_completion_length: what `dr_grpo` divides by, beside the number of rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Completion tokens of one sequence; lists are as long as it."""

    episode: int
    advantage: float
    trained: list[int]
    """1 where the model wrote the token, 0 where it was inserted."""
    new: list[float]
    """Log-probabilities of the model that learns."""
    old: list[float]
    """Of the model when the step began."""
    sampler: list[float]
    """As the tokens were sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Switches, under TRL's names."""

    trainer: str = "GRPOTrainer"
    loss_type: str = "dapo"
    epsilon: float = 0.2
    epsilon_high: float | None = 0.28
    """None: the same as `epsilon`."""
    delta: float | None = None
    """Largest ratio of the branch that is not clipped; None: no limit."""
    importance_mode: str | None = None
    """vllm_importance_sampling_mode; None: no importance weights."""
    importance_max: float | None = None
    """vllm_importance_sampling_clip_max."""
    max_completion_length: int = LONGEST
    micro_batches: int = 1
    """The rows in so many equal parts, in order; losses and gradients are added up, as in one optimizer step."""


PLAIN = [Setting(loss_type=name) for name in ("dapo", "bnpo", "grpo", "dr_grpo")]
ASYNC = Setting(trainer="AsyncGRPOTrainer", loss_type="token mean")
EVERY = [
    *PLAIN,
    *[replace(each, importance_mode="token_truncate", importance_max=2.0) for each in PLAIN],
    *[replace(each, micro_batches=2) for each in PLAIN],
    Setting(epsilon_high=None),
    Setting(delta=2.0),
    Setting(importance_mode="token_mask", importance_max=2.0),
    Setting(importance_mode="sequence_truncate", importance_max=2.0),
    Setting(importance_mode="sequence_mask", importance_max=3.0),
    ASYNC,
    replace(ASYNC, micro_batches=2),
]


def steps_of_64(random: Random, low: float, high: float) -> float:
    return random.randint(int(low * 64), int(high * 64)) / 64


def make_rows(shapes: Sequence[tuple[int, float, str]], seed: int, drift: float) -> list[Row]:
    """Make rows from (episode, advantage, mask); new and old log-probabilities differ by up to `drift`."""
    random = Random(seed)
    rows: list[Row] = []
    for episode, advantage, mask in shapes:
        old = [steps_of_64(random, -2.5, -0.5) for _ in mask]
        rows.append(
            Row(
                episode=episode,
                advantage=advantage,
                trained=[int(each) for each in mask],
                new=[value + steps_of_64(random, -drift, drift) for value in old],
                old=old,
                sampler=[value + steps_of_64(random, -1.0, 0.5) for value in old],
            )
        )
    return rows


def make_sets() -> dict[str, tuple[list[Row], list[Setting]]]:
    """Return the row sets with what is computed on each."""
    clipped = [
        (0, 0.75, "110011"),
        (0, 0.75, "111"),
        (1, -0.5, "1100111"),
        (1, -0.5, "11"),
        (1, -0.5, "11111"),
        (2, -0.25, "100010"),
    ]
    on_policy = [(0, 0.5, "1101"), (1, -0.5, "11")]
    empty_row = [(0, 0.5, "110"), (0, 0.5, "00"), (1, -0.5, "111"), (1, -0.5, "1")]
    weighted = [Setting(importance_mode="token_truncate", importance_max=2.0)]
    return {
        "clipped on both sides": (make_rows(clipped, 11, 0.95), EVERY),
        "on policy": (make_rows(on_policy, 2, 0.0), [*PLAIN, *weighted]),
        "a row without a trained token": (make_rows(empty_row, 3, 0.5), PLAIN),
    }


def check_coverage(rows: Sequence[Row]) -> None:
    """Make sure that every branch is taken by a trained token."""
    seen: set[str] = set()
    for row in rows:
        for own, new, old, sampler in zip(row.trained, row.new, row.old, row.sampler, strict=True):
            ratio, sign = math.exp(new - old), "+" if row.advantage > 0 else "-"
            side = "low" if ratio < 0.8 else "high" if ratio > 1.28 else "between"
            if own:
                seen |= {side + sign, "capped" if math.exp(old - sampler) > 2 else "not capped"}
                seen |= {"delta"} if ratio > 2 and sign == "-" else set()
    wanted = {f"{side}{sign}" for side in ("low", "between", "high") for sign in "+-"}
    assert seen == wanted | {"capped", "not capped", "delta"}, seen


def table(rows: Sequence[Row], name: str) -> Tensor:
    """Return log-probabilities of all rows, padded: [rows, longest row]."""
    width = max(len(row.trained) for row in rows)
    values = [[*getattr(row, name), *[PADDING] * (width - len(row.trained))] for row in rows]
    return torch.tensor(values, dtype=torch.float64)


class Tables:
    """What stands in for a model's log-probabilities."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.new = table(rows, "new").requires_grad_()
        self.old = table(rows, "old")

    def result(self, loss: float) -> dict[str, Any]:
        assert self.new.grad is not None
        padded = cast("list[list[float]]", self.new.grad.tolist())
        pairs = zip(padded, self.rows, strict=True)
        gradient = [[value + 0.0 for value in values[: len(row.trained)]] for values, row in pairs]
        beyond = sum(abs(value) for values in padded for value in values)
        assert math.isclose(beyond, sum(abs(value) for values in gradient for value in values))
        return {"loss": loss, "gradient": gradient}


def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(), bos_token=BOS, eos_token=EOS, pad_token=PAD
    )


def tiny_model() -> LlamaForCausalLM:
    """A model that is never asked for anything; a trainer must have one."""
    config = LlamaConfig(
        vocab_size=build_tokenizer().get_vocab_size(),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    return LlamaForCausalLM(config)


def no_reward(completions: list[str], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def prompts(count: int) -> Any:
    """Return a data set of so many empty prompts."""
    return import_module("datasets").Dataset.from_dict({"prompt": [""] * count})


def ids(place: int, row: Row) -> list[int]:
    """Return the ids of a row's completion; its prompt is the id before them."""
    return [ROW_IDS * (place + 1) + 1 + each for each in range(len(row.trained))]


def given_rows(tables: Tables) -> Any:
    """Return `GRPOTrainer` as a class whose tokens and log-probabilities are given."""
    trl: Any = import_module("trl")
    rows = tables.rows

    class GivenRows(trl.GRPOTrainer):
        def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
            prompt_ids = [[ROW_IDS * (place + 1)] for place in range(len(rows))]
            completions = [ids(place, row) for place, row in enumerate(rows)]
            masks, sampler = [row.trained for row in rows], [row.sampler for row in rows]
            return prompt_ids, completions, masks, [""] * len(prompts), sampler, {}, None, []

        def _get_per_token_logps_and_entropies(
            self, model: Any, input_ids: Tensor, *_: Any, compute_entropy: bool = False, **__: Any
        ) -> tuple[Tensor, Tensor | None, None]:
            places = input_ids[:, 0] // ROW_IDS - 1
            if not compute_entropy:  # before the first update of a step
                return tables.old[places], None, None
            return tables.new[places], torch.zeros_like(tables.old[places]), None

    return GivenRows


def grpo_trainer(tables: Tables, setting: Setting, output: str) -> Any:
    count = len(tables.rows)
    config = import_module("trl").GRPOConfig(
        output_dir=output,
        use_cpu=True,
        bf16=False,
        report_to="none",
        loss_type=setting.loss_type,
        epsilon=setting.epsilon,
        epsilon_high=setting.epsilon_high,
        delta=setting.delta,
        vllm_importance_sampling_mode=setting.importance_mode or "token_truncate",
        vllm_importance_sampling_clip_max=setting.importance_max or 1.0,
        max_completion_length=setting.max_completion_length,
        per_device_train_batch_size=count // setting.micro_batches,
        gradient_accumulation_steps=setting.micro_batches,
        steps_per_generation=setting.micro_batches,
        num_generations=2,
        num_iterations=2,  # so that the old log-probabilities are not taken to be the new ones
    )
    trainer = given_rows(tables)(
        model=tiny_model(),
        reward_funcs=no_reward,
        args=config,
        train_dataset=prompts(count),
        processing_class=tokenizer(),
    )
    trainer.use_vllm = setting.importance_mode is not None
    return trainer


def run_grpo(rows: Sequence[Row], setting: Setting, output: str) -> dict[str, Any]:
    tables = Tables(rows)
    trainer = grpo_trainer(tables, setting, output)
    split: Any = import_module("trl.trainer.utils").split_tensor_dict
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = setting.micro_batches
    batch = trainer._generate_and_score_completions([{"prompt": ""} for _ in rows])
    batch["advantages"] = torch.tensor([row.advantage for row in rows], dtype=torch.float64)
    loss = 0.0
    for part in split(batch, setting.micro_batches):
        part_loss = trainer.compute_loss(trainer.model, part)
        part_loss.backward()
        loss += part_loss.item()
    return tables.result(loss)


class Packed:
    """The model of `AsyncGRPOTrainer`: log-probabilities for packed tokens."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def __call__(self, *, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        places, offsets = input_ids // ROW_IDS - 1, input_ids % ROW_IDS
        # A token scores the next one; what the last of a row scores is nobody's.
        found = self.tables.new[places, offsets.clamp(max=self.tables.new.shape[1] - 1)]
        return SimpleNamespace(log_probs=found, entropy=torch.zeros_like(found))


def async_trainer(setting: Setting, output: str) -> Any:
    module: Any = import_module("trl.experimental.async_grpo.async_grpo_trainer")
    config: Any = import_module("trl.experimental.async_grpo").AsyncGRPOConfig
    module.get_peak_flops_per_device = Mock(return_value=1.0)  # TRL's knows no CPU
    model = tiny_model()
    model.save_pretrained(output)
    return module.AsyncGRPOTrainer(
        model=output,
        args=config(
            output_dir=output,
            use_cpu=True,
            bf16=False,
            report_to="none",
            epsilon=setting.epsilon,
            epsilon_high=setting.epsilon_high,
            gradient_accumulation_steps=setting.micro_batches,
            max_steps=1,
        ),
        train_dataset=prompts(1),
        processing_class=tokenizer(),
        rollout_worker=SimpleNamespace(rollout_buffer=queue.Queue(), metrics_queue=queue.Queue()),
        weight_transfer=SimpleNamespace(),
    )


def run_async(rows: Sequence[Row], setting: Setting, output: str) -> dict[str, Any]:
    """Let TRL pack the rows and compute the loss; it knows only the sampler's log-probabilities."""
    module: Any = import_module("trl.experimental.async_grpo.async_grpo_trainer")
    tables = Tables(rows)
    trainer = async_trainer(setting, output)
    trainer.current_gradient_accumulation_steps = setting.micro_batches
    samples: list[dict[str, Any]] = [
        {
            "input_ids": torch.tensor([ROW_IDS * (place + 1), *ids(place, row)]),
            "completion_mask": torch.tensor([0, *row.trained]),
            "old_log_probs": torch.tensor([0.0, *row.sampler]),
            "advantage": row.advantage,
            "group_id": place,
            "metrics": {},
        }
        for place, row in enumerate(rows)
    ]
    collate = module.DataCollatorForRollout(pad_token_id=0)
    loss = 0.0
    for packed in module.FixedCountBatcher(samples, 1, len(rows) // setting.micro_batches):
        part_loss = trainer.compute_loss(Packed(tables), collate([packed]))
        part_loss.backward()
        loss += part_loss.item()
    return tables.result(loss)


def outcome(rows: Sequence[Row], setting: Setting) -> dict[str, Any]:
    run = run_grpo if setting.trainer == "GRPOTrainer" else run_async
    with tempfile.TemporaryDirectory() as output:
        return {**asdict(setting), **run(rows, setting, output)}


def dump(value: dict[str, Any]) -> str:
    """Return JSON with one row or outcome a line."""
    heads = ",\n".join(f' "{key}": {json.dumps(each)}' for key, each in value.items() if key != "sets")
    sets: list[str] = []
    for each in value["sets"]:
        parts = [f'  {{"name": {json.dumps(each["name"])}']
        for key in ("rows", "outcomes"):
            lines = ",\n".join(f"    {json.dumps(entry)}" for entry in each[key])
            parts.append(f'   "{key}": [\n{lines}]')
        sets.append(",\n".join(parts) + "}")
    return "{\n" + heads + ',\n "sets": [\n' + ",\n".join(sets) + "]\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=GOLDEN, metavar="FILE")
    path: Path = parser.parse_args().json
    torch.set_num_threads(1)
    check_coverage(make_sets()["clipped on both sides"][0])
    sets: list[dict[str, Any]] = []
    for name, (rows, settings) in make_sets().items():
        outcomes = [outcome(rows, setting) for setting in settings]
        for found in outcomes:
            print(f"{name}: {found['trainer']} {found['loss_type']} {found['loss']:+.6f}", flush=True)
        sets.append({"name": name, "rows": [asdict(row) for row in rows], "outcomes": outcomes})
    written = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {each: version(each) for each in ("trl", "transformers", "accelerate", "torch")},
        "sets": sets,
    }
    assert json.loads(dump(written)) == written
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(written), encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
