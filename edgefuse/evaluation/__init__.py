"""Evaluation of classifiers: metrics, calibration, corruptions, the comparison of outputs, and explanations of the gate. Never imports torch."""
