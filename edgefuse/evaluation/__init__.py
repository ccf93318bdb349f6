"""Evaluation of classifiers: metrics, calibration, corruptions, and explanations of the gate. Never imports torch."""
