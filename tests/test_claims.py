"""The table of claims: verdicts computed from intervals, and what the quick rows find."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from meanfield.cli import app
from meanfield.errors import InputError, StepLimitError
from meanfield.experiments import claims, dynamics, findings, linearised
from meanfield.experiments.claims import CLAIMS, Claim, Row
from meanfield.experiments.findings import Finding

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
CHEAP = dict.fromkeys(
    ("F01", "F02", "F03", "F04", "F05", "F16", "F23", "F24", "F25", "F26", "F31", "F35", "F36", "F37", "F39", "F40",
     "F43", "F47", "F50"), "agrees",
) | {"F33": "cannot tell"}  # fmt: skip


def test_the_table_has_every_claim_of_the_list():
    assert list(CLAIMS) == [f"F{k:02d}" for k in range(1, 51)]
    assert all(each.measure or each.why for each in CLAIMS.values()), "a row without a measure says why"


def test_every_source_is_listed():
    """A claim's sources begin with names of `SOURCES`, and each of these is used; docs/claims.md has them all."""
    named = {part.strip() for each in CLAIMS.values() for part in re.split(r",(?! fig|.*\))", each.source)}
    named = {each for each in named if not re.fullmatch(r"[\d.]+|all|own", each)}
    known = {each: [name for name in claims.SOURCES if each.startswith(name)] for each in named}
    assert all(known.values()), known
    assert {name for found in known.values() for name in found} == set(claims.SOURCES)
    page = (Path(__file__).resolve().parent.parent / "docs" / "claims.md").read_text()
    assert claims.sources() in page and claims._WORDS in page


@pytest.mark.parametrize(
    ("interval", "expected", "allowance", "wanted"),
    [
        ((0.9, 1.1), 1.0, 0.0, "agrees"),
        ((1.05, 1.1), 1.0, 0.1, "agrees"),
        ((1.05, 1.1), 1.0, 0.0, "differs"),
        ((0.1, 0.9), 0.5, 0.1, "cannot tell"),  # wider than 0.3
        ((0.2, 0.4), (0.0, 1.0), 0.0, "agrees"),
        ((0.9, 1.1), (0.0, 1.0), 0.0, "cannot tell"),  # over an end of the range
        ((1.1, 1.2), (0.0, 1.0), 0.0, "differs"),
        ((float("nan"), float("nan")), 1.0, 0.0, "cannot tell"),
        ((2.0, 2.0), (1.0, np.inf), 0.0, "agrees"),
    ],
)
def test_verdicts(interval, expected, allowance, wanted):
    assert Finding("x", float(np.mean(interval)), interval, expected, allowance, 0.3).verdict == wanted


@pytest.mark.parametrize(
    ("interval", "expected", "wanted"),
    [
        ((-50.0, 50.0), 0.0, "cannot tell"),  # holds every number
        ((-0.08, 0.08), 0.0, "cannot tell"),
        ((-0.07, 0.07), 0.0, "agrees"),  # not wider than three allowances
        ((0.5, 0.9), 0.0, "differs"),  # wider, but not there
        ((-50.0, 50.0), (-60.0, 60.0), "agrees"),
    ],
)
def test_a_number_in_a_wide_interval_is_not_found(interval, expected, wanted):
    assert Finding("x", 0.0, interval, expected, 0.05).verdict == wanted


def test_a_mean_of_scattered_seeds_cannot_tell():
    """Four values about 0 that differ by 50: no agreement with 0 to 0.05; four that differ by 0.02 agree."""
    scattered = np.array([-2.5, 1.0, -1.0, 2.5])
    assert findings.mean("x", 10.0 * scattered, 0.0, 0.05).verdict == "cannot tell"
    assert findings.mean("x", 0.004 * scattered, 0.0, 0.05).verdict == "agrees"


def test_a_row_is_as_good_as_its_worst_finding():
    good, wide, bad = (Finding("x", 0.0, each, 0.0, 0.0, 1.0) for each in ((-0.1, 0.1), (-1.0, 1.0), (0.1, 0.2)))
    claim = Claim("F99", "s", "t", lambda quick: [])
    because = bad.explained(differs="because")
    assert Row(claim, (good,), 0.0).sentence == "agrees"
    assert Row(claim, (good, wide), 0.0).verdict == "cannot tell"
    assert Row(claim, (good, wide, because), 0.0).sentence == "differs (x): because"
    assert Row(CLAIMS["F38"], (), 0.0).sentence == "out of scope: convolutional networks"
    assert Row(Claim("F99", "s", "t", None, "because", claims.NOT_MEASURED), (), 0.0).verdict == "not measured"


