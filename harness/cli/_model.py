"""Which subject `--model_path` means: a card's MODEL:SCALE, a folder with a checkpoint, or a published repository."""

from __future__ import annotations

from pathlib import Path

from harness.errors import MissingError, UnknownNameError, UsageError
from harness.types import Subject

__all__ = ["find_subject"]

MOCK = "openvla:mock"


def find_subject(text: str, *, checkpoint: Path | None = None, test_mode: bool = False) -> Subject:
    """The subject that the user means; in test mode tiny random weights of the same model, or of OpenVLA for a made-up name.

    Raises UnknownNameError, UsageError, MissingError with the command that fetches a published checkpoint.
    """
    from harness import subjects
    from harness.cards import model_cards

    cards = model_cards()
    named = next((card for card in cards.values() if card.name == text.partition(":")[0] or any(scale.repo == text for scale in card.scales.values())), None)
    if test_mode:
        return subjects.resolve(f"{named.name}:mock" if named and "mock" in named.scales else MOCK)
    if text in subjects.subject_ids() or (":" in text and not Path(text).exists()):
        return subjects.resolve(text, checkpoint=checkpoint)
    if named is not None and text in {scale.repo for scale in named.scales.values()}:
        return subjects.resolve(f"{named.name}:checkpoint", checkpoint=checkpoint or _downloaded(text))
    if not Path(text).is_dir():
        repos = [scale.repo for card in cards.values() for scale in card.scales.values() if scale.repo]
        next_command = "name a folder with a checkpoint, a MODEL:SCALE, or a published repository of a card"
        raise UnknownNameError("model", text, [*subjects.subject_ids(), *repos], next=next_command)
    return subjects.resolve(f"{_model_of(Path(text))}:checkpoint", checkpoint=Path(text))


def _downloaded(repo: str) -> Path:
    """The folder of a published repository in the hub's cache. Raises MissingError with the command that fetches it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError as error:
        next = f"harness download {repo}, or --model_path DIRECTORY where it lies already"
        raise MissingError("this published checkpoint is not on this machine", where=repo, next=next) from error


def _model_of(directory: Path) -> str:
    """The one card whose family recognises a checkpoint folder. Raises UsageError when none does or several do."""
    from harness import inspection
    from harness.cards import model_cards

    family = inspection.inspect(directory).family
    fitting = [card.name for card in model_cards().values() if card.family == family and "checkpoint" in card.scales and card.scales["checkpoint"].path is None]
    if len(fitting) != 1:
        what = "several models' cards fit this checkpoint" if fitting else "no model's card fits this checkpoint"
        next = f"harness extract {fitting[0] if fitting else 'MODEL'}:checkpoint --checkpoint {directory} …"
        raise UsageError(what, where=directory, got=f"family {family}: {', '.join(fitting) or 'none'}", expected="one", next=next)
    return fitting[0]
