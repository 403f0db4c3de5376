"""Runs are tried with those of molecular dynamics."""

from __future__ import annotations

from tests.samplers.md.conftest import argon

__all__ = ["argon"]
