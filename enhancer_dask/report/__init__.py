"""Figures of result tables. Matplotlib is imported here and nowhere else."""