def test_a_reason_is_told_for_its_own_verdict():
    """Not where another finding is what differs, nor where the finding cannot tell and the reason is for differing."""
    good, wide, bad = (Finding("x", 0.0, each, 0.0, 0.0, 1.0) for each in ((-0.1, 0.1), (-1.0, 1.0), (0.1, 0.2)))
    claim = Claim("F99", "s", "t", lambda quick: [])
    assert Row(claim, (good.explained(differs="because"), bad), 0.0).sentence == "differs (x)"
    assert Row(claim, (wide.explained(differs="because"),), 0.0).sentence == "cannot tell"
    assert Row(claim, (wide.explained(cannot_tell="noise"),), 0.0).sentence == "cannot tell: noise"
    assert Row(claim, (bad.explained(differs="because"),) * 2, 0.0).sentence == "differs: because", "once"
    assert not [each.name for each in CLAIMS.values() if each.measure and each.why], "findings have the reasons"


def test_a_row_that_fails_leaves_the_others(monkeypatch):
    """An error of the package or of the files, and no other; what failed is said."""

    def fails(problem):
        def measure(quick):
            raise problem

        return replace(CLAIMS["F35"], measure=measure)

    monkeypatch.setitem(claims.CLAIMS, "F35", fails(StepLimitError("no steps left")))
    seen = []
    rows = claims.run(["F35", "F38"], quick=True, after_each=lambda each: seen.append(len(each)))
    assert rows[0].sentence == "cannot tell: StepLimitError: no steps left" and rows[1].verdict == "out of scope"
    assert seen == [1, 2] and "no steps left" in claims.page(rows, True)
    monkeypatch.setitem(claims.CLAIMS, "F35", fails(FileNotFoundError("no images")))
    assert claims.run(["F35"])[0].verdict == "cannot tell"
    monkeypatch.setitem(claims.CLAIMS, "F35", fails(ZeroDivisionError("a fault")))
    with pytest.raises(ZeroDivisionError):
        claims.run(["F35"])


def test_an_order_has_the_interval_of_least_squares():
    """95 % intervals of a slope from 6 points with normal scatter hold the truth in 95 % of 2000 draws, to 2 %."""
    rng, x = np.random.default_rng(0), np.geomspace(1, 32, 6)
    held = 0
    for _ in range(2000):
        low, high = findings.order("slope", x, x**2.0 * np.exp(0.1 * rng.standard_normal(6)), 2.0).interval
        held += low <= 2.0 <= high
    assert abs(held / 2000 - 0.95) < 0.02


def test_a_median_has_its_interval():
    """Of 2000 sets of 20 lognormal values in 95 % or more, to 1 %; of six the ends; another quantile is seldom held."""
    rng, held = np.random.default_rng(0), np.zeros(2)
    for _ in range(2000):
        low, high = findings.median("x", rng.lognormal(size=20), 1.0).interval
        held += low <= 1.0 <= high, low <= np.exp(-0.8416) <= high
    assert 0.94 <= held[0] / 2000 <= 0.975 and held[1] / 2000 < 0.3
    assert findings.median("x", range(6), 2.5).interval == (0.0, 5.0)
    with pytest.raises(InputError, match="from 5 seeds; needed: six or more"):
        findings.median("x", range(5), 2.0)


def page_rows():
    """Cells of docs/claims.md, by the claim's name."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| F\d+ ", line)]
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {cells[0]: cells[1:] for cells in rows}


def stale(row, cells):
    """What of a row's statement, source, function, findings and expectations its line of the page does not have."""
    statement, source, runs, measured, wanted, *_ = cells
    parts, claim = measured.split("; "), row.claim
    wrong = [] if [claim.statement, claim.source, f"`{claim.runs}`"] == [statement, source, runs] else [claim.statement]
    if len(parts) != len(row.findings) or "; ".join(each.wanted for each in row.findings) != wanted:
        wrong.append("; ".join(each.wanted for each in row.findings))
    return wrong + [f.what for f, part in zip(row.findings, parts, strict=False) if not part.startswith(f.what + " ")]


