"""A small character-level transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Size:
    """Shape of the model. The default has about 0.4 million parameters: small enough for half a CPU core."""

    vocabulary: int = 98
    """Number of different characters."""
    context: int = 64
    """Characters that the model can look back on."""
    width: int = 128
    """Length of the vector of one character; a multiple of `heads`."""
    heads: int = 4
    layers: int = 2


class Block(nn.Module):
    """Attention over the characters so far, then a transformation of each; both added to what came in."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.attention_norm = nn.LayerNorm(size.width)
        self.queries_keys_values = nn.Linear(size.width, 3 * size.width)
        self.gather = nn.Linear(size.width, size.width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(size.width),
            nn.Linear(size.width, 4 * size.width),
            nn.GELU(),
            nn.Linear(4 * size.width, size.width),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape."""
        hidden = hidden + self._attend(self.attention_norm(hidden))
        output: Tensor = hidden + self.feed_forward(hidden)
        return output

    def _attend(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        heads = self.queries_keys_values(hidden).view(batch, length, 3, self.heads, width // self.heads)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        output: Tensor = self.gather(mixed.transpose(1, 2).reshape(batch, length, width))
        return output


class CharacterModel(nn.Module):
    """Predicts each next character of a text from the characters before it."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.characters = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.context, size.width)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)
        self.predict = nn.Linear(size.width, size.vocabulary)
        self.apply(_initialise)

    def forward(self, text: Tensor) -> Tensor:
        """Map character numbers (batch, length) to scores of each next one (batch, length, vocabulary)."""
        positions = torch.arange(text.shape[1], device=text.device)
        hidden = self.characters(text) + self.positions(positions)
        scores: Tensor = self.predict(self.norm(self.blocks(hidden)))
        return scores


def _initialise(module: nn.Module) -> None:
    # Small weights: the first loss is then close to log(vocabulary), that of guessing evenly.
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the next character, in nats."""
    return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def accuracy_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Share of characters whose successor got the highest score, 0 to 1."""
    return (scores.argmax(-1) == targets).float().mean()
