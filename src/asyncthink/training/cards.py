"""Cards, README.md with the header that the Hugging Face hub reads: of traces, and of trained checkpoints.

A card says how something was made, and no figure that was not measured. One that is there already is somebody's, and
stays; the licence is the user's to state.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from asyncthink.episodes import files
from asyncthink.episodes.store import versions
from asyncthink.training.recipe import DataRecipe, Recipe
from asyncthink.training.teacher.traces import Traces

if TYPE_CHECKING:
    from asyncthink.training.rl_recipe import RLRecipe

CARD = "README.md"
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
"""Below so many rows -> the hub's word for it."""
DATA = """\
---
# license: state yours; what a model wrote may be bound by that model's
pretty_name: asyncthink traces, {task}
tags: [asyncthink]
language: [en]
task_categories: [text-generation]
size_categories: [{size}]
configs:
- config_name: default
  data_files:
  - split: train
    path: {name}
dataset_info:
  features:
  - name: role
    dtype: string
  - name: query
    dtype: string
  - name: capacity
    dtype: int64
  - name: pieces
    list:
    - name: text
      dtype: string
    - name: trained
      dtype: bool
---

# Traces of organizers and workers: {task}

Examples for format fine-tuning in the protocol of AsyncThink (arXiv 2510.26658), one agent's trace each.

| column | what it is |
|---|---|
| role | `organizer` or `worker` |
| query | the question, or for a worker its sub-query |
| capacity | of the agent pool, 1 for a worker |
| pieces | the trace in order: `trained` is what the model is to write, the rest is what the runtime inserts |

## How it was made

By `asyncthink synth` {version}: {maker}, on problems of the train split of `{task}`, seed {seed}, agent pool capacity {capacity}.
Replies that break the protocol were dropped; whether an answer is right decided nothing. `{report}` has the settings, the
counts, and what was dropped.

    asyncthink train sft RECIPE      # a recipe's [[data]]: kind = "file", file = "{name}"
"""
MODEL = """\
---
# license: and base_model: state yours
library_name: transformers
pipeline_tag: text-generation
tags: [asyncthink]
---

# {title}

{how}, with asyncthink {version}. It speaks the protocol of AsyncThink (arXiv 2510.26658): as an organizer it forks sub-queries,
joins results and answers, as a worker it returns what it found.

| | |
|---|---|
| began with | {base} |
| learned from | {data} |
| trainer | {trainer} |
| agent pool capacity | {capacity} |

    asyncthink think QUERY --model hf:FOLDER

No score of it was measured by the training; `asyncthink eval --model hf:FOLDER` does that.

## Recipe

```toml
{recipe}
```
"""


def write_data_set(traces: Traces) -> None:
    """Make the folder of finished traces a data set: a card, and a Parquet copy where pyarrow is installed.

    Raises:
        RecordError: it cannot be written.
    """
    settings, counts = traces.settings, traces.statistics
    rows = counts.kept + counts.workers
    maker = (
        "by a program"
        if settings.model == "program"
        else f"by the model `{settings.model}`, which was told a random order of forks and joins"
    )
    text = DATA.format(
        task=settings.task,
        size=next((word for below, word in SIZES.items() if rows < below), "n>1M"),
        name=traces.path.name,
        version=versions()["asyncthink"],
        maker=maker,
        seed=settings.seed,
        capacity=settings.capacity,
        report=traces.report.name,
    )
    with files.told(traces.path):
        _write(traces.path.parent, text)
        if rows and find_spec("pyarrow"):
            read, parquet = import_module("pyarrow.json"), import_module("pyarrow.parquet")
            draft = files.draft(copy := traces.path.with_suffix(".parquet"))
            parquet.write_table(read.read_json(traces.path), draft)
            draft.replace(copy)


def write_model_card(folder: Path, recipe: Recipe | RLRecipe) -> None:
    """Write the card of a checkpoint that a recipe made, where there is none."""
    if isinstance(recipe, Recipe):
        how, capacity = "Made by format fine-tuning", recipe.capacity
        data = "; ".join(_ingredient(each) for each in recipe.data)
    else:
        rollout = recipe.rollout
        how, capacity = "Made by organizer-worker policy optimisation", rollout.capacity
        data = f"rewards of {rollout.method} episodes on `{rollout.data or rollout.task}`"
    text = MODEL.format(
        title=Path(recipe.output).name,
        how=how,
        version=versions()["asyncthink"],
        base=f"`{recipe.start}`" if recipe.start else "random weights",
        data=data,
        trainer="TRL's" if recipe.trainer == "trl" else "asyncthink's own loop",
        capacity=capacity,
        recipe=recipe.source.strip(),
    )
    _write(folder, text)


def _ingredient(data: DataRecipe) -> str:
    of = f"the file `{data.file}`" if data.file else f"{data.kind} traces of {data.task} by a program"
    return f"{data.share:g} of {of}"


def _write(folder: Path, text: str) -> None:
    if not (folder / CARD).exists():
        files.replace(folder / CARD, text.encode())
