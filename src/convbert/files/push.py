"""A model folder to the Hub: what would go, and the going."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbert.files.card import CARD, with_facts
from convbert.files.hub import is_reachable
from convbert.util.errors import InputError

_WEIGHTS = ("*.safetensors", "onnx/*.onnx", "*.xml")


@dataclass(frozen=True)
class Upload:
    """What goes to a repository of the Hub.

    Attributes:
        files: name in the repository to the file.
        card: the text of its README.md.
    """

    repository: str
    files: dict[str, Path]
    card: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file, the card among them."""
        sizes = {name: path.stat().st_size for name, path in self.files.items()}
        return {CARD: len(self.card.encode())} | sizes


def plan_upload(folder: Path, repository: str, facts: Mapping[str, Any]) -> Upload:
    """What would go to `repository`: all files but hidden ones, and the card with `facts` in its head.

    Raises:
        InputError: no weights in the folder, or a name that the Hub does not allow.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{repository}: is no name for the Hub: {error}") from error
    if not any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        raise InputError(f"{folder}: holds no weights that could be pushed")
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {
        name.as_posix(): path
        for name, path in found.items()
        if name.as_posix() != CARD and not any(part.startswith(".") for part in name.parts)
    }
    return Upload(repository, files, with_facts(folder, facts))


def push(upload: Upload, *, private: bool = False, api: Any = None) -> str:
    """Make the repository where it is missing, and send everything in one commit, which is there whole or not at all.

    Args:
        api: in place of `huggingface_hub.HfApi()`.

    Returns:
        The address of the repository.

    Raises:
        InputError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if api is None and not is_reachable():
        raise InputError(f"{upload.repository}: cannot be pushed: {constants.ENDPOINT} cannot be reached")
    api = HfApi() if api is None else api
    sent: dict[str, Path | bytes] = {CARD: upload.card.encode(), **upload.files}
    try:
        made = api.create_repo(upload.repository, private=private or None, exist_ok=True)
        api.create_commit(
            made.repo_id,
            [CommitOperationAdd(name, content) for name, content in sent.items()],
            commit_message="Upload by convbert push",
        )
    except Exception as error:
        is_network = type(error).__module__.startswith("httpx")
        if not is_network and not isinstance(
            error, (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled)
        ):
            raise
        said = " ".join(str(error).split())
        raise InputError(
            f"{upload.repository}: the Hub refuses or cannot be reached ({said}); `hf auth login` logs in with a "
            "token that may write"
        ) from error
    return str(made)
