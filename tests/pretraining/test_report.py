"""The page of a run: from a log of any figures, in a real browser."""

from __future__ import annotations

import re

import numpy as np
import pytest

from browser import CHROMIUM, PHONE, open_in_browser, overflow
from convbert.pretraining.report import Watched, report_html
from convbert.pretraining.samples import Answers, Filled, Judged, Samples
from convbert.report.page import points

RTD = (
    "masked_loss",
    "masked_accuracy",
    "sampled_accuracy",
    "replaced_loss",
    "replaced_auc",
    "replaced_recall",
)
EVIL = "</script><script>alert(1)</script>"


def log(names, steps: int = 40) -> list[dict[str, float]]:
    """Training entries, with an evaluation every tenth step."""
    entries: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        speed = {"learning_rate": 1e-3 / step, "tokens_per_second": 5000.0, "mfu": 0.31, "minutes_left": 3.0}
        entries.append(
            {"step": step, "epoch": 0.1, "loss": 9 / step, **dict.fromkeys(names, 1 / step), **speed}
        )
        if step % 10 == 0:
            entries.append({"step": step, **{f"heldout_{name}": 1.1 / step for name in names}})
    return entries


SAMPLES = Samples(
    filled=(
        Filled(
            ("[CLS]", "the", "cat", "##s", "[SEP]"),
            (Answers(2, "cat", 0.25, (("dog", 0.5), ("cat", 0.25), (EVIL, 0.1))),),
        ),
    ),
    judged=(Judged(("the", "dog", "##s"), ("the", "cat", "##s"), (0.01, 0.95, 0.4)),),
)


def watched(names=RTD, **changes) -> Watched:
    fields = {
        "name": f"tiny {EVIL}",
        "status": "step 40 of 100",
        "fraction_done": 0.4,
        "history": log(names),
        "plan": {"objective": "rtd", "corpus": EVIL},
        "facts": {"parameters, together": 12345},
        "flops": {"generator: attention": 1e9, "discriminator: attention": 3e9},
        "samples": SAMPLES,
    }
    return Watched(**{**fields, **changes})


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize(
    ("names", "panels"), [(RTD, 10), (("masked_loss", "masked_accuracy"), 6)], ids=["rtd", "mlm"]
)
def test_every_figure_has_its_curve_in_a_browser(names, panels, tmp_path):
    """Counts what is on the page: panels with a curve, words in their colours, bars."""
    page = tmp_path / "report.html"
    page.write_text(report_html(watched(names)), encoding="utf-8")
    script = """
      const count = what => document.querySelectorAll(what).length;
      const panels = [...document.querySelectorAll('svg g[id^=axes]')].filter(a => a.querySelector('[id^=line2d]'));
      document.title = `${panels.length} ${count('.card')} ${count('.bars tr')}`;
    """
    document = open_in_browser(page, tmp_path, script)
    found = document.split("<title>")[1].split("</title>")[0].split()
    assert found == [str(panels), "2", "5"]
    assert overflow(page, tmp_path) == 0


def test_it_needs_no_network_and_escapes_its_texts():
    document = report_html(watched())
    assert "alert(1)</script>" not in document
    assert "src=" not in document
    assert "http" not in document.replace("http://www.w3.org", "")


def test_words_as_people_read_them():
    document = report_html(watched())
    assert (
        "<mark class='answer'>dog<sub>cat</sub></mark>s" in document
    )  # a wrong answer, and the piece after it
    assert "title='95.0%'>dog</mark><sub>cat</sub>" in document
    assert "held-out" in document


def test_an_empty_log_is_a_page_too():
    document = report_html(watched(history=[], samples=Samples()))
    assert "step 40 of 100" in document
    assert "<svg" not in document


def test_bars_are_as_long_as_the_share_they_tell():
    """A bar that says 10 % fills a tenth of its room, also where none is longer."""
    document = report_html(watched())
    for share in (50, 25, 10):
        assert f"width:{share}.0%'></div></td><td class='note'>{share}%<" in document
    assert "width:25.0%'></div></td><td class='note'>25.0%<" in document  # of the FLOPs


def axes_of(document: str, title: str) -> list[float]:
    """The numbers along the axis of values of a curve, from the text of its drawing."""
    drawing = document.split(f"<figcaption>{title}</figcaption>")[1].split("</svg>")[0]
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", drawing.split('id="matplotlib.axis_2"')[1])
    return [float(text.replace("−", "-")) for text in ticks if re.fullmatch("[−0-9.]+", text)]


