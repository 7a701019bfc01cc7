"""The page of a run: from a log of any figures, in a real browser."""

from __future__ import annotations

import numpy as np
import pytest

from browser import CHROMIUM, open_in_browser
from convbert.pretraining.report import Watched, points, report_html
from convbert.pretraining.samples import Answers, Filled, Judged, Samples

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


def test_long_curves_are_thinned_to_means():
    history = [{"step": step, "loss": float(step)} for step in range(9_000)]
    steps, values = points(history, "loss")
    assert len(steps) == 300
    np.testing.assert_allclose(steps, values)
    np.testing.assert_allclose(values.mean(), 4499.5)
