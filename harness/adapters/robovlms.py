"""RoboVLMs on Kosmos-2: learned action tokens read by a recurrent policy head, in the published checkpoint format.

Stacks and their sequences: `vision` (class token and patches of the static picture), `projector` (its latents), the same with
`_hand` for a second camera, `lm` ([bos][hand][static] text [action][last]) and `act_head` (the action tokens: document 003's
context vector, `action_hs`, is `act_head.input`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.adapters._base import Anatomy
from harness.adapters._robovlms import Context, RoboVLM
from harness.adapters._robovlms_config import RoboVLMConfig
from harness.adapters._robovlms_head import HeadOutput
from harness.adapters._robovlms_image import preprocess
from harness.adapters._robovlms_layout import layout
from harness.adapters._robovlms_weights import IGNORED, build, build_random, load, native_name, published_shapes, stored_state, vlm_folder
from harness.adapters._transformer import TransformerAdapter, right_padded, stack_clauses
from harness.adapters._words import word_ids
from harness.errors import MissingError, UnknownNameError, UsageError
from harness.types import Batch, Clause, Point, Runtime, Sample, Subject, TokenMap

__all__ = ["RoboVLMs"]

PROMPT = "<grounding>An image of a robot {}"  # robovlms/data/data_utils.py, the branch for kosmos
LONGEST = 512  # tokens of a prompt, there as well
VOCABULARY = 65037  # of the published Kosmos-2
CAMERAS = {"": "backbone", "_hand": "hand"}  # suffix of a camera's stacks -> where its modules are
VIEWS = ("vision_x", "vision_gripper")  # upstream's names of their pictures


@final
class RoboVLMs(TransformerAdapter):
    """Every forward and capture starts the policy head from zero; `reset` and `step` are the stream that a robot sees."""

    inputs_used = ("images", "instruction")
    inputs_unused = ("state",)
    model: RoboVLM

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        return config.get("robovlm_name") == "RoboKosMos"

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        parts = {"vision": r".*backbone\.(vision_model|image_to_text_projection)\.", "language": r".*backbone\.", "action head": ".*"}
        return Anatomy(published_shapes(directory), parts, ignored=rf"(mod(ule|el)\.)*({IGNORED})")

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> RoboVLMs:
        """Raises DamagedError or MissingError for a checkpoint that is not whole, before anything is computed."""
        directory, options = subject.weights.directory, {"dtype": getattr(torch, runtime.dtype), "attention": runtime.attention}
        if directory is not None:
            model = load(directory, device=runtime.device, **options)
        else:
            config = RoboVLMConfig.from_dict(subject.config, subject.config.get("vlm_config", {}), where=f"card {subject.model}")
            if subject.weights.kind == "meta":
                model = build(config, **options)
                model.mirror_hand_camera()
            else:
                model = build_random(config, seed=subject.weights.seed or 0, device=runtime.device, **options)
        return cls(subject, runtime, model, _clauses(model))

    @property
    def cameras(self) -> tuple[str, ...]:
        """The static camera and, where the checkpoint has one, the hand camera, which comes first in the sequence."""
        named = tuple(self.subject.options.get("cameras", ("primary", "wrist")))
        count = 1 + self.model.config.use_hand_rgb
        if len(named) < count:
            expected = "the static one and the hand's, by the dataset's names, in options.cameras"
            raise UsageError("this model sees two cameras", where=self.subject.id, got=", ".join(named), expected=expected)
        return named[:count]

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """One frame of every sample. The action tokens stand before a prompt's own last token, padding or none, as for a sample alone."""
        self.require(samples)
        ids, mask = right_padded([self._ids(sample.instruction) for sample in samples], self.model.config.kosmos.text_config.pad_token_id)
        style = self.subject.options.get("preprocessing", "robovlms")
        pictures = [[preprocess(picture, self.model.config, style) for picture in self.pictures(sample)] for sample in samples]
        views = [torch.from_numpy(np.stack(view))[:, None] for view in zip(*pictures, strict=True)]
        inputs = {"lang_x": ids, "attention_mask": mask.bool(), **dict(zip(VIEWS, views, strict=False))}
        return self._batch(inputs, mask.sum(1) - 1, [sample.id for sample in samples])

    def batch(self, inputs: Mapping[str, Tensor], sample_ids: Sequence[str] | None = None) -> Batch:
        """A batch from `vision_x` and `vision_gripper` (n, w, 3, s, s), `lang_x` and `attention_mask` (n, t), as upstream's.

        As upstream does, the action tokens go before the last position of the padded prompt, so that a shorter prompt's
        features depend on the longest one. The stacks but `act_head` have n * w rows.
        """
        last = torch.full((len(inputs["lang_x"]),), inputs["lang_x"].shape[1] - 1)
        return self._batch(inputs, last, list(sample_ids or map(str, range(len(last)))))

    def _batch(self, inputs: Mapping[str, Tensor], last: Tensor, sample_ids: Sequence[str]) -> Batch:
        self._fit(inputs)
        config, (rows, window) = self.model.config, inputs["vision_x"].shape[:2]
        valid = inputs["attention_mask"].bool().cpu()
        latents, actions = config.kosmos.latent_query_num, config.head.latent
        placed = layout(valid, last, latents=latents, cameras=len(self.cameras), actions=actions)
        tokens = {}
        for index, suffix in enumerate(list(CAMERAS)[: len(self.cameras)]):
            patches = self.model.backbone.vision_model.model.embeddings.num_patches
            tokens[f"vision{suffix}"] = _all_valid(rows * window, {"class": 1, f"image.{index}": patches})
            tokens[f"projector{suffix}"] = _all_valid(rows * window, {f"image.{index}": latents})
        repeated = {name: span.repeat_interleave(window, dim=0) for name, span in placed.tokens.spans.items()}
        tokens["lm"] = TokenMap(placed.tokens.mask.repeat_interleave(window, dim=0), repeated)
        tokens["act_head"] = _all_valid(rows, {"action": window * actions})
        like = self.model.action_token
        pixels = {name: inputs[name].to(like.device, like.dtype) for name in VIEWS if name in inputs}
        indices = {"lang_x": inputs["lang_x"], "attention_mask": valid, "order": placed.order, "action_at": placed.action_at}
        return Batch(tuple(sample_ids), {**pixels, **{name: index.to(like.device) for name, index in indices.items()}}, tokens)

    def _fit(self, inputs: Mapping[str, Tensor]) -> None:
        """Raises UsageError for inputs whose shapes do not belong together or to this model."""
        side, (rows, length) = self.model.config.image_size, inputs["lang_x"].shape
        views = VIEWS[: len(self.cameras)]
        got = {name: tuple(inputs[name].shape) for name in (*VIEWS, "lang_x", "attention_mask") if name in inputs}
        window = got["vision_x"][1] if len(got.get("vision_x", ())) == 5 else 1
        wanted = {"lang_x": (rows, length), "attention_mask": (rows, length), **dict.fromkeys(views, (rows, window, 3, side, side))}
        if got != wanted:
            raise UsageError("model inputs do not fit", where=self.subject.id, got=got, expected=wanted)

    def call(self, batch: Batch) -> dict[str, Tensor]:
        return _named(*self.model(**batch.inputs))

    def reset(self) -> None:
        """Begins a stream: the next `step` is the first of an episode."""
        self.model.act_head.reset()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The outputs of `forward` for the next frame of the stream, whose past the policy head remembers. Raises UsageError."""
        with torch.no_grad():
            context = self.model.context(**batch.inputs)
            return _named(context, self.model.act_head.step(context.action_hs))

    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        if stack == "lm":
            output = self.forward(batch)
            inputs = {"inputs_embeds": output["lm.inputs_embeds"], "attention_mask": output["lm.attention_mask"], "use_cache": False}
            return self.model.backbone.text_model.model, inputs
        views = dict(zip([f"vision{suffix}" for suffix in CAMERAS], VIEWS[: len(self.cameras)], strict=False))
        if stack not in views:
            raise UnknownNameError("stack with a framework tuple", stack, ["lm", *views])
        eye = self.model.get_submodule(CAMERAS[stack.removeprefix("vision")])
        return eye.vision_model.model, {"pixel_values": batch.inputs[views[stack]].flatten(0, 1)}

    def upstream(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One forward over the whole window, and as `rollout.K.*` a stream of its frames, one call each after one reset."""
        named = super().upstream(inputs)
        self.reset()
        for frame in range(inputs["vision_x"].shape[1]):
            one = {name: x[:, frame : frame + 1] if name in VIEWS else x for name, x in inputs.items()}
            outputs = super().upstream(one) | self.step(self.batch(one))
            named |= {f"rollout.{frame}.{name}": value for name, value in outputs.items()}
        self.reset()
        return named

    def act(self, samples: Sequence[Sample]) -> np.ndarray:
        """The first action of the chunk predicted for each sample, (n, 7): pose and 1 or 0 for the gripper, or (n, 2) velocities.

        The gripper is 1 where the sigmoid of its logit exceeds one half. Source: robovlms/data/data_utils.py:691.
        """
        return np.stack([self._first_action(self.forward(self.encode([sample]))) for sample in samples])

    def _first_action(self, output: Mapping[str, Tensor]) -> np.ndarray:
        head, config = self.model.config.head, self.model.config
        motion = output["act_head.pose" if head.gripper else "act_head.velocities"][0, -1, 0].double()
        if config.norm_action:
            motion = 0.5 * (motion + 1) * (config.norm_max - config.norm_min) + config.norm_min
        if head.gripper:
            motion = torch.cat([motion, (output["act_head.gripper"][0, -1, 0].sigmoid() > 0.5).double()])
        return motion.cpu().numpy()

    def published_state(self) -> dict[str, Tensor]:
        directory = self.subject.weights.directory
        return {native_name(name): tensor for name, tensor in stored_state(directory, self.model.config).items()}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer in `vlm/`; None, for stand-in words, where a tiny checkpoint has none that knows a word of the prompt.

        Raises MissingError when a published-size checkpoint comes without its tokenizer.
        """
        directory = self.subject.weights.directory
        if directory is None:
            return None
        folder = vlm_folder(directory)
        if any((folder / name).exists() for name in ("tokenizer.json", "sentencepiece.bpe.model")):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if set(tokenizer(PROMPT)["input_ids"]) - set(tokenizer.all_special_ids):
                return tokenizer
        if self.model.config.kosmos.text_config.vocab_size >= VOCABULARY:
            next = f"copy Kosmos-2's tokenizer files to {folder}"
            raise MissingError("the checkpoint has no tokenizer of its language", where=folder, expected="tokenizer.json", next=next)
        return None

    def _ids(self, instruction: str) -> list[int]:
        prompt, text = PROMPT.format(instruction.strip()), self.model.config.kosmos.text_config
        if self.tokenizer is not None:
            return self.tokenizer(prompt, truncation=True, max_length=LONGEST)["input_ids"]
        return [text.bos_token_id, *word_ids(prompt, text.vocab_size)[: LONGEST - 2], text.eos_token_id]


def _named(context: Context, head: HeadOutput) -> dict[str, Tensor]:
    """Outputs under upstream's names; what this model does not have is left out."""
    outputs = {
        "image_embeds.static": context.static,
        "image_embeds.hand": context.hand,
        "lm.inputs_embeds": context.inputs_embeds,
        "lm.attention_mask": context.attention_mask,
        "hidden_states.last": context.last,
        "action_hs": context.action_hs,
        "act_head.rnn.output": head.rnn,
        "act_head.pose": head.pose,
        "act_head.gripper": head.gripper,
        "act_head.velocities": head.velocities,
    }
    return {name: value for name, value in outputs.items() if value is not None}


