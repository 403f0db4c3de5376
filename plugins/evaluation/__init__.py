"""Errors of models against labels, and the figures that commands leave behind."""
