"""The house stays as it was drawn: arrows point one way, importing is light, the public names are these."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convbert

PACKAGE = Path(convbert.__file__).parent

# A room may import from lower floors and from itself; rooms on one floor never import each other.
FLOORS = [
    {"util"},
    {"files", "ops", "report"},
    {"configuration", "layers", "tokenization"},
    {"model"},
    {"inference", "training"},
    {"pretraining", "finetuning", "conversion", "export", "serving", "auto"},
    {"distillation", "bulk"},
    {"cli"},
    {"__init__", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PUBLIC_NAMES = {
    "ConvBertConfig",
    "ConvBertForMaskedLM",
    "ConvBertForMultipleChoice",
    "ConvBertForPreTraining",
    "ConvBertForQuestionAnswering",
    "ConvBertForSequenceClassification",
    "ConvBertForTokenClassification",
    "ConvBertModel",
    "ConvBertPreTrainedModel",
    "ConvBertTokenizer",
    "ConvBertTokenizerFast",
    "InputError",
    "__version__",
    "add_auto_map",
    "load",
    "pipeline",
    "register_auto_classes",
}
EXTRA_MODULES = (
    *("datasets", "accelerate", "matplotlib", "pandas", "pyarrow", "sklearn", "scipy", "peft"),
    "sentence_transformers",
    *(
        "onnx",
        "onnxruntime",
        "onnxscript",
        "openvino",
        "fastapi",
        "starlette",
        "uvicorn",
        "prometheus_client",
    ),
)
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(file: Path) -> list[str]:
    """Every module named in an import, wherever in the file it stands."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_every_room_has_a_floor():
    assert {room_of(file) for file in FILES} == set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_arrows_point_down(file):
    room = room_of(file)
    for name in imports_of(file):
        parts = name.split(".")
        if parts[0] != "convbert" or len(parts) < 2:
            continue
        other = parts[1] if parts[1] in FLOOR else "__init__"
        if other == "__init__":  # a public name of the package itself: its version
            assert parts[1] in PUBLIC_NAMES, f"{file} imports {name}"
            continue
        assert other == room or FLOOR[other] < FLOOR[room], f"{room} must not import {other}"


@pytest.mark.parametrize("room", ["ops", "layers"])
def test_ops_and_layers_import_torch_alone(room):
    allowed = {"torch", "convbert", "__future__", *sys.stdlib_module_names}
    # Imported when a tensor on a GPU first meets an op, and not before.
    lazily = {"gpu.py": {"triton", "flash_attn"}}
    for file in (PACKAGE / room).rglob("*.py"):
        names = {name.split(".")[0] for name in imports_of(file)}
        assert names <= allowed | lazily.get(file.name, set()), file


def test_ops_run_without_triton():
    program = (
        "import sys\n"
        "sys.modules['triton'] = sys.modules['flash_attn'] = None\n"
        "import torch, convbert.ops\n"
        "value = torch.ones(1, 4, 2, 3, requires_grad=True)\n"
        "convbert.ops.span_dynamic_conv(value, value, backend='fast').sum().backward()\n"
        "convbert.ops.depthwise_conv(torch.ones(1, 4, 2), torch.ones(2, 1, 3), backend='fast')\n"
        "convbert.ops.attention(value, value, value)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_transformers_convbert_is_only_an_oracle():
    for file in FILES:
        assert not any("models.convbert" in name for name in imports_of(file)), file


def test_nothing_is_unpickled():
    """Tensors alone are read from the files of `torch.save`."""
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        assert not names & {"pickle.load", "pickle.loads", "Unpickler"}, file
        for call in calls:
            if ast.unparse(call.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(call), file


def test_public_names():
    assert set(convbert.__all__) == PUBLIC_NAMES
    assert all(getattr(convbert, name) is not None for name in PUBLIC_NAMES)


def test_bare_import_is_light_and_has_no_side_effect():
    program = (
        "import sys, convbert; "
        "heavy = {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_module_imports_without_the_extras():
    """Only the core dependencies: the extras are asked for when a feature needs them.

    The routes of the server are FastAPI from top to bottom, and `convbert serve` asks for it first.
    """
    of_the_server = {"app.py", "batching.py", "errors.py", "gate.py", "meters.py"}
    modules = [
        ".".join(("convbert", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for file in FILES
        if file.name not in ("__main__.py", "gpu.py")
        and not (room_of(file) == "serving" and file.name in of_the_server)
    ]
    program = (
        "import sys, importlib\n"
        f"for name in {EXTRA_MODULES}: sys.modules[name] = None\n"
        f"for name in {modules}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
