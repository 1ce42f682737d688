"""RoboVLMs' recurrent policy heads: actions from the hidden states of the action tokens, with or without a memory.

Source: RoboVLMs 8adc1d28, `policy_head/base_policy.py:387` (LSTMDecoder); minuum/RoboVLMs bb0a6179,
`policy_head/mobile_vla_policy.py` (MobileVLALSTMDecoder: velocities, no gripper).
Axes: b batch, w frames, n action tokens of a frame, d language width, h head width, c chunk, a action dimensions.
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harness.adapters._robovlms_config import HeadConfig
from harness.errors import UsageError

__all__ = ["HeadOutput", "PolicyHead"]
WIDTHS = (1024, 512, 256)  # base_policy.py:23-67, whatever the configuration says


class HeadOutput(NamedTuple):
    """`pose` in -1 .. 1 and the gripper's logit, or `velocities` in -1 .. 1; `rnn` may be longer when a stream is re-run."""

    rnn: Float[Tensor, "b w h"]
    pose: Float[Tensor, "b w c a"] | None
    gripper: Float[Tensor, "b w c 1"] | None
    velocities: Float[Tensor, "b w c a"] | None


class _Perceptron(nn.Module):
    def __init__(self, width: int, size: int, *, tanh: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.mlp = nn.Sequential()
        for before, after in zip((width, *WIDTHS[:-1]), WIDTHS, strict=True):
            self.mlp.extend([nn.Linear(before, after, dtype=dtype), nn.ReLU()])
        self.mlp.append(nn.Linear(WIDTHS[-1], size, dtype=dtype))
        if tanh:
            self.mlp.append(nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


@final
class PolicyHead(nn.Module):
    """`forward` reads whole windows and keeps nothing; `step` reads one frame of a stream that `reset` begins."""

    def __init__(self, config: HeadConfig, width: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size * config.latent
        self.rnn = nn.LSTM(width * config.latent, hidden, config.num_layers, batch_first=True, dtype=dtype)
        if config.gripper:
            self.actions = _Perceptron(hidden, config.chunk * (config.action_dim - 1), tanh=True, dtype=dtype)
            self.gripper = _Perceptron(hidden, config.chunk, tanh=False, dtype=dtype)  # logits: upstream's sigmoid is commented out
        else:
            self.velocities = _Perceptron(hidden, config.chunk * config.action_dim, tanh=True, dtype=dtype)
        self.reset()

    def reset(self) -> None:
        """Forgets the stream: the next `step` is the first of an episode."""
        self._history: list[Tensor] = []
        self._carried: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens: Float[Tensor, "b w n d"]) -> HeadOutput:
        """The actions of every frame, from a state of zero before the first."""
        states, _ = self.rnn(self._features(tokens))
        return self._outputs(states, states)

    def step(self, tokens: Float[Tensor, "b 1 n d"]) -> HeadOutput:
        """The actions of the next frame. Once the stream outgrows the window, its last `window` frames are re-run from zero.

        Raises UsageError for more than one frame, and for another number of samples than the stream began with.
        """
        if tokens.shape[1] != 1 or (self._history and len(self._history[0]) != len(tokens)):
            expected = f"one frame of {len(self._history[0])} samples" if self._history else "one frame"
            got = f"{tokens.shape[1]} frames of {tokens.shape[0]} samples"
            raise UsageError("this does not continue the stream", got=got, expected=expected, next="reset() begins another")
        self._history.append(self._features(tokens))
        if len(self._history) <= self.config.window:
            states, self._carried = self.rnn(self._history[-1], self._carried)
        else:
            del self._history[: -self.config.window]
            self._carried = None
            states, _ = self.rnn(torch.cat(self._history, dim=1))
        return self._outputs(states, states[:, -1:])

    def _features(self, tokens: Float[Tensor, "b w n d"]) -> Float[Tensor, "b w nd"]:
        if self.config.down_sample == "pooling":
            pooled = nn.functional.adaptive_max_pool1d(tokens.flatten(0, 1).transpose(1, 2), self.config.latent)
            tokens = pooled.transpose(1, 2).unflatten(0, tokens.shape[:2])
        return tokens.flatten(2)

    def _outputs(self, states: Tensor, last: Tensor) -> HeadOutput:
        chunk = (self.config.chunk, -1)
        if not self.config.gripper:
            return HeadOutput(states, None, None, self.velocities(last).unflatten(-1, chunk))
        return HeadOutput(states, self.actions(last).unflatten(-1, chunk), self.gripper(last).unflatten(-1, chunk), None)
