"""Labelled structures: read, checked, compared with predictions; knows no model."""
