"""Recording: labelled sequences of a data set, and RealSense recordings (.db3)."""
