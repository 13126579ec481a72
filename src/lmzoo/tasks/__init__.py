"""Labelled tasks: frozen probes and fine-tuning."""
