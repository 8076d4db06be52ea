"""The benchmark measures what it says, beside the same of another build, and refuses a tree that is none."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from chaos.bench.bare import bare_postgres, bare_redis
from chaos.bench.bench import BARE, DRAIN, END_TO_END, OTHER, Rates, Report, run_bench, table
from chaos.errors import UsageError
from chaos.rack.servers import Servers
from tests.cluster import ROOT

pytestmark = pytest.mark.e2e


def test_every_measure_is_taken_in_turn_and_held_against_the_other_build() -> None:
    report = run_bench(1_000, 2, ROOT, Console(file=StringIO()))
    assert [len(each.rates) for each in report.measures] == [2] * 10
    assert all(rate > 0 for each in report.measures for rate in each.rates)
    yardsticks = {each.measure: each.yardstick for each in report.measures}
    assert yardsticks[DRAIN] == OTHER + DRAIN
    assert yardsticks[END_TO_END] == OTHER + END_TO_END
    assert yardsticks[OTHER + DRAIN] == BARE
    assert table(report).row_count == 10


def test_a_ratio_is_taken_within_one_repetition() -> None:
    bare, drain = Rates(BARE, [100.0, 200.0], BARE), Rates(DRAIN, [50.0, 300.0], BARE)
    report = Report(1_000, 2, "", [bare, drain])
    assert report.ratios(drain) == [0.5, 1.5]
    assert report.ratios(bare) == [1.0, 1.0]


def test_a_folder_without_a_scheduler_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name the root of a source tree"):
        run_bench(1_000, 1, tmp_path, Console(file=StringIO()))


def test_the_yardsticks_do_all_the_work_and_leave_nothing_behind() -> None:
    with Servers(toxiproxy_port=None) as servers:
        url, index = servers.stores.postgres.url, servers.stores.redis.url
        assert bare_postgres(url, 1_250, 500, "{}") > 0
        assert bare_redis(index, 1_250, 500) > 0
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regclass('bare')").fetchone() == (None,)
