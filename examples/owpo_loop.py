"""Organizer-worker policy optimisation, from rollout to update, with nothing hidden.

    python examples/owpo_loop.py                      embedded-sft, a few small steps
    python examples/owpo_loop.py FOLDER --steps 20    a checkpoint of your own

The package does the same (`asyncthink train rl`), faster and resumable; a test holds both to the same tokens,
rewards and weights. Here every agent's whole context goes through the model for each token, without a cache. What is
imported is not the algorithm: the grammar of the tags, the task with its exact check, and the weights of the model.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asyncthink.engines.checkpoint import Checkpoint, load_checkpoint
from asyncthink.engines.detokenize import Detokenizer, TokenBytes
from asyncthink.engines.lexicon import render
from asyncthink.engines.models import SHIPPED
from asyncthink.engines.sampling import uniform
from asyncthink.protocol import tags
from asyncthink.protocol.actions import Answer, Fork, FormatError, Join, Return
from asyncthink.protocol.parser import OrganizerParser, Parser, WorkerParser
from asyncthink.protocol.rules import Rules
from asyncthink.tasks import get_task
from asyncthink.tasks.base import Split


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All there is to set."""

    task: str = "countdown"
    capacity: int = 4
    """c: the organizer and at most c-1 active workers."""
    cap: int = 300
    """No agent decodes behind this tick."""
    steps: int = 3
    problems: int = 4
    """Of a step."""
    episodes: int = 4
    """Of a problem: a group."""
    seed: int = 0
    learning_rate: float = 1e-4
    warmup: int = 5
    max_norm: float = 1.0
    concurrency: float = 0.2
    """lambda."""
    tau: float = 0.85
    format_error: float = -0.25
    """R_FE."""


@dataclass
class Agent:
    """One context that grows."""

    path: str
    parser: Parser
    ids: list[int]
    text: Detokenizer
    trained: list[bool] = field(init=False)
    """For each id: whether this agent decoded it."""
    ticks: list[int] = field(default_factory=list[int])
    """When it decoded."""
    ended: bool = False
    result: str | None = None

    def __post_init__(self) -> None:
        self.trained = [False] * len(self.ids)


@dataclass
class Episode:
    """An organizer and its workers."""

    problem: Any
    seed: int
    organizer: Agent
    workers: dict[int, Agent] = field(default_factory=dict[int, Agent])
    active: list[int] = field(default_factory=list[int])
    """Workers that hold a slot."""
    queue: list[int] = field(default_factory=list[int])
    """Workers without one: first come, first served."""
    rules: Rules = field(default_factory=Rules)
    joining: int | None = None
    """The worker that the organizer stands still for."""
    errors: list[FormatError] = field(default_factory=list[FormatError])

    @property
    def decoding(self) -> list[Agent]:
        """Who gets a token in the next tick."""
        if self.organizer.ended:
            return []
        own = [self.organizer] if self.joining is None else []
        return own + [self.workers[index] for index in self.active]


