"""Credit of forks: gains worked out by hand, and which tokens they weigh."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from statistics import fmean

import anyio
import pytest
import torch
from msgspec.structs import replace

from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.detokenize import TokenBytes
from asyncthink.engines.lexicon import load_lexicon
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import folder_of
from asyncthink.engines.prompting import encode
from asyncthink.episodes.metrics import measure
from asyncthink.errors import UsageError
from asyncthink.runtime.budget import Limits
from asyncthink.tasks import Asked, get_task
from asyncthink.tasks.countdown import CountdownProblem
from asyncthink.training.credit import FEWEST, credited, fork_advantages, gains, queries
from asyncthink.training.loss import LossRecipe
from asyncthink.training.owpo import train_rl
from asyncthink.training.reward import RewardRecipe, reward_of
from asyncthink.training.rl_recipe import UpdateRecipe, load_rl_recipe
from asyncthink.training.rollout import Rollout
from asyncthink.training.step import weighed
from asyncthink.training.trl.rl import train_trl
from asyncthink.training.update import Updater

from .rl_cases import Watched, draw, make_row, metrics_of, random_model, random_rows, scripted, write_recipe

TEN = Asked(get_task("countdown"), CountdownProblem(numbers=(1, 2, 3, 4), target=10, wanted=4))
LEXICON = load_lexicon(folder_of("embedded-sft"))
TABLE = TokenBytes(LEXICON.tokenizer)


def rollout(organizer: str, **workers: str) -> Rollout:
    returns = {name: f"<RETURN>{text}</RETURN>" for name, text in workers.items()}
    episode = scripted(organizer, returns, asked=TEN, capacity=4)
    return Rollout(asked=TEN, episode=episode, metrics=measure(episode))


def test_a_gain_is_what_a_return_adds_to_those_before_it() -> None:
    one = rollout(
        "<FORK-1>a</FORK-1><FORK-2>b</FORK-2><FORK-3>c</FORK-3><JOIN-2><JOIN-1>"
        "<FORK-4>d</FORK-4><JOIN-4><ANSWER>none</ANSWER>",
        a="1 + 2 + 3 + 4 ; 4 * 3 - 2 * 1",
        b="4 + 3 + 2 + 1",
        c="2 * 4 + 3 - 1",
        d="2 * 3 + 1 + 4",
    )
    assert gains(one) == {"0/2": 0.25, "0/1": 0.25, "0/4": 0.0}, "3 came back to nobody, 4 is wrong"


def test_nothing_is_gained_with_a_format_error() -> None:
    one = rollout("<FORK-1>a</FORK-1><JOIN-1><JOIN-1><ANSWER>none</ANSWER>", a="1 + 2 + 3 + 4")
    assert one.episode.faults and gains(one) == {}


def test_forks_are_compared_with_those_of_their_number() -> None:
    first = [0.5, 0.0, 0.25, 0.25]
    gained = [{"0/1": gain} for gain in first]
    gained[0]["0/2"], gained[3]["0/2"] = 0.25, 0.0
    assert len(first) == FEWEST
    of_all = (1.0 + 0.25) / 6
    assert fork_advantages(gained) == [
        {"0/1": 0.25, "0/2": 0.25 - of_all},
        {"0/1": -0.25},
        {"0/1": 0.0},
        {"0/1": 0.0, "0/2": -of_all},
    ]
    assert fork_advantages([{}, {}]) == [{}, {}]


def test_where_a_query_stands() -> None:
    decoded = " ?<FORK-1> 11 + 17 1 20 > 15</FORK-1>\n ?<FORK-2> 1 * 2</FORK-2>\n<JOIN-1>"
    ids = encode(LEXICON.tokenizer, decoded)
    prompt = encode(LEXICON.tokenizer, "<FORK-1> 3</FORK-1>")
    row = make_row([*prompt, *ids], [False] * len(prompt) + [True] * len(ids))
    asked = "<FORK-1> 11 + 17 1 20 > 15</FORK-1><FORK-2> 1 * 2</FORK-2><JOIN-1><ANSWER>none</ANSWER>"
    forks = [trace for trace in scripted(asked, {}, asked=TEN, capacity=4).traces if "/" in trace.path]
    ends = [len(encode(LEXICON.tokenizer, decoded[: decoded.index(f"</FORK-{i}>") + 9])) for i in (1, 2)]
    forks = [replace(trace, forked_at=end) for trace, end in zip(forks, ends, strict=True)]
    found = queries(row, forks, TABLE)
    spelled = {
        path: b"".join(TABLE[token] for token in ids[span.start : span.stop]).decode()
        for path, span in found.items()
    }
    assert spelled == {"0/1": " 11 + 17 1 20 > 15</FORK-1>", "0/2": " 1 * 2</FORK-2>"}


@cache
def group() -> list[Rollout]:
    """Sample one problem's episodes from the model that knows the format."""
    engine = LocalEngine(folder_of("embedded-sft"), device="cpu", threads=1)
    limits = Limits(max_critical_path=360)
    (found,) = anyio.run(lambda: draw(engine, problems=1, episodes=8, capacity=4, limits=limits))
    return found


