"""π0 and π0.5 of openpi in JAX: SigLIP, Gemma's prefix, and an action expert that denoises a chunk of actions over its keys.

Stacks: `vision` and `projector` (the cameras of a sample one after the other), `lm` (pictures, then the prompt; run once) and
`expert` (π0: state and actions, π0.5: actions; run once for every denoise step). Absent cameras keep their tokens, masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import final

import jax
import numpy as np
from jax import Array as JaxArray
from jax import numpy as jnp

from harness.adapters import _openpi_gemma as gemma
from harness.adapters import _openpi_siglip as siglip
from harness.adapters import _openpi_tree as tree
from harness.adapters._base import Adapter, Anatomy, Norm
from harness.adapters._openpi_device import device_of, float32, generators, modes, pointers
from harness.adapters._openpi_inputs import Tokenizer, tokenizer_of
from harness.adapters._openpi_points import clauses, token_maps
from harness.adapters._openpi_sampler import Inputs, Network, clock, kept, time_condition, walk
from harness.adapters._openpi_samples import Encoder, require_fit
from harness.adapters._openpi_settings import Settings, settings_of
from harness.adapters._openpi_sizes import Sizes, infer, leaf_shapes, sizes_of
from harness.adapters._openpi_stats import Statistics, find, parse
from harness.adapters._openpi_upstream import named
from harness.adapters._openpi_weights import published, stored_sizes
from harness.errors import MissingError, UsageError
from harness.pooling import Pooler
from harness.types import Array, Batch, Clause, Point, Runtime, Sample, Subject

__all__ = ["OpenPI"]

DTYPES = ("float32", "bfloat16")
OUTPUTS = ("prefix.embedding", "prefix.pad_mask", "prefix.positions", "velocity.", "actions")


@final
class OpenPI(Adapter):
    """Upstream loads bfloat16 for inference; float32 is more exact. Capture hands on every point as it is computed and keeps nothing.

    Card options: `cameras` (the dataset's names in the order of the model's slots), `noise_seed`, `norm_stats` (which asset),
    `action_horizon`, `num_steps`, `max_token_len`, `image_keys`, `image_resolution`, and `discrete_state_input`: false for runs of π0.5
    whose prompt has no state, which then nothing else takes.
    """

    inputs_used = ("images", "instruction", "state")
    inputs_late = {"state": "expert"}
    kernels = ("eager",)

    def __init__(
        self, subject: Subject, runtime: Runtime, network: Network, *, sizes: Sizes, settings: Settings, statistics: Statistics | None
    ) -> None:
        self.subject, self.runtime, self.network = subject, runtime, network
        self.sizes, self.settings, self.statistics = sizes, settings, statistics
        self._clauses = clauses(sizes, settings)

    @classmethod
    def recognises(cls, config: Mapping[str, object]) -> bool:
        return config.get("format") == "orbax" or config.get("model_type") == "openpi"

    @classmethod
    def anatomy(cls, directory: Path) -> Anatomy:
        vision = {"vision": r"PaliGemma/img/(?!head/)", "projector": r"PaliGemma/img/head/"}
        parts = {**vision, "action expert": r"PaliGemma/llm/.*_1/", "language": r"PaliGemma/llm/", "action head": ".*"}
        return Anatomy(leaf_shapes(stored_sizes(directory)), parts)

    @classmethod
    def load(cls, subject: Subject, runtime: Runtime) -> OpenPI:
        """Raises UsageError for another kernel or dtype; MissingError or DamagedError for a checkpoint that is not whole."""
        if runtime.attention not in cls.kernels:
            what, next = "upstream's attention is an explicit softmax over finite masked logits", "--attention eager"
            raise UsageError(what, where=subject.id, got=f"attention {runtime.attention}", expected="attention eager", next=next)
        if runtime.dtype not in DTYPES:
            raise UsageError("this model runs in float32 or bfloat16", where=subject.id, got=runtime.dtype, expected=" or ".join(DTYPES))
        device, directory = device_of(runtime), subject.weights.directory

        def put(x: np.ndarray) -> JaxArray:
            return jax.device_put(x.astype(runtime.dtype, copy=False), device)

        if directory is not None:
            leaves = published(directory)
            sizes = infer({name: leaf.shape for name, leaf in leaves.items()}, directory)
            network = tree.network(sizes, leaves.__getitem__, put)
            statistics = find(directory, subject.options.get("norm_stats"), quantiles=sizes.pi05)
        else:
            sizes = sizes_of(subject.config)
            if subject.weights.kind == "meta":
                network = tree.abstract(sizes, runtime.dtype)
            else:
                network = tree.network(sizes, tree.random_leaf(sizes, seed=subject.weights.seed or 0), put)
            stored = subject.config.get("norm_stats")
            statistics = parse(stored, quantiles=sizes.pi05, where=f"card {subject.model}") if stored else None
        settings = settings_of(sizes, subject.config, subject.options, directory)
        return cls(subject, runtime, network, sizes=sizes, settings=settings, statistics=statistics)

    @property
    def clauses(self) -> Mapping[Point, Clause]:
        return self._clauses

    @property
    def cameras(self) -> tuple[str, ...]:
        """The dataset's cameras in the order of the slots; slots beyond them are absent. Raises UsageError for more than slots."""
        slots, given = self.settings.image_keys, self.subject.options.get("cameras")
        if given is not None and len(given) > len(slots):
            expected = f"at most {len(slots)}: {', '.join(slots)}"
            what = "more cameras are named than the model has slots"
            raise UsageError(what, where=self.subject.id, got=", ".join(given), expected=expected)
        return tuple(given if given is not None else ("primary", "wrist")[: len(slots)])

    @property
    def state_width(self) -> int | None:
        return None if self.statistics is None else self.statistics.state_width

    @property
    def prompt_limit(self) -> int:
        return self.settings.prompt_tokens

    @property
    def picture_size(self) -> tuple[int, int]:
        return self.settings.image_size

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Raises UsageError for a missing camera, a state of another width than the dataset's, a prompt that is too long."""
        self.require(samples)
        bare = self.subject.weights.directory is not None
        encoder = Encoder(self.sizes, self.settings, self.statistics, self.tokenizer, self.subject.id, bare)
        inputs = encoder.inputs(samples, [self._slots(sample) for sample in samples], self.subject.options.get("noise_seed", 0))
        return self.batch(inputs, [sample.id for sample in samples])

    def _slots(self, sample: Sample) -> dict[str, np.ndarray]:
        """Pictures by the model's slot: by the model's own names where the sample has no others, else in the card's order."""
        keys = self.settings.image_keys
        if sample.images.keys() <= set(keys):
            return dict(sample.images)
        return dict(zip(keys, self.pictures(sample), strict=False))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """PaliGemma's own, or stand-in words for tiny networks. Raises MissingError."""
        folders = [folder for folder in (self.subject.weights.directory, self.subject.tokenizer) if folder is not None]
        return tokenizer_of(folders, self.sizes.vocabulary)

    def batch(self, inputs: Mapping[str, Array], sample_ids: Sequence[str] | None = None) -> Batch:
        """A batch from `image.SLOT` (n, h, w, 3) in [-1, 1], `image_mask.SLOT` (n,), `tokenized_prompt` and its mask (n, t), `state`
        (n, a) normalised and padded, `noise` (n, horizon, a), and maybe `num_steps`. Raises UsageError for shapes that do not fit.
        """
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        require_fit(arrays, self.sizes, self.settings, self.subject.id)
        mask = np.stack([arrays[f"image_mask.{key}"] for key in self.settings.image_keys], axis=1).astype(bool)
        maps = token_maps(self.sizes, mask, arrays["tokenized_prompt_mask"].astype(bool), arrays["noise"].shape[1])
        return Batch(tuple(sample_ids or map(str, range(len(mask)))), arrays, maps)

    def placed(self, batch: Batch) -> tuple[Inputs, int]:
        """The network's inputs on its device, and how many Euler steps are asked for."""
        keys, x = self.settings.image_keys, batch.inputs
        images, mask = (np.stack([np.asarray(x[f"{kind}.{key}"]) for key in keys], axis=1) for kind in ("image", "image_mask"))
        prompt, valid = np.asarray(x["tokenized_prompt"], np.int32), np.asarray(x["tokenized_prompt_mask"], bool)
        state, noise = (np.asarray(x[name], np.float32) for name in ("state", "noise"))
        inputs = Inputs(images.astype(np.float32), mask.astype(bool), prompt, valid, state, noise)
        steps = int(x.get("num_steps", self.settings.steps))
        if self.subject.weights.kind == "meta":
            return jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), inputs), steps
        return jax.device_put(inputs, device_of(self.runtime)), steps

    def capture(self, batch: Batch, points: Iterable[Point], keep: Callable[[Point, Array], Array] | None = None) -> dict[Point, Array]:
        """Stops behind the last point. Pooled rows come from one program for each shape of batch, compiled at first use; else blocks
        run one after the other and values are, on a CPU, read-only numpy arrays. An abstract subject gives shapes.
        """
        wanted = frozenset(map(self.resolve, points))
        self.require_late(batch, wanted)
        inputs, steps = self.placed(batch)
        found: dict[Point, Array] = {}
        if self.subject.weights.kind == "meta":
            found = jax.eval_shape(partial(kept, steps=steps, wanted=wanted), self.network, inputs, None)
        elif isinstance(keep, Pooler):
            found = kept(self.network, inputs, self._put(keep), steps=steps, wanted=wanted)
        else:
            for name, value in walk(self.network, inputs, steps=steps) if wanted else ():
                if name in wanted:
                    whole = float32(value, len(batch.sample_ids), on_host=self.runtime.device == "cpu")
                    found[name] = whole if keep is None else keep(name, whole)
                    if len(found) == len(wanted):
                        break
        if lacking := sorted(wanted - found.keys()):
            got, next = f"{batch.inputs.get('num_steps')} steps, so no {lacking[0]}", "name the steps in options.num_steps"
            raise UsageError("the batch asks for fewer steps than the contract has", where=self.subject.id, got=got, next=next)
        return found

    def _put(self, pooler: Pooler) -> Pooler:
        """The pooler with its float64 weights on the network's device."""
        with jax.enable_x64(True):
            return jax.device_put(pooler, device_of(self.runtime))

    def forward(self, batch: Batch, points: Iterable[Point] = ()) -> dict[str, Array]:
        """The embedded prefix, its mask and positions, `velocity.SS`, and `actions` (n, horizon, a) as the model's normalised numbers."""
        wanted = set(map(self.resolve, points))
        self.require_late(batch, self.clauses)
        outputs: dict[str, Array] = {}
        inputs, steps = self.placed(batch)
        for name, value in walk(self.network, inputs, steps=steps):
            if isinstance(name, str) and name.startswith(OUTPUTS):
                outputs[name] = np.asarray(value) if self.runtime.device == "cpu" else value
            elif name in wanted:
                float32(value, len(batch.sample_ids), on_host=self.runtime.device == "cpu")
        return outputs

    def upstream(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        given, steps = self.placed(self.batch(inputs))
        return named(self.network, given, self.settings.image_keys, steps=steps)

    def act(self, samples: Sequence[Sample]) -> np.ndarray:
        """Action chunks (n, horizon, a) in the dataset's units and width, as the run normalised them: an embodiment's own transforms
        (deltas made absolute, grippers turned) are not undone. Raises MissingError without statistics.
        """
        if self.statistics is None:
            got, next = "no normalisation statistics", "copy the run's assets folder beside params/"
            raise MissingError("actions cannot be put into the dataset's units", where=self.subject.id, got=got, next=next)
        chunks = [self.forward(self.encode([sample]))["actions"] for sample in samples]
        return self.statistics.action(np.concatenate(chunks))

    def state(self) -> dict[str, object]:
        return {"hooks": 0, "training": [], "gradients": [], "parameters": pointers(self.network), "random": generators(), "modes": modes()}

    def unlike_checkpoint(self) -> list[str]:
        stored, dtype = published(self.subject.weights.directory), self.network.table.dtype
        return [name for name, leaf in stored.items() if tree.stacked(self.network, name).tobytes() != leaf.astype(dtype).tobytes()]

    def parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        yield from tree.by_layer(self.sizes, self.network)

    def final_norm(self, point: Point) -> Norm:
        if point.stack == "vision":
            return Norm("layer", *(self.network.eye[f"Transformer/encoder_norm/{part}"] for part in ("scale", "bias")), siglip.EPS)
        last = self.network.last if point.stack == "lm" else self.network.expert_last
        moment = jnp.full((1,), clock(self.settings.steps)[point.step]) if point.stack == "expert" and self.sizes.pi05 else None
        time = None if moment is None else time_condition(self.network.actions, moment)
        by = gemma.modulation(last, "final_norm", time, self.network.table.dtype)
        return Norm("rms", by.factor, by.shift, gemma.EPS)

    def framework_tuple(self, batch: Batch, stack: str) -> tuple[Array, ...]:
        raise UsageError("upstream's blocks run in one scan that keeps no hidden states", where=self.subject.id, got=stack)
