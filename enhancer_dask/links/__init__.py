"""Enhancer-gene links: candidates and the models that test them."""
