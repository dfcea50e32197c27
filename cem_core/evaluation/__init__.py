"""How good samples are: many of them in shards, features by an extractor, statistics that merge, distances, tables."""
