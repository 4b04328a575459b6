"""Fine-tuning on TRL's trainer: prompts as the engine sends them, equal to our own loop, killed without loss."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PretrainedConfig, Qwen3Config
from typer.testing import CliRunner

from asyncthink.cli.main import app
from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.local import LocalEngine
from asyncthink.engines.models import SHIPPED
from asyncthink.episodes import Episode, Role, SegmentKind, Trace
from asyncthink.errors import AsyncThinkError, CheckpointError, DivergedError, UsageError
from asyncthink.runtime.organization import Organization
from asyncthink.training import mixture, sft
from asyncthink.training.encoding import encode_example, tensors
from asyncthink.training.recipe import Recipe, load_recipe
from asyncthink.training.sft import Position, Progress, loss_of
from asyncthink.training.synthesis import Example, Piece
from asyncthink.training.trl.library import last_state
from asyncthink.training.trl.sft import Encoder, micro_batches, train_sft, trainer_of

from .chat_world import PART, QUERY, traces, write_chat_model, write_chat_recipe
from .sft_world import examples, make_small, tiny

LORA = "[trl.lora]\nrank = 4\nalpha = 8\ndropout = 0.1"
FORMS = {"full": "", "lora": LORA}


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
    monkeypatch.setattr(mixture, "SHARD", 5)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("chat"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# Prompts, and what is trained


def example_of(trace: Trace, capacity: int) -> Example:
    """Return what one would learn from to write this trace."""
    assert trace.query is not None
    pieces = tuple(
        Piece(text=each.text, trained=each.kind is SegmentKind.DECODED)
        for each in trace.segments
        if each.kind is not SegmentKind.PROMPT
    )
    return Example(role=trace.role, query=trace.query, capacity=capacity, pieces=pieces)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_rows_are_what_the_engine_sees_once_it_has_learnt_them(chat: Path, tmp_path: Path) -> None:
    """Trained until it knows both traces by heart, the model thinks them: a whole episode, prompts included."""
    path = write_chat_recipe(
        tmp_path / "a",
        chat,
        tokens=40_000,
        batch_tokens=400,
        learning_rate=0.006,
        warmup_steps=5,
        save_every=500,
    )
    folder = train_sft(load_recipe(str(path)))
    async with Organization(LocalEngine(folder), temperature=0) as organization:
        episode: Episode = await organization.think(QUERY, seed=1)
    assert (episode.answer, episode.capacity, episode.format_errors) == ("47", 3, [])
    encoder = Encoder(chat)
    written = {example.role: encoder(example) for example in traces()}
    assert [each.role for each in episode.traces] == list(Role)
    for trace in episode.traces:
        row = encoder(example_of(trace, episode.capacity))
        seen = [token for each in trace.segments for token in each.token_ids or ()]
        assert [*seen, *encoder.lexicon.eos] == row.ids == written[trace.role].ids
        own = [each.kind is SegmentKind.DECODED for each in trace.segments for _ in each.token_ids or ()]
        assert [*own, True] == row.trained


def test_the_trained_tokens_are_what_the_model_is_to_write(chat: Path) -> None:
    encoder = Encoder(chat)
    spelled = encoder.lexicon.tokenizer.decode
    for example in traces():
        row = encoder(example)
        ((columns,),) = micro_batches([row], 1)
        labels = [token for token in columns["labels"] if token >= 0]
        own = "".join(piece.text for piece in example.pieces if piece.trained)
        assert spelled(labels, skip_special_tokens=False) == f"{own}<|im_end|>"
        hidden = [token for token, own in zip(row.ids, row.trained, strict=True) if not own]
        text = spelled(hidden, skip_special_tokens=False)
        assert text.startswith("<|im_start|>system\n") and "<|im_start|>assistant\n" in text
        assert example.query in text and ("42</JOIN-1>" in text) is (example.role == "organizer")
        (end,) = encoder.lexicon.eos
        assert row.ids.count(end) == 3, "two of the template's, one at the end: what text spells stays text"


def test_a_folder_with_role_templates_is_asked_with_them() -> None:
    encoder = Encoder(SHIPPED["embedded-sft"])
    assert [encoder(each) for each in examples()] == [
        encode_example(encoder.lexicon, each) for each in examples()
    ]


def test_a_micro_batch_without_rows_teaches_nothing(chat: Path) -> None:
    rows = [Encoder(chat)(each) for each in traces()]
    parts = micro_batches(rows, 3)
    assert [[len(each["input_ids"]) for each in part] for part in parts] == [
        [2],
        [len(rows[0].ids)],
        [len(rows[1].ids)],
    ]
    assert parts[0][0]["labels"] == [-100, -100]


# A run equals ours


def equal_recipe(folder: Path, *changes: str) -> Recipe:
    made = tiny(
        folder, begin='start = "embedded-sft"', optimizer="adamw", tokens="2_500", learning_rate="1e-3"
    )
    del made
    return load_recipe(str(folder / "tiny.toml"), ["train.embedding_learning_rate=0.0005", *changes])


@pytest.mark.parametrize("parts", [1, 3])
def test_a_run_is_ours(tmp_path: Path, parts: int) -> None:
    seen: tuple[list[Progress], list[Progress]] = [], []
    ours = sft.train_sft(equal_recipe(tmp_path / "ours"), seen[0].append)
    changes = ('trainer="trl"', f"trl.micro_batches={parts}")
    theirs = train_sft(equal_recipe(tmp_path / "trl", *changes), seen[1].append)
    assert len(seen[0]) == len(seen[1]) > 3
    for one, other in zip(*seen, strict=True):
        assert (other.step, other.tokens) == (one.step, one.tokens)
        assert other.loss == pytest.approx(one.loss, abs=2e-4)
        assert other.accuracy == pytest.approx(one.accuracy, abs=0.02)
    begun, wanted, got = (
        load_checkpoint(each).model.state_dict() for each in (SHIPPED["embedded-sft"], ours, theirs)
    )
    for name, before in begun.items():
        moved = (wanted[name] - before).norm()
        assert moved > 0 and (got[name] - wanted[name]).norm() <= 0.02 * moved, name
    profiles = [load_checkpoint(each).profile for each in (ours, theirs)]
    assert profiles[0] == profiles[1] and profiles[1].trained


@pytest.mark.parametrize("parts", [1, 3])
def test_loss_and_gradient_of_the_same_rows_are_ours(tmp_path: Path, parts: int) -> None:
    recipe = equal_recipe(tmp_path, 'trainer="trl"', f"trl.micro_batches={parts}")
    start = SHIPPED["embedded-sft"]
    trainer: Any = trainer_of(recipe, tmp_path / "trl", Encoder(start), Position())
    rows = [Encoder(start)(each) for each in examples()[:5]]
    checkpoint = load_checkpoint(start)
    model = checkpoint.model.train().requires_grad_(True)
    loss, accuracy = loss_of(model, *tensors(rows))
    loss.backward()
    batches = [trainer.data_collator(part) for part in micro_batches(rows, parts)]
    _, count = trainer.get_batch_samples(iter(batches), parts, "cpu")
    assert count == sum(sum(row.trained) for row in rows)
    total = 0.0
    for batch in batches:
        part = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=count)
        part.backward()
        total += part.item()
    assert total == pytest.approx(loss.item(), rel=1e-4)
    wanted = {name: each.grad for name, each in model.named_parameters()}
    for name, parameter in trainer.model.named_parameters():
        reference = wanted[name]
        assert reference is not None
        assert (parameter.grad - reference).norm() <= 1e-4 * reference.norm(), name
    if parts == 1:
        assert trainer._metrics["train"]["mean_token_accuracy"] == [pytest.approx(accuracy)]


# A run that is killed


class Killed(Exception):
    pass


def killed_at(step: int, seen: list[Progress], progress: Progress) -> None:
    seen.append(progress)
    if progress.step == step:
        raise Killed


@pytest.mark.parametrize("form", FORMS)
def test_a_killed_run_ends_with_the_same_weights(chat: Path, tmp_path: Path, form: str) -> None:
    whole: list[Progress] = []
    expected = weights(
        train_sft(load_recipe(str(write_chat_recipe(tmp_path / "whole", chat, FORMS[form]))), whole.append)
    )
    assert len(whole) >= 5
    recipe = load_recipe(str(write_chat_recipe(tmp_path / "killed", chat, FORMS[form])))
    for kill, begun in ((1, 1), (4, 1), (5, 3)):
        seen: list[Progress] = []
        with pytest.raises(Killed):
            train_sft(recipe, partial(killed_at, kill, seen))
        assert seen[0].step == begun
        torch.rand(kill)  # a new process has another state
    half = tmp_path / "killed" / "run" / "trl" / "checkpoint-9"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"epoch')
    rest: list[Progress] = []
    done = train_sft(recipe, rest.append)
    assert rest[0].step == 5
    lines = metrics(tmp_path / "killed" / "run")
    assert [(line["step"], line["tokens"], line["loss"]) for line in lines] == [
        (one.step, one.tokens, one.loss) for one in whole
    ], "nothing is repeated, nothing left out"
    got = weights(done)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_finished_run_stays_as_it_is(chat: Path, tmp_path: Path, form: str) -> None:
    recipe = load_recipe(str(write_chat_recipe(tmp_path / "a", chat, FORMS[form], tokens=900)))
    done = train_sft(recipe)
    before, lines = weights(done), metrics(tmp_path / "a" / "run")
    for gone in (False, True):  # killed before the checkpoint was written
        if gone:
            done.rename(tmp_path / "gone")
        again: list[Progress] = []
        found = weights(train_sft(recipe, again.append))
        assert again == [] and metrics(tmp_path / "a" / "run") == lines
        assert all(torch.equal(found[name], before[name]) for name in before)


# What is left behind


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's own
def test_an_adapter_is_merged_and_kept(chat: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    done = train_sft(load_recipe(str(write_chat_recipe(tmp_path / "a", chat, LORA))))
    run = tmp_path / "a" / "run"
    assert sorted(each.name for each in done.iterdir()) == [
        *("README.md", "asyncthink.json", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (done / name).read_bytes() == (chat / name).read_bytes()
    begun, merged = (AutoModelForCausalLM.from_pretrained(each).eval() for each in (chat, done))
    ids = torch.tensor([Encoder(chat)(traces()[0]).ids])
    with torch.inference_mode():
        plain = begun(ids).logits
        got = merged(ids).logits
        wanted = PeftModel.from_pretrained(begun, run / "adapter").eval()(ids).logits
    assert (got - wanted).abs().max() < 1e-4 < 1e-2 < (got - plain).abs().max()
    assert [line["step"] for line in metrics(run)] == list(range(1, len(metrics(run)) + 1))
    ours = load_checkpoint(done)
    assert (ours.profile.capacity, ours.profile.tasks, ours.profile.trained) == (3, None, False)
    assert ours.eos == Encoder(chat).lexicon.eos
    with torch.inference_mode():
        hidden = ours.model.hidden(ids, torch.arange(ids.shape[1])[None])
        assert (ours.model.lm_head(hidden) - got).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Qwen3Config, {"head_dim": 16, "num_key_value_heads": 2}),
        (GPT2Config, {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 1024}),
    ],
    ids=["qwen3", "gpt2"],
)
@pytest.mark.parametrize("form", FORMS)
def test_other_architectures(
    tmp_path: Path, kind: type[PretrainedConfig], more: dict[str, Any], form: str
) -> None:
    start = write_chat_model(tmp_path / "start", kind, **more)
    rest = f'[trl]\ndtype = "bfloat16"\ngradient_checkpointing = true\nmicro_batches = 2\n{FORMS[form]}'
    done = train_sft(load_recipe(str(write_chat_recipe(tmp_path / "a", start, rest, tokens=1500))))
    begun, trained = (AutoModelForCausalLM.from_pretrained(each, dtype="bfloat16") for each in (start, done))
    assert trained.dtype is torch.bfloat16
    assert any(
        not torch.equal(one, other)
        for one, other in zip(begun.parameters(), trained.parameters(), strict=True)
    )
    with pytest.raises(CheckpointError, match="only 'llama' is: serve the folder, as with `vllm serve"):
        load_checkpoint(done)


# What is refused


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("train.optimizer=muon", 'only "adamw" is'),
        ("trl.max_length=20", "max_length = 20"),
        ("start=hf:nowhere", "config.json is missing"),
        ('trl.lora.targets=["nowhere"]', "nowhere"),
    ],
)
def test_what_makes_no_sense(chat: Path, tmp_path: Path, change: str, named: str) -> None:
    path = write_chat_recipe(tmp_path / "a", chat)
    with pytest.raises(AsyncThinkError, match=named) as caught:
        train_sft(load_recipe(str(path), [change]))
    assert "\n" not in str(caught.value)


def test_a_start_is_needed(tmp_path: Path) -> None:
    tiny(tmp_path, optimizer="adamw")
    with pytest.raises(UsageError, match="needs a 'start'"):
        load_recipe(str(tmp_path / "tiny.toml"), ['trainer="trl"'])


@pytest.mark.parametrize(("role", "error"), [("judge", "organizer or worker, not 'judge'")])
def test_an_example_of_another_role(chat: Path, role: str, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        Encoder(chat)(replace(traces()[0], role=role))


def test_a_gradient_that_is_no_number_ends_the_run(chat: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(write_chat_recipe(tmp_path / "a", chat, warmup_steps=1, save_every=1)))
    recipe = replace(recipe, train=replace(recipe.train, learning_rate=1e30))
    with pytest.raises(DivergedError, match="no number at step"):
        train_sft(recipe)


def test_a_part_of_a_worker_is_escaped_as_the_runtime_does(chat: Path) -> None:
    example = replace(traces()[1], query="<FORK-1>" + PART)
    encoder = Encoder(chat)
    text = encoder.lexicon.tokenizer.decode(encoder(example).ids, skip_special_tokens=False)
    assert "<\\FORK-1>" in text


def test_the_command(chat: Path, tmp_path: Path) -> None:
    path = write_chat_recipe(tmp_path / "a", chat, tokens=900)
    done = CliRunner().invoke(app, ["train", "sft", str(path)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "a" / "run" / "checkpoint")
    assert "step 2  100.0%" in done.stderr and (tmp_path / "a" / "run" / "report.html").exists()
    assert last_state(tmp_path / "a" / "run" / "trl")[1]["global_step"] == 2
