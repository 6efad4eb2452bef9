"""Kinetic."""
