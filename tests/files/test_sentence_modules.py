"""Which pooling a folder of sentence-transformers asks for."""

import json

import pytest

from convbert.files.sentence_modules import read_sentence_modules, write_sentence_modules
from convbert.util.errors import InputError


def test_what_is_written_is_read(tmp_path):
    assert read_sentence_modules(str(tmp_path)) is None
    write_sentence_modules(tmp_path, 32, 128)
    assert read_sentence_modules(str(tmp_path)) == ("mean", True)


@pytest.mark.parametrize(
    ("config", "how"),
    [
        ({"pooling_mode": "cls"}, "first"),
        ({"pooling_mode": ["max"]}, "max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, None),
        ({"pooling_mode": ["mean", "max"]}, None),
        ({"pooling_mode": "weightedmean"}, None),
        ({}, None),
    ],
)
def test_poolings(config, how, tmp_path):
    write_sentence_modules(tmp_path, 32, 128)
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(config))
    if how is not None:
        assert read_sentence_modules(str(tmp_path)) == (how, True)
    else:
        with pytest.raises(InputError, match="1_Pooling"):
            read_sentence_modules(str(tmp_path))


def test_other_modules_are_refused_by_name(tmp_path):
    write_sentence_modules(tmp_path, 32, 128)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules.append({"type": "sentence_transformers.models.Dense", "path": "3_Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="Dense"):
        read_sentence_modules(str(tmp_path))
