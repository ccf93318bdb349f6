"""How good a classifier is: metrics, calibration, corruptions, and what its gate does. Never imports torch."""
