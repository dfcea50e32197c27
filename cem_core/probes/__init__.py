"""Measurements of models. `requests`, `results` and the reports load no torch, so that windows can use them."""
