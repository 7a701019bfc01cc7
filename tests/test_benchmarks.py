"""The benchmarks measure what they say: the floor's products, refusals, bars, tables, files, and what
the pages show of them."""

import json
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

import pytest
import torch
import typer.testing
from benchmarks import (
    __main__,
    bandwidth,
    cases,
    floor,
    forward,
    lengths,
    masked_lm,
    memory,
    neighbours,
    oracle,
    padding,
    pipeline,
    pretraining,
    readme,
    report,
    sentences,
    subjects,
    timing,
    training,
)
from benchmarks.cases import BARS, BERT, FLOOR, OURS, PUBLISHED, SIZES, THEIRS, Bar, Case
from benchmarks.report import RESULTS, ROOT, Results, Row
from benchmarks.run import Run, run_part
from benchmarks.subjects import UnavailableError
from torch.utils.flop_counter import FlopCounterMode

from convbert import ConvBertModel
from convbert.layers import GroupedLinear
from helpers import assert_close

CPU = torch.device("cpu")
QUICK = Run(CPU, rounds=2, warmup=1, compile=False)
TINY = Case("tiny", (3, 11))
LENGTHS = [5, 9, 9]


@pytest.fixture(autouse=True)
def quick_races(monkeypatch):
    monkeypatch.setattr(floor, "RACE_SECONDS", 0.0)
    monkeypatch.setattr(floor, "RACE_TURNS", 1)


# -- the floor


def flops_by_weights(config, lengths):
    """Each weight of the encoder multiplies each token once; attention multiplies each pair of tokens twice."""
    with torch.device("meta"):
        model = ConvBertModel(config)
    multiplied = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, GroupedLinear))
    ) + sum(
        layer.attention.self.key_conv_attn_layer.pointwise.weight.numel() for layer in model.encoder.layer
    )
    width = config.num_kept_heads * config.head_size
    pairs = sum(length**2 for length in lengths)
    return 2 * sum(lengths) * multiplied + 2 * config.num_hidden_layers * 2 * pairs * width


@pytest.mark.parametrize("size", SIZES)
def test_floor_counts_every_product_of_the_network(size):
    config = SIZES[size]()
    assert floor.flops(config, LENGTHS) == flops_by_weights(config, LENGTHS)


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_floor_runs_what_it_counts(monkeypatch, is_training, groups):
    monkeypatch.setattr(floor, "forms", lambda *_: {"mm": floor._mm})  # PyTorch counts no others
    config = cases.tiny()
    config.num_groups = groups
    products = floor.Floor(config, LENGTHS, torch.float32, CPU, training=is_training)
    with FlopCounterMode(display=False) as counter:
        products()
    assert (
        products.flops
        == counter.get_total_flops()
        == (3 if is_training else 1) * flops_by_weights(config, LENGTHS)
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_every_form_of_a_product_is_right(groups):
    product = floor.Product("any", 6, 8, 10, groups)
    batch = () if groups == 1 else (groups,)
    operands = torch.randn(*batch, 6, 8), torch.randn(*batch, 10, 8), torch.empty(*batch, 6, 10)
    found = floor.forms(product, torch.float32, CPU, training=False)
    assert len(found) >= 4
    for name, form in found.items():
        assert floor._is_right(form(*operands), *operands), name


def test_a_wrong_form_does_not_win():
    left, right, out = torch.randn(6, 8), torch.randn(10, 8), torch.empty(6, 10)
    assert not floor._is_right(lambda: left @ right.t() * 1.001, left, right, out)


# -- refusals


def spoil(model):
    """A change that a careless look misses."""
    with torch.no_grad():
        model.encoder.layer[0].attention.self.query.bias[3] += 0.05
    return model.eval()


def test_forward_measures_a_tiny_case(tmp_path):
    results = run_part(forward, QUICK, tmp_path, [TINY, Case("tiny", sentences=3)])
    for row in results.rows:
        assert set(row.values) == {OURS, THEIRS, cases.ELECTRA, FLOOR}
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in row.values.values())
        assert row.details["floor GFLOP"] > 0
    written = json.loads(results.stem.with_suffix(".json").read_text(encoding="utf-8"))
    assert [row["case"] for row in written["rows"]] == ["tiny 3×11", "tiny, 3 real sentences"]
    assert written["world"]["threads"] == 2
    assert "| tiny 3×11 | float32 | ours | 2 |" in results.stem.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", [TINY, Case("tiny", sentences=3)], ids=lambda case: case.name)
