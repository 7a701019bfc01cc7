"""Made the files beside this one from the reference runs of the original; needed again only if those change.

    python tests/data/golden/make.py SOURCE

SOURCE holds set_a, set_b and set_d, each with config.json, model.ckpt-N.*, encoder.npz and, for a and b,
pretraining.npz and gradients.npz, for a also optimizer_step.npz.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from convbert.conversion.rename import from_tensorflow
from convbert.conversion.settings import config_from_tensorflow
from convbert.conversion.tensorflow import read_checkpoint

HERE = Path(__file__).parent
# Copies or simple functions of other entries.
REDUNDANT = {
    "encoder.npz": {
        "sequence_output",
        "pooled_output",
        "generator_sequence_output",
        "generator_pooled_output",
    },
    "pretraining.npz": {
        "input_ids",
        "sampled_ids",
        "mlm_preds",
        "disc_probs",
        "disc_preds",
        "disc_sequence_output",
        "gen_sequence_output",
    },
    "gradients.npz": set(),
}
# The optimiser's step is stored for this one; its moments before the step stand in the checkpoint alone.
WITH_OPTIMIZER_STEP = "set_a"
# This one is kept as TensorFlow wrote it, too, for the tests of the reader.
KEPT_AS_TENSORFLOW = "set_b"


def main(source: Path) -> None:
    for folder in sorted(source.glob("set_*")):
        target = HERE / folder.name
        target.mkdir(exist_ok=True)
        _convert_weights(folder, target)
        for name, redundant in REDUNDANT.items():
            if (folder / name).exists():
                arrays = np.load(folder / name, allow_pickle=False)
                kept = {key: arrays[key] for key in arrays.files if key not in redundant}
                np.savez_compressed(target / name, **kept)
        if folder.name == WITH_OPTIMIZER_STEP:
            _store_optimizer_step(folder, target)
        for file in folder.glob("model.ckpt-*"):
            # An index holds the checksum of every tensor.
            if file.suffix == ".index" or folder.name == KEPT_AS_TENSORFLOW:
                shutil.copyfile(file, target / file.name)


def _store_optimizer_step(folder: Path, target: Path) -> None:
    step = dict(np.load(folder / "optimizer_step.npz", allow_pickle=False))
    (index,) = folder.glob("model.ckpt-*.index")
    before = read_checkpoint(index)
    variables = [name.removeprefix("after/") for name in step if name.startswith("after/")]
    for variable in variables:
        if "/adam_" not in variable:
            for slot in ("adam_m", "adam_v"):
                step[f"before/{variable}/{slot}"] = before[f"{variable}/{slot}"]
    np.savez_compressed(target / "optimizer_step.npz", **step)


def _convert_weights(folder: Path, target: Path) -> None:
    (index,) = folder.glob("model.ckpt-*.index")
    tensors = read_checkpoint(index)
    settings = json.loads((folder / "config.json").read_text())
    (target / "original_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    for part in ("discriminator", "generator"):
        config = config_from_tensorflow(settings, part)
        config.save_pretrained(target / part)
        save_file(from_tensorflow(tensors, part), target / part / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