def test_queries_have_their_credit_and_all_else_the_episode_s_advantage() -> None:
    paid = [reward_of(one.episode, one.asked, one.metrics, RewardRecipe()) for one in group()]
    found, shared = weighed([group()], [paid], normalise=False)
    whole = credited(group(), found, shared, TABLE)
    gained = [gains(one) for one in group()]
    credit = fork_advantages(gained)
    own = {one.episode.id: each for one, each in zip(group(), credit, strict=True)}
    asked = 0
    for row, worth, advantage in zip(found, whole, shared, strict=True):
        if row.path != "0":
            assert worth == advantage, "a worker's row"
            continue
        assert isinstance(worth, list) and len(worth) == row.n_trained
        one = next(one for one in group() if one.episode.id == row.episode)
        forks = [trace for trace in one.episode.traces if trace.path.count("/") == 1]
        rest = list(range(row.n_trained))
        for path, span in queries(row, forks, TABLE).items():
            assert [worth[place] for place in span] == [own[row.episode].get(path, 0.0)] * len(span)
            rest = [place for place in rest if place not in span]
            asked += 1
        assert {worth[place] for place in rest} == {advantage}
        assert len(rest) < row.n_trained
    assert asked == sum(one.metrics.forks for one in group()) > 30
    for one, each in zip(group(), gained, strict=True):
        returned = [line for path in each for line in _result(one, path)]
        assert sum(each.values()) == pytest.approx(one.asked.task.pool(one.asked.problem, returned).value)
    firsts = [each["0/1"] for each in credit if "0/1" in each]
    assert len(firsts) >= FEWEST and fmean(firsts) == pytest.approx(0, abs=1e-12)


def _result(one: Rollout, path: str) -> list[str]:
    trace = next(trace for trace in one.episode.traces if trace.path == path)
    return (trace.result or "").split(";")


def test_an_update_takes_the_advantage_of_each_token() -> None:
    model = random_model(50)
    found = random_rows(50, 6)
    gradients: list[torch.Tensor] = []
    for spread in (False, True):
        updater = Updater(model, watched := Watched(model), LossRecipe(), UpdateRecipe(max_norm=1e9))
        worth = [0.3 * place - 0.7 for place in range(6)]
        each = [[one] * row.n_trained for one, row in zip(worth, found, strict=True)]
        if spread:
            each[0][0] += 1.0
        updater.step(found, each if spread else worth, 1.0)
        gradients.append(torch.cat([one.flatten() for one in watched.gradients.values()]))
    lone = Updater(model, watched := Watched(model), LossRecipe(), UpdateRecipe(max_norm=1e9))
    lone.step(found, [[1.0] + [0.0] * (found[0].n_trained - 1), *([0.0] * 5)], 1.0)
    added = torch.cat([one.flatten() for one in watched.gradients.values()])
    assert added.norm() > 1e-4
    assert torch.allclose(gradients[1] - gradients[0], added, atol=1e-6)


def test_only_where_answers_add_up_and_only_in_our_own_update(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"update\.fork_credit needs answers that add up.*not sudoku"):
        load_rl_recipe("recipes/embedded-rl.toml", ["update.fork_credit=true", "rollout.task=sudoku"])
    recipe = load_rl_recipe(str(write_recipe(tmp_path, "embedded-sft")), ["update.fork_credit=true"])
    with pytest.raises(UsageError, match=r"update\.fork_credit = True is not in TRL's loss"):
        train_trl(recipe)


def test_a_run_learns_from_it(tmp_path: Path) -> None:
    made: list[dict[str, torch.Tensor]] = []
    for credit in ("false", "true"):
        changes = ("update.steps=1", "rollout.problems=1", "rollout.episodes=4", "loss.kl=0")
        output = f'output="{tmp_path / credit}"'
        recipe = load_rl_recipe(
            "recipes/embedded-rl.toml", [*changes, output, f"update.fork_credit={credit}"]
        )
        made.append(load_checkpoint(train_rl(recipe)).model.state_dict())
    told = [metrics_of(tmp_path / credit)[0] for credit in ("false", "true")]
    assert told[0]["reward"] == told[1]["reward"] and told[0]["forks"] > 4, "the same episodes"
    assert any(not torch.equal(made[0][name], made[1][name]) for name in made[0])
