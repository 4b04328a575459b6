"""Whole runs, tiny: what they write, that the figures are true, that the reward rises, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain as joined
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import anyio
import pytest
import torch

from asyncthink import load_engine
from asyncthink.engines.checkpoint import load_checkpoint, save_checkpoint
from asyncthink.engines.models import EMBEDDED, folder_of
from asyncthink.episodes import Episode, Metrics, RunDirectory
from asyncthink.episodes.record import encode
from asyncthink.errors import AsyncThinkError, CheckpointError, UsageError
from asyncthink.runtime.budget import Limits
from asyncthink.runtime.organization import Organization
from asyncthink.tasks import Asked, get_task
from asyncthink.tasks.base import Split
from asyncthink.training.owpo import train_rl
from asyncthink.training.reward import Reward, RewardRecipe, reward_of
from asyncthink.training.rl_recipe import load_rl_recipe
from asyncthink.training.rollout import Rollout, Sampler
from asyncthink.training.rows import TrainingRow, rows
from asyncthink.training.step import StepMetrics, Watcher
from asyncthink.training.update import Updated, Updater

from .chat_world import write_chat_model
from .rl_cases import metrics_of, tiny, weights, write_chain, write_noise, write_recipe


@dataclass
class Seen(Watcher):
    """Everything that a run told, and what its parts did."""

    begun: tuple[int, int, int] = (0, 0, 0)
    episodes: int = 0
    steps: list[StepMetrics] = field(default_factory=list[StepMetrics])
    drawn: list[list[list[Rollout]]] = field(default_factory=list[list[list[Rollout]]])
    updates: list[tuple[list[TrainingRow], list[float], float, bool]] = field(
        default_factory=list[tuple[list[TrainingRow], list[float], float, bool]]
    )
    """Rows, their advantages, the share of the learning rate, whether old log-probabilities were given."""
    updated: list[Updated] = field(default_factory=list[Updated])

    def begin(self, steps: int, done: int, episodes: int) -> None:
        self.begun = (steps, done, episodes)

    def episode(self) -> None:
        self.episodes += 1

    def step(self, metrics: StepMetrics) -> None:
        self.steps.append(metrics)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Watch the parts at work."""
    found = Seen()
    draw, step = Sampler.draw, Updater.step

    async def drawn(self: Sampler, number: int, done: Callable[[], None]) -> list[list[Rollout]]:
        assert (self.organization.temperature, self.organization.top_p) == (1.0, 1.0)
        found.drawn.append(await draw(self, number, done))
        return found.drawn[-1]

    def stepped(
        self: Updater, own: Sequence[TrainingRow], shares: Sequence[float], scale: float, old: Any = None
    ) -> Updated:
        found.updates.append(([*own], [*shares], scale, old is not None))
        found.updated.append(step(self, own, shares, scale, old))
        return found.updated[-1]

    monkeypatch.setattr(Sampler, "draw", drawn)
    monkeypatch.setattr(Updater, "step", stepped)
    return found


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf:{write_chain(tmp_path_factory.mktemp('chain'))}"


def hold_true(seen: Seen, reward: RewardRecipe, *, updates: int = 1) -> None:
    """Compute every figure of every step again, from the episodes."""
    assert len(seen.steps) == len(seen.drawn) == len(seen.updates) / updates
    for place, (metrics, groups) in enumerate(zip(seen.steps, seen.drawn, strict=True)):
        episodes = [*joined(*groups)]
        paid = [[reward_of(o.episode, o.asked, o.metrics, reward) for o in group] for group in groups]
        totals = [[each.total for each in group] for group in paid]
        valid = [one for one in episodes if not one.episode.faults]
        assert metrics.step == place + 1
        assert metrics.problems == (place * len(groups), (place + 1) * len(groups))
        assert metrics.reward == pytest.approx(fmean([*joined(*totals)]))
        assert metrics.reward_std == pytest.approx(fmean(pstdev(group) for group in totals))
        assert metrics.accuracy == pytest.approx(fmean(each.accuracy for each in joined(*paid)))
        assert metrics.solved == fmean(each.accuracy == 1 for each in joined(*paid))
        assert metrics.valid == len(valid) / len(episodes)
        assert metrics.concurrency == pytest.approx(fmean([o.metrics.concurrency for o in valid] or [0]))
        assert metrics.critical_path == fmean(one.metrics.critical_path for one in episodes)
        assert metrics.forks == fmean(len(one.episode.traces) - 1 for one in episodes)
        assert metrics.joins == fmean(
            sum(trace.joined_at is not None for trace in one.episode.traces) for one in episodes
        )
        names = sorted({name for one in episodes for name in one.episode.format_errors})
        assert metrics.format_errors == {
            name: sum(name in one.episode.format_errors for one in episodes) for name in names
        }
        assert metrics.even_groups == fmean(len(set(group)) == 1 for group in totals)
        assert metrics.decoded_tokens == sum(one.metrics.decoded_tokens for one in episodes)
        assert metrics.trained_tokens == sum(one.metrics.sequential_tokens for one in episodes)
        assert metrics.rows == sum(len(rows(one.episode)) for one in episodes)
        assert metrics.tokens_per_second * (
            metrics.rollout_seconds + metrics.update_seconds
        ) == pytest.approx(metrics.decoded_tokens)
        own = seen.updated[place * updates : (place + 1) * updates]
        assert metrics.loss == pytest.approx(sum(each.loss for each in own))
        assert (metrics.kl, metrics.clipped, metrics.gradient_norm) == pytest.approx(
            tuple(fmean(getattr(each, name) for each in own) for name in ("kl", "clipped", "gradient_norm"))
        )


