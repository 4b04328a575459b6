"""A step of verl's own trainer on Ray, but for what needs a GPU: two replicas, its queue, its buffer, its advantage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from verl_server import LocalServer

from asyncthink.training.advantage import advantages

from .verl_cases import EPISODES, MODEL, PROBLEMS, config_of, load

ray, tq = load("ray"), load("transfer_queue")
get_trainer = load("verl.trainer.ppo.v1.get_trainer_cls")
AgentLoopManager = load("verl.trainer.ppo.v1.AgentLoopManagerTQ")
LLMServerClient = load("verl.workers.rollout.llm_server.LLMServerClient")
GlobalRequestLoadBalancer = load("verl.workers.rollout.router.GlobalRequestLoadBalancer")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def cluster() -> Generator[None]:
    tests = str(Path(__file__).parents[1])
    ray.init(
        num_cpus=16,
        include_dashboard=False,
        object_store_memory=300_000_000,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": tests, "OMP_NUM_THREADS": "1"}},
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


def trainer_of(config: Any) -> Any:
    """Return verl's trainer, set up as far as that goes without a GPU."""
    trainer = object.__new__(get_trainer("sync"))
    trainer.config, trainer.trainer_mode, trainer.parameter_sync_step = config, "sync", 1
    trainer.use_critic = trainer.use_reference_policy = False
    trainer.global_steps = 1
    trainer.replay_buffer = trainer._build_replay_buffer()
    trainer._init_tokenizer()
    trainer._init_dataloader()
    trainer.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0, 1]})
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[None])
    return trainer


def test_a_step_of_the_trainer(tmp_path: Path, cluster: None) -> None:
    config = config_of(
        tmp_path,
        "algorithm.rollout_correction.bypass_mode=true",  # else a forward pass of the actor comes here
        "actor_rollout_ref.actor.ppo_mini_batch_size=32",
        "actor_rollout_ref.rollout.agent.num_workers=1",
        "actor_rollout_ref.rollout.val_kwargs.n=2",
        "data.dataloader_num_workers=0",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    )
    tq.init(config.transfer_queue)
    replicas = {name: ray.remote(LocalServer).remote(MODEL, 0) for name in ("one", "two")}
    ray.get([each.open.remote() for each in replicas.values()])
    balancer = ray.remote(GlobalRequestLoadBalancer).remote(replicas)
    trainer = trainer_of(config)
    client = LLMServerClient(config, balancer)
    trainer.agent_loop_manager = AgentLoopManager.create(config=config, llm_client=client)

    trainer._add_batch_to_generate()
    batch, _ = trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=PROBLEMS)
    real = len(batch.keys)
    batch.extra_info["temperature"] = 1.0
    batch = trainer._balance_batch(batch, metrics={})
    assert len(batch.keys) == 32 * EPISODES > real, "one mini-batch, and so one optimizer step"
    batch = trainer._compute_advantage(trainer._compute_old_log_prob(batch, metrics={}), metrics={})

    names = ["advantages", "response_mask", "rm_scores", "extra_fields"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=names)
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    found: dict[str, set[float]] = defaultdict(set)
    for place, key in enumerate(batch.keys):
        mask = data["response_mask"][place].bool()
        if batch.tags[place].get("is_padding"):
            assert not mask.any(), "filling trains nothing"
            continue
        session = key.rsplit("_", 1)[0]
        groups[session.rsplit("_", 1)[0]][session] = data["rm_scores"][place].sum().item()
        found[session] |= set(data["advantages"][place][mask].tolist())
    assert len(groups) == PROBLEMS and all(len(group) == EPISODES for group in groups.values())
    for group in groups.values():
        for session, wanted in zip(group, advantages(list(group.values())), strict=True):
            assert list(found[session]) == [pytest.approx(wanted, abs=1e-6)]

    metrics: dict[str, Any] = {}
    trainer.resource_pool_manager = SimpleNamespace(get_n_gpus=lambda: 1)
    trainer._rollout_moe_lb_metrics_accumulator = None
    trainer._compute_metrics(batch, metrics, {"step": 1.0, "gen": 1.0}, global_steps=1, epoch=0)
    assert metrics["training/off_policy/trajectory_staleness/max"] == 0
    assert metrics["critic/rewards/max"] == pytest.approx(max(max(each.values()) for each in groups.values()))
    tq.kv_clear(keys=batch.keys, partition_id="train")

    seen = {name: ray.get(each.prompts.remote()) for name, each in replicas.items()}
    assert all(seen.values()), "both replicas work"
    where = {prompt: name for name, prompts in seen.items() for prompt in prompts}
    first = min(len(prompt) for prompt in where) + 20
    resumed = [prompt for prompt in where if len(prompt) > first]
    stayed = 0
    for prompt in resumed:
        before = max((each for each in where if each != prompt and prompt[: len(each)] == each), key=len)
        stayed += where[before] == where[prompt]
    assert stayed > 0.9 * len(resumed), "an agent stays where its prefix is cached"

    validated = trainer._validate()
    assert 0 <= validated["val-core/countdown/acc/mean@2"] <= 1
    tq.close()
