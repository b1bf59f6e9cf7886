"""The trainer as a user meets it: golden losses, budgets, what it writes and says, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel

from model.inference.trained import load_trained
from model.monitor.metrics import read_rows
from model.training.config import TrainConfig
from tests.model.training.training_runs import losses, run_document, run_here
from tests.synthetic_shards import write_speech_shards

GOLDEN = Path(__file__).parents[2] / "golden" / "train_losses.json"


def test_twenty_golden_steps(data: Path, tmp_path: Path) -> None:
    """Losses of 20 steps on one thread in fp32, frozen. A change of them is a decision: delete the file and run twice.

    The tolerance is for other processors; on the machine that wrote them they are equal to the bit.
    """
    assert run_here(run_document(data, tmp_path / "run"), tmp_path) == 0
    found = losses(tmp_path / "run")
    if not GOLDEN.exists():
        GOLDEN.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")
        pytest.fail(f"wrote {GOLDEN}; run again")
    for row, golden in zip(found, json.loads(GOLDEN.read_text()), strict=True):
        assert list(row) == pytest.approx(golden, abs=2e-5)


def test_two_runs_are_equal_to_the_bit_wherever_they_write(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        document = run_document(data, tmp_path / name)
        document["log"]["level"] = "warning" if name == "a" else "error"
        run_here(document, tmp_path, "budget.steps=6")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_muon_learns_too(data: Path, tmp_path: Path) -> None:
    document = run_document(data, tmp_path / "run")
    document["optimiser"] = {"kind": "muon", "lr": 0.01, "adamw": {"kind": "adamw", "lr": 3e-3}}
    assert run_here(document, tmp_path) == 0
    rows = losses(tmp_path / "run")
    assert rows[-1][1] < rows[0][1] - 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"recompute": True},
        {"recompute": "selective"},
        {"precision": "bf16"},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
    ],
)
def test_recomputation_bf16_and_compilation_follow_the_plain_run(
    change: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    """Recomputation and compilation compute the same; bfloat16 stays near."""
    run_here(run_document(data, tmp_path / "plain"), tmp_path, "budget.steps=6")
    run_here({**run_document(data, tmp_path / "other"), **change}, tmp_path, "budget.steps=6")
    tolerance = 0.05 if "precision" in change else 1e-5
    for row, other in zip(losses(tmp_path / "plain"), losses(tmp_path / "other"), strict=True):
        assert row[1] == pytest.approx(other[1], abs=tolerance)


@pytest.mark.parametrize("name", ["elements", "latents", "flops"])
def test_a_run_ends_when_its_budget_is_used_up(name: str, data: Path, tmp_path: Path) -> None:
    """Data-controlled and compute-controlled runs are one line of configuration; the schedule ends with the budget."""
    run_here(run_document(data, tmp_path / "steps"), tmp_path, "budget.steps=7")
    rows = read_rows(tmp_path / "steps" / "metrics.jsonl")
    document = {**run_document(data, tmp_path / "run"), "budget": {name: rows[-1][name]}}
    run_here(document, tmp_path)
    again = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert len(again) == 7
    assert again[-1][name] == rows[-1][name]
    assert again[-1]["lr_factor"] < 0.25


def test_wall_clock_ends_a_run_between_steps(data: Path, tmp_path: Path) -> None:
    document = {**run_document(data, tmp_path / "run"), "budget": {"steps": 100_000, "seconds": 0.3}}
    assert run_here(document, tmp_path) == 0
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["seconds"] >= 0.3
    assert all(row["seconds"] < 0.3 for row in rows[:-1])
    assert len(rows) < 100_000


def test_what_a_run_writes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows with a step and a loss per modality, TensorBoard events, the configuration, a checkpoint, and two closing lines."""
    document = run_document(data, tmp_path / "run")
    document["log"] = {"level": "warning", "progress": True, "tensorboard": True}
    document["data"]["held_out"] = 0.1
    document["validation"] = {"every_steps": 5, "batches": 2}
    assert run_here(document, tmp_path) == 0
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 21))
    for row in rows:
        assert row["bits_per_second_of_speech"] == pytest.approx(row["loss_speech"] / math.log(2) * 25)
        assert 0 < row["fill_elements"] <= 1
        assert 0 < row["fill_latents"] <= 1
        assert 0.85 < row["fill_binding"] <= 1, "whichever budget binds is nearly used up; which one depends on the mix"
        assert row["speech_seconds_per_second"] > 0
    assert [row["step"] for row in rows if "validation_loss_text" in row] == [1, 5, 10, 15, 20]
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert (tmp_path / "run" / "config.yaml").exists()
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-00000020\n"
    shown = capsys.readouterr()
    assert re.search(r"^text +loss \d\.\d+ -> \d\.\d+ nats per token; held out", shown.out, re.MULTILINE)
    assert re.search(
        r"^speech +loss .* nats per unit, [\d.]+ bits per second of speech; held out", shown.out, re.MULTILINE
    )
    assert re.search(r"step \d+  text \d.* s of speech/s .* % of peak .* left", shown.err)


