"""Organizer-worker episodes for verl's trainer: many GPUs, many nodes, rollouts on vLLM.

verl loads this file by itself, as a plugin, and finds the agent loop `asyncthink` in it. Ours are what is thought
about, the runtime, the reward, and which tokens are trained; sampling, advantage, loss, optimizer, checkpoints and
the transfer of weights are verl's. An episode is one session of several outputs, the organizer's last: verl takes
GRPO's advantage of a session's last output for all of them
(`verl.trainer.ppo.v1.utils.compute_advantage_for_multi_trajectories`, verl 0.9.1).

The launch configuration names an RL recipe in `asyncthink.recipe`. Of that, [rollout], [reward], `seed` and
`update.normalise_advantage` hold; everything else is said in verl's own keys. Where both say the same thing they
must agree.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from asyncthink.engines.base import Sampling
from asyncthink.engines.generated import GeneratedEngine, Reply
from asyncthink.engines.openai.tokens import Tokens
from asyncthink.errors import EngineError, UsageError
from asyncthink.tasks import Asked, get_task
from asyncthink.tasks.base import Split
from asyncthink.training.reward import Reward, reward_of
from asyncthink.training.rl_recipe import RLRecipe, load_rl_recipe
from asyncthink.training.rollout import Rollout, organization_of, whole_episode
from asyncthink.training.rows import TrainingRow, rows

verl: Any = import_module("verl.experimental.agent_loop.agent_loop")
NAME = "asyncthink"


@verl.register(NAME)
class AsyncThinkLoop(verl.AgentLoopBase):  # pyright: ignore[reportUntypedBaseClass]
    """Thinks one problem through, once."""

    async def run(self, sampling_params: dict[str, Any], **fields: Any) -> list[Any]:
        """Return an episode's outputs.

        An episode that a failure of the engine touched is drawn again; after the last try the error goes to verl,
        which leaves that session out of its group and goes on.

        Args:
            sampling_params: verl's, for training or validation.
            fields: of a line that `write_problems` wrote, with `uid` of the group and `session_id` in it.

        Raises:
            UsageError: the recipe cannot be read, or the launch configuration or the data do not go with it.
            CheckpointError: the tokenizer's folder cannot be read.
            EngineError: the engine failed again and again.
        """
        recipe = load_once(_at(self.config, "asyncthink.recipe"))
        check(self.config, recipe)
        asked, problem = problem_of(recipe, fields)
        server = Server(self.server_manager, sampling_params)
        folder = folder_of(self.tokenizer.name_or_path)
        engine = GeneratedEngine(server, tokens_of(folder), name=folder.name, context=context_of(self.config))
        rollout = recipe.rollout
        organization = organization_of(
            engine, rollout, temperature=sampling_params["temperature"], top_p=sampling_params["top_p"]
        )
        began = time.monotonic()
        sample = int(fields["session_id"])
        async with organization:
            one = await whole_episode(
                organization,
                asked,
                seed=recipe.seed,
                problem=problem,
                sample=sample,
                of=rollout.episodes,
                name=f"{fields['uid']}-{sample}",
            )
        paid = reward_of(one.episode, one.asked, one.metrics, recipe.reward)
        return outputs(one, paid, server.versions, time.monotonic() - began)


class Server:
    """verl's inference servers as one function; remembers which versions of the policy answered.

    Args:
        manager: verl's `LLMServerClient`, which sends every request of one name to the same replica.
        params: verl's sampling parameters. Random numbers are vLLM's own.
    """

    def __init__(self, manager: Any, params: Mapping[str, Any]) -> None:
        self._manager, self._params = manager, params
        self.versions: list[int] = []

    async def __call__(
        self, request: str, ids: list[int], *, stops: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> Reply:
        """Decode; see `Generate`."""
        params = {
            **self._params,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": max_tokens,
            "stop": list(stops),
            "include_stop_str_in_output": True,
        }
        output = await self._manager.generate(request, prompt_ids=ids, sampling_params=params)
        if output.stop_reason in ("abort", "aborted"):
            raise EngineError("the server gave the request up", transient=True)
        told = (output.extra_fields.get(f"{which}_global_steps") for which in ("min", "max"))
        self.versions += [version for version in told if version is not None]
        logprobs = None if output.log_probs is None else tuple(output.log_probs)
        return Reply(token_ids=tuple(output.token_ids), logprobs=logprobs)


def outputs(one: Rollout, paid: Reward, versions: Sequence[int], seconds: float) -> list[Any]:
    """Return an episode's rows as verl takes them, the organizer's last; the last one has the reward.

    Args:
        one: the episode.
        paid: its reward.
        versions: of the policy, that answered its requests.
        seconds: it took.
    """
    first, *others = [_output(row, versions, seconds) for row in rows(one.episode)] or [None]
    if first is None:
        return []
    first.reward_score = paid.total
    first.extra_fields["reward_extra_info"] = {
        "acc": paid.accuracy,
        "eta": one.metrics.concurrency,
        "critical_path": float(one.metrics.critical_path),
        "forks": float(one.metrics.forks),
        "joins": float(one.metrics.joins),
        "decoded_tokens": float(one.metrics.decoded_tokens),
        "format_error": float(bool(one.episode.faults)),
    }
    return [*others, first]


def _output(row: TrainingRow, versions: Sequence[int], seconds: float) -> Any:
    """Return one row; its response begins with the first token that the model decoded."""
    begin = row.trained.index(True)
    own = [int(each) for each in row.trained[begin:]]
    turns = sum(now > before for before, now in zip([0, *own], own, strict=False))
    return verl.AgentLoopOutput(
        prompt_ids=list(row.ids[:begin]),
        response_ids=list(row.ids[begin:]),
        response_mask=own,
        response_logprobs=list(row.logprobs[begin:]),
        num_turns=turns,
        metrics=verl.AgentLoopMetrics(generate_sequences=seconds),
        extra_fields={
            "min_global_steps": min(versions, default=None),
            "max_global_steps": max(versions, default=None),
        },
    )


def check(config: Any, recipe: RLRecipe) -> None:
    """Make sure that verl does what the recipe says, and what whole episodes need.

    Raises:
        UsageError: it would not; the message has the key and its value.
    """
    wanted: dict[str, Any] = {
        "trainer.use_v1": True,
        "data.train_batch_size": recipe.rollout.problems,
        "actor_rollout_ref.rollout.n": recipe.rollout.episodes,
        "actor_rollout_ref.rollout.name": "vllm",
        "actor_rollout_ref.rollout.top_p": recipe.rollout.top_p,
        "actor_rollout_ref.rollout.calculate_log_probs": True,
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": recipe.update.normalise_advantage,
    }
    for key, value in wanted.items():
        found = _at(config, key)
        if found != value:
            raise UsageError(f"{key} is {found}, and the recipe or its episodes need {value}")
    if recipe.update.fork_credit:
        raise UsageError("update.fork_credit is not in verl's loss")
    if recipe.rollout.top_p != 1:
        raise UsageError(f"rollout.top_p = {recipe.rollout.top_p} is not in verl's loss: only 1.0 is")


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        if name not in config:
            raise UsageError(f"the launch configuration has no {key}")
        config = config[name]
    return config


def context_of(config: Any) -> int:
    """Return how long a context may become, in tokens: a prompt and a response as verl counts them."""
    rollout = config.actor_rollout_ref.rollout
    longest = rollout.prompt_length + rollout.response_length
    return min(longest, rollout.max_model_len or longest)


def problem_of(recipe: RLRecipe, fields: Mapping[str, Any]) -> tuple[Asked, int]:
    """Return the problem that a line of verl's data stands for, and its number in its split.

    Raises:
        UsageError: the line was not written for this recipe.
    """
    number, split = int(fields["extra_info"]["index"]), Split(fields["extra_info"]["split"])
    task = get_task(recipe.rollout.task)
    problem = task.problem(split, recipe.seed, number)
    told = fields["raw_prompt"][-1]["content"]
    if told != (wanted := task.prompt(problem)):
        raise UsageError(
            f"the data were not made for this recipe: {split} {number} is {told!r}, not {wanted!r}"
        )
    return Asked(task, problem), number


@cache
def load_once(path: str) -> RLRecipe:
    """Read a recipe, once in a process."""
    return load_rl_recipe(path)


@cache
def tokens_of(folder: Path) -> Tokens:
    """Read a checkpoint's tokenizer and templates, once in a process."""
    return Tokens(folder)


@cache
def folder_of(name: str) -> Path:
    """Return the folder that a checkpoint's tokenizer was loaded from: itself, or a hub's in the cache."""
    found: Any = import_module("transformers.utils").cached_file(name, "tokenizer.json")
    return Path(found).parent