def test_a_run_on_the_embedded_model(tmp_path: Path, seen: Seen) -> None:
    """Two problems, two episodes each: metrics that are true, and checkpoints that think."""
    recipe = tiny(
        tmp_path,
        "embedded",
        capacity="4",
        steps="2",
        episodes="2",
        max_critical_path="600",
        learning_rate="1e-5",
    )
    before = weights(EMBEDDED)
    folder = train_rl(recipe, seen)
    hold_true(seen, RewardRecipe())
    assert seen.begun == (2, 0, 4) and seen.episodes == 8
    assert any(each.gradient_norm > 0 for each in seen.steps)
    assert metrics_of(folder.parent) == json.loads(json.dumps([asdict(each) for each in seen.steps]))
    assert seen.steps[1].seconds == pytest.approx(
        sum(each.rollout_seconds + each.update_seconds for each in seen.steps), rel=0.01
    )
    assert all(abs(each.kl) < 1e-8 and each.clipped == 0 for each in seen.steps), "on policy"
    assert (tmp_path / "run" / "config.toml").read_text() == recipe.source
    assert weights(EMBEDDED) == before
    kept = [encode(each) for each in RunDirectory.open(tmp_path / "run").episodes()]
    assert kept == [encode(one.episode) for groups in seen.drawn for one in groups[0]]
    last = tmp_path / "run" / "checkpoints" / "step-00002"
    assert weights(last) == weights(folder) and not (last.parent / "step-00001").exists()
    for name in ("tokenizer.json", "organizer.jinja", "worker.jinja"):
        assert (folder / name).read_bytes() == (EMBEDDED / name).read_bytes()

    async def think() -> Any:
        engine = load_engine(f"hf:{folder}")
        async with Organization(engine, limits=Limits(max_critical_path=20)) as organization:
            return await organization.think(seen.drawn[0][0][0].asked)

    assert anyio.run(think).traces[0].segments


def test_a_run_learns(tmp_path: Path, chain: str) -> None:
    """The chain makes format errors and forks by chance; a few steps teach it otherwise."""
    watcher = Seen()
    recipe = tiny(tmp_path, chain, steps="12", episodes="8", learning_rate="0.01")
    folder = train_rl(recipe, watcher)
    early, late = watcher.steps[:1], watcher.steps[-5:]
    assert fmean(each.reward for each in early) < 0.0
    assert fmean(each.reward for each in late) > 0.05
    assert fmean(each.valid for each in late) > 0.85 > early[0].valid + 0.1
    learned = load_checkpoint(folder).model.state_dict()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["position"]["step"] == 12
    assert all(torch.equal(tensor, learned[name]) for name, tensor in state["model"].items())
    assert weights(folder) != weights(Path(chain.removeprefix("hf:")))