def test_a_finished_run_is_not_run_again(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = run_document(data, tmp_path / "run")
    run_here(document, tmp_path, "budget.steps=4")
    before = losses(tmp_path / "run")
    capsys.readouterr()
    assert run_here(document, tmp_path, "budget.steps=4") == 0
    assert losses(tmp_path / "run") == before
    assert "nats per token" in capsys.readouterr().out


def poison(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The loss of one micro-batch is not a number."""
    from model.network.lst import LST

    forward, calls = LST.forward, [0]

    def poisoned(self: LST, batch: Any) -> Any:
        calls[0] += 1
        sums = forward(self, batch)
        return sums._replace(nll_text=sums.nll_text * (math.nan if calls[0] == at else 1))

    monkeypatch.setattr(LST, "forward", poisoned)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_samples(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, at=4 * 4 + 2)
    assert run_here(run_document(data, tmp_path / "run"), tmp_path) == 4
    assert "step 5: the loss or the gradient is not finite" in capsys.readouterr().err
    saved = json.loads((tmp_path / "run" / "non-finite-step-00000005.json").read_text())
    assert saved["step"] == 5
    assert all(names for names in saved["microbatches_by_rank"][0])
    assert len(losses(tmp_path / "run")) == 4


def test_or_the_step_is_left_out_and_counted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, at=4 * 4 + 2)
    assert run_here({**run_document(data, tmp_path / "run"), "non_finite": "skip"}, tmp_path) == 0
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["skipped"]] == [5]
    assert math.isfinite(rows[-1]["loss"])
    facts = json.loads((tmp_path / "run" / "checkpoints" / "step-00000020" / "checkpoint.json").read_text())
    assert facts["consumed"]["skipped"] == 1


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["optimizer.lr=1"], "unknown key 'optimizer' in TrainConfig; did you mean 'optimiser'?"),
        (["budget={}"], "give at least one of steps, elements, latents, flops"),
        (["curriculum_steps=null"], "needs curriculum_steps"),
        (["packing.elements=8"], "min_piece 16 must be at most half"),
        (["model=configs/model/none.yaml"], "cannot read the configuration configs/model/none.yaml"),
        (
            ["data.tokenizer.path=nowhere.json", "data.tokenizer.train_size=null"],
            "text tokenizer nowhere.json does not exist",
        ),
    ],
)
def test_bad_settings_are_one_sentence(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(run_document(data, tmp_path / "run"), tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_same_run_on_other_speech(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--shards replaces the one set of shards in every source that names it, and the tokenizer becomes the run's own."""
    write_speech_shards(tmp_path / "mine", [3], num_units=40)
    document = run_document(data, tmp_path / "run")
    document["data"]["sources"][2]["data"] = str(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("of all that is said here\n\n" * 20, encoding="utf-8")
    index = str(tmp_path / "mine" / "index.json")
    assert run_here(document, tmp_path, "--shards", index, "budget={steps: 1}") == 0
    wrote = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["data"]
    assert [source["data"] for source in wrote["sources"]] == [index, index, str(tmp_path / "a.txt")]
    assert Path(wrote["tokenizer"]["path"]) == tmp_path / "run" / "tokenizer.json"
    assert Path(wrote["tokenizer"]["path"]).is_file()
    capsys.readouterr()
    assert run_here(run_document(data, tmp_path / "two"), tmp_path, "--shards", index) == 2
    assert "names" in (said := capsys.readouterr().err)
    assert "set data.sources" in said


def test_a_dry_run_says_what_would_happen_and_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(run_document(data, tmp_path / "run"), tmp_path, "--dry-run") == 0
    shown = capsys.readouterr().out
    for part in (
        "M parameters",
        "interleaved  40% of the elements, 16 samples",
        "about 20 with full batches",
        "GFLOP/s",
    ):
        assert part in shown
    assert not (tmp_path / "run").exists()


def test_a_dry_run_reads_what_an_evaluation_will_score(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["evaluation={every_steps: 5, tasks: [nowhere/topic.jsonl]}"]
    assert run_here(run_document(data, tmp_path / "run"), tmp_path, *missing, "--dry-run") == 2
    assert "nowhere/topic.jsonl" in capsys.readouterr().err
    assert run_here(run_document(data, tmp_path / "run"), tmp_path, "evaluation={every_steps: 5}", "--dry-run") == 0
    assert "every 5 steps: samples alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    "ranks,change,said",
    [
        ("3", {}, "global_microbatches 4 cannot be dealt evenly to 3 ranks"),
        ("4", {"data.workers": 4}, "data.lanes 8 must be a multiple of ranks x workers = 4 x 4"),
        ("4", {"sharding.group": 3}, "sharding.group 3 does not divide the 4 ranks"),
    ],
)
def test_a_dry_run_refuses_ranks_that_the_run_would(
    ranks: str, change: dict[str, int], said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = [f"{name}={value}" for name, value in change.items()]
    assert run_here(run_document(data, tmp_path / "run"), tmp_path, *fields, "--dry-run", "--ranks", ranks) == 2
    assert said in capsys.readouterr().err


def test_every_field_of_the_configuration_is_read() -> None:
    """A field that no code mentions outside its own definition is a promise that nobody keeps."""
    sources = "\n".join(path.read_text() for path in Path("model").rglob("*.py"))
    unread = []
    for model in _models(TrainConfig):
        for name in model.model_fields:
            uses = re.findall(rf"(?:\.{name}\b|[\"']{name}[\"'])", sources)
            if not uses:
                unread.append(f"{model.__name__}.{name}")
    assert unread == []


def _models(annotation: Any, seen: set[type] | None = None) -> set[type[BaseModel]]:
    """Every model that a configuration can hold."""
    seen = set() if seen is None else seen
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        for field in annotation.model_fields.values():
            _models(field.annotation, seen)
    for part in typing.get_args(annotation):
        _models(part, seen)
    return seen


def test_nothing_is_drawn_from_the_global_generator(data: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run_here({**run_document(data, tmp_path / "run")}, tmp_path, "budget.steps=2")
    # the GEMM that the peak is measured with is the one user; it must not reach weights or data
    torch.manual_seed(123)
    run_here({**run_document(data, tmp_path / "again")}, tmp_path, "budget.steps=2")
    torch.set_rng_state(before)
    assert losses(tmp_path / "run") == losses(tmp_path / "again")


def test_a_run_can_start_from_the_weights_of_another(data: Path, tmp_path: Path) -> None:
    """Fine-tuning: at learning rate 0 the loss of the last batch of one run is the loss of the same batch in the other."""
    first = run_document(data, tmp_path / "first")
    run_here(first, tmp_path, "budget.steps=4")
    second = {**run_document(data, tmp_path / "second"), "init_from": str(tmp_path / "first")}
    second["validation"] = {"every_steps": 1, "batches": 2}
    third = {**second, "output_dir": str(tmp_path / "third"), "init_from": None}
    for document in (second, third):
        assert run_here(document, tmp_path, "budget.steps=1", "optimiser.lr=1e-12") == 0
    started, drawn = (read_rows(tmp_path / name / "metrics.jsonl")[0] for name in ("second", "third"))
    assert started["validation_loss_text"] < drawn["validation_loss_text"] - 0.2
    weights = [load_trained(tmp_path / name).module.state_dict() for name in ("first", "second")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-6)


def test_weights_that_do_not_fit_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run_document(data, tmp_path / "first")
    run_here(first, tmp_path, "budget.steps=1")
    wider = {**run_document(data, tmp_path / "wider"), "init_from": str(tmp_path / "first")}
    wider["model"]["global_transformer"]["dim"] = 48
    assert run_here(wider, tmp_path) == 2
    assert "does not fit this model" in capsys.readouterr().err
    other = {**run_document(data, tmp_path / "other"), "init_from": str(tmp_path / "first")}
    other["data"]["tokenizer"] = {"path": str(tmp_path / "other.json"), "train_size": 280}
    assert run_here(other, tmp_path) == 2
    assert "its tokenizer is" in capsys.readouterr().err
    nothing = {**run_document(data, tmp_path / "none"), "init_from": str(tmp_path / "nowhere")}
    assert run_here(nothing, tmp_path) == 2
    assert "It takes a run, a checkpoint, an exported folder, or a Llama text model" in capsys.readouterr().err


def test_a_run_that_goes_on_replaces_its_configuration_whole(data: Path, tmp_path: Path) -> None:
    """Written in place it was empty for a moment: a stop then left a run that cannot be named by its folder."""
    document = run_document(data, tmp_path / "run")
    run_here(document, tmp_path, "budget.steps=1")
    before = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    with (tmp_path / "run" / "config.yaml").open(encoding="utf-8") as opened:
        run_here(document, tmp_path, "budget.steps=2")
        assert opened.read() == before
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["budget"]["steps"] == 2


def test_a_dry_run_trains_no_tokenizer(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, path = run_document(data, tmp_path / "run"), tmp_path / "none.json"
    document["data"]["tokenizer"] = {"path": str(path), "train_size": 280}
    assert run_here(document, tmp_path, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert f"tokenizer    {path} is not there: the run trains it, with at most 280 tokens" in shown
    assert "280 text tokens" in shown
    assert run_here(document, tmp_path, "data.tokenizer.train_size=200", "--dry-run") == 2
    assert "at least 256 tokens" in capsys.readouterr().err
    assert not path.exists()