def test_forward_refuses_altered_weights(monkeypatch, case):
    monkeypatch.setattr(forward, "prepare", spoil)
    (row,) = forward.measure(case, QUICK)
    assert row.notes[OURS].startswith("refused: differs from the oracle by")
    assert OURS not in row.values
    assert THEIRS in row.values


def command(*arguments):
    """`python -m benchmarks` with these."""
    app = typer.Typer()
    app.command()(__main__.main)
    return typer.testing.CliRunner().invoke(app, arguments)


def test_a_refusal_is_the_exit_code(monkeypatch, tmp_path):
    monkeypatch.setattr(forward, "prepare", spoil)
    monkeypatch.setattr(forward, "cases", lambda device: [TINY])
    result = command("forward", "--rounds", "1", "--warmup", "1", "--no-compile", "--output", str(tmp_path))
    assert result.exit_code == 1
    assert "ours (refused: differs" in result.stdout


def test_training_measures_a_tiny_case_and_refuses_altered_weights(monkeypatch):
    case = replace(TINY, step="training")
    (row,) = training.measure(case, QUICK)
    assert set(row.values) == {OURS, THEIRS, cases.ELECTRA, FLOOR, training.ADAMW}
    twins = training.twins
    monkeypatch.setattr(training, "twins", lambda *given: (spoil(twins(*given)[0]), twins(*given)[1]))
    (row,) = training.measure(case, QUICK)
    assert row.notes[OURS].startswith("refused")
    assert row.was_refused


def test_not_a_number_is_refused():
    with pytest.raises(oracle.DifferentError):
        oracle.refuse(float("nan"), 1.0)


def test_a_single_wrong_token_is_found():
    expected = [torch.randn(4, 8), torch.randn(2, 8)]
    rows = [row.clone() for row in expected]
    rows[1][1, 5] += 1e-2
    assert oracle.worst_token(rows, expected) > 1e-3 > oracle.worst_token(expected, expected)


def test_other_answers_are_refused():
    same, close, other = (
        [{"token": token, "score": score}] for token, score in ((1, 0.5), (2, 0.50001), (2, 0.6))
    )
    pipeline.refuse_other_answers([same, close], [same, same])
    with pytest.raises(oracle.DifferentError, match="sentence 2"):
        pipeline.refuse_other_answers([same, other], [same, same])


# -- the other parts, tiny


def test_memory_is_the_peak_of_the_call_alone():
    torch.ones(50_000_000)  # an earlier, higher peak
    assert memory.peak_resident(lambda: torch.ones(25_000_000)) == pytest.approx(100e6, rel=0.1)


def test_memory_counts_the_step_and_not_the_model():
    case = Case("tiny", (2, 64), step="training")
    parameters = sum(p.numel() for p in ConvBertModel(cases.tiny()).parameters())
    peak = memory._in_new_process(OURS, case, QUICK)
    # Gradients are part of the step. Weights and optimizer state, three times as much, would lift it beyond.
    assert 4 * parameters < peak < 4 * 4 * parameters + 10e6


def test_memory_finds_the_state_of_the_optimizer_there(monkeypatch):
    made, make = [], memory.adamw_of
    monkeypatch.setattr(memory, "adamw_of", lambda parameters: made.append(make(parameters)) or made[-1])

    def states_before_and_after(call):
        before = len(made[0].state)
        call()
        return before, len(made[0].state), len(made)

    monkeypatch.setattr(memory, "peak_resident", states_before_and_after)
    before, after, optimizers = memory.peak_above_model(
        OURS, Case("tiny", (2, 16), step="training"), torch.device("cpu")
    )
    assert 0 < before == after
    assert optimizers == 1


