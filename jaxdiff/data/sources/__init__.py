"""Data sources: frozen values that say where images come from, one module each."""
