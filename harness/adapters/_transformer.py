"""The half of an adapter that every torch transformer shares: forward, capture, norms and the framework's own tuple."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from harness.adapters._base import Adapter, Norm
from harness.adapters._torch import Capture, folded, whole
from harness.errors import ContractError, DamagedError
from harness.types import Batch, Clause, Point, Runtime, Subject

__all__ = ["TransformerAdapter", "auto_model", "read_safetensors", "right_padded", "stack_clauses"]


class TransformerAdapter(Adapter):
    """An adapter around one `torch.nn.Module` in evaluation mode; a family adds loading, encoding and its clauses."""

    def __init__(self, subject: Subject, runtime: Runtime, model: nn.Module, clauses: Mapping[Point, Clause]) -> None:
        self.subject, self.runtime = subject, runtime
        self.model = model.eval().requires_grad_(False)
        self._clauses = dict(clauses)

    @property
    def clauses(self) -> Mapping[Point, Clause]:
        return self._clauses

    def clauses_of(self, batch: Batch, points: Iterable[Point]) -> dict[Point, Clause]:
        """What the contract says of these points on this batch, which may bring other inputs (cameras) than `encode` makes."""
        return {point: self.clauses[point] for point in map(self.resolve, points)}

    @abstractmethod
    def call(self, batch: Batch) -> dict[str, Tensor]:
        """One forward of `self.model` on the batch's inputs; gradients are off."""

    @abstractmethod
    def call_stack(self, batch: Batch, stack: str) -> tuple[nn.Module, Mapping[str, object]]:
        """The framework's own module of a stack and the keyword inputs it receives for `batch`."""

    def forward(self, batch: Batch, points: Iterable[Point] = ()) -> dict[str, Tensor]:
        self.require_late(batch, self.clauses)
        with torch.no_grad(), Capture(self.model, self.clauses_of(batch, points)):
            return self.call(batch)

    def state(self) -> dict[str, object]:
        modules = list(self.model.modules())
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return {
            "hooks": sum(len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks) for module in modules),
            "training": [module.training for module in modules],
            "gradients": [(tensor.requires_grad, tensor.grad is None) for tensor in tensors],
            "parameters": [(tensor._version, tensor.data_ptr(), tensor.dtype, tensor.device) for tensor in tensors],
            "random": [torch.get_rng_state().tolist(), *(state.tolist() for state in torch.cuda.get_rng_state_all())] if torch.cuda.is_available() else torch.get_rng_state().tolist(),
            "modes": (torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()),
        }

    def published_state(self) -> dict[str, Tensor]:
        """The checkpoint's tensors under the names of `self.model`, as stored."""
        prefix = f"{self.model.base_model_prefix}."
        return {name.removeprefix(prefix): tensor for name, tensor in read_safetensors(self.subject.weights.directory).items()}

    def unlike_checkpoint(self) -> list[str]:
        published = self.published_state()
        return [
            name
            for name, tensor in self.model.named_parameters()
            if name not in published or not torch.equal(tensor.cpu(), published[name].to(tensor.dtype))
        ]

    def parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, tensor in self.model.named_parameters():
            yield name, tensor.detach().float().cpu().numpy()

    def capture(self, batch: Batch, points: Iterable[Point], keep: Callable[[Point, Tensor], Tensor] | None = None) -> dict[Point, Tensor]:
        wanted = self.clauses_of(batch, points)
        self.require_late(batch, wanted)
        with torch.no_grad(), Capture(self.model, wanted, keep or whole, stop=True) as captured:
            self.call(batch)
        return captured.values

    def upstream(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The named outputs of a forward, and the points of the stack `lm` as `layer.N.input`, `layer.N.output`, `final_norm.*`."""
        batch = self.batch(inputs)
        named, values = dict(self.forward(batch)), self.capture(batch, self.clauses)
        blocks = {point: value for point, value in values.items() if point.stack == "lm" and point.layer is not None}
        named |= {f"layer.{point.layer}.{point.stream}": value for point, value in blocks.items()}
        named["final_norm.input"] = blocks[max(point for point in blocks if point.stream == "output")]
        return named | {"final_norm.output": values[Point("lm", "final_norm")]}

    def final_norm(self, point: Point) -> Norm:
        module = self.model.get_submodule(self.clauses[point].module)
        if isinstance(module, nn.LayerNorm):
            return Norm("layer", module.weight, module.bias, module.eps)
        if type(module).__name__.endswith("RMSNorm"):
            return Norm("rms", module.weight, None, module.variance_epsilon)
        raise ContractError("this final norm is neither LayerNorm nor RMSNorm", where=f"{self.subject.id} {point}", got=type(module).__name__)

    def framework_tuple(self, batch: Batch, stack: str) -> tuple[Tensor, ...]:
        module, inputs = self.call_stack(batch, stack)
        # a structural copy over the same parameters: the permanent hooks that transformers installs die with it
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        with torch.no_grad():
            output = copy.deepcopy(module, shared)(**inputs, output_hidden_states=True)
        fold = self.clauses[Point(stack, "input", 0)].fold
        return tuple(folded(state.float(), fold) for state in output.hidden_states)


def stack_clauses(
    stack: str, *, blocks: str, depth: int, width: int, embedding: str | None, norm: str | None, ties_last: bool
) -> dict[Point, Clause]:
    """The points of one residual stack: embedding, input and output of every block, final norm.

    `ties_last`: the framework's last `hidden_states` entry is the final norm (language models) rather than the raw
    last block (vision towers), transformers 5.23.
    """
    clauses: dict[Point, Clause] = {}
    if embedding is not None:
        clauses[Point(stack, "embedding")] = Clause(embedding, "output", width, "raw", 0)
    for layer in range(depth):
        last_is_raw = layer + 1 < depth or norm is None or not ties_last
        clauses[Point(stack, "input", layer)] = Clause(f"{blocks}.{layer}", "input", width, "raw", layer)
        clauses[Point(stack, "output", layer)] = Clause(f"{blocks}.{layer}", "output", width, "raw", layer + 1 if last_is_raw else None)
    if norm is not None:
        clauses[Point(stack, "final_norm")] = Clause(norm, "output", width, "final", depth if ties_last else None)
    return clauses


def auto_model(subject: Subject, runtime: Runtime) -> PreTrainedModel:
    """The subject's model through `AutoModel` on the runtime's device: loaded strictly, random from its seed, or meta.

    Raises DamagedError when the checkpoint leaves a weight unset or brings one that the model does not have.
    """
    transformers_logging.disable_progress_bar()  # a bar for every subject drowns the harness's own progress
    options = {"attn_implementation": runtime.attention, "dtype": getattr(torch, runtime.dtype)}
    if (directory := subject.weights.directory) is not None:
        try:
            model, info = AutoModel.from_pretrained(directory, output_loading_info=True, local_files_only=True, **options)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:  # transformers' ways of saying that config and weights do not fit
            raise DamagedError("transformers cannot load the checkpoint", where=directory, got=str(error).splitlines()[0], expected="config.json of a known model and weights of its shapes") from error
        if wrong := {kind: sorted(map(str, keys))[:10] for kind, keys in info.items() if kind.endswith("_keys") and keys}:
            raise DamagedError("the checkpoint does not fit the model", where=directory, got=wrong, expected="no key missing, left over or misshapen")
        if spoiled := [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]:
            raise DamagedError("weights hold NaN or infinity", where=directory, got=f"{len(spoiled)} parameters, first {spoiled[0]}", expected="finite weights")
    else:
        config = AutoConfig.for_model(**subject.config)
        with torch.device("meta" if subject.weights.kind == "meta" else runtime.device), seeded(subject.weights.seed or 0):
            model = AutoModel.from_config(config, **options)
    require_attention(model, runtime.attention)
    return model if subject.weights.kind == "meta" else model.to(runtime.device)


def right_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids (n, t) int64 padded on the right with `pad`, and their mask (n, t), 1 where there is a token."""
    ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask


def read_safetensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint's shards, memory-mapped."""
    return {name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def require_attention(model: nn.Module, attention: str) -> None:
    """Raises ContractError when transformers chose another attention kernel than the one asked for."""
    got = model.config._attn_implementation
    if got != attention:
        raise ContractError("the model runs another attention kernel than asked for", got=got, expected=attention)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within: torch's generators start at `seed`; afterwards they are as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
