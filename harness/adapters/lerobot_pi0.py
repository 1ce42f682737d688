"""lerobot's π0, of both ages: SigLIP and Gemma read pictures and words once, a second Gemma denoises a chunk of actions.

Stacks: `vision`, `projector` (all cameras one after the other), `lm` (pictures, then words; the prefill), `expert` (the state,
then the actions; one pass for every denoise step). The state reaches the expert only.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from harness.adapters._base import Anatomy, Norm
from harness.adapters._denoise_points import upstream_names
from harness.adapters._lerobot_config import ACTION, STATE, PI0Config
from harness.adapters._lerobot_image import from_uint8, prepare
from harness.adapters._lerobot_inputs import TOKEN_MASK, TOKENS, clock, fit, noise_of, own_cameras, padded_state
from harness.adapters._lerobot_network import PI0, additive
from harness.adapters._lerobot_norm import ScaledRMSNorm
from harness.adapters._lerobot_points import pi0_clauses, token_maps
from harness.adapters._lerobot_prompt import PAD, prompt_ids
from harness.adapters._lerobot_statistics import Statistics
from harness.adapters._lerobot_weights import Loaded, build, build_random, card_config, load, published_shapes, stored_state
from harness.adapters._torch import Capture
from harness.adapters._transformer import TransformerAdapter
from harness.errors import MissingError, UnknownNameError, UsageError
from harness.types import Batch, Clause, Point, Runtime, Sample, Subject

__all__ = ["LerobotPI0"]

CAMERAS = ("primary", "wrist")


@final
class LerobotPI0(TransformerAdapter):
    """Every forward predicts a whole chunk; `reset` and `step` are the queue of actions that a robot is given one by one."""

    inputs_used = ("images", "instruction", "state")
    inputs_late = {"state": "expert"}
    model: PI0

    def __init__(self, subject: Subject, runtime: Runtime, loaded: Loaded) -> None:
        self._statistics, self._queue, self._warned = loaded.statistics, deque[Tensor](), False
        config = loaded.model.config
        self._config: PI0Config = config
        named = subject.options.get("cameras")
        self._cameras = tuple(named if named is not None else CAMERAS[: len(config.slots)])
        if len(self._cameras) > len(config.slots) or not self._cameras:
            expected = f"1 to {len(config.slots)}, for the model's {', '.join(config.slots)}"
            raise UsageError("options.cameras do not fit the model's cameras", where=subject.id, got=", ".join(self._cameras), expected=expected)
        shown = len(self._cameras) + config.absent(len(self._cameras))
        super().__init__(subject, runtime, loaded.model, pi0_clauses(config, cameras=shown, steps=config.steps))

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        return config.get("type") == "pi0"

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        shapes, ignored = published_shapes(directory)
        parts = {"vision": r".*(vision_tower|multi_modal_projector)\.", "language": r".*with_expert\.paligemma\.", "action expert": ".*"}
        return Anatomy(shapes, parts, ignored)

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> LerobotPI0:
        """Raises DamagedError or MissingError for a checkpoint that is not whole or of another layout, before anything is computed."""
        directory, options = subject.weights.directory, {"dtype": getattr(torch, runtime.dtype), "attention": runtime.attention}
        if directory is not None:
            return cls(subject, runtime, load(directory, device=runtime.device, **options))
        config = card_config(subject.config, f"card {subject.model}")
        if subject.weights.kind == "meta":
            return cls(subject, runtime, Loaded(build(config, **options), Statistics()))
        return cls(subject, runtime, Loaded(build_random(config, seed=subject.weights.seed or 0, device=runtime.device, **options), Statistics()))

    @property
    def cameras(self) -> tuple[str, ...]:
        return self._cameras

    @property
    def state_width(self) -> int | None:
        return self._config.state_width

    @property
    def prompt_limit(self) -> int:
        return self._config.max_tokens

    @property
    def picture_size(self) -> tuple[int, int]:
        side = self._config.sizes.vision.image
        return side, side

    def pictures(self, sample: Sample) -> list[np.ndarray]:
        """A sample's pictures in the order of the model's slots; the checkpoint's own names of cameras, where it has them, come first."""
        return own_cameras(sample, self._config) or super().pictures(sample)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Every sample with the same noise, its absent cameras masked, its state normalised where the checkpoint has statistics."""
        self.require(samples)
        shown = [self.pictures(sample) for sample in samples]
        if len({*map(len, shown)}) > 1:
            got = [len(one) for one in shown]
            raise UsageError("samples of one batch have the same cameras", where=self.subject.id, got=got, expected="one number")
        views = [torch.cat([*map(self._prepared, view)]) for view in zip(*shown, strict=True)]
        folder, vocabulary, most = self.subject.weights.directory, self._config.sizes.vocabulary, self._config.max_tokens
        ids = [prompt_ids(sample.instruction, folder, vocabulary=vocabulary, most=most) for sample in samples]
        tokens = torch.tensor([row + [PAD] * (most - len(row)) for row in ids])
        mask = torch.arange(most) < torch.tensor([len(row) for row in ids])[:, None]
        states = torch.cat([self._state(sample) for sample in samples])
        return self._batch(views, tokens, mask, states, self._noise(len(samples)), self._config.steps, [sample.id for sample in samples])

    def batch(self, inputs: Mapping[str, Tensor], sample_ids: Sequence[str] | None = None) -> Batch:
        """A batch of what a lerobot policy is called with: `observation.images.*` (n, 3, h, w) in [0, 1], `observation.language.tokens`
        and `.attention_mask` (n, l), `observation.state` (n, w), and `noise` (n, h, a) and `num_steps` if not the model's own.

        The old layout normalises the state itself; the new one receives it normalised. Cameras that are not there come last, masked.
        """
        inputs = fit(inputs, self._config, where=self.subject.id)
        side, old = self._config.resolution, self._config.old
        views = [prepare(inputs[name], side=side, old=old) for name in self._config.image_keys if name in inputs]
        tokens, mask = inputs[TOKENS].long(), inputs[TOKEN_MASK].bool()
        state = padded_state(inputs[STATE], self._config, self._normalise if old else None, self.subject.id)
        noise = inputs["noise"].float() if "noise" in inputs else self._noise(len(tokens))
        steps = int(inputs.get("num_steps", torch.tensor(self._config.steps)))
        return self._batch(views, tokens, mask, state, noise, steps, list(sample_ids or map(str, range(len(tokens)))))

    def _prepared(self, picture: np.ndarray) -> Tensor:
        pixels = from_uint8(torch.from_numpy(np.array(picture)))
        return prepare(pixels, side=self._config.resolution, old=self._config.old)

    def _state(self, sample: Sample) -> Tensor:
        if sample.state is None:
            return torch.full((1, self._config.max_state), torch.nan)
        state = torch.as_tensor(np.asarray(sample.state, np.float32))[None]
        return padded_state(state, self._config, self._normalise, f"{self.subject.id}, sample {sample.id!r}")

    def _noise(self, rows: int) -> Tensor:
        return noise_of(int(self.subject.options.get("noise_seed", 0)), rows, self._config)

    def _normalise(self, state: Tensor) -> Tensor:
        if STATE not in self._statistics.known and self.subject.weights.directory is not None and not self._warned:
            warnings.warn(f"{self.subject.id} has no statistics: the state is taken as already normalised", stacklevel=4)
            self._warned = True
        return state if self._statistics.state is None else self._statistics.state.normalise(state)

    def _batch(self, views: list[Tensor], tokens: Tensor, mask: Tensor, state: Tensor, noise: Tensor, steps: int, ids: Sequence[str]) -> Batch:
        config, vision = self._config, self._config.sizes.vision
        if any(view.shape[2:] != (vision.image, vision.image) for view in views):
            got = [tuple(view.shape[2:]) for view in views]
            raise UsageError("pictures do not fit the vision tower", where=self.subject.id, got=got, expected=(vision.image, vision.image))
        absent = config.absent(len(views))
        pixels = torch.stack([*views, *[torch.full_like(views[0], -1.0)] * absent], dim=1)
        shown = (torch.arange(pixels.shape[1]) < len(views)).expand(len(pixels), -1)
        maps = token_maps(shown, mask, patches=(vision.image // vision.patch) ** 2, horizon=config.horizon)
        inputs = {"pixel_values": pixels, "image_mask": shown, "tokens": tokens, "token_mask": mask, "state": state, "noise": noise}
        inputs["time"] = clock(steps, old=config.old)
        device = self.model.state_proj.weight.device
        return Batch(tuple(ids), {name: value.to(device) for name, value in inputs.items()}, maps)

    def call(self, batch: Batch) -> dict[str, Tensor]:
        return self.model(**batch.inputs)

    def clauses_of(self, batch: Batch, points: Iterable[Point]) -> dict[Point, Clause]:
        clauses = pi0_clauses(self._config, cameras=batch.inputs["pixel_values"].shape[1], steps=self._config.steps)
        return {point: clauses[point] for point in map(self.resolve, points)}

    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        if stack == "vision":
            return self.model.vision_tower, {"pixel_values": batch.inputs["pixel_values"].flatten(0, 1)}
        if stack != "lm":
            raise UnknownNameError("stack with a framework tuple", stack, ["lm", "vision"])
        names = ("pixel_values", "image_mask", "tokens", "token_mask")
        with torch.no_grad():
            prefix = self.model.prefix(*(batch.inputs[name] for name in names))
        mask = additive(prefix.attention, prefix.embedding.dtype)
        inputs = {"inputs_embeds": prefix.embedding, "attention_mask": mask, "position_ids": prefix.positions, "use_cache": False}
        return self.model.language_model, inputs

    def final_norm(self, point: Point) -> Norm:
        module = self.model.get_submodule(self.clauses[point].module)
        return Norm("rms", 1.0 + module.weight.float(), None, module.eps) if isinstance(module, ScaledRMSNorm) else super().final_norm(point)

    def upstream(self, inputs: Mapping[str, object]) -> dict[str, Tensor]:
        """All names of the packs, from one forward under capture; `actions` are the model's own numbers."""
        batch = self.batch({name: torch.as_tensor(np.asarray(value)) for name, value in inputs.items()})
        every = pi0_clauses(self._config, cameras=1, steps=len(batch.inputs["time"]))  # a batch may ask for another number of steps
        clauses = {point: clause for point, clause in every.items() if point.stack in ("lm", "expert")}
        with torch.no_grad(), Capture(self.model, clauses) as captured:
            named = self.call(batch)
        for step, time in enumerate(batch.inputs["time"]):
            named |= {f"expert1.t{step}.{name}": named.pop(f"{name}.{step:02d}") for name in ("velocity", "x_t")} | {f"expert1.t{step}.time": time}
        named |= upstream_names(captured.values)
        mask = named["prefix.pad_mask"][:, :, None]
        for name in ("expert0.final_norm.input", "expert0.final_norm.output"):
            named[f"{name}.masked_mean"] = (named[name] * mask).sum(1) / mask.sum(1)
        for index in range(batch.inputs["image_mask"].shape[1]):
            named[f"preprocessed.image.{index}"] = batch.inputs["pixel_values"][:, index]
            named[f"preprocessed.image_mask.{index}"] = batch.inputs["image_mask"][:, index]
        named["normalized.observation.state"] = batch.inputs["state"][:, : np.asarray(inputs[STATE]).shape[1]]
        return named | {"actions_unpadded": named["actions"][..., : self._config.action_width]}

    def reset(self) -> None:
        """Forgets the queued actions: the next `step` runs the model."""
        self._queue.clear()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The next `action` (n, a) of the queue; the model runs, on this batch, only when the queue is empty.

        As upstream's `select_action`: the old layout's action is in the dataset's units, the new one's still normalised.
        """
        if not self._queue:
            actions = self.forward(batch)["actions"][..., : self._config.action_width]
            if self._config.old and self._statistics.action is not None:
                actions = self._statistics.action.restore(actions.cpu())
            self._queue.extend(actions[:, : self._config.n_action_steps].transpose(0, 1))
        return {"action": self._queue.popleft()}

    def act(self, samples: Sequence[Sample]) -> np.ndarray:
        """The whole chunk predicted for each sample on its own, (n, horizon, a), in the units of its dataset.

        Raises MissingError without the dataset's statistics, UsageError for actions relative to the state.
        """
        if ACTION not in self._statistics.known:
            expected = "policy_postprocessor.json and the file it names, or the old layout's buffers"
            raise MissingError("there are no statistics to give actions their units", where=self.subject.id, expected=expected)
        if self._config.relative_actions:
            what = "this model predicts actions relative to the state, which are not resolved here"
            raise UsageError(what, where=self.subject.id, got="use_relative_actions", expected="absolute actions")
        chunks = [self.forward(self.encode([sample]))["actions"][..., : self._config.action_width].cpu() for sample in samples]
        scaling = self._statistics.action
        return np.concatenate([(chunk if scaling is None else scaling.restore(chunk)).numpy() for chunk in chunks])

    def published_state(self) -> dict[str, Tensor]:
        return stored_state(self.subject.weights.directory)
