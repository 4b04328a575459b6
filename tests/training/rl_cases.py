"""What the tests of reinforcement learning share: a policy whose chances are known, its episodes, tiny recipes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Self

import anyio
import torch

from asyncthink.engines.base import Engine, Profile
from asyncthink.engines.batch import Request
from asyncthink.engines.checkpoint import Checkpoint, save_checkpoint
from asyncthink.engines.llama import Llama, LlamaConfig
from asyncthink.engines.local import LocalEngine, LocalSession, Running
from asyncthink.engines.models import EMBEDDED
from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import Episode, Role
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import Asked, CountdownProblem, get_task
from asyncthink.training.optimizers import Optimizers
from asyncthink.training.problems import Problems
from asyncthink.training.rl_recipe import RLRecipe, load_rl_recipe
from asyncthink.training.rollout import Rollout, Sampler
from asyncthink.training.rows import TrainingRow
from asyncthink.training.vocabulary import build_tokenizer

EXAMPLE = Asked(get_task("countdown"), CountdownProblem(numbers=(2, 3, 5, 7), target=28))

# A policy that is a Markov chain: what comes next depends on the last token alone.
CHAIN: dict[str, dict[str, float]] = {
    " ?": {"<FORK-1>": 0.7, "<ANSWER>": 0.3},
    "<FORK-1>": {" 11": 1.0},
    " 11": {"</FORK-1>": 1.0},
    "</FORK-1>": {"<FORK-2>": 0.5, "<JOIN-1>": 0.4, "<FORK-1>": 0.1},
    "<FORK-2>": {" 12": 1.0},
    " 12": {"</FORK-2>": 1.0},
    "</FORK-2>": {"<JOIN-2>": 0.5, "<JOIN-1>": 0.4, "<ANSWER>": 0.1},
    "</JOIN-1>": {"<JOIN-2>": 0.3, "<FORK-2>": 0.2, "<ANSWER>": 0.5},
    "</JOIN-2>": {"<JOIN-1>": 0.3, "<ANSWER>": 0.7},
    "<ANSWER>": {" 7": 1.0},
    " 7": {" 7": 0.3, "</ANSWER>": 0.7},
    " =": {" 5": 1.0},
    " 5": {" 5": 0.8, "<RETURN>": 0.2},
    "<RETURN>": {" 9": 1.0},
    " 9": {"</RETURN>": 1.0},
}
TEMPLATES = {"organizer": "{{ query }} Agents: {{ capacity }} ?", "worker": "Solve {{ query }} ="}
"""Their last tokens are the chain's first."""
NEVER = -25.0
"""Log-probability of what the chain does not do."""


def tiny_config(vocabulary: int, **changes: Any) -> LlamaConfig:
    values: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(vocab_size=vocabulary, **values | changes)


def random_model(vocabulary: int, seed: int = 7, **changes: Any) -> Llama:
    """Return a model whose distributions are neither flat nor settled."""
    torch.manual_seed(seed)
    model = Llama(tiny_config(vocabulary, **changes))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model


def chain_model(**changes: Any) -> Llama:
    """Return the chain as a model: a token's embedding says which row of chances it has."""
    tokenizer = build_tokenizer()
    ids = {name: tokenizer.token_to_id(name) for name in CHAIN}
    model = Llama(tiny_config(tokenizer.get_vocab_size(), **changes))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "layers" in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    embedding, head = model.model.embed_tokens.weight.data, model.lm_head.weight.data
    embedding.zero_()
    embedding[:, len(CHAIN)] = 1.0
    head.fill_(NEVER)
    for place, (name, following) in enumerate(CHAIN.items()):
        embedding[ids[name]] = torch.eye(32)[place]
        for then, chance in following.items():
            head[tokenizer.token_to_id(then), place] = log(chance)
    head /= 32**0.5  # the last norm makes a unit vector that long
    return model


def write_chain(folder: Path, **changes: Any) -> Path:
    """Write the chain as a checkpoint that knows every task."""
    return _write(folder, chain_model(**changes))


def write_noise(folder: Path) -> Path:
    """Write a model of random weights: bytes that are no text, and hardly ever a tag."""
    return _write(folder, random_model(build_tokenizer().get_vocab_size()))


def _write(folder: Path, model: Llama) -> Path:
    tokenizer = build_tokenizer()
    checkpoint = Checkpoint(
        model=model,
        tokenizer=tokenizer,
        templates=TEMPLATES,
        profile=Profile(capacity=4),
        bos=tokenizer.token_to_id("<bos>"),
    )
    save_checkpoint(folder, checkpoint)
    return folder


# Episodes