def test_padding_fills_half():
    for batch, length in ((16, 512), (3, 11)):
        lengths = cases.half_lengths(batch, length)
        assert max(lengths) == length
        assert min(lengths) > 0
        assert sum(lengths) == pytest.approx(batch * length / 2, abs=batch)


@pytest.mark.parametrize("step", ["forward", "training"])
def test_padding_measures_a_tiny_case(step):
    (row,) = padding.measure(replace(TINY, half_padded=True, step=step), QUICK)
    assert set(row.values) == {OURS, cases.FILLED, THEIRS}


def test_masked_lm_measures_a_tiny_case():
    (row,) = masked_lm.measure(TINY, QUICK)
    assert set(row.values) == {OURS, masked_lm.ALL, THEIRS}


@pytest.mark.parametrize("objective", ["rtd", "mlm"])
def test_pretraining_measures_a_tiny_case(objective):
    case = Case("tiny", (4, 32), step=objective)
    (row,) = pretraining.measure(case, replace(QUICK, rounds=3))
    assert {name: len(values) for name, values in row.values.items()} == {
        cases.SPEED: 3,
        cases.UTILISATION: 3,
        cases.INPUT_WAIT: 3,
    }
    assert all(
        0 < value < 100 for name in (cases.UTILISATION, cases.INPUT_WAIT) for value in row.values[name]
    )


