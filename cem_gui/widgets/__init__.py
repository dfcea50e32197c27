"""Small views that know nothing of runs."""
