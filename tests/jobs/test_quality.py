"""The optional stages: off they change nothing; on they fill a table, and what they reject no later stage sees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from jobs.inspect_segment import list_segments
from jobs.reporting.summary import FUNNEL
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, make_plan, plan_stages, refresh, stages_until
from pipeline.audio_quality import find_problem as problem_of_sound
from pipeline.text_quality import find_problem as problem_of_text
from schemas.config import ConfigError
from schemas.spec import STAGES, AudioQualitySpec, PipelineSpec, TextQualitySpec
from schemas.tables import AudioQuality, Patches, Reject, TextQuality, Transcript, Units
from tests.jobs.small_corpus import make_spec

ON = {"audio_quality": {"max_clipping": 0.01}, "text_quality": {"languages": ["en"]}}


def with_stages(spec: PipelineSpec, **stages: Any) -> PipelineSpec:
    """The spec with more under `stages`."""
    document = spec.model_dump(mode="json")
    document["stages"] |= stages
    return PipelineSpec.model_validate(document)


def test_off_they_are_no_part_of_a_run_and_of_no_fingerprint(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    assert spec.stage_names() == STAGES
    before = plan_stages(spec, STAGES)
    on = with_stages(spec, **ON)
    after = plan_stages(on, on.stage_names())
    assert on.stage_names() == (
        "recordings",
        "segments",
        "audio_quality",
        "transcripts",
        "text_quality",
        "words",
        "units",
        "patches",
        "shards",
    )
    same = {name for name in STAGES if before[name].fingerprint == after[name].fingerprint}
    assert same == {"recordings", "segments"}, "what reads only segments that passed has another input"
    text_alone = with_stages(spec, text_quality=ON["text_quality"])
    kept = plan_stages(text_alone, text_alone.stage_names())
    assert kept["transcripts"].fingerprint == before["transcripts"].fingerprint
    assert kept["units"].fingerprint == before["units"].fingerprint
    assert set(FUNNEL) >= set(on.stage_names())
    with pytest.raises(ConfigError, match=r"no stages\.audio_quality"):
        stages_until(spec, "audio_quality")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Five recordings of which one is clipped hard and one is said to be French."""
    folder = tmp_path_factory.mktemp("quality")
    spec = with_stages(make_spec(folder), **ON).with_updates(max_reject_rate=1.0)
    source = Path(spec.source.uri)
    clipped, french = sorted(source.glob("*.flac"))[:2]
    samples, rate = soundfile.read(clipped)
    limit = np.quantile(np.abs(samples), 0.8)
    soundfile.write(clipped, np.clip(samples, -limit, limit), rate)
    head, *lines = (source / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    told = [f"{line}\t{'fr' if line.startswith(french.name) else 'en'}" for line in lines]
    (source / "manifest.tsv").write_text("\n".join([f"{head}\tlanguage", *told]) + "\n", encoding="utf-8")
    plan = make_plan(spec)
    prepare(plan)
    assert run_in_process(plan, spec.stage_names()) == []
    refresh(plan)
    assert plan.is_complete()
    return plan


def rows(plan: Plan, table: type[Any], stage: str = "", name: str = "") -> list[Any]:
    """All rows of a table."""
    stage = stage or table.TABLE
    commits = plan.commits(stage)
    return [
        row
        for commit in commits
        if (name or table.TABLE) in commit.outputs
        for row in plan.store.read_table(table, commit.outputs[name or table.TABLE])
    ]


def test_a_clipped_segment_is_rejected_and_neither_transcribed_nor_encoded(run: Plan) -> None:
    (reject,) = rows(run, Reject, "audio_quality", "rejects")
    assert reject.code == "clipped"
    assert "max_clipping is 1.00%" in reject.detail
    passed = {row.segment_id for row in rows(run, AudioQuality)}
    assert len(passed) == 4
    assert reject.id not in passed
    assert {row.segment_id for row in rows(run, Transcript)} == passed
    assert {row.segment_id for row in rows(run, Units)} == passed
    measured = rows(run, AudioQuality)
    assert all(row.clipping < 0.01 and row.bandwidth > 5000 and row.snr > 15 and row.music == 0 for row in measured)


def test_another_language_is_rejected_before_it_is_aligned(run: Plan) -> None:
    (reject,) = rows(run, Reject, "text_quality", "rejects")
    assert reject.code == "wrong_language"
    assert "heard fr" in reject.detail
    kept = rows(run, TextQuality)
    assert len(kept) == 3
    assert all(1 < row.words_per_second < 5 and row.hallucinated == 0 and row.looped == 0 for row in kept)
    assert {row.segment_id for row in rows(run, Patches)} == {row.segment_id for row in kept}


def test_what_the_optional_stages_reject_is_shown_with_its_code(run: Plan) -> None:
    """`lst inspect --list` said "(no transcript yet)" of a clipped segment, and nothing of a wrong language."""
    listed = list(list_segments(run, 200))
    assert len(listed) == 5
    assert sum("[clipped]" in line for line in listed) == sum("[wrong_language]" in line for line in listed) == 1


GOOD = AudioQuality(segment_id="s", clipping=0.0, bandwidth=7000, snr=30, music=0.0)


@pytest.mark.parametrize(
    ("field", "threshold", "bad", "code"),
    [
        ("max_clipping", 0.01, {"clipping": 0.02}, "clipped"),
        ("min_bandwidth", 3500, {"bandwidth": 3400}, "narrow_band"),
        ("min_snr", 15, {"snr": 14.9}, "noisy"),
        ("max_music", 0.5, {"music": 0.6}, "music"),
    ],
)
def test_each_threshold_of_sound(field: str, threshold: float, bad: dict[str, float], code: str) -> None:
    spec = AudioQualitySpec(**{field: threshold})
    row = GOOD.model_copy(update=bad)
    assert problem_of_sound(spec, GOOD) is None
    found = problem_of_sound(spec, row)
    assert found is not None
    assert found[0] == code
    assert problem_of_sound(AudioQualitySpec(), row) is None


FINE = TextQuality(segment_id="s", words_per_second=2.5, hallucinated=0.0, looped=0.0, as_hinted=True)
SAID = Transcript(segment_id="s", text="what was said", language="en", asr="a")


@pytest.mark.parametrize(
    ("field", "threshold", "bad", "code"),
    [
        ("languages", ["fr", "German"], {}, "wrong_language"),
        ("as_hinted", True, {"as_hinted": False}, "wrong_language"),
        ("max_hallucinated", 0.5, {"hallucinated": 0.6}, "hallucination"),
        ("max_looped", 0.3, {"looped": 0.4}, "repetition"),
        ("min_words_per_second", 0.5, {"words_per_second": 0.4}, "rate_out_of_range"),
        ("max_words_per_second", 6.0, {"words_per_second": 7.0}, "rate_out_of_range"),
    ],
)
def test_each_threshold_of_text(field: str, threshold: Any, bad: dict[str, Any], code: str) -> None:
    row = FINE.model_copy(update=bad)
    found = problem_of_text(TextQualitySpec(**{field: threshold}), row, SAID, "en")
    assert found is not None
    assert found[0] == code
    assert problem_of_text(TextQualitySpec(), row, SAID, "en") is None
    if field != "languages":
        assert problem_of_text(TextQualitySpec(**{field: threshold}), FINE, SAID, "en") is None
    assert (
        problem_of_text(TextQualitySpec(as_hinted=True), FINE.model_copy(update={"as_hinted": None}), SAID, None)
        is None
    )
