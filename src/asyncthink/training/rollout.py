"""Rollouts: a step's problems, each thought through several times by the model as it is now.

Everything is a function of (seed, step): which problems, and the random numbers of every token. Problem number i
is used in one step and no other, so a resumed run neither skips nor repeats one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asyncthink.engines.base import Engine
from asyncthink.episodes.metrics import Metrics, measure
from asyncthink.episodes.record import Episode, Outcome, StopReason, Trial
from asyncthink.errors import EngineError
from asyncthink.evaluation.run import seed_of
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.fanout import together
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import Asked
from asyncthink.training.problems import Problems
from asyncthink.training.rl_recipe import RolloutRecipe

REDRAWS = 3
"""Times that an episode is drawn again after a failure of the engine, before the run stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One episode of a step."""

    asked: Asked
    episode: Episode
    metrics: Metrics


def organization_of(
    engine: Engine, rollout: RolloutRecipe, *, temperature: float = 1.0, top_p: float | None = None
) -> Organization:
    """Return who thinks, as a recipe says; `top_p` None: the recipe's."""
    limits = Limits(max_critical_path=rollout.max_critical_path, max_worker_tokens=rollout.max_worker_tokens)
    return Organization(
        engine,
        method=rollout.method,
        capacity=rollout.capacity,
        limits=limits,
        temperature=temperature,
        top_p=rollout.top_p if top_p is None else top_p,
        reminders=False,  # what has to be reminded has still to be learned, and a worker's slip fines nobody
    )


class Sampler:
    """Draws the episodes of a step.

    Args:
        organization: who thinks; open while this is used.
        numbered: the problem that a number stands for.
        seed: of all sampling.
        problems: how many a step has.
        episodes: how many there are of each.

    Raises:
        UsageError: the model was not made for one of the problems.
    """

    def __init__(
        self,
        organization: Organization,
        numbered: Problems,
        *,
        seed: int,
        problems: int,
        episodes: int,
    ) -> None:
        self.organization, self.numbered, self.seed = organization, numbered, seed
        self.problems, self.episodes = problems, episodes
        # Before the first step: what the shuffle brings late would end a run that cannot go on without it.
        for asked in [question.asked for question in numbered.given] or [numbered(0)]:
            organization.capacity_for(asked)

    async def draw(self, step: int, done: Callable[[], None] = lambda: None) -> list[list[Rollout]]:
        """Return the step's groups: for each problem, its episodes.

        Args:
            step: which one, from 0.
            done: called for each episode that is there.

        Raises:
            EngineError: the engine failed again and again.
        """
        first = step * self.problems
        groups: list[list[Rollout]] = [[] for _ in range(self.problems)]
        cells = [(place, sample) for place in range(self.problems) for sample in range(self.episodes)]
        asked = [self.numbered(first + i) for i in range(self.problems)]
        found: dict[tuple[int, int], Rollout] = {}

        async def draw_one(cell: tuple[int, int]) -> None:
            place, sample = cell
            found[cell] = await self._episode(asked[place], first + place, sample)
            done()

        await together(cells, draw_one)
        for place, sample in cells:
            groups[place].append(found[place, sample])
        return groups

    async def _episode(self, asked: Asked, problem: int, sample: int) -> Rollout:
        return await whole_episode(
            self.organization,
            asked,
            seed=self.seed,
            problem=problem,
            sample=sample,
            of=self.episodes,
            name=f"{problem:08}-{sample:04}",
        )


async def whole_episode(
    organization: Organization, asked: Asked, *, seed: int, problem: int, sample: int, of: int, name: str
) -> Rollout:
    """Draw an episode; one that a failure of the engine touched is never trained on, but drawn again.

    Args:
        organization: who thinks.
        asked: the problem.
        seed: of the run.
        problem: number of the problem in its split.
        sample: number of the episode among those `of` the problem.
        of: episodes of the problem.
        name: the episode's id, but for the attempt.

    Raises:
        EngineError: the engine failed again and again.
    """
    cause = ""
    for attempt in range(1 + REDRAWS):
        trial = Trial(arm="train", problem=str(problem), sample=sample + attempt * of)
        own = seed_of(seed, trial)
        episode = await organization.think(asked, seed=own, trial=trial, name=f"{name}-{attempt}")
        failed = [trace for trace in episode.traces if trace.outcome is Outcome.ENGINE_ERROR]
        if episode.stop_reason is not StopReason.ENGINE_ERROR and not failed:
            return Rollout(asked=asked, episode=episode, metrics=measure(episode))
        cause = episode.cause or (failed[0].cause if failed else None) or "the engine failed"
    raise EngineError(f"problem {problem} failed {1 + REDRAWS} times, the last with: {cause}")
