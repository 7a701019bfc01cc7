"""Which texts a corpus gives."""

import pytest

from convbert.distillation.plan import DistillationPlan
from convbert.distillation.texts import read_texts, split_sentences
from convbert.pretraining.corpus.reading import PLAIN


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("It rains. We stay.", ["It rains.", "We stay."]),
        ('He said "No." Then he left!', ['He said "No."', "Then he left!"]),
        ("About 3.5 litres. 12 were lost.", ["About 3.5 litres.", "12 were lost."]),
        ("Why? (Nobody knows.) Well.", ["Why?", "(Nobody knows.)", "Well."]),
        ("e.g. this goes on", ["e.g. this goes on"]),
        ("Él vino. ¿Por qué? Über alles.", ["Él vino.", "¿Por qué?", "Über alles."]),
        ("今日は雨です。明日は晴れです。", ["今日は雨です。", "明日は晴れです。"]),
        ("no mark", ["no mark"]),
    ],
)
def test_a_paragraph_is_cut_into_sentences_and_no_character_is_lost(paragraph, sentences):
    found = list(split_sentences(paragraph))
    assert found == sentences
    assert "".join("".join(found).split()) == "".join(paragraph.split())


def test_every_sentence_comes_once_and_some_paragraphs_whole(tmp_path):
    path = tmp_path / "corpus.txt"
    paragraphs = [f"The {n} cats sat. The dog ran {n} times." for n in range(400)]
    path.write_text("\n".join(paragraphs * 2), encoding="utf-8")
    plan = DistillationPlan(paragraph_share=0.25)
    texts = read_texts(path, plan, PLAIN)
    assert len(set(texts)) == len(texts)
    whole = [text for text in texts if text in paragraphs]
    assert 60 < len(whole) < 140  # 100 of 400 are expected
    assert set(texts) - set(whole) == {sentence for each in paragraphs for sentence in split_sentences(each)}
    assert texts == read_texts(path, plan, PLAIN)
    assert read_texts(path, plan.override(max_texts=50), PLAIN) == texts[:50]
    assert not any(text in paragraphs for text in read_texts(path, plan.override(paragraph_share=0.0), PLAIN))