@pytest.mark.parametrize("name", CHEAP)
def test_quick_rows_agree(name):
    """And are on the page as the code has them."""
    (row,) = claims.run([name], quick=True)
    assert row.verdict == CHEAP[name], str(row.findings)
    assert row.seconds < 300 and row.claim.runs in claims.markdown([row])
    assert stale(row, page_rows()[name]) == []


def test_the_page_is_of_this_table():
    """docs/claims.md has every row, statement and source; and a changed word, finding or threshold is seen."""
    page = page_rows()
    assert list(page) == list(CLAIMS)
    for name, claim in CLAIMS.items():
        assert page[name][:2] == [claim.statement, claim.source], f"{name}: meanfield claims --out docs/claims.md"
        assert page[name][2] == (f"`{claim.runs}`" if claim.measure else "")
    (row,) = claims.run(["F35"], quick=True)
    (found,) = row.findings
    other = replace(row.claim, statement="decay")
    assert stale(replace(row, claim=other), page["F35"]) == ["decay"]
    for changed in (replace(found, what="smallest"), replace(found, expected=(0.0, 1.0))):
        assert stale(replace(row, findings=(changed,)), page["F35"])
    assert stale(replace(row, findings=(found, found)), page["F35"])


def shares(**values):
    """What `experiments.linearised` would return, for rows of claims made up."""
    rows = {name.replace("_", " "): np.array(value) for name, value in values.items()}
    return linearised.Shares({}, (0, 1), {"rf": (20, 400), "nt": (20, 160)}, rows, {})


def two(*values):
    """Two seeds with the same shares."""
    return [values, values]


LEARNT, HALF, LEFT = two(0.9, 0.05), two(0.9, 0.5), two(1.0, 0.9)


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        ((LEARNT, LEARNT, LEFT) * 2, ["agrees"] * 6),
        ((HALF,) * 6, ["differs"] * 6),
        ((LEFT, LEFT, LEARNT) * 2, ["differs"] * 6),
    ],
)
def test_the_ranges_of_the_staircase(monkeypatch, measured, wanted):
    """F28: a degree of which half is left is neither learnt nor not, and the other way round differs everywhere."""
    names = [f"{kind}_degree_{degree}" for kind in ("rf", "nt") for degree in (1, 2, 3)]
    made_up = shares(**dict(zip(names, measured, strict=True)))
    monkeypatch.setattr(linearised, "staircase", lambda quick: made_up)
    assert [each.verdict for each in claims.staircase(True)] == wanted


@pytest.mark.parametrize(
    ("rf", "nt", "nn", "wanted"),
    [(0.3, 0.1, 0.001, "agrees"), (0.01, 0.01, 0.1, "differs"), (-1.0, -1.0, 0.02, "differs")],
)
def test_the_ranges_of_the_single_neuron(monkeypatch, rf, nt, nn, wanted):
    """F29: P9's errors agree; linear models that come near 0, and a network that does not, differ."""
    made_up = shares(rf=two(1.0, rf), nt=two(1.0, nt), nn=[nn, nn])
    monkeypatch.setattr(linearised, "single_neuron", lambda quick: made_up)
    assert [each.verdict for each in claims.single_neuron(True)] == [wanted] * 3


@pytest.mark.parametrize(
    ("kernel", "network", "wanted"),
    [(10.0, 2.0, ["agrees", "agrees"]), (2.0, 10.0, ["agrees", "differs"]), (0.5, 0.6, ["differs", "differs"])],
)
def test_the_ranges_of_noise(monkeypatch, kernel, network, wanted):
    """F30: noise that raises the kernel's error by less than the network's differs, whatever their sizes."""
    rows = {"krr": kernel, "nn": network}
    ones = {f"{kind}, {case}": two(factor)[0] for kind, factor in rows.items() for case in ("r=1", "printed radius")}
    twos = {f"{kind}, {case}": [1.0] for kind in rows for case in ("r=2", "r=2, printed")}
    made_up = shares()
    made_up.shares.update({name: np.array(list(value) * 2) for name, value in (ones | twos).items()})
    monkeypatch.setattr(linearised, "spiked", lambda quick: made_up)
    assert [each.verdict for each in claims.spiked(True)] == wanted * 2