def test_axes_begin_at_zero_and_what_is_compared_has_one_scale():
    history = [
        {
            "step": step,
            "masked_accuracy": 0.5,
            "replaced_auc": 0.5 + 1e-9 * step,
            "grad_norm": 0.0,
            "loss": 7.0,
        }
        for step in range(9)
    ]
    document = report_html(watched(history=history))
    assert axes_of(document, "masked tokens: accuracy") == axes_of(document, "discriminator: area under ROC")
    assert min(axes_of(document, "masked tokens: accuracy")) == 0
    assert max(axes_of(document, "masked tokens: accuracy")) == 1
    for title in ("norm of the gradient", "training loss, all parts weighed"):
        assert min(axes_of(document, title)) == 0, title
    assert max(axes_of(document, "norm of the gradient")) == 1


@pytest.mark.parametrize("entries", [[], [{"step": 900, "masked_loss": 3.25, "heldout_masked_loss": 3.5}]])
def test_a_single_point_is_a_number_and_no_plot(entries):
    """A run that was resumed for its last step has logged once."""
    document = report_html(watched(history=entries, samples=Samples()))
    assert "<svg" not in document
    if entries:
        assert "3.5 nats" in document
        assert re.search(r"<td[^>]*>900</td><td[^>]*>3.5</td>", document)


def test_figures_that_are_no_numbers_are_left_out():
    history = [{"step": step, "masked_loss": float("nan"), "grad_norm": float("inf")} for step in range(3)]
    document = report_html(watched(history=[*history, {"step": 3, "note": "text"}], samples=Samples()))
    assert "<svg" not in document
    assert "nan" not in document.lower().replace("name", "")


def test_shares_of_masked_positions_have_intervals():
    """Wilson, 1927: the bounds solve (p - x)² = z² p (1 - p) / n."""
    metrics = {
        "heldout_masked_accuracy": 0.25,
        "baseline_bigram_accuracy": 0.5,
        "heldout_masked_positions": 400,
    }
    document = report_html(watched(metrics={"steps": 40, **metrics}))
    row = document.split("masked tokens: accuracy, held-out</td>")[-1].split("</tr>")[0]
    share, *bounds = map(float, re.findall(r">([0-9.]+)</td>", row))
    assert share == 0.25
    assert bounds[0] < 0.25 < bounds[1]
    for bound in bounds:
        assert (bound - 0.25) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / 400, rel=2e-3)


def test_model_and_data_are_named():
    facts = {"model": "small", "training text": "12 sequences of <b>bücher</b>.txt (1,024 bytes)"}
    document = report_html(watched(facts=facts))
    assert "&lt;b&gt;bücher&lt;/b&gt;.txt (1,024 bytes)" in document
    assert "width=device-width" in document


LONG = "x" * 400
HARD = ("\u05e9\u05dc\u05d5\u05dd" * 40, "\u4f60\u597d" * 150, LONG)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_the_browser_sees_what_is_too_wide(tmp_path):
    page = tmp_path / "wide.html"
    page.write_text("<!doctype html><body style='margin:0'><div style='width:500px'>wide</div>")
    assert overflow(page, tmp_path) == 500 - PHONE
    assert overflow(page, tmp_path, 800) == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_no_text_is_wider_than_a_phone(tmp_path):
    answers = Answers(0, LONG, 0.1, tuple((text, 0.3) for text in HARD))
    page = tmp_path / "report.html"
    run = watched(
        name=LONG,
        facts={LONG: "/".join(HARD)},
        plan={"corpus": LONG, LONG: 1},
        metrics={f"heldout_{LONG}": 1.0, LONG: 2},
        flops={LONG: 1.0},
        history=[{"step": step, LONG: 1.0, f"heldout_{LONG}": 2.0} for step in range(3)],
        samples=Samples((Filled(HARD, (answers,)),), (Judged(HARD, HARD[::-1], (0.1, 0.2, 0.3)),)),
    )
    page.write_text(report_html(run), encoding="utf-8")
    assert overflow(page, tmp_path) == 0


def test_long_curves_are_thinned_to_means():
    history = [{"step": step, "loss": float(step)} for step in range(9_000)]
    steps, values = points(history, "loss")
    assert len(steps) == 300
    np.testing.assert_allclose(steps, values)
    np.testing.assert_allclose(values.mean(), 4499.5)