class Loop:
    """The whole training."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self.settings, self.checkpoint = settings, checkpoint
        self.model = checkpoint.model.train().requires_grad_(True)
        self.task = get_task(settings.task)
        self.token_bytes = TokenBytes(checkpoint.tokenizer)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )

    def train(self) -> list[float]:
        """Take all steps; return their mean rewards."""
        return [self.step(step) for step in range(self.settings.steps)]

    def step(self, step: int) -> float:
        """Take one step: rollout, reward, advantage, update."""
        s = self.settings
        groups = [
            [self.begin(s.problems * step + place, sample) for sample in range(s.episodes)]
            for place in range(s.problems)
        ]
        self.rollout([episode for group in groups for episode in group])
        rows: list[tuple[Agent, float]] = []
        for group in groups:
            rewards = [self.reward(episode) for episode in group]
            mean = sum(rewards) / len(rewards)
            for episode, reward in zip(group, rewards, strict=True):
                joined = [episode.workers[index] for index in sorted(episode.rules.joined)]
                # One advantage for every row of the unit. Workers that were never joined are none of it.
                rows += [(agent, reward - mean) for agent in (episode.organizer, *joined)]
        self.update([row for row in rows if any(row[0].trained)], min((step + 1) / s.warmup, 1.0))
        return sum(self.reward(episode) for group in groups for episode in group) / (s.problems * s.episodes)

    # Rollout: every agent at work decodes one token a tick, so that order is the virtual clock's.

    def begin(self, problem: int, sample: int) -> Episode:
        """Open an episode: problem i of the train split, its random numbers keyed by (seed, problem, sample)."""
        key = hashlib.sha256(f"{self.settings.seed}:{problem}:{sample}".encode()).digest()
        drawn = self.task.problem(Split.TRAIN, self.settings.seed, problem)
        organizer = self.agent("organizer", "0", OrganizerParser(), self.task.prompt(drawn))
        return Episode(drawn, int.from_bytes(key[:4]) >> 1, organizer)

    def agent(self, role: str, path: str, parser: Parser, query: str) -> Agent:
        """Open a context with its role's prompt."""
        prompt = render(self.checkpoint.templates[role], query=query, capacity=self.settings.capacity)
        bos = [] if self.checkpoint.bos is None else [self.checkpoint.bos]
        return Agent(path, parser, bos + self.encode(prompt), Detokenizer(self.token_bytes))

    def encode(self, text: str) -> list[int]:
        """Return a text's token ids; special-token strings in it stay text."""
        return self.checkpoint.tokenizer.encode(text, add_special_tokens=False).ids

    def rollout(self, episodes: Sequence[Episode]) -> None:
        """Run all episodes to their ends."""
        for tick in range(1, self.settings.cap + 1):
            places = [(episode, agent) for episode in episodes for agent in episode.decoding]
            if not places:
                break
            tokens = self.draw(places)
            for (_, agent), token in zip(places, tokens, strict=True):
                agent.ids.append(token)
                agent.trained.append(True)
                agent.ticks.append(tick)
            for episode in {id(each): each for each, _ in places}.values():
                self.advance(episode, tick)
        for episode in episodes:
            if not episode.rules.answered:
                episode.errors.append(FormatError.NO_ANSWER)

    def draw(self, places: Sequence[tuple[Episode, Agent]]) -> list[int]:
        """Sample the next token of each agent at temperature 1."""
        drawn: list[int] = []
        with torch.no_grad():
            logits = self.logits([agent.ids for _, agent in places])
        for (episode, agent), row in zip(places, logits, strict=True):
            cumulative = row[len(agent.ids) - 1].double().softmax(-1).cumsum(-1)
            point = uniform(episode.seed, agent.path, len(agent.ids)) * cumulative[-1:]
            drawn.append(int(torch.searchsorted(cumulative, point, right=True)))
        return drawn

    def logits(self, contexts: Sequence[Sequence[int]]) -> Tensor:
        """Return [B, T, vocabulary] for contexts of any lengths, padded on the right."""
        width = max(map(len, contexts))
        ids = torch.tensor([[*context, *[0] * (width - len(context))] for context in contexts])
        return self.model(ids, torch.arange(width).expand_as(ids))

    def advance(self, episode: Episode, tick: int) -> None:
        """Act on what the agents of an episode decoded in this tick, workers first: a slot is free at once."""
        for index in list(episode.active):
            worker = episode.workers[index]
            self.read(worker, episode)
            if worker.ended:
                episode.active.remove(index)
                if episode.queue:
                    episode.active.append(episode.queue.pop(0))
        organizer = episode.organizer
        if organizer.ticks[-1:] == [tick]:
            self.read(organizer, episode)
        if episode.joining is not None and episode.workers[episode.joining].ended:
            result = episode.workers[episode.joining].result
            self.insert(organizer, tags.joined(episode.joining, tags.NO_RESULT if result is None else result))
            episode.joining = None

    def read(self, agent: Agent, episode: Episode) -> None:
        """Parse an agent's last token and act on it."""
        stopped = agent.ids[-1] in self.checkpoint.eos
        text = "" if stopped else agent.text.feed(agent.ids[-1])
        actions = agent.parser.feed(text)
        agent.parser.skip(len(text) - agent.parser.taken)
        for parsed in [*actions, *(agent.parser.close() if stopped else [])]:
            action = parsed.action
            if isinstance(action, Return):
                agent.ended, agent.result = True, tags.unescape(action.text)
            elif agent is episode.organizer:
                error = episode.rules.judge(action)
                episode.errors += [error] if error else []
                if isinstance(action, Fork) and not error:
                    self.fork(episode, action)
                elif isinstance(action, Join) and error:
                    self.insert(agent, tags.joined(action.index, ""))
                elif isinstance(action, Join):
                    episode.joining = action.index
                elif isinstance(action, Answer):
                    agent.ended, agent.result = True, tags.unescape(action.text)
        agent.ended = agent.ended or stopped

    def fork(self, episode: Episode, fork: Fork) -> None:
        """Start a worker, or let it wait for a slot, which is a format error of the organizer."""
        query = tags.escape(tags.unescape(fork.query))
        worker = self.agent("worker", f"0/{fork.index}", WorkerParser(), query)
        episode.workers[fork.index] = worker
        if len(episode.active) < self.settings.capacity - 1:
            episode.active.append(fork.index)
        else:
            episode.queue.append(fork.index)
            episode.errors.append(FormatError.POOL_OVERFLOW)

    def insert(self, agent: Agent, text: str) -> None:
        """Append what the model did not write: it costs no tick, and nothing is learned from it."""
        ids = self.encode(text)
        agent.ids += ids
        agent.trained += [False] * len(ids)

    # Reward: R_FE with a format error, else R_A + lambda * min(eta/c, tau) / tau.

    def reward(self, episode: Episode) -> float:
        """Pay an episode."""
        s = self.settings
        if episode.errors:
            return s.format_error
        score = self.task.check(episode.problem, episode.organizer.result or "").value
        return score + s.concurrency * min(self.concurrency(episode), s.tau) / s.tau

    def concurrency(self, episode: Episode) -> float:
        """Return eta/c: agents at work, averaged over the ticks up to the answer."""
        joined = [episode.workers[index] for index in episode.rules.joined]
        work = len(episode.organizer.ticks) + sum(len(worker.ticks) for worker in joined)
        return work / (episode.organizer.ticks[-1] * self.settings.capacity)

    # Update: sum over the trained tokens of -A * log pi, divided by their number; on policy the ratio is 1.

    def update(self, rows: Sequence[tuple[Agent, float]], scale: float) -> None:
        """Take one step of the optimizer."""
        count = sum(sum(agent.trained) for agent, _ in rows)
        for agent, advantage in rows:
            logprobs = self.logits([agent.ids])[0, :-1].log_softmax(-1)
            chosen = logprobs.gather(-1, torch.tensor(agent.ids[1:])[:, None])[:, 0]
            own = torch.tensor(agent.trained[1:])
            (-advantage * chosen[own].sum() / count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * scale
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    """Train, and print each step's mean reward."""
    options = argparse.ArgumentParser(description="Organizer-worker policy optimisation.")
    options.add_argument(
        "folder", nargs="?", type=Path, default=SHIPPED["embedded-sft"], help="a checkpoint folder"
    )
    options.add_argument("--steps", type=int, default=3)
    given = options.parse_args()
    loop = Loop(load_checkpoint(given.folder), Settings(steps=given.steps))
    for step in range(given.steps):
        print(f"step {step + 1}: mean reward {loop.step(step):.3f}", flush=True)


if __name__ == "__main__":
    main()
