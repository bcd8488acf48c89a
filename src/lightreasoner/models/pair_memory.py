"""Memory that sampling with two models needs, in bytes, from sizes that are known before a model is loaded."""

from dataclasses import dataclass

WORK_SHARE = 0.1  # of the weights in memory, for the cache and the activations of a small batch
LOGIT_CHUNKS = {"cpu": 128 << 20}  # both models' logits and what the contrast makes of them, see `inference.scoring`
LOGIT_CHUNKS_ON_ACCELERATORS = 1 << 30
FOUR_BITS = 0.5625  # bytes a weight: 4 bits, and a scale of 32 bits for every 64 weights (bitsandbytes, NF4)


@dataclass(frozen=True)
class PairMemory:
    """Bytes that expert and amateur take on the device.

    Attributes:
        expert: weights of the expert.
        amateur: weights of the amateur; 0 where they are the expert's.
        head: weights of the expert's LM head, which scoring needs.
        device: kind of the device, such as `cpu`.
    """

    expert: int
    amateur: int
    head: int
    device: str

    @property
    def together(self) -> int:
        """With both models in memory."""
        return self._with_work(self.expert + self.amateur)

    @property
    def sequential(self) -> int:
        """One after the other: the expert, then the amateur and the expert's head."""
        return self._with_work(max(self.expert, self.amateur + self.head))

    def _with_work(self, weights: int) -> int:
        return int(weights * (1 + WORK_SHARE)) + LOGIT_CHUNKS.get(self.device, LOGIT_CHUNKS_ON_ACCELERATORS)
