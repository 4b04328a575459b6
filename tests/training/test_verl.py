"""verl's own code over our episodes: its dataset, its agent-loop worker, its advantage, its loss, its configuration.

Run by scripts/verl, in an environment that has verl. Only two things stand in: inference is the local engine's, and
what the worker hands to TransferQueue is kept here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from warnings import catch_warnings, simplefilter

import numpy as np
import pytest
import torch
from generating import LocalGenerate

from asyncthink.engines.base import Sampling
from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.local import LocalEngine
from asyncthink.episodes.record import Role, SegmentKind
from asyncthink.errors import UsageError
from asyncthink.training.loss import LossRecipe, policy_loss, row_weights
from asyncthink.training.reward import reward_of
from asyncthink.training.rl_recipe import RLRecipe, load_rl_recipe
from asyncthink.training.rollout import Rollout
from asyncthink.training.rows import TrainingRow, rows
from asyncthink.training.step import weighed
from asyncthink.training.verl_data import write_problems

from .verl_cases import EPISODES, MODEL, PROBLEMS, RECIPES, composed, config_of, load, write_recipe

hydra, OmegaConf = load("hydra"), load("omegaconf.OmegaConf")
loops = load("verl.experimental.agent_loop.agent_loop")
agent_loop_tq = load("verl.trainer.ppo.v1.agent_loop_tq")
DataProto = load("verl.protocol.DataProto")
TokenOutput = load("verl.workers.rollout.replica.TokenOutput")
ppo, verl_config, dicts = (
    load("verl.trainer.ppo.utils"),
    load("verl.utils.config"),
    load("verl.utils.tensordict_utils"),
)
compute_advantage = load("verl.trainer.ppo.v1.utils.compute_advantage_for_multi_trajectories")
get_trainer = load("verl.trainer.ppo.v1.get_trainer_cls")
collate = load("verl.utils.dataset.rl_dataset.collate_fn")
plugin = load("asyncthink.training.verl_plugin")

pytestmark = pytest.mark.filterwarnings("ignore")
VERSION = 7
"""Of the policy, as the server tells it."""


class Servers:
    """Answers as verl's client of its vLLM servers does; fails where it is told to.

    Args:
        generate_locally: decodes.
        broken: what the names of requests that fail begin with; None: none does.
    """

    def __init__(self, generate_locally: LocalGenerate, broken: str | None) -> None:
        self.generate_locally, self.broken = generate_locally, broken
        self.seen: list[tuple[str, list[int]]] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Any:
        self.seen.append((request_id, prompt_ids))
        if self.broken is not None and request_id.startswith(self.broken):
            raise RuntimeError("the actor died")
        assert sampling_params["include_stop_str_in_output"] and sampling_params["logprobs"]
        assert sampling_params["stop"] and sampling_params["top_k"] == -1
        sampling = Sampling(
            temperature=sampling_params["temperature"], top_p=sampling_params["top_p"], seed=3
        )
        reply = await self.generate_locally(
            request_id,
            prompt_ids,
            stops=sampling_params["stop"],
            max_tokens=sampling_params["max_tokens"],
            sampling=sampling,
        )
        steps = {f"{which}global_steps": VERSION for which in ("", "min_", "max_")}
        return TokenOutput(
            token_ids=list(reply.token_ids),
            log_probs=list(reply.logprobs or ()),
            stop_reason="completed",
            extra_fields=steps,
        )


class Worker(agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """The worker of the V1 trainer in this process: an actor of Ray's otherwise."""

    def __init__(self, config: Any, client: Any) -> None:
        loops.AgentLoopWorker.__init__(self, config, client)
        self.background_tasks: set[asyncio.Task[None]] = set()


