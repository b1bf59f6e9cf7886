"""Pools fitted to a cluster: every stage has one, nothing is asked that is not there, GPUs are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster.pools import Pool, check_embedded, fit_pools, shortage
from schemas.config import ConfigError
from schemas.spec import LINE, STAGES, PipelineSpec
from tests.jobs.small_corpus import document

GIB = 2**30


def spec_with(resources: Any, **stages: Any) -> PipelineSpec:
    nowhere = Path("/nowhere")
    content = document(nowhere, nowhere, nowhere)
    content["resources"] = resources
    content["stages"] |= stages
    return PipelineSpec.model_validate(content)


WHISPER = {"transcripts": {"backend": "whisperx", "model": "m"}, "words": {"backend": "ctc", "model": "m"}}


def by_name(pools: list[Pool]) -> dict[str, Pool]:
    return {pool.name: pool for pool in pools}


def test_a_small_machine_has_one_line_with_a_worker_per_core() -> None:
    (line,) = fit_pools(spec_with("auto"), STAGES, {"CPU": 2, "memory": 16 * GIB})
    assert (line.name, line.stages, line.least, line.cpus, line.depth) == (LINE, STAGES, 2, 1.0, 1)


def test_a_cluster_without_nodes_is_asked_for_one_worker_of_one_cpu() -> None:
    (line,) = fit_pools(spec_with({LINE: {"max_workers": 8}}), STAGES, {})
    assert (line.least, line.most, line.cpus) == (1, 8, 1.0)


def test_memory_bounds_the_line_and_the_spec_may_say_how_much_a_worker_takes() -> None:
    assert fit_pools(spec_with("auto"), STAGES, {"CPU": 64, "memory": 32 * GIB})[0].least == 16
    assert fit_pools(spec_with({LINE: {"memory_gib": 8}}), STAGES, {"CPU": 64, "memory": 32 * GIB})[0].least == 4


def test_gpus_go_to_the_networks_and_the_other_stages_to_the_line() -> None:
    pools = by_name(fit_pools(spec_with("auto", **WHISPER), STAGES, {"CPU": 16, "GPU": 2, "memory": 128 * GIB}))
    assert set(pools) == {"transcripts", "words", LINE}
    assert {(pools[name].least, pools[name].gpus, pools[name].depth) for name in ("transcripts", "words")} == {
        (2, 0.5, 2)
    }
    assert pools[LINE].least == 12
    assert not {"transcripts", "words"} & set(pools[LINE].stages)


def test_a_network_that_is_to_stay_on_the_cpu_stays_in_the_line() -> None:
    stages = {name: {**content, "device": "cpu"} for name, content in WHISPER.items()}
    (line,) = fit_pools(spec_with("auto", **stages), STAGES, {"CPU": 4, "GPU": 1, "memory": 64 * GIB})
    assert line.stages == STAGES


entries = st.fixed_dictionaries(
    {},
    optional={"workers": st.integers(1, 9), "cpus": st.floats(0.1, 3), "threads": st.integers(1, 4)},
)


@given(
    resources=st.dictionaries(st.sampled_from([*STAGES, LINE]), entries),
    cpus=st.integers(1, 64),
    wanted=st.sampled_from([STAGES, STAGES[:2], ("units",), ("shards",)]),
)
def test_every_stage_has_one_pool_and_open_shares_never_pass_what_is_there(
    resources: dict[str, Any], cpus: int, wanted: tuple[str, ...]
) -> None:
    pools = fit_pools(spec_with(resources), wanted, {"CPU": cpus, "memory": 512.0 * GIB})
    assert sorted(stage for pool in pools for stage in pool.stages) == sorted(wanted)
    fixed = sum(pool.least * pool.cpus for pool in pools if "cpus" in resources.get(pool.name, {}))
    shared = [pool for pool in pools if "cpus" not in resources.get(pool.name, {})]
    least = 0.01 * sum(pool.least for pool in shared)
    assert sum(pool.least * pool.cpus for pool in shared) <= max(cpus - fixed, least) + 1e-6


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [({"words": {"cpus": 9}}, r"ask for 9 CPUs \(words 9\)"), ({"units": {"gpus": 1}}, r"ask for 1 GPUs \(units 1\)")],
)
def test_what_a_machine_does_not_have_is_said(resources: Any, sentence: str) -> None:
    spec = spec_with(resources)
    pools = fit_pools(spec, STAGES, {"CPU": 2})
    with pytest.raises(ConfigError, match=sentence):
        check_embedded(spec, pools, {"CPU": 2})
    assert not shortage(spec, pools, {"CPU": 9, "GPU": 1})


def test_a_pool_that_may_grow_says_how_far() -> None:
    pools = by_name(fit_pools(spec_with({"units": {"workers": 1, "max_workers": 5}}), STAGES, {"CPU": 4}))
    assert (pools["units"].least, pools["units"].most) == (1, 5)
    with pytest.raises(ValueError, match="max_workers is 1, less than workers, which is 2"):
        spec_with({"units": {"workers": 2, "max_workers": 1}})