def _all_valid(rows: int, lengths: Mapping[str, int]) -> TokenMap:
    """A sequence without padding: spans one after the other, of the given lengths."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(list(lengths.values()))).expand(rows, -1)
    valid = torch.ones_like(owner, dtype=torch.bool)
    return TokenMap(valid, {**{name: owner == index for index, name in enumerate(lengths)}, "padding": ~valid})


def _clauses(model: RoboVLM) -> dict[Point, Clause]:
    """Every point of the network in the order it runs; the deepest is the context vector."""
    clauses: dict[Point, Clause] = {}
    vision, text = model.config.kosmos.vision_config, model.config.kosmos.text_config
    for suffix, eye in list(CAMERAS.items())[: 1 + model.config.use_hand_rgb]:
        tower = f"{eye}.vision_model.model"
        clauses |= stack_clauses(
            f"vision{suffix}",
            blocks=f"{tower}.encoder.layers",
            depth=vision.num_hidden_layers,
            width=vision.hidden_size,
            embedding=f"{tower}.pre_layrnorm",
            norm=f"{tower}.post_layernorm",
            ties_last=False,
        )
        clauses[Point(f"projector{suffix}", "output")] = Clause(f"{eye}.image_to_text_projection", "output", text.embed_dim, "raw")
    language = "backbone.text_model.model"
    clauses[Point("lm", "embedding")] = Clause(f"{language}.layers.0", "input", text.embed_dim, "raw", 0)
    clauses |= stack_clauses(
        "lm",
        blocks=f"{language}.layers",
        depth=text.layers,
        width=text.embed_dim,
        embedding=None,
        norm=f"{language}.layer_norm",
        ties_last=True,
    )
    clauses[Point("act_head", "input")] = Clause("act_head", "input", text.embed_dim, "final")
    return clauses