def nested(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return rows of different lengths as verl keeps them."""
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


@dataclass
class Kept:
    """What a worker handed to TransferQueue."""

    keys: list[str] = field(default_factory=list[str])
    fields: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tags: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    statuses: dict[str, str] = field(default_factory=dict[str, str])
    """Group -> how it ended."""

    async def async_kv_put(self, *, key: str, partition_id: str, tag: Mapping[str, str]) -> None:
        assert partition_id == "train"
        self.statuses[key] = tag["status"]

    async def async_kv_batch_put(
        self, *, keys: Sequence[str], fields: Any, tags: Sequence[dict[str, Any]], partition_id: str
    ) -> None:
        assert partition_id == "train"
        self.keys += keys
        self.fields += [fields[place] for place in range(len(keys))]
        self.tags += tags

    def padded(self) -> Any:
        """Return a batch as the trainer makes it of what it fetches (`PPOTrainer._compute_advantage`)."""
        names = ("prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores")
        columns = {name: nested([row[name] for row in self.fields]) for name in names}
        batch = dicts.get_tensordict(columns).to_padded_tensor()
        batch["token_level_rewards"] = batch["rm_scores"]
        uids = np.array([key.rsplit("_", 2)[0] for key in self.keys], dtype=object)
        return DataProto(batch=batch, non_tensor_batch={"uid": uids})


@dataclass
class Step:
    """A step's rollouts: what verl got, and the episodes that it was made of."""

    config: Any
    recipe: RLRecipe
    kept: Kept
    servers: Servers
    episodes: dict[str, Rollout]
    """Name but for the attempt -> episode."""

    def session(self, key: str) -> Rollout:
        uid, session, _ = key.rsplit("_", 2)
        return self.episodes[f"{uid}-{session}"]


async def rolled(config: Any, broken: str | None = None) -> Step:
    """Return a step's rollouts, from verl's dataset to what its worker hands on."""
    kept, episodes = Kept(), dict[str, Rollout]()
    whole = plugin.whole_episode

    async def watched(*arguments: Any, **named: Any) -> Rollout:
        episodes[named["name"]] = await whole(*arguments, **named)
        return episodes[named["name"]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_loop_tq, "tq", kept)
        patch.setattr(plugin, "whole_episode", watched)
        async with LocalEngine(MODEL, threads=1, lanes=1) as engine:
            servers = Servers(LocalGenerate(engine), broken)
            worker = Worker(config, servers)
            data = ppo.create_rl_dataset(config.data.train_files, config.data, worker.tokenizer, None)
            lines = collate([data[place] for place in range(PROBLEMS)])
            lines["uid"] = np.array([f"group-{place}" for place in range(PROBLEMS)], dtype=object)
            batch = dicts.get_tensordict(lines)
            dicts.assign_non_tensor_data(batch, "global_steps", VERSION)
            await worker.generate_sequences(batch)
            await asyncio.gather(*worker.background_tasks)
    recipe = load_rl_recipe(config.asyncthink.recipe)
    return Step(config, recipe, kept, servers, episodes)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return config_of(tmp_path_factory.mktemp("launch"))


@pytest.fixture(scope="module")
def step(config: Any) -> Step:
    with catch_warnings():
        simplefilter("ignore")
        return asyncio.run(rolled(config))


def ours(step: Step) -> dict[tuple[str, int], tuple[TrainingRow, float]]:
    """Return our rows with our advantages: (session, its place from the end of ours) -> row, advantage."""
    found: dict[tuple[str, int], tuple[TrainingRow, float]] = {}
    for group in range(PROBLEMS):
        names = [f"group-{group}-{session}" for session in range(EPISODES)]
        rollouts = [step.episodes[name] for name in names]
        paid = [reward_of(one.episode, one.asked, one.metrics, step.recipe.reward) for one in rollouts]
        shared, worth = weighed([rollouts], [paid], normalise=step.recipe.update.normalise_advantage)
        for name, one in zip(names, rollouts, strict=True):
            for place in range(len(rows(one.episode))):
                found[name, place] = shared.pop(0), worth.pop(0)
    return found


def pairs(step: Step) -> list[tuple[int, TrainingRow, float]]:
    """Return each place in verl's batch with our row and advantage for it."""
    wanted = ours(step)
    found: list[tuple[int, TrainingRow, float]] = []
    for place, key in enumerate(step.kept.keys):
        uid, session, index = key.rsplit("_", 2)
        name = f"{uid}-{session}"
        count = sum(each == name for each, _ in wanted)
        own = 0 if int(index) == count - 1 else int(index) + 1  # the organizer's is our first and verl's last
        found.append((place, *wanted[name, own]))
    assert len(found) == len(wanted)
    return found


def test_verl_finds_the_loop_by_itself() -> None:
    assert (
        loops._agent_loop_registry["asyncthink"]["_target_"]
        == "asyncthink.training.verl_plugin.AsyncThinkLoop"
    )


def test_every_group_is_there_and_workers_are_joined(step: Step) -> None:
    assert step.kept.statuses == {f"group-{place}": "finished" for place in range(PROBLEMS)}
    assert len(step.episodes) == PROBLEMS * EPISODES
    assert len(step.kept.keys) > 2 * PROBLEMS * EPISODES, "most episodes join several workers"


def test_the_organizer_is_last_and_alone_decides(step: Step) -> None:
    for place, row, _ in pairs(step):
        uid, session, index = step.kept.keys[place].rsplit("_", 2)
        last = max(
            int(key.rsplit("_", 1)[1]) for key in step.kept.keys if key.startswith(f"{uid}_{session}_")
        )
        assert (int(index) == last) is (row.role is Role.ORGANIZER)


def test_tokens_masks_and_log_probabilities_are_the_episodes(step: Step) -> None:
    for place, row, _ in pairs(step):
        found = step.kept.fields[place]
        begin = len(found["prompts"])
        assert found["input_ids"].tolist() == [*found["prompts"].tolist(), *found["responses"].tolist()]
        assert found["input_ids"].tolist() == list(row.ids)
        assert found["response_mask"].tolist() == [int(each) for each in row.trained[begin:]]
        assert found["loss_mask"].tolist() == found["response_mask"].tolist() and not any(row.trained[:begin])
        assert found["rollout_log_probs"].tolist() == pytest.approx(row.logprobs[begin:], abs=1e-6)
        assert (
            step.kept.tags[place]["min_global_steps"] == step.kept.tags[place]["max_global_steps"] == VERSION
        )


def test_what_is_trained_is_what_the_model_decoded(step: Step) -> None:
    tokenizer = verl_config.omega_conf_to_dataclass(step.config.actor_rollout_ref.model).tokenizer
    for place, row, _ in pairs(step):
        found = step.kept.fields[place]
        trained = found["responses"][found["response_mask"].bool()].tolist()
        (trace,) = [
            each for each in step.session(step.kept.keys[place]).episode.traces if each.path == row.path
        ]
        decoded = [each for each in trace.segments if each.kind is SegmentKind.DECODED]
        assert trained == [token for each in decoded for token in each.token_ids or ()]
        text = tokenizer.decode(trained, skip_special_tokens=True)
        assert text == "".join(each.text for each in decoded)
        assert "<FORK" in text if row.role is Role.ORGANIZER and trace.path == "0" else "<JOIN" not in text


def test_requests_splice_ids_and_agents_keep_their_names(step: Step) -> None:
    agents: dict[str, list[list[int]]] = {}
    for name, ids in step.servers.seen:
        agents.setdefault(name, []).append(ids)
    again = [asked for asked in agents.values() if len(asked) > 1]
    assert again, "organizers are resumed"
    for asked in again:
        for before, now in pairwise(asked):
            assert now[: len(before)] == before, "what a replica has in its cache is a prefix"


@pytest.mark.parametrize("normalise", [False, True])
def test_verls_advantages_are_ours(step: Step, normalise: bool) -> None:
    update = replace(step.recipe.update, normalise_advantage=normalise)
    step = replace(step, recipe=replace(step.recipe, update=update))
    wanted = pairs(step)
    data = compute_advantage(step.kept.padded(), step.kept.keys, "grpo", norm_adv_by_std_in_grpo=normalise)
    found = data.batch["advantages"]
    distinct: set[float] = set()
    for place, row, advantage in wanted:
        mask = data.batch["response_mask"][place].bool()
        assert mask.sum() == row.n_trained
        assert found[place][mask].tolist() == pytest.approx([advantage] * row.n_trained, rel=2e-3, abs=1e-5)
        assert not found[place][~mask].any()
        distinct.add(round(advantage, 6))
    assert len(distinct) > PROBLEMS


def by_the_model(step: Step) -> torch.Tensor:
    """Return what a trainer's model says of the next token at each place of all rows, one behind the other."""
    model = load_checkpoint(MODEL).model
    found: list[torch.Tensor] = []
    for row in step.kept.fields:
        ids = row["input_ids"][None]
        with torch.no_grad():
            logits = model(ids, torch.arange(ids.shape[1])[None])[0, :-1]
        said = torch.log_softmax(logits.float(), -1).gather(-1, ids[0, 1:, None])[:, 0]
        found += [said, torch.zeros(1)]  # nobody knows what follows the last one
    return torch.cat(found)


def test_verls_loss_of_a_models_output_is_ours(step: Step) -> None:
    kept, wanted = step.kept, pairs(step)
    assert [place for place, _, _ in wanted] == list(range(len(kept.keys)))
    lengths = [len(row["input_ids"]) for row in kept.fields]
    own = [torch.tensor([*row.trained[1:], False]) for _, row, _ in wanted]
    trained = torch.cat(own)  # places of the token before a trained one: the model's output stands there
    sampled = torch.tensor([p for _, row, _ in wanted for p in (*row.logprobs[1:], 0.0)])
    said = by_the_model(step)
    assert (said - sampled)[trained].abs().max() < 1e-3, "the model is the sampler"

    torch.manual_seed(0)
    now = said + 0.25 * torch.randn(said.shape)  # no ratio above 3, where verl bounds the loss once more
    theirs, mine = now.clone().requires_grad_(), now.clone().requires_grad_()
    counted = compute_advantage(kept.padded(), kept.keys, "grpo", norm_adv_by_std_in_grpo=False).batch
    masks = nested([row["response_mask"] for row in kept.fields])
    data = dicts.get_tensordict(
        {
            "prompts": nested([row["prompts"] for row in kept.fields]),
            "responses": nested([row["responses"] for row in kept.fields]),
            "response_mask": masks,
            "old_log_probs": nested([row["rollout_log_probs"] for row in kept.fields]),
            "advantages": load("verl.workers.utils.padding").response_to_nested(counted["advantages"], masks),
        }
    )
    tokens = int(trained.sum())
    told = {"dp_size": 1, "batch_num_tokens": tokens, "global_batch_size": None}
    for name, value in told.items():
        dicts.assign_non_tensor_data(data, name, value)
    actor = verl_config.omega_conf_to_dataclass(step.config.actor_rollout_ref.actor)
    output = nested(torch.split(theirs, lengths))
    loss, _ = load("verl.workers.utils.losses").ppo_loss(actor, {"log_probs": output}, data)

    recipe = LossRecipe(clip_low=actor.clip_ratio_low, clip_high=actor.clip_ratio_high)
    counts = torch.tensor([row.n_trained for _, row, _ in wanted])
    weights = torch.tensor(row_weights([row.n_trained for _, row, _ in wanted], recipe)).repeat_interleave(
        counts
    )
    worth = torch.tensor([advantage for _, _, advantage in wanted]).repeat_interleave(counts)
    old = sampled[trained]
    reference = policy_loss(mine[trained], old, old, worth, weights, recipe)
    assert abs(reference.item()) > 1e-4 and loss.item() == pytest.approx(reference.item(), rel=1e-5)
    loss.backward()
    reference.backward()
    assert theirs.grad is not None and mine.grad is not None
    assert torch.allclose(theirs.grad, mine.grad, rtol=1e-4, atol=1e-9)
    assert (mine.grad[trained] == 0).any() and not theirs.grad[~trained].any(), "clipped; not decoded"


def test_failures_are_drawn_again_and_then_left_out(config: Any) -> None:
    step = asyncio.run(rolled(config, broken="group-1-2-"))
    assert step.kept.statuses["group-1"] == "failure", "verl is told"
    sessions = {tuple(key.rsplit("_", 2)[:2]) for key in step.kept.keys}
    assert ("group-1", "2") not in sessions, "nothing of a torn episode is trained"
    assert len(sessions) == PROBLEMS * EPISODES - 1, "its siblings are"
    attempts = {name.split("/")[0] for name, _ in step.servers.seen if name.startswith("group-1-2-")}
    assert attempts == {f"group-1-2-{attempt}" for attempt in range(4)}


def test_an_episode_that_a_worker_tore_is_drawn_again(config: Any) -> None:
    step = asyncio.run(rolled(config, broken="group-0-1-0/0/"))
    assert step.kept.statuses["group-0"] == "finished"
    assert step.episodes["group-0-1"].episode.id == "group-0-1-1", "the second attempt"


def test_the_launch_configuration_is_verls(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    verl_config.validate_config(
        config, use_reference_policy=ppo.need_reference_policy(config), use_critic=ppo.need_critic(config)
    )
    assert not ppo.need_reference_policy(config) and not ppo.need_critic(config)
    for part in ("actor", "rollout", "model"):
        verl_config.omega_conf_to_dataclass(config.actor_rollout_ref[part])
    actor = config.actor_rollout_ref.actor
    assert (
        actor.ppo_max_token_len_per_gpu
        >= composed().data.max_prompt_length + composed().data.max_response_length
    )


def test_no_key_of_the_launch_configuration_is_misspelt() -> None:
    """Hydra takes unknown keys of a file of ours without a word."""
    written: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(RECIPES / "verl-countdown.yaml"))
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        known: dict[str, Any] = OmegaConf.to_container(hydra.compose("ppo_trainer"))

    def look(values: Mapping[str, Any], there: Any, path: str) -> None:
        for key, value in values.items():
            assert key in there, f"{path}{key}"
            if isinstance(value, Mapping):
                look(cast("Mapping[str, Any]", value), there[key], f"{path}{key}.")

    for added in ("defaults", "hydra", "asyncthink"):
        del written[added]
    look(written, known, "")


def test_the_packaged_recipe_goes_with_the_launch_configuration() -> None:
    config = composed()
    recipe = load_rl_recipe(config.asyncthink.recipe)
    plugin.check(config, recipe)
    trainer = object.__new__(get_trainer("sync"))
    trainer.config, trainer.use_critic, trainer.global_steps = config, False, 1
    rows_a_step = trainer._get_required_batch_multiple(config.trainer.n_gpus_per_node)
    episodes = recipe.rollout.problems * recipe.rollout.episodes
    assert rows_a_step >= 8 * episodes, "one optimizer step, with up to seven joined workers an episode"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "algorithm.adv_estimator=gae",
            "algorithm.adv_estimator is gae, and the recipe or its episodes need grpo",
        ),
        ("algorithm.norm_adv_by_std_in_grpo=true", "norm_adv_by_std_in_grpo is True"),
        ("actor_rollout_ref.rollout.n=2", "rollout.n is 2, and the recipe or its episodes need 4"),
        ("actor_rollout_ref.rollout.name=sglang", "need vllm"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, change: str, message: str) -> None:
    config = config_of(tmp_path, change)
    with pytest.raises(UsageError, match=message):
        plugin.check(config, load_rl_recipe(config.asyncthink.recipe))


