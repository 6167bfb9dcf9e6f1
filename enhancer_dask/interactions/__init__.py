"""Enhancer pairs: which combine, which interact."""