def test_the_neural_tangents_of_a_finite_dimension_differ_from_their_limit():
    """F31: what is exact at d = 20 agrees; (1 - N/d)^2, its limit d -> infinity, does not."""
    (row,) = claims.run(["F31"])
    assert [each.verdict for each in row.findings] == ["agrees", "agrees", "differs", "agrees"]
    assert "d -> infinity" in row.sentence


def test_what_is_not_finite_has_a_place_in_json():
    """Ranges without an end, and measurements that failed; strict JSON refuses them as they are."""
    row = Row(CLAIMS["F01"], (Finding("x", np.nan, (np.nan, 2.0), (-np.inf, 1.0)), Finding("y", 1.0, (0, 2), 1.0)), 0.0)
    found = json.loads(json.dumps(claims.report([row], False), allow_nan=False))["claims"][0]["findings"]
    assert [found[0][name] for name in ("value", "interval", "expected")] == [None, [None, 2.0], [None, 1.0]]
    assert [found[1][name] for name in ("value", "interval", "expected")] == [1.0, [0, 2], 1.0]
    with pytest.raises(ValueError, match="JSON"):
        json.dumps(row.findings[0].expected, allow_nan=False)


def test_a_wrong_flow_is_seen(monkeypatch):
    """With the gradient's factor N / (2 alpha^2) off by two in the measured flow F01 and F04 differ."""
    plain = dynamics.DataField.velocity
    monkeypatch.setattr(dynamics.DataField, "velocity", lambda self, state, out=None: (2.0 * plain(self, state)[0],))
    assert [row.verdict for row in claims.run(["F01", "F04"], quick=True)] == ["differs", "differs"]


def test_the_lazy_law_differs_as_measured():
    """For pairs the drift falls like alpha^-2, not alpha^-1: the row says so, with its reason."""
    found = claims.regimes.lazy_drift(quick=True)
    assert found[0].verdict == "differs" and found[0].value == pytest.approx(-2.0, abs=0.1)


def test_the_command(tmp_path):
    out = tmp_path / "claims.md"
    done = CliRunner().invoke(app, ["claims", "--only", "f50,F38", "--quick", "--out", str(out)])
    assert done.exit_code == 0 and "|" not in done.stdout
    heading, first, second, third = done.stdout.strip().splitlines()[:4]
    assert heading.split() == ["claim", "verdict", "s", "measured", "[95", "%]"]
    assert first.startswith("F50    agrees") and second.startswith(" ") and third.startswith("F38    out of scope")
    column = heading.index("measured")
    assert {each[column - 2 : column] for each in (first, second)} == {"  "}
    page = out.read_text()
    assert "| F50 |" in page and "| F38 |" in page and "alpha* is the alpha" in page
    assert page.count("arXiv") >= 13 and "- **COB19**: Chizat, Oyallon" in page
    assert "meanfield claims --quick --only F50,F38" in page and re.search(
        r"1 agrees, 1 out of scope|1 out of scope, 1 agrees", page
    )
    printed = json.loads(CliRunner().invoke(app, ["claims", "--only", "F38", "--json"]).stdout)
    assert printed["claims"][0]["verdict"] == "out of scope"
    with pytest.raises(InputError, match="unknown claim 'F77'"):
        claims.run(["F77"])


def test_a_table_does_not_take_a_larger_ones_place(tmp_path):
    """Refused before any work; --force does it. The rows so far are in FILE.part, which goes when all are there."""
    out = tmp_path / "claims.md"
    out.write_text("| F01 | a |\n| F02 | b |\n")
    command = ["claims", "--only", "F38", "--out", str(out)]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, InputError) and "holds 2 rows and would hold 1" in str(refused.exception)
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    assert "| F38 |" in out.read_text() and [each.name for each in tmp_path.iterdir()] == ["claims.md"]
    assert CliRunner().invoke(app, command).exit_code == 0, "as many rows"
    missing = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "none" / "claims.md")])
    assert isinstance(missing.exception, InputError) and "a folder that exists" in str(missing.exception)