@pytest.mark.parametrize(
    ("method", "changes", "reward"),
    [
        ("asyncthink", {}, RewardRecipe()),
        ("sequential", {}, RewardRecipe()),
        ("parallel", {}, RewardRecipe()),
        ("parallel", {"pooled": "true\nconcurrency = 0.5"}, RewardRecipe(pooled=True, concurrency=0.5)),
        ("asyncthink", {"pooled": "false\ngated = true\ntau = 0.5"}, RewardRecipe(gated=True, tau=0.5)),
        ("asyncthink", {"pooled": "false\nleverage = 0.3"}, RewardRecipe(leverage=0.3)),
    ],
)
def test_every_method_and_reward(
    tmp_path: Path, chain: str, seen: Seen, method: str, changes: dict[str, str], reward: RewardRecipe
) -> None:
    train_rl(tiny(tmp_path, chain, method=f'"{method}"', steps="2", **changes), seen)
    hold_true(seen, reward)
    traces = {len(one.episode.traces) for groups in seen.drawn for one in joined(*groups)}
    assert {"sequential": traces == {1}, "parallel": traces == {3}}.get(method, len(traces) > 1)
    for groups in seen.drawn:
        for one in joined(*groups):
            assert (one.episode.method, one.episode.capacity) == (method, 3)
            if method == "sequential":
                assert one.metrics.concurrency == pytest.approx(1 / 3)


def test_an_advantage_is_shared_by_an_episode_s_rows_and_sums_to_nothing(
    tmp_path: Path, chain: str, seen: Seen
) -> None:
    train_rl(tiny(tmp_path, chain, steps="2"), seen)
    for (own, shares, _, old), groups in zip(seen.updates, seen.drawn, strict=True):
        assert not old
        by_episode: dict[str, set[float]] = {}
        for row, share in zip(own, shares, strict=True):
            by_episode.setdefault(row.episode, set()).add(share)
        for group in groups:
            paid = [reward_of(o.episode, o.asked, o.metrics, RewardRecipe()).total for o in group]
            for one, total in zip(group, paid, strict=True):
                assert by_episode[one.episode.id] == {total - fmean(paid)}


def test_the_rate_rises_and_stays(tmp_path: Path, chain: str, seen: Seen) -> None:
    train_rl(tiny(tmp_path, chain, steps="5", warmup_steps="4"), seen)
    assert [scale for _, _, scale, _ in seen.updates] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_rate_falls_at_the_end(tmp_path: Path, chain: str, seen: Seen) -> None:
    train_rl(tiny(tmp_path, chain, steps="6", warmup_steps="2", cooldown_steps="3"), seen)
    assert [scale for _, _, scale, _ in seen.updates] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_a_step_in_several_updates(tmp_path: Path, chain: str, seen: Seen) -> None:
    """Each on its own groups; from the second on the policy has moved, and ratios leave 1."""
    train_rl(tiny(tmp_path, chain, steps="2", problems="4", updates="2", learning_rate="0.05"), seen)
    hold_true(seen, RewardRecipe(), updates=2)
    for place, groups in enumerate(seen.drawn):
        halves = seen.updates[2 * place : 2 * place + 2]
        for part, (own, _, _, old) in zip((groups[:2], groups[2:]), halves, strict=True):
            assert old and own == [row for one in joined(*part) for row in rows(one.episode)]
        first, second = seen.updated[2 * place : 2 * place + 2]
        assert abs(first.kl) < 1e-8 and first.clipped == 0
        assert second.kl > 1e-4


def test_normalised_advantages_are_larger_and_told(tmp_path: Path, chain: str, seen: Seen) -> None:
    train_rl(tiny(tmp_path, chain, steps="1", updates="1\nnormalise_advantage = true"), seen)
    ((own, shares, _, _),) = seen.updates
    by_episode = dict(zip((row.episode for row in own), shares, strict=True))
    for group in seen.drawn[0]:
        found = [by_episode[one.episode.id] for one in group]
        assert sum(found) == pytest.approx(0, abs=1e-9)
        assert sum(x * x for x in found) == pytest.approx(len(found) - 1, rel=0.01)


def test_a_run_is_held_to_what_it_began_as(tmp_path: Path, chain: str, seen: Seen) -> None:
    train_rl(tiny(tmp_path / "free", chain, learning_rate="0.02"), seen)
    assert [one.moved for one in seen.steps] == [0.0] * 3
    far = {}
    for kl in ("0.001", "100.0"):
        folder = train_rl(tiny(tmp_path / kl, chain, learning_rate="0.02", kl=kl))
        far[kl] = [line["moved"] for line in metrics_of(folder.parent)]
        assert far[kl][0] == pytest.approx(0, abs=1e-6), "the model began there"
    assert far["0.001"][-1] > 2 * far["100.0"][-1] > 0


