"""The model and sampler backend of CEM Explorer: importable, scriptable, without Qt."""

import os

__version__ = "0.1.0"

# torch's threads wait for each other by spinning. When another program takes a core for a moment they burn theirs for
# many milliseconds at each layer: beside one busy process a step took 2 to 9 times as long. Spinning shortly before
# they sleep costs nothing when the machine is quiet. Read once, when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
