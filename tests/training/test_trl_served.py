"""RL whose episodes are sampled by servers: they hold the policy of the step, and one that dies takes nothing with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch

from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.models import folder_of
from asyncthink.episodes.store import read_episode
from asyncthink.errors import EngineError, UsageError
from asyncthink.training.rl_recipe import RLRecipe, load_rl_recipe
from asyncthink.training.step import StepMetrics, Watcher
from asyncthink.training.trl.rl import train_trl
from asyncthink.training.trl.weights import ServedWeights

from .replica import Replica
from .rl_cases import metrics_of, write_chain, write_recipe


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return write_chain(tmp_path / "start")


@pytest.fixture
def replicas(tmp_path: Path, start: Path) -> Iterator[list[Replica]]:
    found = [Replica(tmp_path / f"replica-{place}", start, delay=0.002) for place in range(2)]
    yield found
    for each in found:
        each.kill()


def served(folder: Path, start: Path, *servers: Replica) -> RLRecipe:
    urls = ",".join(each.url for each in servers)
    changes = ['trainer="trl"', f'trl.servers="{urls}"', "trl.micro_batches=2", "update.learning_rate=0.05"]
    return load_rl_recipe(str(write_recipe(folder, f"hf:{start}")), changes)


def test_servers_sample_from_the_policy_of_the_step(
    tmp_path: Path, start: Path, replicas: list[Replica]
) -> None:
    recipe = served(tmp_path / "run", start, *replicas)
    folder = train_trl(recipe)
    lines = metrics_of(Path(recipe.output))
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["kl"] for line in lines] == pytest.approx([0, 0, 0], abs=1e-5), (
        "the sampler's log-probabilities are the trainer's"
    )
    for replica in replicas:
        seen = replica.seen()
        assert len(seen["reloads"]) == 4, "the first policy, and one a step"
        assert {each["salt"] for each in seen["requests"]} == {"policy-1", "policy-2", "policy-3"}
    before, after = load_checkpoint(start), load_checkpoint(folder)
    assert after.templates == before.templates
    assert after.profile == replace(before.profile, capacity=recipe.rollout.capacity)
    assert any(
        (one - other).abs().max() > 1e-3
        for one, other in zip(after.model.parameters(), before.model.parameters(), strict=True)
    )
    texts = (Path(recipe.output) / "episodes.jsonl").read_text().splitlines()
    (tmp_path / "one.json").write_text(texts[0])
    episodes = [read_episode(tmp_path / "one.json")]
    assert len(texts) == 3 * recipe.rollout.kept * recipe.rollout.episodes
    servers = [trace.usage for each in episodes for trace in each.traces]
    assert all(usage is not None and usage.exact for usage in servers)


class KillAt(Watcher):
    """Kills a replica when so many episodes are there."""

    def __init__(self, replica: Replica, episodes: int, *, again: bool = False) -> None:
        self.replica, self.left, self.start_again = replica, episodes, again

    def episode(self) -> None:
        self.left -= 1
        if not self.left:
            self.replica.kill()
            if self.start_again:  # which takes its time, in which the others go on
                Thread(target=self.replica.again).start()

    def step(self, metrics: StepMetrics) -> None:
        pass


@pytest.mark.parametrize("again", [False, True])
def test_a_replica_killed_in_the_middle_of_a_step(
    tmp_path: Path, start: Path, replicas: list[Replica], again: bool
) -> None:
    """It comes back with the weights it was started with: nobody asks it before it has the policy again."""
    recipe = served(tmp_path / "run", start, *replicas)
    train_trl(recipe, KillAt(replicas[1], 10, again=again))
    lines = metrics_of(Path(recipe.output))
    assert [line["problems"] for line in lines] == [[0, 2], [2, 4], [4, 6]], "each problem is used once"
    assert [line["kl"] for line in lines] == pytest.approx([0, 0, 0], abs=1e-5)
    assert {each["salt"] for each in replicas[0].seen()["requests"]} == {"policy-1", "policy-2", "policy-3"}
    if again:
        assert {each["salt"] for each in replicas[1].seen()["requests"]} <= {"policy-3"}


def test_the_only_server_dies_and_the_run_is_resumed(
    tmp_path: Path, start: Path, replicas: list[Replica]
) -> None:
    recipe = served(tmp_path / "run", start, replicas[0])
    # On a slow machine what is left of the step may have arrived before: then it is the next policy that nobody takes.
    with pytest.raises(EngineError, match=r"nobody holds policy-2 any more|did not take the policy"):
        train_trl(recipe, KillAt(replicas[0], 9))
    assert [line["step"] for line in metrics_of(Path(recipe.output))] in ([1], [1, 2])
    replicas[0].again()
    train_trl(recipe)
    lines = metrics_of(Path(recipe.output))
    assert [line["problems"] for line in lines] == [[0, 2], [2, 4], [4, 6]]
    assert [line["kl"] for line in lines] == pytest.approx([0, 0, 0], abs=1e-5)


def test_a_server_that_takes_no_weights(tmp_path: Path, start: Path, replicas: list[Replica]) -> None:
    recipe = served(tmp_path / "run", start, replicas[0])
    replicas[0].kill()
    with pytest.raises(EngineError, match="did not take the policy"):
        train_trl(recipe)


def test_a_server_that_takes_weights_as_sglang_does(tmp_path: Path, start: Path) -> None:
    replica = Replica(tmp_path / "replica", start, 0.0, "--sglang")
    try:
        recipe = served(tmp_path / "run", start, replica)
        train_trl(recipe)
        assert len(replica.seen()["reloads"]) == 4
        kls = [line["kl"] for line in metrics_of(Path(recipe.output))]
        assert kls == pytest.approx([0, 0, 0], abs=1e-5)
    finally:
        replica.kill()


def test_several_servers_need_a_file(tmp_path: Path, start: Path) -> None:
    changes = [
        'trainer="trl"',
        'trl.servers="http://127.0.0.1:1/v1,http://127.0.0.1:2/v1"',
        'trl.weights="nccl"',
    ]
    with pytest.raises(UsageError, match="reaches one server"):
        train_trl(load_rl_recipe(str(write_recipe(tmp_path / "run", f"hf:{start}")), changes))


def test_weights_are_handed_over_with_an_output_layer_of_their_own(tmp_path: Path) -> None:
    """A server that keeps the old one where it is tied to the embedding would sample from half of each policy."""
    start = folder_of("embedded-sft")
    policy = load_checkpoint(start).model
    assert policy.lm_head.weight is policy.model.embed_tokens.weight
    with torch.no_grad():
        policy.model.embed_tokens.weight.mul_(1.5)
    handed = ServedWeights(tmp_path / "policy", start, "m", ["http://127.0.0.1:9/v1"])
    handed.init_weight_transfer()
    handed.write(policy.named_parameters())

    told = json.loads((tmp_path / "policy" / "config.json").read_text())
    loaded = load_checkpoint(tmp_path / "policy").model
    assert told["tie_word_embeddings"] is False
    assert loaded.lm_head.weight is not loaded.model.embed_tokens.weight
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    positions = torch.arange(6)[None]
    with torch.no_grad():
        one, other = (each.lm_head(each.hidden(ids, positions)) for each in (policy, loaded))
    assert torch.equal(one, other)