def test_nothing_is_learned_where_all_are_paid_the_same(tmp_path: Path, seen: Seen) -> None:
    """Random weights write no answer, ever."""
    start = write_noise(tmp_path / "noise")
    folder = train_rl(tiny(tmp_path, f"hf:{start}", steps="2", max_critical_path="20"), seen)
    hold_true(seen, RewardRecipe())
    assert all((one.reward, one.even_groups, one.valid) == (-0.25, 1.0, 0.0) for one in seen.steps)
    assert all((one.loss, one.gradient_norm, one.concurrency) == (0.0, 0.0, 0.0) for one in seen.steps)
    assert weights(folder) == weights(start)


def test_the_same_recipe_gives_the_same_run(tmp_path: Path, chain: str) -> None:
    """And another seed another one."""
    runs: list[tuple[bytes, list[float]]] = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        folder = train_rl(tiny(tmp_path / name, chain, seed=seed))
        runs.append((weights(folder), [each["loss"] for each in metrics_of(folder.parent)]))
    assert runs[0] == runs[1] and runs[0][0] != runs[2][0]


def test_problems_of_the_train_split_only(tmp_path: Path, chain: str, seen: Seen) -> None:
    train_rl(tiny(tmp_path, chain), seen)
    task = get_task("countdown")
    asked = [group[0].asked.problem for groups in seen.drawn for group in groups]
    assert asked == [task.problem(Split.TRAIN, 5, number) for number in range(6)]


def test_a_finished_run_stays_as_it_is(tmp_path: Path, chain: str) -> None:
    recipe = tiny(tmp_path, chain, steps="2")
    folder = train_rl(recipe)
    lines, model = metrics_of(folder.parent), weights(folder)
    again = Seen()
    assert train_rl(recipe, again) == folder
    assert again.begun == (2, 2, 8) and not again.steps and not again.episodes
    assert (metrics_of(folder.parent), weights(folder)) == (lines, model)


# What is refused


def refused(call: Callable[[], object], kind: type[AsyncThinkError], *named: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in named), message


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_recipe_that_says_the_same_in_other_words_goes_on(tmp_path: Path, chain: str) -> None:
    recipe = tiny(tmp_path, chain, steps="1")
    train_rl(recipe)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    train_rl(replace(recipe, source=f"# a comment\n{recipe.source}"))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    (tmp_path / "run" / "config.toml").write_bytes(b"\xff = [")
    refused(lambda: train_rl(recipe), UsageError, "another recipe")


