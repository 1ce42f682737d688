"""π0 as transformers has it: SigLIP and Gemma read pictures and words once, a second Gemma denoises a chunk of actions.

Stacks: `vision`, `projector` (all cameras one after the other), `lm` (image tokens, then words; the prefill), `expert` (the state,
then the actions; one pass for every denoise step). Cameras that a sample does not show have no token in the sequence.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PI0ForConditionalGeneration

from harness.adapters._base import Anatomy, Norm
from harness.adapters._denoise_points import upstream_names
from harness.adapters._lerobot_prompt import prompt_ids
from harness.adapters._pi0_inputs import PREPROCESSING, Processor, fitted
from harness.adapters._pi0_points import pi0_clauses, token_maps
from harness.adapters._pi0_weights import build, build_random, config_of, load, published_shapes, published_state
from harness.adapters._torch import Capture
from harness.adapters._transformer import TransformerAdapter
from harness.errors import MissingError, UnknownNameError, UsageError
from harness.types import Batch, Clause, Point, Runtime, Sample, Subject

__all__ = ["PI0"]

CAMERAS = ("primary", "wrist")
SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")  # what the published weights were trained with
PAD = 0


@final
class PI0(TransformerAdapter):
    """Every forward predicts a whole chunk from the same noise for every sample; nothing is carried from one to the next."""

    inputs_used = ("images", "instruction", "state")
    inputs_late = {"state": "expert"}
    model: PI0ForConditionalGeneration

    def __init__(self, subject: Subject, runtime: Runtime, model: PI0ForConditionalGeneration) -> None:
        self._processor = Processor.read(subject.weights.directory)
        self._cameras = tuple(subject.options.get("cameras", CAMERAS))
        if not 0 < len(self._cameras) <= len(SLOTS):
            expected = f"1 to {len(SLOTS)}, for {', '.join(SLOTS)}"
            raise UsageError("options.cameras do not fit the model's cameras", where=subject.id, got=", ".join(self._cameras), expected=expected)
        super().__init__(subject, runtime, model, pi0_clauses(model.config, cameras=len(self._cameras), steps=model.config.num_inference_steps))

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        return config.get("model_type") == "pi0"

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        parts = {"vision": r".*(vision_tower|multi_modal_projector)\.", "language": r".*(model\.vlm|with_expert\.paligemma)\.", "action expert": ".*"}
        return Anatomy(published_shapes(directory), parts)

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> PI0:
        """Raises DamagedError or MissingError for a checkpoint that is not whole or of another layout, before anything is computed."""
        directory, options = subject.weights.directory, {"dtype": getattr(torch, runtime.dtype), "attention": runtime.attention}
        if directory is not None:
            return cls(subject, runtime, load(directory, device=runtime.device, **options))
        config = config_of(subject.config, f"card {subject.model}")
        if subject.weights.kind == "meta":
            return cls(subject, runtime, build(config, **options))
        return cls(subject, runtime, build_random(config, seed=subject.weights.seed or 0, device=runtime.device, **options))

    @property
    def cameras(self) -> tuple[str, ...]:
        return self._cameras

    @property
    def state_width(self) -> int | None:
        """The dataset's, where the checkpoint has statistics; else the model's, which takes any up to it."""
        return self.model.config.max_state_dim if self._processor.state is None else len(self._processor.state[0])

    @property
    def prompt_limit(self) -> int | None:
        """Card option `max_token_len`, or the saved processor's length, or its default."""
        return int(self.subject.options.get("max_token_len", self._processor.prompt))

    @property
    def picture_size(self) -> tuple[int, int] | None:
        return (self.model.config.vlm_config.vision_config.image_size,) * 2

    def pictures(self, sample: Sample) -> list[np.ndarray]:
        """A sample's pictures in the order of the model's slots; a sample with the slots' own names is taken by those."""
        if sample.images and {*sample.images} <= {*SLOTS}:
            return [sample.images[name] for name in SLOTS if name in sample.images]
        return super().pictures(sample)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Image tokens of the shown cameras, then the prompt, padded on the right to the longest that the model reads."""
        self.require(samples)
        vision, text = self.model.config.vlm_config.vision_config, self.model.config.vlm_config.text_config
        style, most = self.subject.options.get("preprocessing", "pi0"), self.prompt_limit
        if style not in PREPROCESSING:
            raise UnknownNameError("preprocessing", style, PREPROCESSING, where=f"card {self.subject.model}, field options.preprocessing")
        shown = [self.pictures(sample) for sample in samples]
        if len({*map(len, shown)}) > 1:
            raise UsageError("samples of one batch have the same cameras", where=self.subject.id, got=[len(one) for one in shown], expected="one number")
        pixels = torch.stack([torch.stack([PREPROCESSING[style](picture, vision.image_size) for picture in one]) for one in shown])
        prompts = [prompt_ids(sample.instruction, self.subject.weights.directory, vocabulary=text.vocab_size, most=most) for sample in samples]
        image = [self.model.config.vlm_config.image_token_index] * (pixels.shape[1] * self.patches)
        ids = torch.tensor([[*image, *prompt, *[PAD] * (most - len(prompt))] for prompt in prompts])
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(image) + len(prompt) for prompt in prompts])[:, None]
        state = torch.from_numpy(np.stack([self._state(sample) for sample in samples]))
        return self.batch({"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "state": state}, [sample.id for sample in samples])

    def batch(self, inputs: Mapping[str, object], sample_ids: Sequence[str] | None = None) -> Batch:
        """A batch of what transformers' processor gives: `input_ids`, `attention_mask` (n, t), `pixel_values` (n, c, 3, s, s),
        `pixel_attention_mask` (n, c), normalised `state` (n, w), and `noise` (n, h, a) and `num_steps` if not the model's own.
        """
        config, given = self.model.config, fitted(inputs, self.model.config, where=self.subject.id)
        rows, shown = len(given["input_ids"]), given["pixel_attention_mask"].cpu()
        image, valid = (given["input_ids"] == config.vlm_config.image_token_index).cpu(), given["attention_mask"].bool().cpu()
        maps = token_maps(image, valid, shown, patches=self.patches, horizon=config.chunk_size)
        given = {"noise": self._noise(rows), "num_steps": torch.tensor(config.num_inference_steps), **given}
        like = self.model.action_out_proj.weight
        placed = {name: value.to(like.device, like.dtype) if value.is_floating_point() else value.to(like.device) for name, value in given.items()}
        placed["num_steps"] = given["num_steps"].cpu()  # a number, which no shape of an abstract model could tell
        return Batch(tuple(sample_ids or map(str, range(rows))), placed, maps)

    @property
    def patches(self) -> int:
        """Image tokens of one camera."""
        vision = self.model.config.vlm_config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    def _noise(self, rows: int) -> Tensor:
        config, seed = self.model.config, int(self.subject.options.get("noise_seed", 0))
        one = np.random.default_rng(seed).standard_normal((config.chunk_size, config.max_action_dim), dtype=np.float32)
        return torch.from_numpy(one).expand(rows, -1, -1)

    def _state(self, sample: Sample) -> np.ndarray:
        if sample.state is None:
            return np.full(self.model.config.max_state_dim, np.nan, np.float32)
        state, most = np.asarray(sample.state, np.float64).reshape(-1), self.model.config.max_state_dim
        exact = None if self._processor.state is None else len(self._processor.state[0])
        if len(state) != (exact or len(state)) or not len(state) <= most:
            what, expected = "the robot state has another width than this model's dataset", exact or f"at most {most}"
            raise UsageError(what, where=f"sample {sample.id!r}", got=len(state), expected=expected)
        if exact is None and self.subject.weights.directory is not None:
            warnings.warn(f"{self.subject.id} has no statistics: the state is taken as already normalised", stacklevel=3)
        return np.pad(self._processor.normalised(state), (0, most - len(state))).astype(np.float32)

    def call(self, batch: Batch) -> dict[str, Tensor]:
        """The model's own modules in the order of its `sample_actions`, step by step, so that each step's velocity can be named."""
        given, core, steps = batch.inputs, self.model.model, int(batch.inputs["num_steps"])
        prefix = core.embed_prefix(given["input_ids"], given["pixel_values"], given["pixel_attention_mask"])
        cache = core.vlm(**self._prefill(batch, prefix), use_cache=True).past_key_values
        length, x, named = cache.get_seq_length(), given["noise"], {"prefix.embedding": prefix}
        for step in range(steps):
            time = torch.full((len(x),), 1.0 + step * (-1.0 / steps), dtype=torch.float32, device=x.device)
            masks = {name: given[name] for name in ("attention_mask", "pixel_attention_mask")}
            velocity = self.model(state=given["state"], noise=x, timestep=time, past_key_values=cache, **masks).logits
            cache.crop(length - cache.get_seq_length())
            named |= {f"x_t.{step:02d}": x, f"velocity.{step:02d}": velocity}
            x = x + (-1.0 / steps) * velocity
        return named | {"actions": x}

    def _prefill(self, batch: Batch, prefix: Tensor) -> dict[str, Tensor]:
        """Attention in the prefix is full: one block of tokens, padding left out and taking no position."""
        mask = batch.inputs["attention_mask"]
        return {"inputs_embeds": prefix, "attention_mask": mask, "position_ids": mask.cumsum(-1) - 1, "token_type_ids": torch.zeros_like(prefix)[:, :, 0]}

    def clauses_of(self, batch: Batch, points: Iterable[Point]) -> dict[Point, Clause]:
        clauses = pi0_clauses(self.model.config, cameras=batch.inputs["pixel_values"].shape[1], steps=int(batch.inputs["num_steps"]))
        return {point: clauses[point] for point in map(self.resolve, points)}

    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        core, given = self.model.model, batch.inputs
        if stack == "vision":
            return core.vlm.vision_tower, {"pixel_values": given["pixel_values"].flatten(0, 1)}
        if stack != "lm":
            raise UnknownNameError("stack with a framework tuple", stack, ["lm", "vision"])
        with torch.no_grad():
            prefix = core.embed_prefix(given["input_ids"], given["pixel_values"], given["pixel_attention_mask"])
        return core.vlm, {**self._prefill(batch, prefix), "use_cache": False}

    def final_norm(self, point: Point) -> Norm:
        module = self.model.get_submodule(self.clauses[point].module)
        return super().final_norm(point) if isinstance(module, nn.LayerNorm) else Norm("rms", 1.0 + module.weight.float(), None, module.eps)

    def upstream(self, inputs: Mapping[str, object]) -> dict[str, Tensor]:
        """Points and outputs of one forward, named like the packs of lerobot and openpi."""
        batch = self.batch(inputs)
        with torch.no_grad(), Capture(self.model, self.clauses_of(batch, self.clauses)) as captured:
            named = self.call(batch)
        for step in range(steps := int(batch.inputs["num_steps"])):
            named |= {f"expert1.t{step}.{name}": named.pop(f"{name}.{step:02d}") for name in ("velocity", "x_t")}
            named[f"expert1.t{step}.time"] = torch.tensor(1.0 - step / steps)
        mask = batch.inputs["attention_mask"].bool()
        return named | upstream_names(captured.values) | {"prefix.pad_mask": mask, "prefix.positions": mask.long().cumsum(-1) - 1}

    def act(self, samples: Sequence[Sample]) -> np.ndarray:
        """The chunk of actions (n, horizon, a) of every sample, each on its own, in the units of the dataset; no noise but the fixed one.

        Raises MissingError where the checkpoint has no statistics of actions.
        """
        if self._processor.actions is None:
            next = "add actions_mean and actions_std of the dataset to processor_config.json"
            raise MissingError("the actions have no units without the dataset's statistics", where=self.subject.weights.directory or self.subject.id, next=next)
        return np.concatenate([self._processor.unnormalised(self.forward(self.encode([sample]))["actions"].float().cpu().numpy()) for sample in samples])

    def published_state(self) -> dict[str, Tensor]:
        return published_state(self.subject.weights.directory, dtype=torch.float32)
