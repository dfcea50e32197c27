"""How surely TA, CS and RCS reach their target: every bundled sample towards every other class."""

from __future__ import annotations

import msgspec
import torch

from cem_core import bundle, checkpoints, images, presets, samplers

_AT = (20, 40, 60)


def main() -> None:
    model, checkpoint = checkpoints.load(bundle.DEFAULT_MODEL, "cpu", "bfloat16")
    pairs = [
        (path, own, target)
        for path in bundle.samples()
        for own in [checkpoint.classes.index(bundle.sample_class(path))]
        for target in range(len(checkpoint.classes))
        if target != own
    ]
    pixels = {path: images.prepare(path, checkpoint.size).pixels for path in bundle.samples()}
    x = torch.stack([torch.from_numpy(pixels[path]) for path, _, _ in pairs])
    own = torch.tensor([own for _, own, _ in pairs])
    y = torch.tensor([target for _, _, target in pairs])
    print(f"{len(pairs)} chains from {len(pixels)} bundled images, step size 0.25")
    print("sampler   noise  step  target is top-1  mean p(target)  own class is top-1")
    for name in ("TA", "CS", "RCS"):
        for noise in (0.0, 0.01):
            row = msgspec.structs.replace(presets.SAMPLERS[name], noise=noise, step_size=0.25, steps=_AT[-1])
            state = samplers.begin(row, x, y, tuple(range(len(pairs))))
            for index in range(row.steps + 1):
                reading = samplers.read(model, row, state)
                if index in _AT:
                    top = reading.logits.argmax(1)
                    p = (reading.energy - reading.joint).exp().mean()
                    reached, stayed = (top == y).float().mean(), (top == own).float().mean()
                    print(f"{name:8}{noise:7.2f}{index:6}{reached:16.1%}{p:16.3f}{stayed:19.1%}", flush=True)
                state = samplers.step(row, state, reading.drift)


if __name__ == "__main__":
    main()
