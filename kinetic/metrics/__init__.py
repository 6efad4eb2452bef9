"""Measures of generated images; each module is imported by itself."""
