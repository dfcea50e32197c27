"""The window of CEM Explorer. It shows what `cem_core` computes and computes nothing itself."""
