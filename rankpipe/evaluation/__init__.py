"""Evaluation: measures, comparisons, tables, reports."""