@pytest.mark.parametrize("op", bandwidth.OPS)
@pytest.mark.parametrize("step", ["forward", "backward"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_bandwidth_measures_a_tiny_case(op, step, is_packed):
    (row,) = bandwidth.measure(bandwidth.OpCase(op, step, is_packed, (2, 16), "float32"), QUICK)
    assert set(row.values) == {OURS, bandwidth.DEFINITION, cases.COPY}


def test_bandwidth_counts_inputs_and_outputs_once():
    case = bandwidth.OpCase("span_dynamic_conv", "backward", False, (2, 16), "float32")
    (row,) = bandwidth.measure(case, QUICK)
    values, kernels = 2 * 16 * 384, 2 * 16 * 6 * 9
    assert row.details["bytes"] == 4 * (3 * values + 2 * kernels)


def test_pipeline_measures_a_few_sentences(monkeypatch):
    sentences = pipeline.masked_sentences()
    assert len(sentences) == 128
    assert all(text.count("[MASK]") == 1 for text in sentences)
    monkeypatch.setattr(pipeline, "masked_sentences", lambda: sentences[:3])
    monkeypatch.setattr(pipeline, "DRAWS", 1)
    times, accuracy, lost, same = pipeline.measure(pipeline.PipelineCase(pipeline.EMBEDDED), QUICK)
    assert {THEIRS, pipeline.OURS_FLOAT32, pipeline.OURS_BEST} <= set(times.values)
    assert 20 < accuracy.values["ours, float32"][0] < 60
    assert lost.values["ours, float32"] == [0.0]
    assert same.values["ours, float32"] == [100.0]


def test_only_a_precision_that_keeps_the_answers_is_the_best():
    row = Row("base", "any", {"ours, float32": [3.0], "ours, bfloat16": [2.0], "ours, int8": [1.0]})
    truth = torch.arange(1000)
    answers = {"float32": truth, "bfloat16": truth.clone(), "int8": truth.clone()}
    answers["bfloat16"][:4] = 0
    answers["int8"][:8] = 0
    pipeline.choose_best(row, answers)
    assert row.values[pipeline.OURS_BEST] == [2.0]
    assert row.notes[pipeline.OURS_BEST] == "ours, bfloat16"


# -- timing


def test_subjects_take_turns(monkeypatch):
    seen = []
    monkeypatch.setattr(timing, "SHORTEST_MEASURE", 0.0)
    subjects = {name: partial(seen.append, name) for name in "AB"}
    seconds = timing.interleaved(subjects, timing.Effort(rounds=3, warmup=1), CPU)
    assert "".join(seen) == "AB" * 4
    assert [len(seconds[name]) for name in "AB"] == [3, 3]


def test_ratio_pairs_the_rounds():
    assert timing.ratio([2, 6, 12, 20], [1, 2, 3, 4]) == timing.Spread(3.5, 3, 4)


def test_out_of_time_there_are_still_the_fewest_rounds():
    effort = timing.Effort(rounds=9, seconds=0.0, fewest=4)
    assert len(timing.interleaved({"A": int}, effort, CPU)["A"]) == 4


# -- tables, bars, files


ROW = Row(
    "base 8×128", "float32", {OURS: [1.0, 1.1], THEIRS: [2.0, 2.2], BERT: [0.8, 0.88], FLOOR: [1.0, 1.0]}
)
EXPECTED_TABLE = """\
| case | precision | subject | rounds | median | time / floor | time / ours | bar |
| --- | --- | --- | ---: | ---: | ---: | ---: | --- |
| base 8×128 | float32 | ours | 2 | 1050 ms | 1.05 (1.00 to 1.10) |  | ≤ 1.08 × floor: met (1.05) |
| base 8×128 | float32 | transformers' ConvBERT | 2 | 2100 ms | 2.10 (2.00 to 2.20) | 2.00 (2.00 to 2.00) |  |
| base 8×128 | float32 | transformers' BERT, SDPA | 2 | 840 ms | 0.84 (0.80 to 0.88) | 0.80 (0.80 to 0.80) | \
≥ 1 × ours: missed (0.80) |
| base 8×128 | float32 | floor | 2 | 1000 ms |  | 0.95 (0.91 to 1.00) |  |"""


def test_table():
    assert report.table("forward", "cpu", [ROW], forward.RATIOS) == EXPECTED_TABLE


def test_shares_have_no_ratio_and_may_be_zero():
    row = Row("lost", "any", {OURS: [0.0], THEIRS: [0.5]}, unit="points")
    assert report.table("pipeline", "cpu", [row], (("time / ours", OURS),)).endswith(
        "| lost | any | ours | 1 | 0.00 points |  |  |\n"
        "| lost | any | transformers' ConvBERT | 1 | 0.50 points |  |  |"
    )


def test_a_bar_without_a_measure_says_so():
    row = Row("base 8×128", "int8", {THEIRS: [1.0]}, notes={"ours, int8": "no oneDNN here"})
    lines = report.table("int8", "cpu", [row], ()).splitlines()
    assert lines[2].endswith("| ≥ 4 × ours, int8: not measured |")
    assert lines[3].startswith("| base 8×128 | int8 | ours, int8 (no oneDNN here) |  |  |")


def names_of_rows(part, device):
    """What the part's cases are called in its table."""
    found = {(case.name, case.dtype) for case in part.cases(device)}
    found |= {(f"{case.step}, {case.name}", case.dtype) for case in part.cases(device)}
    return found | {(name, "any") for name in (pipeline.ACCURACY, pipeline.LOST, pipeline.SAME)}


def test_every_bar_has_its_case(monkeypatch):
    monkeypatch.setattr(cases, "supports_bfloat16", lambda device: True)
    monkeypatch.setattr(bandwidth, "dtypes", cases.dtypes)
    for bar in BARS:
        part = __main__.PARTS[bar.part]
        assert (bar.case, bar.dtype) in names_of_rows(part, torch.device(bar.device)), bar


def test_a_gpu_has_every_bar_asked_of_it():
    bars = {(bar.part, bar.case, bar.subject, bar.over) for bar in BARS if bar.device == "cuda"}
    for name in ("base 64×128", "base 16×512"):
        assert {
            ("training", name, THEIRS, OURS),
            ("training", name, BERT, OURS),
            ("memory", f"training, {name}", OURS, THEIRS),
            ("padding", f"training, {name} half padded", cases.FILLED, OURS),
        } <= bars
    assert {
        ("bandwidth", f"span_dynamic_conv {way}", cases.COPY, OURS) for way in ("forward", "backward")
    } <= bars


def test_bars_are_met_or_missed():
    assert Bar("", "", "", at_most=1.1).is_met(1.1)
    assert not Bar("", "", "", at_most=1.1).is_met(1.2)
    assert Bar("", "", "", at_least=1.5).is_met(1.6)
    assert not Bar("", "", "", at_least=1.5).is_met(1.4)


def test_what_was_measured_is_kept_and_joined(tmp_path):
    def results(threads):
        return Results(
            tmp_path,
            "forward",
            "About.",
            forward.RATIOS,
            {"device": "cpu", "processor": "Abacus", "threads": threads},
        )

    results(2).add(replace(ROW, values={OURS: [9.0]}))
    results(2).add(replace(ROW, case="small 8×128"))
    later = results(2)
    later.add(ROW)
    assert [row.case for row in later.rows] == ["base 8×128", "small 8×128"]
    assert [row.case for row in results(2).rows] == ["base 8×128", "small 8×128"]
    assert results(2).rows[0].values == ROW.values
    assert results(4).rows == []  # another world begins anew
    assert {file.suffix for file in tmp_path.iterdir()} == {".md", ".json"}


def test_an_interruption_keeps_what_is_finished(monkeypatch, tmp_path):
    def measure(case, run):
        if case.name == "small 8×128":
            raise KeyboardInterrupt
        return [ROW]

    monkeypatch.setattr(forward, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        run_part(forward, QUICK, tmp_path, [Case("base", (8, 128)), Case("small", (8, 128))])
    (file,) = tmp_path.glob("*.json")
    assert [row["case"] for row in json.loads(file.read_text(encoding="utf-8"))["rows"]] == ["base 8×128"]


def test_only_chooses_cases(tmp_path):
    results = run_part(forward, replace(QUICK, only="^tiny 1×"), tmp_path, [TINY, Case("tiny", (1, 4))])
    assert [row.case for row in results.rows] == ["tiny 1×4"]


def test_an_unknown_part_is_refused():
    result = command("fordward")
    assert result.exit_code == 2
    assert "no part named fordward" in result.stderr


def test_what_cannot_run_says_why(monkeypatch):
    def missing(model, device):
        raise UnavailableError("no C++ compiler found")

    monkeypatch.setattr(forward, "compiled", missing)
    (row,) = forward.measure(TINY, replace(QUICK, compile=True))
    assert row.notes[cases.COMPILED] == "no C++ compiler found"
    assert not row.was_refused


# -- what the pages show of the results


def write_results(folder, day, part, rows, processor="Abacus(R) Processor"):
    world = {"device": "cpu", "processor": processor, "torch": "2.13.0+cpu", "transformers": "5.23.0"}
    results = Results(folder, part, "", (), world)
    results.stem = results.stem.with_name(results.stem.name.rpartition("_")[0] + f"_{day}")
    results.day = day
    for row in rows:
        results.add(row)


def test_a_result_is_named_after_its_processor(tmp_path):
    write_results(tmp_path, "2026-01-02", "masked_lm", [ROW], "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz")
    assert {path.name for path in tmp_path.iterdir()} == {
        f"masked_lm_intel-xeon-gold-6130_2026-01-02{suffix}" for suffix in (".md", ".json")
    }


def test_table_and_picture_from_small_data(tmp_path):
    other = replace(ROW, case="small 1×32", values={**ROW.values, cases.COMPILED: [1.5, 1.65]})
    write_results(tmp_path, "2026-01-01", "forward", [replace(other, case=ROW.case), other])
    write_results(tmp_path, "2026-01-02", "forward", [ROW])
    write_results(
        tmp_path, "2026-01-01", "forward", [replace(ROW, values={**ROW.values, THEIRS: [9.0, 9.9]})], "Quill"
    )
    page, drawing = tmp_path / "page.md", tmp_path / "speed.svg"
    page.write_text(f"Before.\n{readme.BEGIN}\nold\n{readme.END}\nAfter.\n", encoding="utf-8")
    readme.rewrite(page, drawing, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.\n")
    assert text.endswith("\nAfter.\n")
    assert "old" not in text
    abacus, quill = text.split("### Quill")
    assert "### Abacus\n" in abacus
    assert "| forward pass, base 8×128 | 2.00× | 1.50× (2026-01-01) | 0.80× | 1.05× | 2026-01-02 |" in abacus
    assert "| forward pass, small 1×32 | 2.00× | 1.50× | 0.80× | 1.05× | 2026-01-01 |" in abacus
    assert "| forward pass, base 8×128 | 9.00× |  | 0.80× | 1.05× | 2026-01-01 |" in quill
    bars = [
        (bar.get("class"), float(bar.get("width")))
        for bar in ElementTree.parse(drawing).findall("{*}rect")
        if bar.get("height") == str(readme.BAR_HEIGHT)
    ]
    lengths = [width / bars[0][1] for _, width in bars]
    assert [kind for kind, _ in bars] == ["ours", "theirs", "rival"] * 3
    assert lengths == pytest.approx([1, 2, 0.8, 1, 2, 0.8, 1, 9, 0.8], rel=0.02)


def test_pages_say_what_the_results_say():
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert readme.between_markers().findall(text) == [readme.block(RESULTS)]
    assert (ROOT / "docs/speed.svg").read_text(encoding="utf-8") == readme.picture(RESULTS)


def test_committed_pages_say_what_their_data_say():
    for path in RESULTS.glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        if path.stem.startswith("sentences_"):
            page = sentences.page(data["quality"], data["texts_per_second"], data["world"])
            assert page == path.with_suffix(".md").read_text(encoding="utf-8")
            continue
        part = max((part for part in __main__.PARTS if path.stem.startswith(f"{part}_")), key=len)
        device = data["world"]["device"]
        rows = [Row(**row) for row in data["rows"]]
        table = report.table(part, device, rows, __main__.PARTS[part].RATIOS)
        assert table in path.with_suffix(".md").read_text(encoding="utf-8"), path.name


def test_published_sizes_are_measured():
    assert {case.size for case in cases.forward_cases(CPU)} == set(PUBLISHED)


def test_every_length_has_a_time_and_a_peak_of_all_subjects(monkeypatch):
    monkeypatch.setattr(lengths, "LENGTHS", (8, 16))
    monkeypatch.setattr(lengths, "peaks_of", lambda *_: {"8": 1, "16": 2})
    time, peak = lengths.measure(Case("tiny", (1, 16)), QUICK)
    assert list(time.values) == list(peak.values) == list(lengths.SUBJECTS)
    assert not time.was_refused
    assert set(map(tuple, peak.values.values())) == {(2.0,)}


def test_neighbours_are_busy_and_then_gone():
    with neighbours.busy(2) as processes:
        assert [process.poll() for process in processes] == [None, None]
    assert None not in [process.poll() for process in processes]
    assert [case.neighbours for case in neighbours.cases(CPU)] == [0, 1, 2] * 3


@torch.no_grad()
def test_a_model_in_onnx_runtime_gives_its_states():
    pytest.importorskip("onnxruntime", reason="the extra bench is not installed")
    pytest.importorskip("onnxscript", reason="the extra bench is not installed")
    model, _ = subjects.twins(SIZES["tiny"](num_hidden_layers=1), torch.float32, CPU)
    inputs = Case("tiny", (3, 11), half_padded=True).inputs(CPU)
    (found,) = subjects.onnx_runtime(model, inputs, threads=1)()[:1]
    expected = model(**inputs).last_hidden_state
    real = inputs["attention_mask"].bool()
    assert_close(torch.from_numpy(found)[real], expected[real], torch.float32)
