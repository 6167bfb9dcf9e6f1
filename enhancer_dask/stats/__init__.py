"""Pure numerics: NumPy and Numba in, arrays out. No files, no Dask, no pandas."""