@pytest.mark.parametrize(
    ("section", "change"), [("update", {"fork_credit": True}), ("rollout", {"top_p": 0.95})]
)
def test_what_verls_loss_does_not_have_is_refused(
    tmp_path: Path, section: str, change: dict[str, Any]
) -> None:
    config = config_of(tmp_path, "actor_rollout_ref.rollout.top_p=" + str(change.get("top_p", 1.0)))
    recipe = load_rl_recipe(config.asyncthink.recipe)
    other = replace(recipe, **{section: replace(getattr(recipe, section), **change)})
    with pytest.raises(UsageError, match=f"{section}.{next(iter(change))}.* not in verl's loss"):
        plugin.check(config, other)


def test_a_configuration_that_names_no_recipe_is_refused() -> None:
    with load("hydra").initialize_config_module("verl.trainer.config", version_base=None):
        config = load("hydra").compose("ppo_trainer")
    config.actor_rollout_ref.rollout.name = "vllm"
    loop = object.__new__(plugin.AsyncThinkLoop)
    loop.config = config
    with pytest.raises(UsageError, match=r"has no asyncthink\.recipe"):
        asyncio.run(loop.run({}))


def test_data_of_another_recipe_are_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    recipe = load_rl_recipe(str(path))
    train, _ = write_problems(recipe, tmp_path, 2)
    first = json.loads(train.read_text().splitlines()[0])
    fields = {"raw_prompt": first["prompt"], "extra_info": first["extra_info"]}
    asked, number = plugin.problem_of(recipe, fields)
    assert number == 0 and asked.task.prompt(asked.problem) == first["prompt"][0]["content"]
    with pytest.raises(UsageError, match="were not made for this recipe"):
        plugin.problem_of(load_rl_recipe(str(path), ["seed=6"]), fields)


def test_an_aborted_request_is_a_failure_that_may_pass() -> None:
    async def generate(request_id: str, **_: Any) -> Any:
        return SimpleNamespace(stop_reason="aborted", token_ids=[], log_probs=None, extra_fields={})

    server = plugin.Server(SimpleNamespace(generate=generate), {})
    with pytest.raises(plugin.EngineError) as caught:
        asyncio.run(server("a", [1], stops=(), max_tokens=3, sampling=Sampling()))
    assert caught.value.transient