class Recorder(LocalEngine):
    """Notes the tick of every token that it decodes.

    Args:
        folder: the checkpoint.
        misled: tell the model of four agents, however many there are, so that it forks more than the pool holds.
    """

    def __init__(self, folder: Path, *, lanes: int = 1, misled: bool = False) -> None:
        super().__init__(folder, device="cpu", threads=1, lanes=lanes)
        self.misled = misled
        self.ticks: dict[tuple[str, str], list[int]] = {}
        """(episode, path) -> ticks of its lane."""
        self.sizes: list[list[int]] = [[] for _ in range(lanes)]
        """Of each lane, how many tokens its ticks gave."""
        self.slots: list[list[int]] = []
        """Of each tick, the slots that they were decoded in."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for lane, sizes in zip(self.lanes, self.sizes, strict=True):
            self._watch(lane, sizes)
        return self

    def _watch(self, lane: Running, sizes: list[int]) -> None:
        step = lane.batch.step

        def watched(requests: Sequence[Request]) -> None:
            asked = [each for each in requests if not each.answered]
            step(requests)
            sizes.append(len(asked))
            self.slots.append([each.context.slot or 0 for each in asked])
            for each in asked:
                if each.token is not None:
                    self.ticks.setdefault(each.context.order, []).append(lane.lockstep.tick)

        lane.batch.step = watched

    def open(self, *args: Any, **kwargs: Any) -> LocalSession:
        return super().open(*args, **(kwargs | ({"capacity": 4} if self.misled else {})))


async def draw(
    engine: Engine, step: int = 0, *, problems: int = 2, episodes: int = 2, seed: int = 1, **settings: Any
) -> list[list[Rollout]]:
    """Draw the groups of a step."""
    async with Organization(engine, temperature=1.0, **settings) as organization:
        numbered = Problems(get_task("countdown"), seed)
        sampler = Sampler(organization, numbered, seed=seed, problems=problems, episodes=episodes)
        return await sampler.draw(step)


@dataclass(frozen=True, slots=True)
class World:
    """Sampled episodes, and when each of their tokens was decoded."""

    rollouts: list[Rollout]
    ticks: dict[tuple[str, str], list[int]]


def _world(engine: Recorder, **settings: Any) -> World:
    groups = anyio.run(lambda: draw(engine, **settings))
    return World([one for group in groups for one in group], engine.ticks)


@cache
def embedded_world(capacity: int, method: str = "asyncthink") -> World:
    """Sample from the model that ships with the package."""
    limits = Limits(max_critical_path=120 if method == "asyncthink" else 40)
    return _world(Recorder(EMBEDDED), capacity=capacity, method=method, limits=limits)


@cache
def chain_world(capacity: int, *, lanes: int = 1, misled: bool = False) -> World:
    """Sample from the chain."""
    with TemporaryDirectory() as folder:
        engine = Recorder(write_chain(Path(folder)), lanes=lanes, misled=misled)
        limits = Limits(max_worker_tokens=25)
        return _world(engine, problems=3, episodes=8, capacity=capacity, limits=limits)


@cache
def all_rollouts() -> list[Rollout]:
    """Return sampled episodes of all kinds."""
    worlds = [embedded_world(capacity) for capacity in (2, 3, 4)]
    worlds += [embedded_world(2, "parallel"), embedded_world(3, "sequential"), chain_world(2), chain_world(4)]
    return [one for world in worlds for one in world.rollouts]


def scripted(
    organizer: str | list[str],
    workers: dict[str, str] | None = None,
    *,
    asked: Asked = EXAMPLE,
    **settings: Any,
) -> Episode:
    """Run a script on a task's problem."""

    async def run() -> Episode:
        engine = ScriptedEngine({"organizer": organizer, "workers": workers or {}})
        async with Organization(engine, **settings) as organization:
            return await organization.think(asked)

    return anyio.run(run)


# Rows


def make_row(ids: list[int], trained: list[bool], logprobs: list[float] | None = None) -> TrainingRow:
    return TrainingRow(
        episode="e",
        path="0",
        role=Role.ORGANIZER,
        ids=tuple(ids),
        trained=tuple(trained),
        logprobs=tuple(logprobs or [0.0] * len(ids)),
    )


def random_rows(vocabulary: int, count: int, seed: int = 0) -> list[TrainingRow]:
    """Return rows of many lengths: an untrained first token, and trained and inserted ones in turn."""
    random = Random(seed)
    found: list[TrainingRow] = []
    for _ in range(count):
        length = random.randint(2, 40)
        trained = [False, True, *(random.random() < 0.6 for _ in range(length - 2))]
        ids = [random.randrange(vocabulary) for _ in range(length)]
        logprobs = [random.uniform(-6, -1) if own else 0.0 for own in trained]
        found.append(make_row(ids, trained, logprobs))
    return found


class Watched(Optimizers):
    """Keeps the gradients of its last step, and moves nothing."""

    def __init__(self, model: Llama) -> None:
        super().__init__(
            model, optimizer="adamw", learning_rate=0.0, embedding_learning_rate=0.0, weight_decay=0.0
        )
        self.model = model
        self.gradients: dict[str, torch.Tensor] = {}
        self.scales: list[float] = []

    def step(self, scale: float) -> None:
        self.scales.append(scale)
        named = self.model.named_parameters()
        self.gradients = {name: one.grad.clone() for name, one in named if one.grad is not None}
        self.model.zero_grad()


# Recipes

RECIPE = """
start = "{start}"
output = "{output}"
seed = 5

[rollout]
method = "asyncthink"
capacity = 3
max_critical_path = 40
problems = 2
episodes = 4

[reward]
pooled = false

[loss]
clip_low = 0.2
kl = 0.0

[update]
steps = 3
learning_rate = 0.001
warmup_steps = 2
cooldown_steps = 0
bfloat16 = false
updates = 1
batch_tokens = 500
threads = 1
save_every = 1
checkpoint_every = 2
"""


def write_recipe(folder: Path, start: str, **changes: str) -> Path:
    """Write a tiny recipe; a change replaces the value of that key."""
    folder.mkdir(exist_ok=True)
    text = RECIPE.format(start=start, output=(folder / "run").as_posix())
    known = {line.partition(" = ")[0] for line in text.splitlines()}
    assert changes.keys() <= known, changes
    lines = [
        f"{key} = {changes[key]}" if (key := line.partition(" = ")[0]) in changes else line
        for line in text.splitlines()
    ]
    path = folder / "tiny.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def tiny(folder: Path, start: str, **changes: str) -> RLRecipe:
    return load_rl_recipe(str(write_recipe(folder, start, **changes)))


def metrics_of(output: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
