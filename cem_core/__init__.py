"""The model and sampler backend of CEM Explorer: importable, scriptable, without Qt."""

__version__ = "0.1.0"