def test_a_start_that_is_not_there_names_the_command_that_makes_it(
    tmp_path: Path, chain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where trainings are run there may be one
    recipe = tiny(tmp_path, chain)
    refused(
        lambda: train_rl(replace(recipe, start="hf:runs/sft/checkpoint")),
        CheckpointError,
        "runs/sft/checkpoint",
        "`asyncthink train sft recipes/embedded-sft.toml` makes it",
    )
    with pytest.raises(CheckpointError) as caught:
        train_rl(replace(recipe, start="hf:runs/elsewhere"))
    assert "makes it" not in str(caught.value)


def test_what_nothing_depends_on_may_change(tmp_path: Path, chain: str) -> None:
    folder = train_rl(tiny(tmp_path, chain, steps="1", save_every="1"))
    before = metrics_of(folder.parent)
    train_rl(tiny(tmp_path, chain, steps="1", save_every="7"))
    assert metrics_of(folder.parent) == before
    assert "save_every = 7" in (folder.parent / "config.toml").read_text()


def test_more_problems_than_there_are_can_be_kept(tmp_path: Path, chain: str) -> None:
    recipe = tiny(tmp_path, chain, steps="2", save_every="2", episodes="4\nkept = 100")

    class Interrupt(Watcher):
        def step(self, metrics: StepMetrics) -> None:
            if metrics.step == 1:
                raise KeyboardInterrupt

    train_rl(recipe)
    whole = (tmp_path / "run" / "episodes.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_rl(recipe, Interrupt())
    train_rl(recipe)
    kept = (tmp_path / "run" / "episodes.jsonl").read_bytes()
    assert len(kept.splitlines()) == len(whole.splitlines()) == 2 * 2 * 4, "each episode stands once"


def test_the_checkpoint_declares_the_pool_that_it_learned_with(tmp_path: Path, chain: str) -> None:
    folder = train_rl(tiny(tmp_path, chain, steps="1", capacity="3"))
    assert load_checkpoint(folder_of(chain)).profile.capacity == 4
    assert load_checkpoint(folder).profile.capacity == 3


def test_a_chat_model_keeps_what_makes_it_one(tmp_path: Path) -> None:
    """Its vocabulary is not ours: end of text, chat template and tokenizer are those of its start."""
    start = write_chat_model(tmp_path / "start")
    folder = train_rl(tiny(tmp_path, f"hf:{start}", steps="1", max_critical_path="12"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).exists() == (start / name).exists()
        if (start / name).exists():
            assert (folder / name).read_bytes() == (start / name).read_bytes(), name
    assert load_checkpoint(folder).profile.capacity == 3 and not load_checkpoint(folder).profile.trained


def test_a_run_of_another_recipe_is_refused_and_left_alone(tmp_path: Path, chain: str) -> None:
    train_rl(tiny(tmp_path, chain, steps="1"))
    before = files_of(tmp_path / "run")
    other = tiny(tmp_path, chain, steps="2")
    refused(lambda: train_rl(other), UsageError, "another recipe", str(tmp_path / "run"))
    assert files_of(tmp_path / "run") == before


def hasty(episode: Episode, asked: Asked, metrics: Metrics, recipe: RewardRecipe) -> Reward:
    """Pay as usual, and take a hundredth for every tick."""
    paid = reward_of(episode, asked, metrics, recipe)
    return replace(paid, total=paid.total - metrics.critical_path / 100)


def usual(episode: Episode, asked: Asked, metrics: Metrics, recipe: RewardRecipe) -> Reward:
    """Pay as always, under another name."""
    return reward_of(episode, asked, metrics, recipe)


def test_a_reward_of_ones_own_is_what_is_learned_from(tmp_path: Path, chain: str, seen: Seen) -> None:
    recipe = tiny(tmp_path, chain, steps="2")
    train_rl(recipe, seen, reward=hasty)
    for line, groups in zip(metrics_of(tmp_path / "run"), seen.drawn, strict=True):
        own = [hasty(o.episode, o.asked, o.metrics, RewardRecipe()).total for group in groups for o in group]
        assert line["reward"] == pytest.approx(fmean(own))
        assert line["reward"] != pytest.approx(line["accuracy"])
    train_rl(recipe, reward=hasty)
    before = files_of(tmp_path / "run")
    refused(lambda: train_rl(recipe), UsageError, "began with another reward")
    refused(lambda: train_rl(recipe, reward=usual), UsageError, "began with another reward")
    refused(
        lambda: train_rl(recipe, reward=partial(hasty)), UsageError, "a reward is a function, not partial"
    )
    assert files_of(tmp_path / "run") == before


def test_a_run_does_not_go_on_from_other_weights(tmp_path: Path, chain: str) -> None:
    start = tmp_path / "start"
    shutil.copytree(folder_of(chain), start)
    recipe = tiny(tmp_path, f"hf:{start}", steps="1")
    train_rl(recipe)
    (start / "README.md").write_text("A card that was written later.")
    train_rl(recipe)
    before = files_of(tmp_path / "run")
    weights = bytearray((start / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (start / "model.safetensors").write_bytes(weights)
    refused(lambda: train_rl(recipe), UsageError, "began with another hf:", str(start))
    assert files_of(tmp_path / "run") == before
    (tmp_path / "run" / "manifest.json").write_text("[]")
    refused(lambda: train_rl(recipe), UsageError, "manifest.json is no manifest")


def test_a_start_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    refused(lambda: train_rl(tiny(tmp_path, f"hf:{missing}")), CheckpointError, str(missing))
    for start in ("scripted:file.json", "openai:model", "hf:", "gpt"):
        refused(lambda start=start: train_rl(tiny(tmp_path, start)), UsageError)
    assert not (tmp_path / "run").exists(), "nothing was begun"


def test_a_model_that_was_not_made_for_the_task_is_refused(tmp_path: Path, chain: str) -> None:
    source = load_checkpoint(Path(chain.removeprefix("hf:")))
    small: dict[str, Any] = {"counts": [3], "largest": 20, "targets": [10, 100]}
    for task, limits, named in (("sudoku", {}, "sudoku"), ("countdown", small, "4 numbers")):
        folder = tmp_path / named
        save_checkpoint(folder, source)
        profile = json.loads((folder / "asyncthink.json").read_text()) | {"tasks": {task: limits}}
        (folder / "asyncthink.json").write_text(json.dumps(profile))
        recipe = tiny(tmp_path / f"run of {named}", f"hf:{folder}")
        refused(lambda recipe=recipe: train_rl(recipe), UsageError, named)


@pytest.mark.parametrize("output", ["taken", "taken/run"])
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, chain: str, output: str) -> None:
    (tmp_path / "taken").write_text("a file")
    path = (tmp_path / output).as_posix()
    recipe = tiny(tmp_path, chain, output=f'"{path}"')
    refused(lambda: train_rl(recipe), UsageError, path, "cannot be written")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": "3\nlearnig_rate = 1"}, ["did you mean 'update.learning_rate'"]),
        ({"pooled": "false\nlambda = 0.2"}, ["reward.lambda", "reward.concurrency"]),
        ({"clip_low": "0.2\n[eval]\nx = 1"}, ["'eval'"]),
        ({"seed": "1\nsource = 'x'"}, ["source"]),
        ({"pooled": "true"}, ["reward.pooled", 'rollout.method = "parallel"']),
        ({"updates": "2", "problems": "3"}, ["update.updates = 2", "rollout.problems = 3"]),
        ({"updates": "4"}, ["update.updates = 4", "rollout.problems = 2"]),
        ({"episodes": "1"}, ["rollout.episodes"]),
        ({"problems": "0"}, ["rollout.problems"]),
        ({"capacity": "0"}, ["rollout.capacity"]),
        ({"capacity": "2.0"}, ["rollout.capacity"]),
        ({"method": '"plan"'}, ["plan"]),
        ({"method": '"asyncthink"\ntask = "countdwn"'}, ["countdwn", "did you mean 'countdown'"]),
        ({"pooled": "false\ntau = 0.0"}, ["reward.tau"]),
        ({"pooled": "false\ntau = 1.5"}, ["reward.tau"]),
        ({"clip_low": "1.5"}, ["loss.clip_low"]),
        ({"clip_low": "0.2\nclip_high = -0.1"}, ["loss.clip_high"]),
        ({"clip_low": "0.2\nimportance_cap = 0.0"}, ["loss.importance_cap"]),
        ({"clip_low": '0.2\naggregation = "mean"'}, ["mean"]),
        (
            {"clip_low": "0.2\nimportance_cap = 2.0", "episodes": "2\ntop_p = 0.9"},
            ["loss.importance_cap", "top_p"],
        ),
        ({"updates": "2", "episodes": "2\ntop_p = 0.9"}, ["update.updates", "top_p"]),
        ({"updates": "1\nfork_credit = true\nnormalise_advantage = true"}, ["update.fork_credit"]),
        ({"method": '"parallel"', "updates": "1\nfork_credit = true"}, ["update.fork_credit", "asyncthink"]),
        ({"method": '"sequential"\nmax_worker_tokens = 9'}, ["rollout.max_worker_tokens", "asyncthink"]),
        ({"method": '"parallel"', "pooled": "false\nleverage = 0.1"}, ["reward.leverage", "asyncthink"]),
        (
            {"method": '"asyncthink"', "capacity": "2", "pooled": "false\ntau = 0.5"},
            ["reward.tau", "1 / rollout"],
        ),
        ({"seed": "-1"}, ["seed"]),
        ({"output": '""'}, ["output"]),
        ({"steps": "0"}, ["update.steps"]),
        ({"warmup_steps": "0"}, ["update.warmup_steps"]),
        ({"save_every": "0"}, ["update.save_every"]),
        ({"learning_rate": '"fast"'}, ["update.learning_rate"]),
        ({"seed": "1\n[trl]\nmicro_batches = 2"}, ["[trl]", 'trainer = "trl"']),
        ({"seed": "="}, ["line"]),
    ],
    ids=str,
)
def test_a_recipe_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, str], named: list[str]
) -> None:
    path = write_recipe(tmp_path, "embedded", **changes)
    refused(lambda: load_rl_recipe(str(path)), UsageError, *named)


@pytest.mark.parametrize("key", ["start", "output"])
def test_a_recipe_without_a_key_is_refused(tmp_path: Path, key: str) -> None:
    path = write_recipe(tmp_path, "embedded")
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key} =")]
    path.write_text("\n".join(lines))
    refused(lambda: load_rl_recipe(str(path)), UsageError, str(path), "missing", key)
