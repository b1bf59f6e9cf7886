"""Long audio through a model of bounded length: windows that overlap by a context on both sides, and cores that tile."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Window:
    """Frames [start, stop) go through the model; of them, [keep_start, keep_stop) are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def plan_windows(num_frames: int, core: int, context: int) -> list[Window]:
    """Windows over `num_frames` frames: the kept parts tile [0, num_frames) in order.

    All windows are core + 2 context frames long (the outer ones are moved inwards), so they may share a batch. What fits
    into one window is one window.
    """
    length = core + 2 * context
    if num_frames <= length:
        return [Window(start=0, stop=num_frames, keep_start=0, keep_stop=num_frames)] if num_frames else []
    windows = []
    for keep_start in range(0, num_frames, core):
        start = min(max(keep_start - context, 0), num_frames - length)
        keep_stop = min(keep_start + core, num_frames)
        windows.append(Window(start=start, stop=start + length, keep_start=keep_start, keep_stop=keep_stop))
    return windows


@dataclass(frozen=True, kw_only=True)
class ConvGrid:
    """The frame grid of a stack of convolutions over samples: frame t sees samples [t hop - margin, t hop - margin + field)."""

    hop: int
    field: int
    """Samples that one frame sees."""

    @property
    def margin(self) -> tuple[int, int]:
        """Zeros to put before and after the audio, so that n samples give exactly n // hop frames for every n."""
        total = self.field - self.hop
        return total // 2, total - total // 2

    @classmethod
    def of(cls, kernels: list[int], strides: list[int]) -> ConvGrid:
        """The grid of the convolutions of a model's own configuration.

        Raises:
            ValueError: frames would not cover the audio.
        """
        hop, field = 1, 1
        for kernel, stride in zip(kernels, strides, strict=True):
            field += (kernel - 1) * hop
            hop *= stride
        if field < hop:
            raise ValueError(f"a frame sees {field} samples but the next begins {hop} later: some audio is never seen")
        return cls(hop=hop, field=field)

    def samples(self, window: Window) -> tuple[int, int]:
        """[first, last) of the padded audio that gives exactly the frames [start, stop) of a window."""
        return window.start * self.hop, (window.stop - 1) * self.hop + self.field
